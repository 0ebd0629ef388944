//! Objectives against PyTorch written from their formulas (`python/fixtures/objectives.py`): each loss and every
//! gradient, whatever is computed again, all rows in one batch.

use burn::{module::Module, tensor::Tensor};
use coconut::{
    checkpoint::load_transformer,
    latent::{
        BackwardOptions, Batch, Feedback, Iterations, LatentConfig, LatentModel, LatentSizes,
        PassPlan, Recompute, Shift, Thinking, backward,
        batch::{Row, SlotText, StepTarget, TeacherRow},
    },
    model::{
        Transformer,
        lora::FrozenDtype,
        parameters::{self, NamedTensors},
        weights::HostTensors,
    },
    objective::{
        DecoderSettings, DecoderStyle, Denominators, DistilLayers, KvDistance, KvSettings, Learner,
        Objective, StepsAt, Term,
    },
};
use serde::Deserialize;
use serde_json::Value;

use crate::device;
use crate::torch::{distance, fixtures, generator, json, tensors};

#[derive(Deserialize)]
struct Case {
    model: String,
    adapter: Option<String>,
    latent: u32,
    c: Option<usize>,
    feedback: String,
    thinking: Thinking,
    iterations: usize,
    shift: Shift,
    residual: bool,
    decoder: Option<CaseDecoder>,
    weights: std::collections::BTreeMap<String, f64>,
    losses: std::collections::BTreeMap<String, f64>,
    #[serde(default)]
    steps_at: StepsAt,
    #[serde(default)]
    distil_layers: DistilLayers,
    kv: Option<CaseKv>,
    rows: Vec<CaseRow>,
    total: f64,
}

#[derive(Deserialize)]
struct CaseDecoder {
    layers: usize,
    style: DecoderStyle,
}

#[derive(Clone, Copy, Deserialize)]
struct CaseKv {
    importance: f64,
    distance: KvDistance,
    by_std: bool,
}

#[derive(Deserialize)]
struct CaseRow {
    role: String,
    anchor: Option<usize>,
    ids: Vec<u32>,
    labels: Vec<i64>,
    #[serde(default)]
    step_targets: Option<Vec<i64>>,
    /// Position and token each, where steps run on into the next block.
    #[serde(default)]
    step_list: Vec<(usize, u32)>,
    /// Tokens of steps that there is no latent for.
    #[serde(default)]
    lost: usize,
    decoder_texts: Option<Vec<Option<Vec<u32>>>>,
    /// The number of the answer's tokens.
    said: Option<usize>,
}

/// −100 where there is none.
fn tokens(labels: &[i64]) -> Vec<Option<u32>> {
    labels.iter().map(|&label| u32::try_from(label).ok()).collect()
}

impl Case {
    fn objective(&self) -> Objective {
        let term = |(name, &weight): (&String, &f64)| match name.as_str() {
            "answer" => Term::CrossEntropy { weight },
            "steps" => Term::Steps { weight, at: self.steps_at, cut: true },
            "teacher" => Term::Teacher { weight, last_step: false },
            "distil" => Term::Distil { weight, layers: self.distil_layers, last_step: false },
            "kv" => {
                let CaseKv { importance, distance, by_std } = self.kv.unwrap();
                let settings = KvSettings { importance, distance, by_std };
                Term::Kv { weight, settings, last_step: false }
            }
            "decoder" => {
                let CaseDecoder { layers, style } = *self.decoder.as_ref().unwrap();
                let blocks = Some(layers);
                let settings = DecoderSettings { style, blocks, last_step: false, cut: false };
                Term::Decoder { weight, settings }
            }
            other => panic!("{other}"),
        };
        Objective { terms: self.weights.iter().map(term).collect() }
    }

