//! One optimizer step: learner in, learner and figures out.

use burn::tensor::Tensor;
use coconut_kernels::host;

use super::{
    Group,
    steps::{MicroBatch, StepBatches},
};
use crate::{
    latent::{BackwardOptions, Batch, Recompute, backward},
    model::parameters::{self, NamedTensors, accumulate},
    objective::{Denominators, LOSS, Learner, Objective},
    optim::{self, AdamW},
    rng,
};

/// How a step is taken.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    /// Learning rate.
    pub lr: f64,
    /// Largest global norm of the gradient; 0 for no clipping.
    pub grad_clip: f64,
    /// What backward computes again.
    pub recompute: Recompute,
    /// Gradients flow through so many of the last passes; all if `None`.
    pub tracked: Option<usize>,
    /// Seed of the step's dropout; each micro-batch has its own stream of it.
    pub seed: u64,
}

/// What was measured in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Cross entropy summed over labels, in nats.
    pub loss_sum: f64,
    /// The labels of the whole step.
    pub labels: usize,
    /// The objective's other figures, named as in `metrics.jsonl`; 0 where there was none.
    pub logged: Vec<(&'static str, f64)>,
    /// Global norm of the gradient before clipping; 0 if nothing had a loss.
    pub grad_norm: f64,
    /// Tokens computed, padding not counted.
    pub tokens: usize,
}

impl StepReport {
    /// Mean cross entropy over the step's labels, in nats.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.labels.max(1) as f64
    }
}

/// A loss or a gradient that is infinite or not a number; the weights were left as they were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} is not finite")]
pub struct NotFinite {
    /// `loss` or `gradient`.
    pub what: &'static str,
    /// The training examples that it comes from, by number, from 0.
    pub examples: Vec<usize>,
}

/// One update of the learner's parameters by the gradient of the objective over all micro-batches of
/// `step`. Nothing is updated if nothing has a loss.
///
/// The learner is handed over and given back, so that its weights have one owner and are updated in
/// place.
///
/// # Errors
/// [`NotFinite`], and the learner is gone.
pub fn step(
    learner: Learner,
    optimizer: &mut AdamW,
    step: &StepBatches,
    objective: &Objective,
    options: StepOptions,
    group: Group,
) -> Result<(Learner, StepReport), NotFinite> {
    let (denominators, labels) = denominators(step, group);
    let (gradients, trained) = gradients(&learner, step, objective, options, denominators);
    let gradients = group.sum_gradients(gradients, || parameters::named(&learner));
    let squared_norm = gradients.as_ref().and_then(optim::squared_norm);
    let (figures, grad_norm) = read(objective, &trained, squared_norm);
    let (sums, tokens) = sums(figures, &trained, group)?;
    if !grad_norm.is_finite() {
        let examples = trained.iter().flat_map(|of| &of.micro.examples).copied().collect();
        return Err(NotFinite { what: "gradient", examples: group.concat(examples) });
    }
    let learner = match gradients {
        None => learner,
        Some(gradients) => {
            let scale = optim::clip_scale(grad_norm, options.grad_clip);
            optimizer.step(learner, gradients, options.lr, scale)
        }
    };
    let (loss, logged): (Vec<_>, Vec<_>) = sums.into_iter().partition(|&(name, _)| name == LOSS);
    let loss_sum = loss.iter().map(|(_, sum)| sum).sum();
    Ok((learner, StepReport { loss_sum, labels, logged, grad_norm, tokens }))
}

/// A micro-batch that had a loss.
struct Trained<'a> {
    micro: &'a MicroBatch,
    /// Its figures, on the device.
    figures: Vec<(&'static str, Tensor<1>)>,
}

/// What the losses of a step's micro-batches are divided by, and the labels of the whole step.
fn denominators(step: &StepBatches, group: Group) -> (Denominators, usize) {
    let [labels, teacher_labels, step_targets] = group.sums([
        step.count(|batch| batch.targets.len()) as f64,
        step.count(|batch| batch.teacher_targets.len()) as f64,
        step.count(Batch::n_step_targets) as f64,
    ]);
    let denominators = Denominators {
        labels: labels.max(1.0),
        teacher_labels: teacher_labels.max(1.0),
        step_targets: step_targets.max(1.0),
        batches: step.in_all as f64,
    };
    (denominators, labels as usize)
}

