//! How a question is put to a model: as it is, after a system prompt, or as a turn of a chat.

use std::sync::Arc;

use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Tokenizer;
use crate::{Error, Result};

/// How questions are put; a recipe's `system_prompt` and `chat_template`, kept with a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptStyle {
    /// Stands before every question.
    pub system_prompt: Option<String>,
    /// Whether the tokenizer's chat template lays the two out.
    pub chat_template: bool,
}

/// A compiled chat template.
#[derive(Clone, Debug)]
pub(super) struct Chat {
    environment: Arc<Environment<'static>>,
    /// Texts of `bos_token` and the like, which templates name.
    specials: Vec<(&'static str, Option<String>)>,
}

const TEMPLATE: &str = "chat_template";

impl Chat {
    fn new(
        template: String,
        specials: Vec<(&'static str, Option<String>)>,
    ) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        // Templates are programs from elsewhere: one that goes on too long is stopped.
        environment.set_recursion_limit(100);
        environment.set_fuel(Some(10_000_000));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(TEMPLATE, template).map_err(|error| error.to_string())?;
        Ok(Self { environment: Arc::new(environment), specials })
    }

    fn render(&self, turns: &[Value], add_generation_prompt: bool) -> Result<String, String> {
        let specials: std::collections::BTreeMap<_, _> = self
            .specials
            .iter()
            .filter_map(|(name, text)| Some((*name, text.as_deref()?)))
            .collect();
        let context = context! { messages => turns, add_generation_prompt, ..minijinja::Value::from_serialize(specials) };
        let template = self.environment.get_template(TEMPLATE);
        let rendered = template.and_then(|template| template.render(context));
        rendered.map_err(|error| error.to_string())
    }
}

fn turn(role: &str, content: &str) -> Value {
    serde_json::json!({"role": role, "content": content})
}

impl Tokenizer {
    /// The same tokenizer, putting questions in a style.
    ///
    /// With a chat template an answer ends with what the template puts after an assistant's turn.
    ///
    /// # Errors
    /// A chat template that is asked for and absent, or that cannot be used.
    pub fn with_prompt(mut self, style: &PromptStyle) -> Result<Self> {
        self.style = style.clone();
        if !style.chat_template {
            return Ok(self);
        }
        let Some(template) = self.template() else {
            let problem = "comes without a chat template. Remove `chat_template: True`, or choose a model that was trained on chats.";
            return Err(Error::input(&self.origin, "", problem));
        };
        let named = ["bos_token", "eos_token", "pad_token", "unk_token"];
        let specials = named.map(|name| (name, self.special(name).map(str::to_owned))).to_vec();
        let chat = Chat::new(template, specials).map_err(|e| self.template_failed(&e))?;
        self.chat = Some(chat);
        if let Some(end) = self.end_of_turn()? {
            self.markers.eos = end;
            self.stops.retain(|&stop| stop != end);
            self.stops.insert(0, end);
        }
        Ok(self)
    }

    /// How questions are put.
    pub fn prompt_style(&self) -> &PromptStyle {
        &self.style
    }

    /// A question as it is encoded, and whether `encode` is to add special tokens to it: a template
    /// writes them itself.
    ///
    /// # Errors
    /// What the template raises.
    pub fn put(&self, question: &str) -> Result<(String, bool)> {
        let system = self.style.system_prompt.as_deref();
        let Some(chat) = &self.chat else {
            let before = system.map_or(String::new(), |system| format!("{}\n", system.trim_end()));
            return Ok((format!("{before}{question}\n"), true));
        };
        let turns = system.map(|system| turn("system", system)).into_iter();
        let turns: Vec<Value> = turns.chain([turn("user", question)]).collect();
        let text = chat.render(&turns, true).map_err(|e| self.template_failed(&e))?;
        Ok((text, false))
    }

    /// The special token that the template puts after an assistant's turn.
    fn end_of_turn(&self) -> Result<Option<u32>> {
        let Some(chat) = &self.chat else { return Ok(None) };
        let (question, answer) = ("question", "7391");
        let turns = [turn("user", question), turn("assistant", answer)];
        let text = chat.render(&turns, false).map_err(|e| self.template_failed(&e))?;
        let Some((_, after)) = text.rsplit_once(answer) else { return Ok(None) };
        let added = self.inner.get_added_tokens_decoder();
        let ids = self.encode(after, false)?.ids;
        Ok(ids.into_iter().find(|id| added.get(id).is_some_and(|token| token.special)))
    }

    /// `chat_template` of the configuration: a text, or a list of named ones, of which `default`.
    fn template(&self) -> Option<String> {
        let template = self.config.get("chat_template")?;
        let named = || {
            let of = |t: &&Value| t["name"] == "default";
            template.as_array()?.iter().find(of)?["template"].as_str()
        };
        template.as_str().or_else(named).map(str::to_owned)
    }

    fn template_failed(&self, error: &str) -> Error {
        Error::input(&self.origin, "chat template", format!("cannot be used: {error}"))
    }
}
