//! What is served: a checkpoint, its name, and how prompts are made for it.

use coconut::{
    Result,
    checkpoint::Checkpoint,
    data::{Format, Stage, Tokenizer, tokenizer::chat::PromptStyle},
    eval::{Question, generate::prompt_problem},
};
use serde_json::{Value, json};

use super::failure::Failure;

/// A checkpoint that is served. Nothing here changes while it is.
pub struct Model {
    pub checkpoint: Checkpoint,
    /// The tokenizer with the folder's own chat template; `None` without one.
    chat: Option<Tokenizer>,
    /// As requests name it.
    pub name: String,
    /// When it was opened, in seconds since 1970.
    pub created: u64,
    /// Latents of a question where a request does not say.
    latents: Option<usize>,
}

/// A prompt as a request has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// Put as in training, with latents after it.
    Question(String),
    /// Text that is given as it is.
    Text(String),
    /// Tokens that are given as they are.
    Ids(Vec<u32>),
    /// Turns of role and content.
    Turns(Vec<(String, String)>),
}

impl Model {
    pub fn new(
        checkpoint: Checkpoint,
        name: String,
        created: u64,
        latents: Option<usize>,
    ) -> Result<Self> {
        let style = PromptStyle {
            system_prompt: None,
            chat_template: true,
            ..checkpoint.latent.prompt.clone()
        };
        let chat = match checkpoint.tokenizer.has_template() {
            true => Some(checkpoint.tokenizer.clone().with_prompt(&style)?),
            false => None,
        };
        Ok(Self { checkpoint, chat, name, created, latents })
    }

    /// Whether prompts are texts: nobody taught it to think, and it is not given latents all the same.
    pub fn is_plain(&self) -> bool {
        self.checkpoint.latent.plain && !self.has_latents()
    }

    /// Whether its questions are given latents.
    pub fn has_latents(&self) -> bool {
        let latent = &self.checkpoint.latent;
        latent.curriculum().has_latents() && latent.stage != Stage::COT
    }

    /// How often its latents are computed anew, if they are thought of in parallel.
    pub fn iterations(&self) -> Option<usize> {
        let parallel = self.checkpoint.trained().plan().parallel.filter(|_| self.has_latents());
        parallel.map(|parallel| parallel.iterations)
    }

    /// What `/v1/models` says of it.
    pub fn about(&self) -> Value {
        let Checkpoint { model, latent, .. } = &self.checkpoint;
        json!({
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "coconut",
            "max_model_len": model.transformer.config.n_positions,
            "plain": latent.plain,
            "method": latent.method,
            "stage": latent.stage,
            "latents": self.has_latents(),
            "thinking": model.config.thinking,
            "iterations": self.iterations(),
        })
    }

    /// Whether questions become tokens at all: graphs do not come as text.
    pub fn answers_text(&self) -> bool {
        self.checkpoint.latent.format == Format::Text
    }

    /// Whether turns are laid out by a template; else the last one is the question.
    fn chats_by_template(&self) -> bool {
        let latent = &self.checkpoint.latent;
        self.chat.is_some() && (latent.plain || latent.prompt.chat_template)
    }

    /// The tokenizer that lays out prompts of chats, or of others.
    pub fn tokenizer(&self, chat: bool) -> &Tokenizer {
        match &self.chat {
            Some(tokenizer) if chat && self.chats_by_template() => tokenizer,
            _ => &self.checkpoint.tokenizer,
        }
    }

    /// Tokens that end what is said.
    pub fn stops(&self, chat: bool) -> &[u32] {
        self.tokenizer(chat).stops()
    }

    /// Token ids that the model is given.
    ///
    /// # Errors
    /// A prompt that it cannot be given.
    pub fn prompt(
        &self,
        asked: &Asked,
        latents: Option<usize>,
        param: &str,
    ) -> Result<Vec<u32>, Failure> {
        let ids = self.ids(asked, latents.or(self.latents), param)?;
        let Checkpoint { model, .. } = &self.checkpoint;
        match prompt_problem(model, &ids, &self.checkpoint.trained().plan()) {
            None => Ok(ids),
            Some(problem) => {
                Err(Failure::bad(param, format!("The prompt cannot be answered: {problem}.")))
            }
        }
    }

    fn ids(&self, asked: &Asked, latents: Option<usize>, param: &str) -> Result<Vec<u32>, Failure> {
        let failed = |error| Failure::from_error(param, error);
        let trained = self.checkpoint.trained();
        let question = |text: &str| {
            let question = Question { text: text.to_owned(), latents };
            let prompts = trained.prompts(&[question]).map_err(failed)?;
            Ok(prompts.into_iter().flatten().collect())
        };
        match asked {
            Asked::Question(text) => question(text),
            Asked::Text(text) => {
                Ok(self.checkpoint.tokenizer.encode(text, true).map_err(failed)?.ids)
            }
            Asked::Ids(ids) => Ok(ids.clone()),
            Asked::Turns(turns) if self.chats_by_template() => {
                let turns: Vec<(&str, &str)> =
                    turns.iter().map(|(role, text)| (role.as_str(), text.as_str())).collect();
                let tokenizer = self.tokenizer(true);
                let text = tokenizer.render_turns(&turns).map_err(failed)?.unwrap_or_default();
                let ids = tokenizer.encode(&text, false).map_err(failed)?.ids;
                if self.is_plain() {
                    Ok(ids)
                } else {
                    trained.prompt_after(ids, latents).map_err(failed)
                }
            }
            Asked::Turns(_) if self.is_plain() => Err(Failure::bad(
                param,
                "The model comes without a chat template. Use /v1/completions.",
            )),
            Asked::Turns(turns) => match turns.iter().rev().find(|(role, _)| role == "user") {
                Some((_, text)) => question(text),
                None => Err(Failure::bad(param, "There is no message of a user to answer.")),
            },
        }
    }
}