/// The sum of the gradients of all micro-batches, and those that had a loss; no gradients if none had.
fn gradients<'a>(
    learner: &Learner,
    step: &'a StepBatches,
    objective: &Objective,
    options: StepOptions,
    denominators: Denominators,
) -> (Option<NamedTensors>, Vec<Trained<'a>>) {
    let (mut gradients, mut trained) = (None, Vec::new());
    for micro in &step.batches {
        let options = BackwardOptions {
            reads: objective.reads(),
            recompute: options.recompute,
            tracked: options.tracked,
            seed: rng::hash(options.seed, &[micro.number as u64]),
        };
        let found = backward(learner, &learner.model, &micro.batch, options, |trace| {
            let Learner { model, objective: parameters } = learner;
            let losses = objective.losses(parameters, model, &micro.batch, trace, denominators)?;
            Some((losses.total, losses.logged))
        });
        let Some((found, figures)) = found else { continue };
        gradients = Some(accumulate(gradients, found));
        trained.push(Trained { micro, figures });
    }
    (gradients, trained)
}

/// The objective's figures, summed over micro-batches.
type Sums = Vec<(&'static str, f64)>;

/// This process's sums over micro-batches of the objective's figures, 0 where there was none, or what is not finite;
/// and the norm of the gradient. All are read from the device at once.
fn read(
    objective: &Objective,
    trained: &[Trained],
    squared_norm: Option<Tensor<1>>,
) -> (Result<Sums, NotFinite>, f64) {
    let mut values = match squared_norm {
        None => Vec::new(),
        Some(squared_norm) => {
            let figures = trained.iter().flat_map(|of| &of.figures);
            let figures = figures.map(|(_, value)| value.clone().cast(squared_norm.dtype()));
            let all = figures.chain([squared_norm.clone()]).collect();
            host::data(Tensor::cat(all, 0)).iter::<f64>().collect()
        }
    };
    let grad_norm = values.pop().map_or(0.0, f64::sqrt);
    let mut sums: Sums = objective.names().into_iter().map(|name| (name, 0.0)).collect();
    let mut values = values.into_iter();
    for Trained { micro, figures } in trained {
        for ((name, _), value) in figures.iter().zip(values.by_ref()) {
            if !value.is_finite() {
                let problem = NotFinite { what: "loss", examples: micro.examples.clone() };
                return (Err(problem), grad_norm);
            }
            let own = sums.iter_mut().find(|(known, _)| known == name);
            own.into_iter().for_each(|(_, sum)| *sum += value);
        }
    }
    (Ok(sums), grad_norm)
}

/// The sums of all processes' figures, and the tokens that they computed.
///
/// # Errors
/// What is not finite, in any process.
fn sums(
    own: Result<Sums, NotFinite>,
    trained: &[Trained],
    group: Group,
) -> Result<(Sums, usize), NotFinite> {
    if group.any(own.is_err()) {
        let examples = own.err().map(|problem| problem.examples).unwrap_or_default();
        return Err(NotFinite { what: "loss", examples: group.concat(examples) });
    }
    let mut sums = own?;
    let tokens: usize = trained.iter().map(|of| of.micro.batch.tokens()).sum();
    let mut values: Vec<f64> = sums.iter().map(|&(_, sum)| sum).chain([tokens as f64]).collect();
    group.sum_all(&mut values);
    let tokens = values.pop().unwrap_or_default() as usize;
    sums.iter_mut().zip(values).for_each(|((_, sum), of_all)| *sum = of_all);
    Ok((sums, tokens))
}

#[cfg(test)]
mod tests {
    use burn::{module::Module, tensor::Device};

    use super::*;
    use crate::{
        data::Stage,
        latent::{LatentConfig, LatentModel, LatentSizes, PassPlan, batch::Row},
        model::{ModelConfig, Transformer},
        objective::Term,
        train::group::tests::in_group,
    };

    const LATENT: u32 = 11;
    const ROWS: [&[u32]; 4] =
        [&[1, 2, LATENT, 3, 4], &[5, LATENT, LATENT, 6], &[7, 8, 1], &[2, 3, LATENT, 9, 9, 4, 1]];

    fn objective(weight: f64) -> Objective {
        Objective { terms: vec![Term::CrossEntropy { weight }] }
    }

    fn learner() -> Learner {
        let transformer =
            Transformer::random(ModelConfig::gpt2(12, 7, 8, 2, 2), 3, &Device::flex());
        let model =
            LatentModel::new(transformer, LatentConfig::default(), LatentSizes::default()).unwrap();
        let parameters = objective(1.0).parameters(&model.transformer, 0);
        Learner { model, objective: parameters }.train()
    }

    /// [`ROWS`] in micro-batches; the last two tokens of each row are labelled.
    fn batches(micro: &[&[usize]]) -> StepBatches {
        let batch = |(number, examples): (usize, &&[usize])| {
            let labels: Vec<Vec<Option<u32>>> = examples
                .iter()
                .map(|&row| {
                    let first = ROWS[row].len() - 2;
                    ROWS[row]
                        .iter()
                        .enumerate()
                        .map(|(i, &id)| (i >= first).then_some(id))
                        .collect()
                })
                .collect();
            let rows: Vec<Row> = (examples.iter().zip(&labels))
                .map(|(&row, labels)| Row::new(ROWS[row], labels))
                .collect();
            let batch = Batch::new(&rows, &PassPlan::sequential(LATENT)).unwrap();
            MicroBatch { number, batch, examples: examples.to_vec() }
        };
        let batches: Vec<MicroBatch> = micro.iter().enumerate().map(batch).collect();
        StepBatches { in_all: batches.len(), batches, stage: Stage(1) }
    }

    fn options() -> StepOptions {
        StepOptions { lr: 1.0, grad_clip: 0.0, recompute: Recompute::None, tracked: None, seed: 1 }
    }

    /// One whose first update is −g / (|g| + 1) for a gradient g.
    fn optimizer() -> AdamW {
        let mut optimizer = AdamW::new([0.9, 0.999], 0.0);
        optimizer.epsilon = 1.0;
        optimizer
    }

    fn values(learner: &Learner) -> Vec<f64> {
        let named = parameters::named(learner).into_values();
        named.flat_map(|flat| flat.values.into_data().iter().collect::<Vec<f64>>()).collect()
    }

    /// What a step adds to each parameter, and its report.
    fn stepped(micro: &[&[usize]], weight: f64) -> (Vec<f64>, StepReport) {
        let (learner, mut optimizer) = (learner(), optimizer());
        let before = values(&learner);
        let (batches, objective) = (batches(micro), objective(weight));
        let (learner, report) =
            step(learner, &mut optimizer, &batches, &objective, options(), Group::alone()).unwrap();
        assert_eq!(optimizer.steps, 1);
        (
            values(&learner).iter().zip(before).map(|(after, before)| after - before).collect(),
            report,
        )
    }

    #[test]
    fn micro_batches_add_up_to_the_batch() {
        let (whole, whole_report) = stepped(&[&[0, 1, 2, 3]], 1.0);
        let (parts, parts_report) = stepped(&[&[3], &[0, 2], &[1]], 1.0);
        assert_eq!((whole_report.labels, whole_report.tokens), (8, 19));
        assert_eq!((parts_report.labels, parts_report.tokens), (8, 19));
        // Random weights guess among 12 tokens.
        assert!((whole_report.loss() - 12f64.ln()).abs() < 0.1, "{whole_report:?}");
        let relative = |a: f64, b: f64| (a / b - 1.0).abs();
        assert!(relative(parts_report.loss_sum, whole_report.loss_sum) < 1e-6);
        assert!(relative(parts_report.grad_norm, whole_report.grad_norm) < 1e-5);
        let largest = |of: &mut dyn Iterator<Item = f64>| of.map(f64::abs).fold(0.0, f64::max);
        let update = largest(&mut whole.iter().copied());
        let apart = largest(&mut whole.iter().zip(&parts).map(|(a, b)| a - b));
        assert!(update > 1e-2 && apart < 1e-6, "{apart:e} of {update:e}");
        // The reported norm is that of the gradient, which the update tells: g = u / (1 − |u|).
        let norm = whole.iter().map(|u| (u / (1.0 - u.abs())).powi(2)).sum::<f64>().sqrt();
        assert!(relative(norm, whole_report.grad_norm) < 1e-4, "{norm} {whole_report:?}");
    }

    /// What a step of processes that have these examples each adds to the parameters of each, and the reports.
    fn shared(of: &[&[usize]]) -> Vec<Result<(Vec<f64>, StepReport), NotFinite>> {
        in_group(of.len(), |group| {
            let rank = group.share().rank;
            let (learner, mut optimizer) = (learner(), optimizer());
            let before = values(&learner);
            let mut step_batches = batches(&of[rank..=rank]);
            step_batches.batches.retain(|micro| !micro.examples.is_empty());
            let (learner, report) =
                step(learner, &mut optimizer, &step_batches, &objective(1.0), options(), group)?;
            let after =
                values(&learner).into_iter().zip(before).map(|(after, before)| after - before);
            Ok((after.collect(), report))
        })
    }

    #[test]
    fn processes_take_the_step_that_one_takes_alone() {
        let (alone, alone_report) = stepped(&[&[0, 1, 2, 3]], 1.0);
        let found: Vec<_> =
            shared(&[&[3], &[], &[0, 2, 1]]).into_iter().map(Result::unwrap).collect();
        for (update, report) in &found {
            assert_eq!(update, &found[0].0, "the models differ");
            assert_eq!(report, &found[0].1);
            assert_eq!((report.labels, report.tokens), (8, 19));
            assert!((report.loss_sum / alone_report.loss_sum - 1.0).abs() < 1e-6);
            assert!((report.grad_norm / alone_report.grad_norm - 1.0).abs() < 1e-5);
            let apart = alone.iter().zip(update).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-6, "{apart:e}");
        }
    }

    #[test]
    fn a_term_weighs_on_the_gradient_and_not_on_the_log() {
        let (_, once) = stepped(&[&[0, 1], &[2, 3]], 1.0);
        let (_, twice) = stepped(&[&[0, 1], &[2, 3]], 2.0);
        assert_eq!(once.loss_sum, twice.loss_sum);
        assert!((twice.grad_norm / once.grad_norm - 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_loss_that_is_not_finite_names_its_micro_batch_and_leaves_the_optimizer() {
        let mut learner = learner();
        // Position 6 is reached by the fourth row alone.
        learner.model = parameters::map(learner.model, |name, value| match name {
            "transformer.wpe.weight" => {
                let mut data: Vec<f32> = value.to_data().iter().collect();
                data[6 * 8] = f32::NAN;
                burn::tensor::Tensor::from_data(data.as_slice(), &value.device())
            }
            _ => value,
        });
        let mut optimizer = optimizer();
        let batches = batches(&[&[0], &[1, 2], &[3], &[0, 1]]);
        let problem =
            step(learner, &mut optimizer, &batches, &objective(1.0), options(), Group::alone())
                .unwrap_err();
        assert_eq!(problem, NotFinite { what: "loss", examples: vec![3] });
        assert_eq!(optimizer.steps, 0);
    }

    #[test]
    fn a_loss_that_is_not_finite_in_one_process_ends_all() {
        let lost = |own: bool| match own {
            true => Err(NotFinite { what: "loss", examples: vec![7] }),
            false => Ok(vec![("loss", 1.0)]),
        };
        let told = in_group(2, |group| sums(lost(group.share().rank == 1), &[], group));
        let found = NotFinite { what: "loss", examples: vec![7] };
        assert_eq!(told, [Err(found.clone()), Err(found)]);
    }

    #[test]
    fn without_labels_nothing_is_updated() {
        let row = Row::unlabelled(ROWS[0]);
        let batch = Batch::new(&[row], &PassPlan::sequential(LATENT)).unwrap();
        let mut optimizer = optimizer();
        let (_, report) = step(
            learner(),
            &mut optimizer,
            &StepBatches::one(batch, vec![0]),
            &objective(1.0),
            options(),
            Group::alone(),
        )
        .unwrap();
        assert_eq!((report.loss(), report.grad_norm, report.tokens), (0.0, 0.0, 0));
        assert_eq!(optimizer.steps, 0);
    }
}
