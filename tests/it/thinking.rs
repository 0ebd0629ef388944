//! Ways of thinking that come to the same: values and gradients, whatever is computed again.

use burn::{module::Module, tensor::Tensor};
use coconut::{
    latent::{
        self, BackwardOptions, Batch, Feedback, LatentConfig, LatentModel, LatentSizes, Parallel,
        PassPlan, ReadSet, Recompute, Trace, backward,
        batch::{Row, TeacherRow},
    },
    model::{
        ModelConfig, Transformer,
        parameters::{self, NamedTensors},
    },
};

use crate::device;
use crate::torch::generator;

const LATENT: u32 = 11;
/// Different numbers of latents, and one row without.
const ROWS: [&[u32]; 4] = [
    &[1, 2, 3, 9, LATENT, LATENT, LATENT, 10, 4, 5],
    &[4, 9, LATENT, LATENT, 10, 6, 1],
    &[2, 2, 5, 6, 9, LATENT, 10],
    &[5, 4, 3],
];
/// Rows that begin as [`ROWS`] do, and have no latents.
const TEACHERS: [&[u32]; 4] = [&[1, 2, 3, 7, 8, 4], &[4, 6, 6], &[2, 2, 5, 6, 1, 1, 1], &[5, 4, 2]];

fn model(feedback: &str) -> LatentModel {
    let mut config = ModelConfig::gpt2(12, 16, 8, 2, 2);
    config.initializer_range = 0.3;
    let transformer = Transformer::random(config, 3, &device());
    let config = LatentConfig::from(feedback.parse::<Feedback>().unwrap());
    LatentModel::new(transformer, config, LatentSizes::default()).unwrap().train()
}

/// Hidden states of all layers at every token of the rows, and the gradients of a loss that reads all of them.
struct Found {
    values: Vec<f32>,
    gradients: NamedTensors,
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().unwrap()
}

fn run(model: &LatentModel, plan: &PassPlan, rows: &[Row], recompute: Recompute) -> Found {
    let batch = Batch::new(rows, plan).unwrap();
    let mut values = Vec::new();
    let loss = |trace: &Trace| {
        let mut total = Tensor::<1>::zeros([1], &model.device()).require_grad();
        for row in 0..batch.rows {
            for &column in batch.columns_of(row) {
                for k in 0..3 {
                    let x = trace.hidden_at(&batch, k, &[(row, column)])?;
                    values.extend(numbers(x.clone()));
                    total = total + (x.clone() * x.clone() + x).sum();
                }
            }
        }
        Some((total, ()))
    };
    let options = BackwardOptions { reads: ReadSet::ALL, recompute, ..Default::default() };
    let _alone = generator(); // backward seeds the device
    let (gradients, ()) = backward(model, model, &batch, options, loss).unwrap();
    Found { values, gradients }
}

impl Found {
    /// The largest difference of values and of gradients, each gradient's in parts of its own largest value.
    fn distance(&self, other: &Self) -> f32 {
        assert_eq!(self.values.len(), other.values.len());
        let values = self.values.iter().zip(&other.values).map(|(a, b)| (a - b).abs());
        let mut most = values.fold(0f32, f32::max);
        let all = |of: &Self, name: &str, n: usize| {
            of.gradients.get(name).map_or(vec![0.0; n], |flat| numbers(flat.values.clone()))
        };
        for name in self.gradients.keys().chain(other.gradients.keys()) {
            let flat = self.gradients.get(name).or(other.gradients.get(name)).unwrap();
            let n = flat.shape.iter().product();
            let (ours, theirs) = (all(self, name, n), all(other, name, n));
            let size = theirs.iter().fold(1f32, |size, x| size.max(x.abs()));
            let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs() / size);
            most = off.fold(most, f32::max);
        }
        most
    }
}

fn rows() -> Vec<Row<'static>> {
    ROWS.map(Row::unlabelled).to_vec()
}

const ALL: [Recompute; 3] = [Recompute::None, Recompute::Passes, Recompute::Blocks];

