//! Options that several verbs share, and what follows from them.

use std::{path::PathBuf, str::FromStr};

use burn::tensor::Device;
use clap::Args;
use coconut::{
    Error, Result,
    checkpoint::Checkpoint,
    data::{Example, Stage, read},
    device::{self, DeviceName},
    eval::Sampling,
    hub::HubCache,
    latent::{Iterations, Thinking},
    model::lora::FrozenDtype,
};

use crate::verbs;

/// Where a verb computes.
#[derive(Args, Clone, Copy, Default)]
pub struct DeviceOptions {
    /// Where to compute: cpu; gpu, or cuda, rocm, metal, wgpu, vulkan if the program was built with it, with a number if
    /// there are several, as in wgpu:1. `coconut devices` lists them.
    #[arg(long, default_value_t, value_name = "NAME")]
    pub device: DeviceName,
    /// Use a device that is not the CPU without holding its results against the CPU's first.
    #[arg(long)]
    pub no_device_check: bool,
}

impl DeviceOptions {
    /// Whether it is not the CPU.
    pub fn on_gpu(&self) -> bool {
        self.device != DeviceName::Cpu
    }

    /// The device, after its trial.
    pub fn open(self) -> Result<Device> {
        let device = self.device.open(!self.no_device_check);
        device.map_err(|problem| Error::Usage(format!("--device {problem}.")))
    }
}

/// The model that a verb works on.
#[derive(Args)]
pub struct ModelOptions {
    /// A checkpoint's folder; or a pretrained model's, or its org/name in the Hugging Face cache.
    pub checkpoint: PathBuf,
    #[command(flatten)]
    pub device: DeviceOptions,
    /// A recipe's `bf16: True`; without it the checkpoint decides.
    #[arg(skip)]
    pub bf16: bool,
}

impl ModelOptions {
    /// The checkpoint as it is.
    pub fn load(&self) -> Result<Checkpoint> {
        Checkpoint::load(&self.folder()?, &self.device.open()?)
    }

    /// The folder that is named, or that the cache has under this name.
    fn folder(&self) -> Result<PathBuf> {
        let name = self.checkpoint.to_string_lossy();
        if self.checkpoint.is_file() {
            return Err(Error::Usage(format!(
                "CHECKPOINT is `{name}`, a file; a model is a folder."
            )));
        }
        let found = HubCache::from_env().folder(&name, None);
        found.map_err(|problem| {
            Error::Usage(format!("CHECKPOINT {}.", problem.trim_end_matches('.')))
        })
    }

    /// The checkpoint, ready to compute as in training; what differs or costs time is said on stderr.
    pub fn open(&self) -> Result<Checkpoint> {
        let mut checkpoint = self.load()?;
        let trained = checkpoint.latent.bf16;
        if self.bf16 && !trained {
            eprintln!(
                "note: products are rounded to bf16, as the recipe's `bf16: True` asks, though {} was trained without",
                self.checkpoint.display()
            );
        }
        let bf16 = self.bf16 || trained;
        check_bf16(bf16, checkpoint.latent.frozen, self.device.device)?;
        if let Some(warning) = device::bf16_warning(bf16) {
            eprintln!("warning: {warning}");
        }
        let precision = device::precision(bf16);
        checkpoint.model.transformer.config.precision = precision;
        if let Some(decoder) = &mut checkpoint.objective.decoder {
            decoder.config.precision = precision;
        }
        Ok(checkpoint)
    }

    /// The checkpoint, ready to be asked. Of a plain model it is said in a line how it is run, and it is given latents if
    /// some are asked for.
    pub fn open_to_ask(&self, latents: bool) -> Result<Checkpoint> {
        let checkpoint = self.open()?;
        let folder = self.checkpoint.display();
        Ok(match (checkpoint.latent.plain, latents) {
            (false, _) => checkpoint,
            (true, false) => {
                eprintln!(
                    "note: {folder} is a plain model, run as `method: cot`: all steps in words"
                );
                checkpoint
            }
            (true, true) => {
                eprintln!(
                    "note: {folder} is a plain model, run as `method: coconut` with latents that nobody trained"
                );
                checkpoint.with_untrained_latents()
            }
        })
    }
}

