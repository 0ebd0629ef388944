//! Answers to questions: each laid out as in training, answered, and read, with the thoughts on the way.

use super::{
    evaluate::said,
    generate::forward_prompts,
    lens,
    prompted::{Looks, Prompted, Thought},
    score,
    trained::{AnswerOptions, Question, TrainedModel},
};
use crate::{
    Result, device,
    latent::{Edit, ReadSet},
};

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

/// Answers questions, all in one batch; the answers come in the questions' order. Asking for thoughts
/// changes no answer.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) if the model answers graphs, [`Error::Prompt`](crate::Error::Prompt) for a
/// question that does not fit the model, [`Error::Internal`](crate::Error::Internal) if the device failed.
pub fn answer(
    trained: &TrainedModel<'_>,
    questions: &[Question],
    options: &AnswerOptions,
) -> Result<Vec<Answer>> {
    answer_edited(trained, questions, None, options)
}

/// As [`answer`], with thoughts that are changed before they are fed. What they are read as is what was thought; their
/// lengths and cosines are those of what was fed.
///
/// # Errors
/// As [`answer`].
pub fn answer_edited(
    trained: &TrainedModel<'_>,
    questions: &[Question],
    edit: Option<&Edit>,
    options: &AnswerOptions,
) -> Result<Vec<Answer>> {
    let tokenizer = trained.tokenizer;
    let prompts = trained.prompts(questions)?;
    let rows: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let looks = Looks { thoughts: options.thoughts > 0, log_probs: false };
    let prompted = Prompted::new(trained, &rows, edit, looks)?;
    let (thoughts, readouts) = match options.thoughts {
        0 => (vec![Vec::new(); rows.len()], vec![Vec::new(); rows.len()]),
        n_tokens => (prompted.thoughts(n_tokens)?, prompted.readouts()?),
    };
    let mut speaking = prompted.speak_alike(trained.generation(options));
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

/// What one prompt's latents are fed, one vector each: `[d_model]`.
///
/// # Errors
/// As [`forward_prompts`].
pub fn thoughts_of(trained: &TrainedModel<'_>, prompt: &[u32]) -> Result<Vec<Vec<f32>>> {
    let options = trained.generation(&AnswerOptions::default());
    let (batch, trace) = forward_prompts(trained.model, &[prompt], &options, ReadSet::PREDICTIONS)?;
    let thoughts = trace.thoughts_in_order(&batch);
    thoughts.into_iter().map(device::to_host).collect()
}
