//! Answers to questions: each laid out as in training, answered, and read, with the thoughts on the way.

use burn::tensor::Tensor;

use super::{
    evaluate::said,
    generate::{GenerateOptions, GenerationLoop, Sampling, forward_prompts},
    lens::{self, Reading},
    readout::readout,
    score,
};
use crate::{
    Error, Result,
    data::{Curriculum, Encoded, Example, Format, SampleKey, Stage, Tokenizer, encode},
    device,
    latent::{self, Edit, LatentModel, PassPlan, ReadSet, Trace, batch::Batch},
    objective::StepDecoder,
};

/// A trained model, and what it takes to put a question to it as in training.
#[derive(Clone, Debug)]
pub struct TrainedModel<'a> {
    /// The model, without autodiff.
    pub model: &'a LatentModel,
    /// The network that reads its thoughts as words, if it has one.
    pub decoder: Option<StepDecoder<'a>>,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The curriculum that it was trained by, which says how many latents a prompt has.
    pub curriculum: Curriculum,
    /// The stage that prompts are laid out for.
    pub stage: Stage,
    /// How its questions become tokens; only text can be asked here.
    pub format: Format,
}

/// A question as it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The question's text, without markers.
    pub text: String,
    /// Latents between question and answer; as many as in training if `None`.
    pub latents: Option<usize>,
}

impl From<&str> for Question {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), latents: None }
    }
}

/// How questions are answered.
#[derive(Clone, Copy, Debug)]
pub struct AnswerOptions {
    /// Most tokens generated for one question.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that each thought is read as; if 0, thoughts are not read.
    pub thoughts: usize,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self { max_new_tokens: 128, sampling: Sampling::Greedy, thoughts: 0 }
    }
}

/// A question and what the model made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The question's text.
    pub question: String,
    /// Token ids that the model was given: the question, markers and latents.
    pub prompt_ids: Vec<u32>,
    /// The text generated after them.
    pub text: String,
    /// Token ids of that text, the stop included if one was reached.
    pub ids: Vec<u32>,
    /// What stands after the text's last answer mark, if it has one.
    pub prediction: Option<String>,
    /// Latents in the prompt.
    pub latents: usize,
    /// Whether the text ended by itself rather than at a limit.
    pub finished: bool,
    /// The prompt's thoughts in order, if [`AnswerOptions::thoughts`] asks for them.
    pub thoughts: Vec<Thought>,
    /// For each slot of thoughts, the text that the step decoder reads, if thoughts are asked for and there is one.
    pub readout: Vec<String>,
}

/// What can be seen of one thought.
#[derive(Clone, Debug, PartialEq)]
pub struct Thought {
    /// The likeliest tokens, had the model spoken at this place instead ([`lens`](super::lens())).
    pub tokens: Reading,
    /// Euclidean length of the vector that was fed back; `None` if latents are ordinary tokens, so that
    /// nothing was.
    pub length: Option<f64>,
}

/// Answers questions, all in one batch; the answers come in the questions' order. Asking for thoughts
/// changes no answer.
///
/// # Errors
/// [`Error::Usage`] if the model answers graphs, [`Error::Prompt`] for a question that does not fit the
/// model, [`Error::Internal`] if the device failed.
pub fn answer(
    trained: &TrainedModel<'_>,
    questions: &[Question],
    options: &AnswerOptions,
) -> Result<Vec<Answer>> {
    answer_edited(trained, questions, None, options)
}

/// As [`answer`], with thoughts that are changed before they are fed. What they are read as is what was thought; their
/// lengths are those of what was fed.
///
/// # Errors
/// As [`answer`].
pub fn answer_edited(
    trained: &TrainedModel<'_>,
    questions: &[Question],
    edit: Option<&Edit>,
    options: &AnswerOptions,
) -> Result<Vec<Answer>> {
    let &TrainedModel { model, tokenizer, .. } = trained;
    let prompts = trained.prompts(questions)?;
    let rows: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let generation = trained.generation(options);
    // What feeds a thought, one after the other, is among the predictions; what only stands before a pause token, or
    // is left of the last iteration, is not.
    let fed_once = generation.plan.latent.is_some() && generation.plan.parallel.is_none();
    let reads = match options.thoughts > 0 && !fed_once {
        true => ReadSet::ALL,
        false => ReadSet::PREDICTIONS,
    };
    let (batch, mut trace) = forward_prompts(model, &rows, &generation, reads)?;
    if let Some(edit) = edit {
        trace = latent::forward_edited(model, &batch, reads, edit, &trace);
    }
    let thoughts = match options.thoughts {
        0 => vec![Vec::new(); rows.len()],
        n_tokens => thoughts(trained, &rows, &batch, &trace, n_tokens)?,
    };
    let readouts = match options.thoughts {
        0 => vec![Vec::new(); rows.len()],
        _ => rows.iter().map(|ids| trained.readout(ids, &generation)).collect::<Result<_>>()?,
    };
    let mut speaking = GenerationLoop::after(model, &batch, trace, generation);
    while !speaking.step_until(tokenizer)?.is_empty() {}

    let thoughts = thoughts.into_iter().zip(readouts);
    let found = questions.iter().zip(&prompts).zip(thoughts).zip(speaking.finish());
    found
        .map(|(((question, prompt_ids), (thoughts, readout)), generation)| {
            let text = said(tokenizer, &generation.ids)?;
            Ok(Answer {
                question: question.text.clone(),
                prompt_ids: prompt_ids.clone(),
                prediction: score::read_answer(&text, tokenizer.answer_mark()),
                text,
                ids: generation.ids,
                latents: lens::latents(prompt_ids, tokenizer).len(),
                finished: generation.finished,
                thoughts,
                readout,
            })
        })
        .collect()
}