/// How questions are put to the model and where answers end, where that is to differ from training.
#[derive(Args, Default)]
pub struct PromptOptions {
    /// Put each question as a turn of a chat, laid out by the model's own chat template.
    #[arg(long)]
    chat: bool,
    /// The text before every question; with --chat, the system's turn.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Show the model so many solved examples before every question, the first ones of --shots-from.
    #[arg(long, value_name = "N", requires = "shots_from", value_parser = verbs::at_least_one)]
    shots: Option<usize>,
    /// The file of solved examples; all of them are shown unless --shots says how many.
    #[arg(long, value_name = "FILE")]
    shots_from: Option<PathBuf>,
    /// End an answer where this text is said, which is no part of it; may stand there several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl PromptOptions {
    /// A checkpoint whose tokenizer puts questions as is asked for, and the examples that are shown before each.
    ///
    /// # Errors
    /// A model without a chat template, and a file of examples that cannot be read.
    pub fn apply(&self, checkpoint: &mut Checkpoint) -> Result<Vec<Example>> {
        let style = &mut checkpoint.latent.prompt;
        style.chat_template |= self.chat;
        if self.system.is_some() {
            style.system_prompt.clone_from(&self.system);
        }
        let shots = match &self.shots_from {
            Some(path) => read::load(path, self.shots)?,
            None => Vec::new(),
        };
        if let (Some(asked), Some(path)) = (self.shots, &self.shots_from)
            && shots.len() < asked
        {
            return Err(Error::Usage(format!(
                "--shots {asked}: {} has {} examples.",
                path.display(),
                shots.len()
            )));
        }
        let mut tokenizer = checkpoint.tokenizer.clone();
        if self.chat || self.system.is_some() {
            tokenizer = tokenizer.with_prompt(style)?;
        }
        let stops = self.stop.iter().map(|text| unescaped(text));
        checkpoint.tokenizer = tokenizer.with_shots(shots.clone()).with_stop_texts(stops);
        Ok(shots)
    }
}

/// A text from the command line, in which `\n` stands for a newline and `\t` for a tab.
fn unescaped(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

/// Refuses what was rounded to bf16 on a device that would have it in f32.
fn check_bf16(bf16: bool, frozen: FrozenDtype, device: DeviceName) -> Result<()> {
    let key = match (bf16, frozen) {
        _ if device == DeviceName::Cpu => return Ok(()),
        (true, _) => "bf16: True",
        (false, FrozenDtype::Bf16) => "frozen_dtype: bf16",
        (false, FrozenDtype::F32) => return Ok(()),
    };
    Err(Error::Usage(format!(
        "--device {device}: this checkpoint was trained with `{key}`, which only `--device cpu` can do."
    )))
}

/// One number, or all from one to another, both included: `3`, `0..12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    first: usize,
    last: usize,
}

impl Span {
    pub fn values(self) -> impl Iterator<Item = usize> {
        self.first..=self.last
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n <= 1000);
        let span = number(first).zip(number(last)).filter(|(first, last)| first <= last);
        let span = span.map(|(first, last)| Self { first, last });
        span.ok_or_else(|| {
            "expected a whole number from 0 to 1000, or several such as 0..12".into()
        })
    }
}

/// How much a model thinks, where that is to differ from training.
#[derive(Args, Clone, Copy, Default)]
pub struct Dials {
    /// Latents between question and answer; as many as in training if absent.
    #[arg(long, value_name = "K")]
    pub latents: Option<usize>,
    /// How often latents that are thought of in parallel are computed anew; as often as in training if absent.
    #[arg(long, value_name = "R", value_parser = iterations)]
    pub iterations: Option<usize>,
}

