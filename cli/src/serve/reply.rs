//! Answers in OpenAI's forms.

use coconut::{
    data::Tokenizer,
    eval::{End, TokenLogProb},
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    failure::Failure,
    job::{Begun, News},
    model::Model,
    request::Request,
    speech::Speech,
};

/// What all parts of one answer have in common.
pub struct Head {
    pub id: String,
    pub created: u64,
    pub chat: bool,
}

/// One row of an answer in the making.
pub struct Row<'a> {
    news: Option<UnboundedReceiver<News>>,
    tokenizer: &'a Tokenizer,
    prompt: &'a [u32],
    echo: bool,
    pub begun: Begun,
    pub speech: Speech<'a>,
    /// Of the tokens said, if they are asked for.
    log_probs: Vec<TokenLogProb>,
    pub reason: Option<&'static str>,
}

impl<'a> Row<'a> {
    /// A row that nothing was heard of yet.
    pub fn new(
        model: &'a Model,
        request: &'a Request,
        prompt: &'a [u32],
        news: UnboundedReceiver<News>,
    ) -> Self {
        let tokenizer = model.tokenizer(request.chat);
        Self {
            news: Some(news),
            tokenizer,
            prompt,
            echo: request.echo,
            begun: Begun::default(),
            speech: Speech::new(tokenizer, &request.stop),
            log_probs: Vec::new(),
            reason: None,
        }
    }

    /// Waits until the prompt was run.
    ///
    /// # Errors
    /// What went wrong there.
    pub async fn begin(&mut self, max_tokens: usize) -> Result<(), Failure> {
        match self.hear().await? {
            News::Begun(begun) => self.begun = begun,
            _ => return Err(broken()),
        }
        if max_tokens == 0 {
            self.end("length");
        }
        Ok(())
    }

    /// Waits for one more token; the one heard, or nothing once the row has ended.
    ///
    /// # Errors
    /// What went wrong there.
    pub async fn next(&mut self) -> Result<Option<Option<TokenLogProb>>, Failure> {
        if self.reason.is_some() {
            return Ok(None);
        }
        let News::Token { id, end, log_prob } = self.hear().await? else { return Err(broken()) };
        self.speech.push(id).map_err(|error| Failure::from_error("", error))?;
        self.log_probs.extend(log_prob.clone());
        match end {
            _ if self.speech.stopped => self.end("stop"),
            Some(End::Stop) => self.end("stop"),
            Some(End::Length) => self.end("length"),
            None => {}
        }
        Ok(Some(log_prob))
    }

    /// The row's end; whoever runs it learns that nobody listens any more.
    fn end(&mut self, reason: &'static str) {
        self.reason = Some(reason);
        self.news = None;
    }

    async fn hear(&mut self) -> Result<News, Failure> {
        let Some(news) = &mut self.news else { return Err(broken()) };
        match news.recv().await {
            Some(News::Failed(failure)) => Err(failure),
            Some(news) => Ok(news),
            None => Err(broken()),
        }
    }

    /// The whole choice of an answer that is sent at once.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn choice(&mut self, index: usize, request: &Request) -> Result<Value, Failure> {
        let failed = |error| Failure::from_error("", error);
        let said = self.speech.text().map_err(failed)?;
        let mut choice = match request.chat {
            true => json!({"index": index, "message": {"role": "assistant", "content": said}}),
            false => {
                let before = match self.echo {
                    true => self.tokenizer.decode(self.prompt).map_err(failed)?,
                    false => String::new(),
                };
                json!({"index": index, "text": format!("{before}{said}")})
            }
        };
        choice["logprobs"] = match (request.log_probs, request.chat) {
            (None, _) => Value::Null,
            (Some(_), true) => chat_log_probs(self.tokenizer, &self.log_probs),
            (Some(_), false) => self.completion_log_probs(),
        };
        choice["finish_reason"] = json!(self.reason);
        self.add_thoughts(&mut choice, request);
        Ok(choice)
    }

    /// Adds what was thought and the row it was thought in, if they are asked for.
    pub fn add_thoughts(&self, choice: &mut Value, request: &Request) {
        if request.thoughts.is_some() {
            let latent = self.tokenizer.special_tokens().latent;
            let is_latent = |&position: &usize| self.prompt[position] == latent;
            choice["prompt"] = json!({
                "ids": self.prompt,
                "tokens": self.prompt.iter().map(|&id| spelled(self.tokenizer, id)).collect::<Vec<_>>(),
                "latents": (0..self.prompt.len()).filter(is_latent).collect::<Vec<_>>(),
            });
            choice["thoughts"] = json!(self.begun.thoughts);
            if !self.begun.readout.is_empty() {
                choice["readout"] = json!(self.begun.readout);
            }
        }
    }

    fn completion_log_probs(&self) -> Value {
        let first = self.prompt.first().filter(|_| self.echo);
        let prompt = self.begun.log_probs.iter().filter(|_| self.echo);
        completion_log_probs(self.tokenizer, first, prompt.chain(&self.log_probs), 0)
    }
}

