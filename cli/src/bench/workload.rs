//! What the benchmark measures: training steps and generation of a model from random weights, at one stage.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    time::Instant,
};

use burn::module::Module;
use coconut::{
    Error, Result,
    data::{
        Curriculum, Encoded, Method, SampleKey, Sequence, SpecialTokens, Stage, Tokenizer,
        encode::Text, encode_texts, read, tokenizer::Units,
    },
    device,
    eval::{GenerateOptions, Sampling, generate},
    latent::{LatentModel, PassPlan, Recompute},
    memory,
    model::{Lora, ModelConfig, Transformer, lora::Targets},
    objective::{Learner, Objective, Term},
    optim::AdamW,
    rng,
    train::{Group, StepBatches, StepOptions, step, steps::lay_out},
};
use serde_json::{Value, json};

use super::Bench;
use crate::verbs::print_json;

/// Tokens generated for a question.
const NEW_TOKENS: usize = 32;

/// A model from random weights, and the batches of one stage.
pub(super) struct Workload {
    stage: Stage,
    recompute: Recompute,
    encoded: Vec<Encoded>,
    curriculum: Curriculum,
    markers: SpecialTokens,
    batch: usize,
    objective: Objective,
    learner: Learner,
    optimizer: AdamW,
    /// How many steps, and questions alone, were measured so far.
    steps: usize,
    single_questions: usize,
}

/// Examples of a bench, and the ids of their markers.
struct Examples {
    encoded: Vec<Encoded>,
    markers: SpecialTokens,
    /// The fewest rows of the embedding that hold them.
    vocab_size: usize,
}

impl Bench {
    /// Refuses flags that would say nothing.
    pub(super) fn check_flags(&self) -> Result<()> {
        let of_adapters = [
            ("--frozen-dtype", self.frozen_dtype.is_some()),
            ("--lora-targets", !self.lora_targets.is_empty()),
        ];
        let idle = of_adapters.into_iter().find(|&(_, given)| given && self.lora == 0);
        idle.map_or(Ok(()), |(flag, _)| {
            let problem = "is about adapters, and there are none; add --lora RANK";
            Err(Error::Usage(format!("{flag} {problem}.")))
        })
    }

    /// Refuses what any of the stages would refuse, before their models are made.
    pub(super) fn check_stages(&self) -> Result<()> {
        let read = self.data.as_deref().map(read_examples).transpose()?;
        for &stage in &self.stages {
            let stage = Stage(stage);
            let mut shape = match &read {
                Some(examples) => self.shape(stage, examples)?,
                None => self.shape(stage, &self.random_examples(stage)?)?,
            };
            if self.lora > 0 && stage.0 == self.stages[0] {
                // One block already shows which maps there are.
                (shape.n_layer, shape.vocab_size, shape.n_positions) = (1, 3, 1);
                self.adapted(Transformer::random(shape, 0, &device::cpu()), &[0, 1, 2])?;
            }
        }
        Ok(())
    }

    fn curriculum(&self, stage: Stage) -> Curriculum {
        Curriculum::new(Method::Coconut, self.c_thought, stage.0.max(0) as usize, true)
    }

    /// The shape of the model that a stage is measured with.
    fn shape(&self, stage: Stage, examples: &Examples) -> Result<ModelConfig> {
        let Examples { encoded, markers, vocab_size } = examples;
        let (curriculum, named) = (self.curriculum(stage), self.named_shape()?);
        let stages: Vec<Stage> = (-1..=stage.0.max(0)).map(Stage).collect();
        let lengths = encoded.iter().map(|example| curriculum.max_len(example, &stages, *markers));
        let longest = lengths.max().unwrap_or(1);
        let context = longest + NEW_TOKENS;
        let asked = self.vocab.or(named.as_ref().map(|shape| shape.vocab_size));
        let vocab_size = asked.unwrap_or(0).max(*vocab_size);
        let shape = match named {
            Some(shape) if shape.n_positions < context => {
                return Err(Error::Usage(format!(
                    "Rows of {longest} tokens and {NEW_TOKENS} generated ones are more than the model's context of {}.",
                    shape.n_positions
                )));
            }
            Some(mut shape) => {
                shape.vocab_size = vocab_size;
                shape
            }
            None => ModelConfig::gpt2(vocab_size, context, self.dim, self.layers, self.heads),
        };
        shape.check().map_err(|problem| Error::Usage(format!("{problem}.")))?;
        Ok(shape)
    }

