//! What a bench trains on: a file's examples, or random ones.

use std::path::Path;

use coconut::{
    Error, Result,
    data::{
        Encoded, SpecialTokens, Stage, Tokenizer,
        encode::Text,
        encode_texts, read,
        tokenizer::{Units, chat::PromptStyle},
    },
    rng,
};

use super::Bench;

/// Random examples.
const EXAMPLES: usize = 64;
/// Most tokens of one.
const MOST_TOKENS: usize = 1_000_000;
/// Tokens of a random answer's value, which its last ones are.
const VALUE: usize = 2;

/// Examples of a bench, and the ids of their markers.
pub(super) struct Examples {
    pub encoded: Vec<Encoded>,
    pub markers: SpecialTokens,
    /// The fewest rows of the embedding that hold them.
    pub vocab_size: usize,
}

/// How many tokens a random example has where.
#[derive(Clone, Copy)]
struct Lengths {
    question: usize,
    steps: usize,
    step: usize,
    answer: usize,
}

impl Bench {
    /// The examples that a stage is measured with.
    pub(super) fn examples(&self, stage: Stage) -> Result<Examples> {
        match &self.data {
            Some(path) => read_examples(path, self.tokenizer()?),
            None => self.random_examples(stage),
        }
    }

    /// The tokenizer of `--model`'s folder, with `--chat` within its template; none where `--data` is cut into words.
    fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        let folder = self.model.as_deref().filter(|path| path.join("tokenizer.json").is_file());
        match folder {
            None if self.chat => {
                let problem =
                    "needs --model FOLDER, a folder with a tokenizer and its chat template";
                Err(Error::Usage(format!("--chat {problem}.")))
            }
            None => Ok(None),
            Some(folder) => {
                let style = PromptStyle { chat_template: self.chat, ..PromptStyle::default() };
                Tokenizer::load(folder)?.with_prompt(&style).map(Some)
            }
        }
    }

    fn random_examples(&self, stage: Stage) -> Result<Examples> {
        let named = self.named_shape()?.map(|shape| shape.vocab_size);
        let vocab_size = self.vocab.or(named).unwrap_or(512);
        let lengths = self.lengths(stage, vocab_size)?;
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
            question: draw(lengths.question),
            steps: (0..lengths.steps).map(|_| draw(lengths.step)).collect(),
            answer: draw(lengths.answer),
            value_start: lengths.answer.saturating_sub(VALUE),
        };
        let encoded = (0..EXAMPLES).map(|_| Encoded::Text(example())).collect();
        Ok(Examples { encoded, markers, vocab_size })
    }

    /// The lengths that are asked for.
    fn lengths(&self, stage: Stage, vocab_size: usize) -> Result<Lengths> {
        let lengths = self.asked_lengths(stage, vocab_size)?;
        let Lengths { question, steps, step, answer } = lengths;
        let all = steps.saturating_mul(step).saturating_add(question).saturating_add(answer);
        match all > MOST_TOKENS {
            true => Err(Error::Usage(format!(
                "An example of {all} tokens is asked for; the most are {MOST_TOKENS}."
            ))),
            false => Ok(lengths),
        }
    }

    /// The lengths that flags give, or those of rows of `--tokens` tokens with the stage's latents among them: a
    /// question, and an answer of a quarter of the row.
    fn asked_lengths(&self, stage: Stage, vocab_size: usize) -> Result<Lengths> {
        if let Some(question) = self.question {
            if vocab_size <= 5 {
                let problem = "there are five tokens besides those of text";
                return Err(Error::Usage(format!("--vocab {vocab_size}: {problem}.")));
            }
            let Self { steps, step_tokens: step, answer, .. } = *self;
            return Ok(Lengths { question, steps, step, answer });
        }
        let recipe = self.recipe()?;
        let objective = recipe.objective();
        if objective.reads_steps() || objective.last_step().is_some() {
            return Err(Error::Usage(format!(
                "--tokens: rows of random tokens have no steps, which `--method {}` needs; give --question, --steps, --step-tokens and --answer instead.",
                self.method
            )));
        }
        let tokens = self.tokens.unwrap_or(128);
        let latents = self.curriculum(&recipe, stage).n_latents(stage, 0);
        let answer = tokens / 4;
        let question = tokens.checked_sub(answer + latents + 2).filter(|_| vocab_size > 5);
        let Some(question) = question else {
            return Err(Error::Usage(format!(
                "--tokens: {tokens} tokens of {vocab_size} hold no {latents} latents and two markers beside an answer."
            )));
        };
        Ok(Lengths { question, steps: 0, step: 0, answer })
    }
}

/// Examples of a file, cut by a tokenizer, or into words.
fn read_examples(path: &Path, tokenizer: Option<Tokenizer>) -> Result<Examples> {
    let examples = read::load(path, None)?;
    let tokenizer = match tokenizer {
        Some(tokenizer) => tokenizer,
        None => Tokenizer::build(&examples, Units::Words, path)?,
    };
    let (encoded, _) = encode_texts(&examples, &tokenizer)?;
    if encoded.is_empty() {
        return Err(Error::input(path, "", "it holds no examples."));
    }
    let (markers, vocab_size) = (tokenizer.special_tokens(), tokenizer.vocab_size());
    Ok(Examples { encoded, markers, vocab_size })
}
