//! Checkpoints of the published latent programs, opened as this program's own.
//!
//! | to change … | open … |
//! | --- | --- |
//! | what a file's layout means, how a model thinks | here |
//! | which names the programs write | [`layout`] |
//! | names, shapes and elements, out of whatever file | [`state_dict`] |
//! | what of Python's pickle is read | [`pickle`] |
//! | the archive around it | [`archive`] |
//!
//! A state dict holds weights and no more. Shape and tokenizer come from the folder of the model that was trained;
//! what neither tells, [`Options`] do.

pub mod archive;
pub mod layout;
pub mod pickle;
pub mod state_dict;

use std::path::Path;

use self::{
    layout::{Layout, Weights, Wrapper},
    state_dict::StateDict,
};
use crate::{
    Error, Result,
    checkpoint::{self, LatentInfo, check_vocabulary},
    data::{Curriculum, Method, Stage, Tokenizer, tokenizer::chat::PromptStyle},
    device,
    latent::{Iterations, LatentConfig, Thinking},
    model::{ModelConfig, Transformer, weights::HostTensors},
    objective::{DecoderStyle, Learner},
};

/// What a state dict does not tell, under the names of the published recipes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which program trained it, where names do not tell.
    pub method: Option<Method>,
    /// Latents for each step, or of CODI all of them (`num_latent`).
    pub c_thought: Option<usize>,
    /// The last stage that may still speak steps.
    pub max_latent_stage: Option<usize>,
    /// The stage that it was saved at; the last one if `None`.
    pub stage: Option<i32>,
    /// Whether short examples got as many latents as others.
    pub pad_latent_to_max: bool,
    /// α of LoRA.
    pub lora_alpha: Option<f64>,
}

impl Options {
    /// Refuses what says nothing of a method.
    fn check(&self, method: Method) -> Result<()> {
        let staged = matches!(method, Method::Coconut | Method::Lotus);
        let given = [
            ("c-thought", self.c_thought.is_some(), staged || method == Method::Codi),
            ("max-latent-stage", self.max_latent_stage.is_some(), staged),
            ("stage", self.stage.is_some(), staged),
            ("pad-latent-to-max", self.pad_latent_to_max, method == Method::Coconut),
        ];
        match given.into_iter().find(|(_, given, means)| *given && !means) {
            Some((key, ..)) => {
                Err(Error::Usage(format!("--{key}: it says nothing of `{method}`. Leave it out.")))
            }
            None => Ok(()),
        }
    }
}

/// A published checkpoint, ready to be written.
#[derive(Debug)]
pub struct Imported {
    /// The model, and its step decoder if it has one.
    pub learner: Learner,
    /// The tokenizer, with the markers that the program added.
    pub tokenizer: Tokenizer,
    /// How it thinks.
    pub latent: LatentInfo,
    /// What was left out or cannot be seen in the file, a sentence each.
    pub notes: Vec<String>,
}

/// Where answers stand in what CODI's program trains.
const CODI_ANSWER: &str = "The answer is:";

impl Imported {
    /// Reads a published checkpoint, a file or a folder with one, that was trained from the model in `base`.
    ///
    /// # Errors
    /// Files that cannot be read or hold more than a state dict; what does not fit the model in `base`, by name; and
    /// options that are missing or do not go with the layout.
    pub fn read(source: &Path, base: &Path, options: &Options) -> Result<Self> {
        let file = StateDict::open(source)?;
        let layout = Layout::of(&file)?;
        let method = method(&layout, options)?;
        options.check(method)?;
        let mut config = ModelConfig::load(base)?;
        config.vocab_size = layout.vocabulary()?;
        let tokenizer = Tokenizer::load(base)?.stopping_at_eos();
        let rows = marker_rows(method, &tokenizer, config.vocab_size, &file.path, base)?;

        let mut latent = latent_info(method, options, &file.path)?;
        latent.thinking.feedback = layout.feedback(config.d_model)?;
        let weights = Weights::new(&layout, config.family, alpha(&layout, options)?, rows)?;
        let mut model = Transformer::from_source(config, &weights, &device::cpu())?;
        if method == Method::Cot {
            check_vocabulary(&tokenizer, &model, base)?;
            let source = tokenizer.marker_source();
            model = model.init_token_rows(&tokenizer.added_markers(), source);
        }
        let mut notes: Vec<String> =
            layout.left_out.iter().map(|what| format!("left out: {what}")).collect();
        if layout.has_adapters() {
            notes.push("the adapters are added to the model below them".into());
        }
        let mut tensors = layout.projection()?;
        let (decoder, told) = decoder(&layout, &model.config, method)?;
        notes.extend(told);
        if !decoder.is_empty() {
            tensors.extend(decoder);
            latent.step_decoder = Some(decoder_style(method));
        }
        let learner = Learner::assemble(model, latent.thinking.clone(), tensors, &file.path)?;
        let tokenizer = tokenizer.with_prompt(&latent.prompt)?;
        Ok(Self { learner, tokenizer, latent, notes })
    }

    /// Writes a checkpoint of this program: beside its place, then renamed.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn write(&self, folder: &Path) -> Result<()> {
        checkpoint::replace(folder, |partial| {
            checkpoint::write_model(partial, &self.learner, &self.tokenizer, &self.latent)
        })
    }
}