    /// The shape of the model folder, or of the `config.json`, that `--model` names.
    fn named_shape(&self) -> Result<Option<ModelConfig>> {
        let load = |path: &PathBuf| match path.is_dir() {
            true => ModelConfig::load(path),
            false => ModelConfig::load_file(path),
        };
        self.model.as_ref().map(load).transpose()
    }

    /// Examples whose rows have `--tokens` tokens with the stage's latents among them: a question, and
    /// an answer of a quarter of the row.
    fn random_examples(&self, stage: Stage) -> Result<Examples> {
        let tokens = self.tokens.unwrap_or(128);
        let named = self.named_shape()?.map(|shape| shape.vocab_size);
        let vocab_size = self.vocab.or(named).unwrap_or(512);
        let latents = stage.0.max(0) as usize * self.c_thought;
        let answer = tokens / 4;
        let question = tokens.checked_sub(answer + latents + 2).filter(|_| vocab_size > 5);
        let Some(question) = question else {
            return Err(Error::Usage(format!(
                "--tokens: {tokens} tokens of {vocab_size} hold no {latents} latents and two markers beside an answer."
            )));
        };
        let id = |behind: usize| (vocab_size - behind) as u32;
        let markers = SpecialTokens {
            start_latent: id(5),
            end_latent: id(4),
            latent: id(3),
            eos: id(2),
            pad: id(1),
        };
        let mut state = 0u64;
        let mut draw = |n: usize| -> Vec<u32> {
            let token = |_| {
                state += 1;
                (rng::hash(0, &[state]) % (vocab_size as u64 - 5)) as u32
            };
            (0..n).map(token).collect()
        };
        let mut example = || Text {
            question: draw(question),
            steps: Vec::new(),
            answer: draw(answer),
            value_start: 0,
        };
        let encoded = (0..64).map(|_| Encoded::Text(example())).collect();
        Ok(Examples { encoded, markers, vocab_size })
    }

    /// The model with the adapters that are asked for, and the rows of `tokens` trained.
    fn adapted(&self, model: Transformer, tokens: &[u32]) -> Result<Transformer> {
        if self.lora == 0 {
            return Ok(model);
        }
        let targets = match self.lora_targets.as_slice() {
            [] => Targets::default_for(model.config.family),
            [one] => Targets::One(one.clone()),
            many => Targets::Many(many.to_vec()),
        };
        let adapted = model
            .with_lora(Lora::new(self.lora, targets), tokens, 0)
            .map_err(|(_, problem)| Error::Usage(format!("--lora-targets {problem}.")))?;
        Ok(adapted.store_frozen_as(self.frozen_dtype.unwrap_or_default()))
    }
}

/// Examples of a file, cut into words.
fn read_examples(path: &Path) -> Result<Examples> {
    let examples = read::load(path, None)?;
    let tokenizer = Tokenizer::build(&examples, Units::Words, path)?;
    let (encoded, _) = encode_texts(&examples, &tokenizer)?;
    if encoded.is_empty() {
        return Err(Error::input(path, "", "it holds no examples."));
    }
    let (markers, vocab_size) = (tokenizer.special_tokens(), tokenizer.vocab_size());
    Ok(Examples { encoded, markers, vocab_size })
}

impl Workload {
    pub(super) fn new(bench: &Bench, stage: Stage) -> Result<Self> {
        let examples = match &bench.data {
            Some(path) => read_examples(path)?,
            None => bench.random_examples(stage)?,
        };
        let shape = bench.shape(stage, &examples)?;
        let Examples { encoded, markers, .. } = examples;
        let mut model = Transformer::random(shape, 0, &device::cpu());
        model.config.precision = device::precision(bench.bf16);
        let objective = Objective { terms: vec![Term::CrossEntropy { weight: 1.0 }] };
        let parameters = objective.parameters(&model, 0);
        let model =
            bench.adapted(model, &[markers.start_latent, markers.end_latent, markers.latent])?;
        let model = LatentModel::new(model, Default::default(), Default::default())
            .map_err(|(key, problem)| Error::Usage(format!("{key} {problem}.")))?;
        let learner = Learner { model, objective: parameters };
        Ok(Self {
            stage,
            recompute: bench.recompute,
            encoded,
            curriculum: bench.curriculum(stage),
            markers,
            batch: bench.batch.max(1),
            objective,
            learner: learner.train(),
            optimizer: AdamW::new([0.9, 0.999], 0.01),
            steps: 0,
            single_questions: 0,
        })
    }