fn parallel(iterations: usize, shift: bool, residual: bool) -> PassPlan {
    PassPlan::parallel(LATENT, Parallel { iterations, shift, residual })
}

#[test]
fn no_iteration_is_a_pause() {
    let model = model("hs[-1]");
    let pause = run(&model, &PassPlan::default(), &rows(), Recompute::None);
    for recompute in ALL {
        for (shift, residual) in [(false, false), (true, true)] {
            let found = run(&model, &parallel(0, shift, residual), &rows(), recompute);
            assert!(found.distance(&pause) < 1e-5, "{recompute:?}: {}", found.distance(&pause));
        }
    }
    let one = run(&model, &parallel(1, false, true), &rows(), Recompute::None);
    assert!(one.distance(&pause) > 1e-2, "one iteration is something else");
}

/// A latent that is fed its own embedding, pass by pass, is a token like any other.
#[test]
fn a_pause_pass_by_pass_is_a_pause_in_one() {
    let model = model("pause");
    let own = model.transformer.embeddings().whole().narrow(0, LATENT as usize, 1);
    let own = numbers(own);
    let fed = LatentModel {
        parameters: parameters::map(model.parameters.clone(), |_, value| {
            Tensor::from_data(own.as_slice(), &value.device())
        }),
        ..model.clone()
    };
    let at_once = run(&fed, &PassPlan::default(), &rows(), Recompute::None);
    for recompute in ALL {
        let by_passes = run(&fed, &PassPlan::sequential(LATENT), &rows(), recompute);
        assert_eq!(by_passes.values.len(), at_once.values.len());
        let pairs = by_passes.values.iter().zip(&at_once.values);
        let most = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(most < 1e-5, "{recompute:?}: {most}");
        // What the embedding's row loses, the vector that is fed in its place has.
        let mut moved = by_passes.gradients.clone();
        let vector = moved.remove("reinject.pause.0.weight").unwrap();
        let table = moved.get_mut("transformer.wte.weight").unwrap();
        let mut rows = numbers(table.values.clone());
        let start = LATENT as usize * own.len();
        for (sum, more) in rows[start..].iter_mut().zip(numbers(vector.values)) {
            *sum += more;
        }
        table.values = Tensor::from_data(rows.as_slice(), &table.values.device());
        let moved = Found { values: by_passes.values, gradients: moved };
        assert!(moved.distance(&at_once) < 1e-5, "{recompute:?}: {}", moved.distance(&at_once));
    }
}