fn iterations(text: &str) -> Result<usize, String> {
    let iterations = text.parse::<usize>().ok().filter(|iterations| *iterations <= 1000);
    iterations.ok_or_else(|| "expected a whole number from 0 to 1000".into())
}

impl Dials {
    /// Latents that are asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] if the checkpoint has no latents at a stage, or no place for so many.
    pub fn latents(&self, checkpoint: &Checkpoint, stage: Stage) -> Result<Option<usize>> {
        let Some(latents) = self.latents else { return Ok(None) };
        let context = checkpoint.model.transformer.config.n_positions;
        let problem = if !checkpoint.latent.curriculum().has_latents() {
            format!("rows of `method: {}` have none", checkpoint.latent.method)
        } else if stage == Stage::COT {
            "at stage -1 all steps are words, and there are no latents".into()
        } else if latents > context {
            format!("they are more than the model's context of {context}")
        } else {
            return Ok(Some(latents));
        };
        Err(Error::Usage(format!("--latents {latents}: {problem}.")))
    }

    /// Lets a checkpoint think as often as is asked for at a stage.
    ///
    /// # Errors
    /// [`Error::Usage`] if it has no iterations there.
    pub fn set_iterations(&self, checkpoint: &mut Checkpoint, stage: Stage) -> Result<()> {
        let Some(iterations) = self.iterations else { return Ok(()) };
        let config = &mut checkpoint.model.config;
        let problem = match config.thinking {
            Thinking::Parallel if stage != Stage::COT => {
                config.iterations = Iterations::Times(iterations);
                return Ok(());
            }
            Thinking::Parallel => "at stage -1 all steps are words, and there are no latents",
            Thinking::Sequential => {
                "this checkpoint thinks one latent after the other; iterations are those of `thinking: parallel`"
            }
            Thinking::None => {
                "this checkpoint feeds nothing back; iterations are those of `thinking: parallel`"
            }
        };
        Err(Error::Usage(format!("--iterations {iterations}: {problem}.")))
    }
}

/// How tokens are chosen.
#[derive(Args, Default)]
pub struct SamplingOptions {
    /// Sample at this temperature instead of taking the most probable token, which 0 does too.
    #[arg(long, allow_hyphen_values = true, value_parser = temperature)]
    temperature: Option<f64>,
    /// Sample from the most probable so many tokens only (0 for all).
    #[arg(long, default_value_t = 0, requires = "temperature")]
    top_k: usize,
    /// Seed of the samples.
    #[arg(long, default_value_t = 0, requires = "temperature")]
    seed: u64,
}

fn temperature(text: &str) -> Result<f64, String> {
    let temperature = text.parse::<f64>().ok().filter(|t| t.is_finite() && *t >= 0.0);
    temperature.ok_or_else(|| "expected a number from 0 up".into())
}

impl SamplingOptions {
    pub fn sampling(&self) -> Sampling {
        match self.temperature {
            Some(temperature) if temperature > 0.0 => {
                Sampling::Random { temperature, top_k: self.top_k, seed: self.seed }
            }
            _ => Sampling::Greedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_refused_where_it_would_be_f32() {
        let vulkan: DeviceName = "vulkan".parse().unwrap();
        let (wide, narrow) = (FrozenDtype::F32, FrozenDtype::Bf16);
        assert!(check_bf16(true, narrow, DeviceName::Cpu).is_ok());
        assert!(check_bf16(false, wide, vulkan).is_ok());
        for (bf16, frozen, key) in
            [(true, wide, "`bf16: True`"), (false, narrow, "`frozen_dtype: bf16`")]
        {
            let refusal = check_bf16(bf16, frozen, vulkan).unwrap_err();
            assert_eq!(refusal.exit_code(), 2);
            let refusal = refusal.to_string();
            assert!(refusal.contains("--device vulkan") && refusal.contains(key), "{refusal}");
        }
    }
}