impl TrainedModel<'_> {
    /// Token ids that the model is given for each question.
    ///
    /// # Errors
    /// [`Error::Usage`] if the model answers graphs, [`Error::Prompt`] for a question with more latents than
    /// the model's context holds.
    pub fn prompts(&self, questions: &[Question]) -> Result<Vec<Vec<u32>>> {
        if self.format == Format::Graph {
            return Err(Error::Usage("This checkpoint answers graphs, not text; use `coconut eval` with a file of graphs.".into()));
        }
        let context = self.model.transformer.config.n_positions;
        let numbered = questions.iter().enumerate();
        numbered
            .map(|(row, question)| match question.latents {
                Some(n) if n > context => {
                    let problem =
                        format!("{n} latents are more than the model's context of {context}");
                    Err(Error::Prompt { row, problem })
                }
                _ => self.prompt(question),
            })
            .collect()
    }

    /// How such prompts are generated from.
    pub fn generation(&self, options: &AnswerOptions) -> GenerateOptions<'_> {
        GenerateOptions {
            plan: self.plan(),
            stops: self.tokenizer.stops(),
            max_new_tokens: options.max_new_tokens,
            sampling: options.sampling,
        }
    }

    /// How prompts become passes.
    pub fn plan(&self) -> PassPlan {
        let latent = self.tokenizer.special_tokens().latent;
        self.model.config.plan(latent, self.curriculum.n_replaced(self.stage))
    }

    /// What the step decoder reads in a prompt's thoughts; nothing without one.
    fn readout(&self, prompt: &[u32], options: &GenerateOptions<'_>) -> Result<Vec<String>> {
        let Some(decoder) = self.decoder else { return Ok(Vec::new()) };
        let width = decoder.style.width(self.curriculum.c_thought);
        readout(self.model, decoder, self.tokenizer, prompt, options, width)
    }

    fn prompt(&self, question: &Question) -> Result<Vec<u32>> {
        let markers = self.tokenizer.special_tokens();
        let example = Example::new(&question.text, Vec::<String>::new(), "");
        let text = encode::encode_text(&example, self.tokenizer)?;
        Ok(match question.latents {
            Some(n) => [
                text.question.as_slice(),
                &[markers.start_latent],
                &vec![markers.latent; n],
                &[markers.end_latent],
            ]
            .concat(),
            None => {
                // The number of steps is unknown: as many latents as a question with enough of them gets.
                let curriculum = Curriculum { pad_latent_to_max: true, ..self.curriculum.clone() };
                let key = SampleKey { seed: 0, epoch: 0, index: 0 };
                curriculum.prompt(&Encoded::Text(text), self.stage, markers, key).ids
            }
        })
    }
}

/// What one question's latents are fed, one vector each: `[d_model]`.
///
/// # Errors
/// As [`answer`].
pub fn thoughts_of(trained: &TrainedModel<'_>, question: &Question) -> Result<Vec<Vec<f32>>> {
    let prompts = trained.prompts(std::slice::from_ref(question))?;
    let rows: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let options = trained.generation(&AnswerOptions::default());
    let (batch, trace) = forward_prompts(trained.model, &rows, &options, ReadSet::PREDICTIONS)?;
    let thoughts = trace.thoughts_in_order(&batch);
    thoughts.into_iter().map(device::to_host).collect()
}

/// For each prompt, what can be seen of its thoughts.
fn thoughts(
    trained: &TrainedModel<'_>,
    prompts: &[&[u32]],
    batch: &Batch,
    trace: &Trace,
    n_tokens: usize,
) -> Result<Vec<Vec<Thought>>> {
    let readings = lens::read(trained.model, trained.tokenizer, prompts, batch, trace, n_tokens)?;
    let lengths = lengths(batch, trace)?;
    let of_row = |(row, readings): (usize, Vec<Reading>)| {
        let length = |number: usize| lengths.get(number).map(|of| of[row]);
        let numbered = readings.into_iter().enumerate();
        numbered.map(|(number, tokens)| Thought { tokens, length: length(number) }).collect()
    };
    Ok(readings.into_iter().enumerate().map(of_row).collect())
}

/// Euclidean lengths of what was fed back: for each thought number, one a row.
fn lengths(batch: &Batch, trace: &Trace) -> Result<Vec<Vec<f64>>> {
    let of_number = |thought: &Tensor<3>| {
        let [_, _, d] = thought.dims(); // [batch, 1, d_model]
        let values: Vec<f32> = device::to_host(thought.clone())?;
        let length = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        Ok(values.chunks(d).map(length).collect())
    };
    trace.thoughts_in_order(batch).iter().map(of_number).collect()
}