    /// All rows in one batch.
    fn batch(&self, config: &LatentConfig) -> Batch {
        struct Parts<'a> {
            row: &'a CaseRow,
            labels: Vec<Option<u32>>,
            steps: Vec<StepTarget>,
            slots: Vec<SlotText>,
            teacher: Option<(&'a CaseRow, Vec<Option<u32>>)>,
        }
        let mut all: Vec<Parts> = Vec::new();
        for row in &self.rows {
            let labels = tokens(&row.labels);
            if row.role == "teacher" {
                all.last_mut().unwrap().teacher = Some((row, labels));
                continue;
            }
            let region = row.ids.iter().position(|&id| id == self.latent).map(|first| first - 1);
            let target = |position: usize, token: u32| {
                let block = (position - region.unwrap()) / self.c.unwrap();
                let iteration = (self.steps_at == StepsAt::Own).then_some(block + 1);
                StepTarget { position, token, iteration }
            };
            let single = row.step_targets.as_deref().map(tokens).unwrap_or_default();
            let single = single.into_iter().enumerate().filter_map(|(p, token)| Some((p, token?)));
            let all_steps = single.chain(row.step_list.iter().copied());
            let steps = all_steps.map(|(position, token)| target(position, token)).collect();
            let texts = row.decoder_texts.clone().unwrap_or_default();
            let slots = self.decoder.as_ref().map(|of| of.style.slots(texts, self.c.unwrap_or(1)));
            let slots = slots.unwrap_or_default();
            all.push(Parts { row, labels, steps, slots, teacher: None });
        }
        let row = |parts: &'_ Parts| -> (Option<[usize; 2]>,) {
            (parts
                .teacher
                .as_ref()
                .and_then(|(teacher, _)| Some([parts.row.anchor?, teacher.anchor?])),)
        };
        let anchors: Vec<_> = all.iter().map(row).collect();
        let rows: Vec<Row> = all
            .iter()
            .zip(&anchors)
            .map(|(parts, &(anchors,))| Row {
                ids: &parts.row.ids,
                labels: &parts.labels,
                step_targets: &parts.steps,
                lost_step_targets: parts.row.lost,
                slots: &parts.slots,
                teacher: parts.teacher.as_ref().map(|(teacher, labels)| TeacherRow {
                    ids: &teacher.ids,
                    labels,
                    anchors,
                    answer: teacher.said.map(|said| teacher.ids.len() - said),
                }),
            })
            .collect();
        let style = self.decoder.as_ref().map(|decoder| decoder.style);
        let reads_last_latent = style.is_some_and(DecoderStyle::reads_last_latent);
        let plan = PassPlan { reads_last_latent, ..config.plan(self.latent, 0) };
        Batch::new(&rows, &plan).unwrap()
    }

    fn learner(&self, found: &HostTensors) -> Learner {
        let device = device();
        let transformer = match &self.adapter {
            None => Transformer::load(&fixtures().join(&self.model), &device).unwrap(),
            Some(adapter) => adapted(&self.model, adapter),
        };
        let objective = self.objective().parameters(&transformer, 0);
        let objective = parameters::map(objective, |name, value| {
            Tensor::from_data(found[name].1.as_slice(), &value.device())
        });
        let config = LatentConfig {
            thinking: self.thinking,
            iterations: Iterations::Times(self.iterations),
            latent_shift: self.shift,
            latent_residual: self.residual,
            ..LatentConfig::from(self.feedback.parse::<Feedback>().unwrap())
        };
        let model = LatentModel::new(transformer, config, LatentSizes::default()).unwrap();
        let LatentModel { transformer, parameters, config } = model;
        let parameters = parameters::map(parameters, |name, value| {
            let part = name.strip_prefix("reinject.").unwrap();
            let (_, values) = &found[&format!("part.{}.{part}", self.feedback)];
            Tensor::from_data(values.as_slice(), &value.device())
        });
        let model = LatentModel { transformer, parameters, config };
        Learner { model, objective }.train()
    }
}

/// A model with the adapters of a fixture's folder, whose base lies elsewhere here.
fn adapted(model: &str, adapter: &str) -> Transformer {
    let place = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixtures().join(adapter)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), place.path().join(file.file_name())).unwrap();
    }
    let path = place.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = fixtures().join(model).display().to_string().into();
    std::fs::write(&path, config.to_string()).unwrap();
    load_transformer(place.path(), FrozenDtype::F32, &device()).unwrap()
}

/// Compares every case of a fixture; the names of those compared.
fn check(name: &str) -> Vec<String> {
    let (about, found) = (json::<Value>(name), tensors(name));
    let mut names = Vec::new();
    for (case_name, value) in about.as_object().unwrap() {
        if value.get("rows").is_none() {
            continue;
        }
        let case: Case = serde_json::from_value(value.clone()).unwrap();
        for recompute in [Recompute::None, Recompute::Passes, Recompute::Blocks] {
            check_case(&format!("{name} {case_name}"), case_name, &case, &found, recompute);
        }
        names.push(case_name.clone());
    }
    names
}