    /// Answers each line of standard input with one measurement.
    pub(super) fn on_stdin(mut self) -> Result<()> {
        for line in std::io::stdin().lock().lines().map_while(|line| line.ok()) {
            let answer = match line.trim() {
                "step" => {
                    let (workload, answer) = self.step()?;
                    self = workload;
                    answer
                }
                "single" => {
                    let (ids, seconds) = self.single()?;
                    json!({"ms": 1e3 * seconds, "ids": ids})
                }
                "batch" => {
                    let (ids, seconds) = self.questions(self.batch, 0)?;
                    json!({"ms": 1e3 * seconds, "ids": ids})
                }
                other => {
                    return Err(Error::Usage(format!(
                        "standard input: `{other}`; expected step, single or batch."
                    )));
                }
            };
            print_json(&answer);
        }
        Ok(())
    }

    /// One training step on the next examples, and what is answered to `step`.
    fn step(mut self) -> Result<(Self, Value)> {
        let first = self.steps * self.batch;
        let examples: Vec<usize> =
            (first..first + self.batch).map(|i| i % self.encoded.len()).collect();
        let rows = |&index: &usize| {
            let key = SampleKey { seed: 0, epoch: 0, index: index as u64 };
            let Self { curriculum, encoded, stage, markers, .. } = &self;
            self.objective.rows(curriculum, &encoded[index], *stage, *markers, key)
        };
        let of_examples: Vec<Vec<Sequence>> = examples.iter().map(rows).collect();
        self.steps += 1;
        let options = StepOptions {
            lr: 1e-4,
            grad_clip: 1.0,
            recompute: self.recompute,
            tracked: None,
            seed: self.steps as u64,
        };
        let start = Instant::now();
        let layout: Vec<&[Sequence]> = of_examples.iter().map(Vec::as_slice).collect();
        let batch = lay_out(&layout, &self.objective, &self.curriculum, &self.plan())
            .map_err(Error::Internal)?;
        let batches = StepBatches::one(batch, examples);
        let (learner, report) = step(
            self.learner,
            &mut self.optimizer,
            &batches,
            &self.objective,
            options,
            Group::alone(),
        )
        .map_err(|problem| Error::Training(format!("{problem}.")))?;
        self.learner = learner;
        let seconds = start.elapsed().as_secs_f64();
        let shape = &self.learner.model.transformer.config;
        let rows: Vec<&Sequence> = of_examples.iter().flatten().collect();
        let labels = |s: &&Sequence| -> Vec<i64> {
            s.labels.iter().map(|l| l.map_or(-100, i64::from)).collect()
        };
        let answer = json!({
            "stage": self.stage.0,
            "ms": 1e3 * seconds,
            "loss": report.loss(),
            "ids": rows.iter().map(|s| s.ids.clone()).collect::<Vec<_>>(),
            "labels": rows.iter().map(labels).collect::<Vec<_>>(),
            "markers": [self.markers.start_latent, self.markers.end_latent, self.markers.latent],
            "vocab": shape.vocab_size,
            "positions": shape.n_positions,
            "tokens": report.tokens,
            "rss_gb": memory::resident_mb() / 1e3,
            "peak_gb": memory::peak_mb() / 1e3,
        });
        Ok((self, answer))
    }

    /// How rows become passes.
    fn plan(&self) -> PassPlan {
        let replaced = self.curriculum.n_replaced(self.stage);
        self.learner.model.config.plan(self.markers.latent, replaced)
    }

    /// The next question alone: its ids, and the seconds it took.
    fn single(&mut self) -> Result<(Vec<Vec<u32>>, f64)> {
        self.single_questions += 1;
        self.questions(1, self.single_questions - 1)
    }

    /// `n` questions from `first` on in one batch: their ids, and the seconds they took together.
    fn questions(&self, n: usize, first: usize) -> Result<(Vec<Vec<u32>>, f64)> {
        let options = GenerateOptions {
            plan: self.plan(),
            stops: &[], // random weights: always as many tokens
            max_new_tokens: NEW_TOKENS,
            sampling: Sampling::Greedy,
        };
        let model = self.learner.model.valid();
        let ids: Vec<Vec<u32>> = (first..first + n)
            .map(|i| {
                let index = i % self.encoded.len();
                let key = SampleKey { seed: 0, epoch: 0, index: index as u64 };
                self.curriculum.prompt(&self.encoded[index], self.stage, self.markers, key).ids
            })
            .collect();
        let prompts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let start = Instant::now();
        generate(&model, &prompts, &options)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok((ids, seconds))
    }
}
