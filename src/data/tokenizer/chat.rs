//! How a question is put to a model: as it is, after a system prompt, or as a turn of a chat.

use std::sync::Arc;

use coconut_jinja::{Error as TemplateError, Template, Value};
use serde::{Deserialize, Serialize};

use super::{ANSWER_PREFIX, NAMED_TOKENS, Tokenizer};
use crate::{Error, Result, data::Example};

pub use coconut_jinja::Date;

/// How questions are put; a recipe's `system_prompt`, `chat_template` and `template_date`, kept with a
/// checkpoint. The rest is other than by default in imported checkpoints alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptStyle {
    /// The text that stands before every question.
    pub system_prompt: Option<String>,
    /// Whether the tokenizer's chat template lays the two out.
    pub chat_template: bool,
    /// The day that the template sees as today's.
    pub template_date: Date,
    /// The text between a question and what follows it, unless a template lays it out.
    #[serde(skip_serializing_if = "is_newline")]
    pub question_end: String,
    /// The text that stands before an answer.
    #[serde(skip_serializing_if = "is_answer_prefix")]
    pub answer_mark: String,
}

impl Default for PromptStyle {
    fn default() -> Self {
        Self {
            system_prompt: None,
            chat_template: false,
            template_date: Date::default(),
            question_end: "\n".to_owned(),
            answer_mark: ANSWER_PREFIX.to_owned(),
        }
    }
}

fn is_newline(text: &str) -> bool {
    text == "\n"
}

fn is_answer_prefix(text: &str) -> bool {
    text == ANSWER_PREFIX
}

/// What stands between one solved example and the next.
const BETWEEN_SHOTS: &str = "\n\n";

/// A chat template that was read.
#[derive(Clone, Debug)]
pub(super) struct Chat {
    template: Arc<Template>,
    /// Names and texts of `bos_token` and the like, which templates use.
    specials: Vec<(&'static str, String)>,
    date: Date,
}

impl Chat {
    /// Renders turns of role and content with what transformers gives templates.
    fn render(
        &self,
        turns: &[(&str, &str)],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let turn = |&(role, content): &(&str, &str)| {
            let pair = |key: &str, text: &str| (Value::text(key), Value::text(text));
            Value::dict(vec![pair("role", role), pair("content", content)])
        };
        let messages = Value::list(turns.iter().map(turn).collect::<Result<_, _>>()?)?;
        let mut variables = vec![
            ("messages", messages),
            ("tools", Value::None),
            ("documents", Value::None),
            ("add_generation_prompt", Value::Bool(add_generation_prompt)),
        ];
        let special = |(name, text): &(&'static str, String)| (*name, Value::text(text.as_str()));
        variables.extend(self.specials.iter().map(special));
        self.template.render(&variables, self.date)
    }
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
        let Some(source) = self.template() else {
            let problem = "comes without a chat template. Remove `chat_template: True`, or choose a model that was trained on chats.";
            return Err(Error::input(&self.origin, "", problem));
        };
        let template = Template::parse(source).map_err(|error| self.template_failed(&error))?;
        let special = |name| Some((name, self.special(name)?.to_owned()));
        self.chat = Some(Chat {
            template: Arc::new(template),
            specials: NAMED_TOKENS.into_iter().filter_map(special).collect(),
            date: style.template_date,
        });
        if let Some(end) = self.end_of_turn()? {
            self.markers.eos = end;
            self.stops.retain(|&stop| stop != end);
            self.stops.insert(0, end);
        }
        Ok(self)
    }

    /// The same tokenizer, showing solved examples before every question: as turns of a chat, or as text in the form of
    /// training with a blank line after each, which then ends an answer.
    pub fn with_shots(mut self, shots: Vec<Example>) -> Self {
        if self.chat.is_none() && !shots.is_empty() {
            self.stop_texts.push(BETWEEN_SHOTS.to_owned());
        }
        self.shots = shots;
        self
    }

    /// The solved examples that are shown before every question.
    pub fn shots(&self) -> &[Example] {
        &self.shots
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
    pub fn render_prompt(&self, question: &str) -> Result<(String, bool)> {
        let system = self.style.system_prompt.as_deref();
        let Some(chat) = &self.chat else {
            let before = system.map_or(String::new(), |system| format!("{}\n", system.trim_end()));
            let end = &self.style.question_end;
            let shot = |shot: &Example| {
                format!("{}{end}{}{BETWEEN_SHOTS}", shot.question, self.solution(shot))
            };
            let shots: String = self.shots.iter().map(shot).collect();
            return Ok((format!("{before}{shots}{question}{end}"), true));
        };
        let solutions: Vec<String> = self.shots.iter().map(|shot| self.solution(shot)).collect();
        let shots = self.shots.iter().zip(&solutions);
        let shots = shots.flat_map(|(shot, solution)| {
            [("user", shot.question.as_str()), ("assistant", solution.as_str())]
        });
        let turns = system.map(|system| ("system", system)).into_iter();
        let turns: Vec<_> = turns.chain(shots).chain([("user", question)]).collect();
        let text = chat.render(&turns, true).map_err(|error| self.template_failed(&error))?;
        Ok((text, false))
    }

    /// An example's steps, one a line, and its answer after the mark.
    fn solution(&self, example: &Example) -> String {
        let steps: String = example.steps.iter().map(|step| format!("{step}\n")).collect();
        format!("{steps}{} {}", self.style.answer_mark, example.answer)
    }

    /// Turns of role and content as the chat template lays them out, an answer's beginning after them; `None` if
    /// questions are not put by a template.
    ///
    /// # Errors
    /// What the template raises.
    pub fn render_turns(&self, turns: &[(&str, &str)]) -> Result<Option<String>> {
        let Some(chat) = &self.chat else { return Ok(None) };
        let text = chat.render(turns, true).map_err(|error| self.template_failed(&error))?;
        Ok(Some(text))
    }

    /// Whether the folder has a chat template.
    pub fn has_template(&self) -> bool {
        self.template().is_some()
    }

    /// The special token that the template puts after an assistant's turn.
    fn end_of_turn(&self) -> Result<Option<u32>> {
        let Some(chat) = &self.chat else { return Ok(None) };
        let (question, answer) = ("question", "7391");
        let turns = [("user", question), ("assistant", answer)];
        let text = chat.render(&turns, false).map_err(|error| self.template_failed(&error))?;
        let Some((_, after)) = text.rsplit_once(answer) else { return Ok(None) };
        let added = self.inner.get_added_tokens_decoder();
        let ids = self.encode(after, false)?.ids;
        Ok(ids.into_iter().find(|id| added.get(id).is_some_and(|token| token.special)))
    }

    /// `chat_template` of the configuration: a text, or a list of named ones, of which `default`.
    fn template(&self) -> Option<&str> {
        let template = self.config.get("chat_template")?;
        let named = || {
            let is_default = |t: &&serde_json::Value| t["name"] == "default";
            template.as_array()?.iter().find(is_default)?["template"].as_str()
        };
        template.as_str().or_else(named)
    }

    fn template_failed(&self, error: &TemplateError) -> Error {
        let advice = "Put another template into a `chat_template.jinja` beside the tokenizer, or use \
            `chat_template: False`.";
        let problem = if !error.is_raised() {
            format!("cannot be used: {error}. {advice}")
        } else if self.style.system_prompt.is_some() {
            format!(
                "refuses the prompt: {error}. Remove `system_prompt` if that is what it does not know. {advice}"
            )
        } else {
            format!("refuses the prompt: {error}. {advice}")
        };
        Error::input(&self.origin, "chat template", problem)
    }
}