/// Which method trained a layout.
fn method(layout: &Layout, options: &Options) -> Result<Method> {
    let usage = |problem: String| Err(Error::Usage(problem));
    match (layout.wrapper, options.method) {
        (Wrapper::Coconut, Some(method @ (Method::Coconut | Method::Lotus))) => Ok(method),
        (Wrapper::Coconut, None) if layout.has_decoder() => Ok(Method::Coconut),
        (Wrapper::Coconut, None) => usage(
            "--method is missing: Coconut and LOTUS write the same names. Add `--method coconut` or `--method lotus`.".into(),
        ),
        (Wrapper::Codi, None | Some(Method::Codi)) => Ok(Method::Codi),
        (Wrapper::None, None | Some(Method::Cot)) => Ok(Method::Cot),
        (wrapper, Some(method)) => usage(format!(
            "--method {method}: the file's names are those of {}.",
            match wrapper {
                Wrapper::Coconut => "Coconut or LOTUS (`base_causallm.…`)",
                Wrapper::Codi => "CODI (`codi.…`)",
                Wrapper::None => "a plain model, which is `--method cot`",
            }
        )),
    }
}

/// How a method's program makes its model think.
fn latent_info(method: Method, options: &Options, path: &Path) -> Result<LatentInfo> {
    let plain = LatentInfo::plain();
    let needed = |value: Option<usize>, key: &str, what: &str| {
        value.filter(|value| (1..=1000).contains(value)).ok_or_else(|| {
            Error::Usage(format!(
                "--{key} is missing: {} does not tell {what}. Give it as in its recipe, from 1 to 1000.",
                path.display()
            ))
        })
    };
    let stages =
        || needed(options.max_latent_stage, "max-latent-stage", "how many stages there were");
    let per_step = || needed(options.c_thought, "c-thought", "how many latents stand for a step");
    let sequential = LatentConfig::default();
    let (c_thought, max_latent_stage, thinking, prompt) = match method {
        Method::Coconut => (per_step()?, stages()?, sequential, plain.prompt),
        Method::Lotus => {
            let parallel = LatentConfig {
                thinking: Thinking::Parallel,
                iterations: Iterations::Stage,
                latent_residual: true,
                ..sequential
            };
            (per_step()?, stages()?, parallel, plain.prompt)
        }
        Method::Codi => {
            let prompt = PromptStyle {
                question_end: String::new(),
                answer_mark: CODI_ANSWER.into(),
                ..plain.prompt
            };
            let latents = needed(options.c_thought, "c-thought", "how many latents there were")?;
            (latents, 1, sequential, prompt)
        }
        _ => return Ok(plain),
    };
    let curriculum =
        Curriculum::new(method, c_thought, max_latent_stage, options.pad_latent_to_max);
    let last = curriculum.last_stage();
    let stage = match options.stage {
        None => last,
        Some(stage) if (0..=last.0).contains(&stage) => Stage(stage),
        Some(stage) => {
            let problem =
                format!("--stage {stage}: with these latents the stages are 0 to {last}.");
            return Err(Error::Usage(problem));
        }
    };
    Ok(LatentInfo { prompt, ..LatentInfo::of(&curriculum, stage, thinking) })
}

/// α of the adapters, if there are any.
fn alpha(layout: &Layout, options: &Options) -> Result<f64> {
    match (layout.has_adapters(), options.lora_alpha) {
        (true, Some(alpha)) if alpha.is_finite() => Ok(alpha),
        (true, _) => Err(Error::Usage(
            "--lora-alpha is missing: the file has LoRA's matrices, and not the number that scales them. Give the `lora_alpha` that it was trained with; the published scripts have 32.".into(),
        )),
        (false, None) => Ok(0.0),
        (false, Some(alpha)) => {
            Err(Error::Usage(format!("--lora-alpha {alpha}: the file has no adapters.")))
        }
    }
}

/// Rows of the tables that are put where the tokenizer has the markers, `[to, from]`.
fn marker_rows(
    method: Method,
    tokenizer: &Tokenizer,
    rows: usize,
    path: &Path,
    base: &Path,
) -> Result<Vec<[usize; 2]>> {
    let markers = tokenizer.special_tokens();
    let misfit = |added: &str| {
        let problem = format!(
            "has {rows} token embeddings, {added}, but the tokenizer in {} has {} tokens with the markers. The two must belong together.",
            base.display(),
            tokenizer.vocab_size()
        );
        Err(Error::input(path, "", problem))
    };
    match method {
        // Its program gives the markers the numbers that they have here.
        Method::Coconut | Method::Lotus if rows != tokenizer.vocab_size() => {
            misfit("three of them for the markers")
        }
        // Three rows after the model's own: one that nothing reads, bot and eot.
        Method::Codi if rows < tokenizer.vocab_size() => {
            misfit("the last three for pad, bot and eot")
        }
        Method::Codi => Ok(vec![
            [markers.start_latent as usize, rows - 2],
            [markers.end_latent as usize, rows - 1],
            [markers.latent as usize, rows - 3],
        ]),
        _ => Ok(Vec::new()),
    }
}

/// The style of a step decoder beside a method.
fn decoder_style(method: Method) -> DecoderStyle {
    match method {
        Method::Codi => DecoderStyle::Codi,
        _ => DecoderStyle::Coconut,
    }
}

/// A step decoder's tensors; none if there is none or it cannot be kept, which is then told.
fn decoder(
    layout: &Layout,
    config: &ModelConfig,
    method: Method,
) -> Result<(HostTensors, Option<String>)> {
    if !layout.has_decoder() {
        return Ok((HostTensors::new(), None));
    }
    let kept = match method {
        Method::Coconut | Method::Codi => layout.decoder(config)?,
        _ => Err(format!("`{method}` has none")),
    };
    Ok(match kept {
        Ok(tensors) => (tensors, None),
        Err(problem) => {
            (HostTensors::new(), Some(format!("left out: the step decoder; {problem}")))
        }
    })
}
