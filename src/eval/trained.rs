//! A trained model, and how a question is put to it as in training.

use super::generate::{GenerateOptions, Sampling};
use crate::{
    Error, Result,
    data::{
        Curriculum, Encoded, Example, Format, SampleKey, Stage, Tokenizer, encode, encode::Text,
    },
    latent::{LatentModel, PassPlan},
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
    /// How often latents are computed anew, thinking in parallel, where that is to differ from what the model's own
    /// settings say.
    pub iterations: Option<usize>,
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

impl<'a> TrainedModel<'a> {
    /// Token ids that the model is given for each question.
    ///
    /// # Errors
    /// [`Error::Usage`] if the model answers graphs, [`Error::Prompt`] for a question with more latents than
    /// the model's context holds.
    pub fn prompts(&self, questions: &[Question]) -> Result<Vec<Vec<u32>>> {
        if self.format == Format::Graph {
            return Err(Error::Usage("This checkpoint answers graphs, not text; use `coconut eval` with a file of graphs.".into()));
        }
        let prompt = |(row, question): (usize, &Question)| {
            self.check_latents(row, question.latents)?;
            self.prompt(question)
        };
        questions.iter().enumerate().map(prompt).collect()
    }

    /// How such prompts are generated from.
    pub fn generation(&self, options: &AnswerOptions) -> GenerateOptions<'a> {
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
        let mut plan = self.model.config.plan(latent, self.curriculum.n_replaced(self.stage));
        if let (Some(parallel), Some(iterations)) = (&mut plan.parallel, self.iterations) {
            parallel.iterations = iterations;
        }
        plan
    }

    fn prompt(&self, question: &Question) -> Result<Vec<u32>> {
        let example = Example::new(&question.text, Vec::<String>::new(), "");
        let text = encode::encode_text(&example, self.tokenizer)?;
        Ok(self.lay_out(text, question.latents))
    }

    /// Token ids that the model is given where a question's own are known: they, markers and latents.
    ///
    /// # Errors
    /// As [`prompts`](Self::prompts).
    pub fn prompt_after(&self, question: Vec<u32>, latents: Option<usize>) -> Result<Vec<u32>> {
        self.check_latents(0, latents)?;
        Ok(self.lay_out(
            Text { question, steps: Vec::new(), answer: Vec::new(), value_start: 0 },
            latents,
        ))
    }

    fn lay_out(&self, text: Text, latents: Option<usize>) -> Vec<u32> {
        let markers = self.tokenizer.special_tokens();
        match latents {
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
        }
    }

    fn check_latents(&self, row: usize, latents: Option<usize>) -> Result<()> {
        let context = self.model.transformer.config.n_positions;
        match latents {
            Some(n) if n > context => {
                let problem = format!("{n} latents are more than the model's context of {context}");
                Err(Error::Prompt { row, problem })
            }
            _ => Ok(()),
        }
    }
}