/// What rows and their teachers share is computed once, and comes to what each comes to alone: hidden states of both,
/// and the sum of their gradients.
#[test]
fn a_row_and_its_teacher_are_two_rows() {
    let model = model("mlp[1](hs[1])+ie");
    let plans = [
        PassPlan::sequential(LATENT),
        PassPlan::default(),
        parallel(2, true, false),
        parallel(3, false, true),
    ];
    for plan in plans {
        let pairs: Vec<Row> = (ROWS.iter().zip(&TEACHERS))
            .map(|(ids, teacher)| Row {
                teacher: Some(TeacherRow {
                    ids: teacher,
                    labels: &[],
                    anchors: None,
                    answer: None,
                }),
                ..Row::unlabelled(ids)
            })
            .collect();
        let labels: Vec<Vec<Option<u32>>> =
            TEACHERS.iter().map(|ids| ids.iter().map(|&id| Some(id)).collect()).collect();
        let labelled: Vec<Row> = (pairs.iter().zip(&labels))
            .map(|(row, labels)| Row {
                teacher: row.teacher.map(|teacher| TeacherRow { labels, ..teacher }),
                ..*row
            })
            .collect();
        let teachers: Vec<Row> =
            TEACHERS.iter().zip(&labels).map(|(ids, labels)| Row::new(ids, labels)).collect();
        // A loss that reads the teachers where they predict, and the rows everywhere.
        let with = |rows: &[Row],
                    plan: &PassPlan,
                    of_teachers: fn(&Batch) -> Vec<(usize, usize)>,
                    all: bool,
                    recompute| {
            let batch = Batch::new(rows, plan).unwrap();
            let mut values = Vec::new();
            let loss = |trace: &Trace| {
                let mut total = Tensor::<1>::zeros([1], &model.device()).require_grad();
                let mut read = |tokens: &[(usize, usize)]| {
                    for k in 0..3 {
                        let mut tokens = tokens.to_vec();
                        tokens.sort_by_key(|&(row, column)| (row, column));
                        for token in tokens {
                            let x = trace.hidden_at(&batch, k, &[token]).unwrap();
                            values.extend(numbers(x.clone()));
                            total = total.clone() + (x.clone() * x.clone() + x).sum();
                        }
                    }
                };
                if all {
                    for row in 0..batch.rows {
                        let tokens: Vec<_> =
                            batch.columns_of(row).iter().map(|&column| (row, column)).collect();
                        read(&tokens);
                    }
                }
                read(&of_teachers(&batch));
                Some((total, ()))
            };
            let options = BackwardOptions { reads: ReadSet::ALL, recompute, ..Default::default() };
            let _alone = generator(); // backward seeds the device
            let (gradients, ()) = backward(&model, &model, &batch, options, loss).unwrap();
            Found { values, gradients }
        };
        let predictors = |batch: &Batch| -> Vec<(usize, usize)> {
            batch.teacher_targets.iter().map(|target| (target.row, target.column)).collect()
        };
        let own = |batch: &Batch| -> Vec<(usize, usize)> {
            batch.targets.iter().map(|target| (target.row, target.column)).collect()
        };
        let rows_alone = with(&rows(), &plan, |_| Vec::new(), true, Recompute::None);
        let teachers_alone = with(&teachers, &PassPlan::default(), own, false, Recompute::None);
        let expected = Found {
            values: [rows_alone.values, teachers_alone.values].concat(),
            gradients: parameters::accumulate(Some(rows_alone.gradients), teachers_alone.gradients),
        };
        for recompute in ALL {
            let both = with(&labelled, &plan, predictors, true, recompute);
            let distance = both.distance(&expected);
            assert!(distance < 2e-5, "{plan:?} {recompute:?}: {distance}");
        }
    }
}

/// A pass that only makes keys and values, an empty batch, and rows that cannot be laid out.
#[test]
fn rows_that_cannot_be_thought_about_are_named() {
    let plan = parallel(1, false, false);
    let wrong = |ids: &[&[u32]]| {
        let rows: Vec<Row> = ids.iter().map(|ids| Row::unlabelled(ids)).collect();
        Batch::new(&rows, &plan).unwrap_err()
    };
    assert!(wrong(&[&[1, 2], &[1, 9, LATENT, 3, LATENT]]).contains("row 1 has text between"));
    assert!(wrong(&[&[LATENT, 1]]).contains("row 0 begins with a latent"));
    assert!(wrong(&[&[9, LATENT, 1]]).contains("no row has text before"));
    assert!(Batch::new(&[], &plan).unwrap().passes.is_empty());
    let teacher =
        |ids: &'static [u32]| TeacherRow { ids, labels: &[], anchors: None, answer: None };
    let row = Row { teacher: Some(teacher(&[2, 3])), ..Row::unlabelled(&[1, 9, LATENT]) };
    assert!(Batch::new(&[row], &plan).unwrap_err().contains("begin with different tokens"));
    let both = [row, Row::unlabelled(&[1, 2])];
    assert!(Batch::new(&both, &plan).unwrap_err().contains("only one has a teacher"));
    let model = model("hs[-1]").valid();
    let batch = Batch::new(&[Row::unlabelled(&[1, 9, LATENT])], &plan).unwrap();
    let trace = latent::forward(&model, &batch, ReadSet::PREDICTIONS);
    assert_eq!(trace.thoughts_in_order(&batch).len(), 1);
}