/// The gradients of a case, its total loss and the figures that are logged.
type Found = (NamedTensors, (f64, Vec<(&'static str, Tensor<1>)>));

fn gradients(case: &Case, learner: &Learner, recompute: Recompute) -> Found {
    let (objective, batch) = (case.objective(), case.batch(&learner.model.config));
    let denominators = Denominators {
        labels: batch.targets.len() as f64,
        teacher_labels: batch.teacher_targets.len().max(1) as f64,
        step_targets: batch.n_step_targets().max(1) as f64,
        batches: 1.0,
    };
    let options =
        BackwardOptions { reads: objective.reads(), recompute, ..BackwardOptions::default() };
    let _alone = generator(); // backward seeds the device
    backward(learner, &learner.model, &batch, options, |trace| {
        let Learner { model, objective: parameters } = learner;
        let losses = objective.losses(parameters, model, &batch, trace, denominators)?;
        let total = losses.total.clone().into_scalar::<f32>();
        Some((losses.total, (f64::from(total), losses.logged)))
    })
    .unwrap()
}

fn check_case(at: &str, name: &str, case: &Case, found: &HostTensors, recompute: Recompute) {
    let learner = case.learner(found);
    let (gradients, (total, logged)) = gradients(case, &learner, recompute);
    let labels = case.batch(&learner.model.config).targets.len() as f64;
    let near = |what: &str, ours: f64, theirs: f64| {
        let off = (ours / theirs - 1.0).abs();
        assert!(off < 1e-5, "{at} {recompute:?}: {what} {ours}, PyTorch {theirs}");
    };
    near("total", total, case.total);
    for (logged_name, value) in logged {
        let name = logged_name.strip_prefix("loss_").unwrap_or("answer");
        let value = f64::from(value.into_scalar::<f32>());
        let value = if name == "answer" { value / labels } else { value };
        near(logged_name, value, case.losses[name]);
    }
    check_gradients(&format!("{at} {recompute:?}"), name, &gradients, found);
}

fn check_gradients(at: &str, name: &str, gradients: &NamedTensors, found: &HostTensors) {
    let prefix = format!("{name}.grad.");
    let mut compared = 0;
    for (key, (_, theirs)) in found {
        let Some(parameter) = key.strip_prefix(&prefix) else { continue };
        let Some(ours) = gradients.get(parameter) else {
            panic!("{at}: {parameter} has no gradient here");
        };
        let ours: Vec<f32> = ours.values.clone().into_data().try_into_vec().unwrap();
        let distance = distance(&ours, theirs);
        assert!(distance < 1e-4, "{at}: gradient of {parameter} differs by {distance:e}");
        compared += 1;
    }
    assert!(compared >= 8, "{at}: {compared} gradients");
}

/// What thinks in parallel for as many iterations as there are latents, each fed what the one before it computed, thinks
/// one after the other: so does what a decoder reads.
#[test]
fn a_decoder_reads_the_last_iteration() {
    let (about, found) = (json::<Value>("objectives_llama"), tensors("objectives_llama"));
    for name in ["decoder_coconut_all", "decoder_coconut_1_mixed", "decoder_codi_1"] {
        let mut case: Case = serde_json::from_value(about[name].clone()).unwrap();
        let latents = |row: &CaseRow| row.ids.iter().filter(|&&id| id == case.latent).count();
        case.iterations = case.rows.iter().map(latents).max().unwrap();
        (case.thinking, case.shift) = (Thinking::Parallel, Shift::Before);
        for recompute in [Recompute::None, Recompute::Passes, Recompute::Blocks] {
            check_case(&format!("{name} in parallel"), name, &case, &found, recompute);
        }
    }
}

/// The vector after the last latent, made of other hidden states than the last, and of what the latent was fed.
#[test]
fn a_decoder_reads_what_any_feedback_makes() {
    let (about, found) = (json::<Value>("objectives_gpt2"), tensors("objectives_gpt2"));
    for (thinking, feedback) in [
        (Thinking::Sequential, "ie+hs[1]"),
        (Thinking::Sequential, "suppressed+zero"),
        (Thinking::Parallel, "ie+hs[0:]"),
    ] {
        let mut case: Case = serde_json::from_value(about["decoder_codi_1"].clone()).unwrap();
        (case.thinking, case.iterations, case.shift) = (thinking, 2, Shift::Before);
        case.feedback = feedback.into();
        let [kept, passes, blocks] = [Recompute::None, Recompute::Passes, Recompute::Blocks]
            .map(|recompute| gradients(&case, &case.learner(&found), recompute));
        for again in [passes, blocks] {
            assert_eq!(again.0.len(), kept.0.len());
            for (name, theirs) in &kept.0 {
                let [ours, theirs] = [&again.0[name], theirs]
                    .map(|flat| flat.values.clone().into_data().try_into_vec::<f32>().unwrap());
                let off = distance(&ours, &theirs);
                assert!(off < 1e-4, "{feedback}: gradient of {name} differs by {off:e}");
            }
        }
    }
}

#[test]
fn gpt2_equals_pytorch() {
    assert_eq!(check("objectives_gpt2").len(), 33);
}

#[test]
fn llama_equals_pytorch() {
    assert_eq!(check("objectives_llama").len(), 23);
}

#[test]
fn adapters_equal_pytorch() {
    assert_eq!(check("objectives_lora_gpt2"), ["codi_20"]);
    assert_eq!(check("objectives_lora_llama"), ["codi_20"]);
    assert_eq!(check("objectives_lora_qwen3"), ["steps_last"]);
}
