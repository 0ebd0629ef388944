//! What the benchmark measures: training steps and generation of a model from random weights, at one stage.

use std::{io::BufRead, path::PathBuf, time::Instant};

use burn::module::Module;
use coconut::{
    Error, Result,
    config::RunConfig,
    data::{Curriculum, Encoded, SampleKey, Sequence, SpecialTokens, Stage},
    device,
    eval::{GenerateOptions, Sampling, generate},
    latent::{Batch, LatentModel, PassPlan, Recompute, Thinking},
    memory,
    model::{Lora, ModelConfig, Transformer, lora::Targets},
    objective::{Learner, Objective, Term},
    optim::AdamW,
    train::{
        Group, StepBatches, StepOptions, step,
        steps::{MicroBatch, lay_out},
    },
};
use coconut_kernels::host::{self, Traffic};
use serde_json::{Map, Value, json};

use super::{Bench, Variant, examples::Examples};
use crate::verbs::print_json;

/// Tokens generated for a question.
const NEW_TOKENS: usize = 32;

/// A model from random weights, and the batches of one stage.
pub(super) struct Workload {
    stage: Stage,
    /// Whether rows and their teachers are batches of their own.
    apart: bool,
    on_gpu: bool,
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
        })?;
        if self.iterations.is_some() && self.recipe()?.thinking != Thinking::Parallel {
            return Err(Error::Usage(format!(
                "--iterations is about thinking in parallel, and `--method {}` does not; choose lotus, pccot or kava.",
                self.method
            )));
        }
        match self.apart && self.recipe()?.objective().last_step().is_none() {
            true => Err(Error::Usage(format!(
                "--apart is about teachers' rows, and `--method {}` has none; choose codi, pccot or kava.",
                self.method
            ))),
            false => Ok(()),
        }
    }

    /// Refuses what any of the stages would refuse, before their models are made.
    pub(super) fn check_stages(&self) -> Result<()> {
        let mut examples = None;
        for (number, stage) in self.stages()?.into_iter().map(Stage).enumerate() {
            // Those of a file are the same at every stage.
            let these = match examples.take().filter(|_| self.data.is_some()) {
                Some(read) => read,
                None => self.examples(stage)?,
            };
            let mut shape = self.shape(stage, &these)?;
            examples = Some(these);
            if self.lora > 0 && number == 0 {
                // One block already shows which maps there are.
                (shape.n_layer, shape.vocab_size, shape.n_positions) = (1, 3, 1);
                self.adapted(Transformer::random(shape, 0, &device::cpu()), &[0, 1, 2])?;
            }
        }
        Ok(())
    }

    /// The method's recipe; of its data and its model, nothing is used.
    pub(super) fn recipe(&self) -> Result<RunConfig> {
        let mut keys = Map::from_iter([
            ("method".to_owned(), json!(self.method)),
            ("task".to_owned(), json!("arithmetic")),
        ]);
        keys.extend(self.c_thought.map(|c| ("c_thought".to_owned(), json!(c))));
        keys.extend(self.iterations.map(|times| ("iterations".to_owned(), json!(times))));
        RunConfig::from_keys(keys, &[], &format!("--method {}", self.method))
    }

    /// What a stage shows; the last one, so that all rows of it have as many latents.
    pub(super) fn curriculum(&self, recipe: &RunConfig, stage: Stage) -> Curriculum {
        Curriculum {
            max_latent_stage: usize::try_from(stage.0).unwrap_or(0),
            pad_latent_to_max: true,
            ..recipe.curriculum()
        }
    }

    /// The shape of the model that a stage is measured with.
    fn shape(&self, stage: Stage, examples: &Examples) -> Result<ModelConfig> {
        let Examples { encoded, markers, vocab_size } = examples;
        let (recipe, named) = (self.recipe()?, self.named_shape()?);
        let curriculum = self.curriculum(&recipe, stage);
        let stages: Vec<Stage> = (-1..=stage.0.max(0)).map(Stage).collect();
        let teacher = recipe.objective().last_step();
        let length = |example: &Encoded| {
            let of_teacher = teacher.map(|last| curriculum.teacher_len(example, *markers, last));
            curriculum.max_len(example, &stages, *markers).max(of_teacher.unwrap_or(0))
        };
        let longest = encoded.iter().map(length).max().unwrap_or(1);
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
    pub(super) fn named_shape(&self) -> Result<Option<ModelConfig>> {
        let load = |path: &PathBuf| match path.is_dir() {
            true => ModelConfig::load(path),
            false => ModelConfig::load_file(path),
        };
        self.model.as_ref().map(load).transpose()
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

impl Workload {
    pub(super) fn new(bench: &Bench, Variant { stage, apart }: Variant) -> Result<Self> {
        let stage = Stage(stage);
        let recipe = bench.recipe()?;
        let examples = bench.examples(stage)?;
        let shape = bench.shape(stage, &examples)?;
        let Examples { encoded, markers, .. } = examples;
        let mut model = Transformer::random(shape, 0, &bench.device.open()?);
        model.config.precision = device::precision(bench.bf16);
        let objective = recipe.objective();
        let parameters = objective.parameters(&model, 0);
        let model =
            bench.adapted(model, &[markers.start_latent, markers.end_latent, markers.latent])?;
        let model = LatentModel::new(model, recipe.thinking(), Default::default())
            .map_err(|(key, problem)| Error::Usage(format!("{key} {problem}.")))?;
        let learner = Learner { model, objective: parameters };
        Ok(Self {
            stage,
            apart,
            on_gpu: bench.device.on_gpu(),
            recompute: bench.recompute,
            encoded,
            curriculum: bench.curriculum(&recipe, stage),
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
        let counts_launches = self.on_gpu && host::count_launches();
        for line in std::io::stdin().lock().lines().map_while(|line| line.ok()) {
            let before = Traffic::so_far();
            let mut answer = match line.trim() {
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
            answer["traffic"] = traffic_json(Traffic::so_far().since(before), counts_launches);
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
        let (objective, batches) = self.batches(&of_examples)?;
        let batches: Vec<MicroBatch> = (0..)
            .zip(batches)
            .map(|(number, batch)| MicroBatch { number, batch, examples: examples.clone() })
            .collect();
        let batches = StepBatches { in_all: batches.len(), batches, stage: self.stage };
        let (learner, report) =
            step(self.learner, &mut self.optimizer, &batches, &objective, options, Group::alone())
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
            "losses": report.logged.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<Map<_, _>>(),
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

    /// The batches of some examples' rows, and what they train. Hidden states of rows and teachers in batches of their
    /// own are not compared.
    fn batches(&self, of_examples: &[Vec<Sequence>]) -> Result<(Objective, Vec<Batch>)> {
        let lay_out = |objective: &Objective, rows: Vec<&[Sequence]>| {
            lay_out(&rows, objective, &self.curriculum, &self.plan()).map_err(Error::Internal)
        };
        if !self.apart {
            let rows = of_examples.iter().map(Vec::as_slice).collect();
            return Ok((self.objective.clone(), vec![lay_out(&self.objective, rows)?]));
        }
        let objective = Objective { terms: vec![Term::CrossEntropy { weight: 1.0 }] };
        // An example's row, then its teacher.
        let each = [0, 1].map(|of| -> Vec<&[Sequence]> {
            of_examples.iter().filter_map(|rows| rows.get(of..=of)).collect()
        });
        let batches = each.into_iter().map(|rows| lay_out(&objective, rows));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        Ok((objective, batches))
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

/// What crossed between host and device while one thing was measured; launches are not known of the CPU.
fn traffic_json(traffic: Traffic, counts_launches: bool) -> Value {
    json!({
        "reads": traffic.reads,
        "bytes_read": traffic.bytes_read,
        "uploads": traffic.uploads,
        "bytes_uploaded": traffic.bytes_uploaded,
        "launches": counts_launches.then_some(traffic.launches),
    })
}