/// Log probabilities as `/v1/completions` has them. A prompt's `first` token has none.
pub fn completion_log_probs<'a>(
    tokenizer: &Tokenizer,
    first: Option<&u32>,
    found: impl Iterator<Item = &'a TokenLogProb>,
    mut offset: usize,
) -> Value {
    let (mut tokens, mut log_probs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    let first = first.map(|&id| (id, None));
    for (id, found) in first.into_iter().chain(found.map(|found| (found.id, Some(found)))) {
        let token = spelled(tokenizer, id);
        offsets.push(offset);
        offset += token.chars().count();
        tokens.push(token);
        log_probs.push(json!(found.map(|found| found.log_prob)));
        tops.push(found.map_or(Value::Null, |found| {
            let mut top = Map::new();
            for &(id, log_prob) in found.top.iter().chain([&(found.id, found.log_prob)]) {
                top.entry(spelled(tokenizer, id)).or_insert(json!(log_prob));
            }
            Value::Object(top)
        }));
    }
    json!({"tokens": tokens, "token_logprobs": log_probs, "top_logprobs": tops, "text_offset": offsets})
}

/// Log probabilities as `/v1/chat/completions` has them.
pub fn chat_log_probs(tokenizer: &Tokenizer, found: &[TokenLogProb]) -> Value {
    let one = |id: u32, log_prob: f64| {
        let token = spelled(tokenizer, id);
        json!({"token": token, "logprob": log_prob, "bytes": token.as_bytes()})
    };
    let of = |found: &TokenLogProb| {
        let mut token = one(found.id, found.log_prob);
        token["top_logprobs"] = found.top.iter().map(|&(id, log_prob)| one(id, log_prob)).collect();
        token
    };
    json!({"content": found.iter().map(of).collect::<Vec<_>>(), "refusal": null})
}

/// One token's text; as the vocabulary writes it where it is none, such as a part of a character.
fn spelled(tokenizer: &Tokenizer, id: u32) -> String {
    let text = tokenizer.decode(&[id]).unwrap_or_default();
    match text.is_empty() || text.contains('\u{FFFD}') {
        true => tokenizer.token_strings(&[id]).concat(),
        false => text,
    }
}

impl Head {
    /// An answer, or a part of one that is streamed, with its choices.
    pub fn with(&self, model: &Model, choices: Vec<Value>, streamed: bool) -> Value {
        let object = match (self.chat, streamed) {
            (false, _) => "text_completion",
            (true, false) => "chat.completion",
            (true, true) => "chat.completion.chunk",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": model.name,
            "choices": choices,
        })
    }
}

/// Counts of tokens: of prompts, latents included, and of what was said.
pub fn usage(prompts: &[Vec<u32>], said: usize) -> Value {
    let prompts: usize = prompts.iter().map(Vec::len).sum();
    json!({"prompt_tokens": prompts, "completion_tokens": said, "total_tokens": prompts + said})
}

/// A row that was left without an end.
pub fn broken() -> Failure {
    let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
    Failure::new(status, "internal_error", "The computation broke off; the server goes on.")
}
