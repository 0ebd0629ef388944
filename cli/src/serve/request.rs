//! Requests in OpenAI's forms, read and checked once. What would change the answer and is not done here is refused by
//! name.

use coconut::eval::Sampling;
use serde_json::{Map, Value};

use super::{
    Served,
    failure::Failure,
    model::{Asked, Model},
    since_1970,
};
use crate::edit::ByHand;

/// The most texts that may end an answer.
const MOST_STOPS: usize = 4;
/// The most tokens told beside each one.
const MOST_TOP: usize = 20;
/// How often latents may be computed anew.
const MOST_ITERATIONS: usize = 100;
/// Tokens of an answer where a request does not say.
const MAX_TOKENS: usize = 128;

/// A request for answers.
#[derive(Debug)]
pub struct Request {
    /// Which of the served models is asked.
    pub model: usize,
    pub prompts: Vec<Asked>,
    pub chat: bool,
    pub latents: Option<usize>,
    pub max_tokens: usize,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub stream: bool,
    /// Whether a stream ends with the counts of tokens.
    pub usage: bool,
    pub echo: bool,
    pub log_probs: Option<usize>,
    pub thoughts: Option<usize>,
    pub edit: Option<ByHand>,
    /// The question whose thoughts are transplanted.
    pub donor: Option<Asked>,
    /// How often latents are computed anew, if that is to differ from the model's own settings.
    pub iterations: Option<usize>,
    /// Whether answers go on past the tokens that end them.
    pub endless: bool,
}

/// Parameters that take values which change nothing, and those values.
const NEUTRAL: [(&str, &[Neutral]); 12] = [
    ("n", &[Neutral::Number(1.0)]),
    ("best_of", &[Neutral::Number(1.0), Neutral::Number(0.0)]),
    ("top_p", &[Neutral::Number(1.0)]),
    ("min_p", &[Neutral::Number(0.0)]),
    ("presence_penalty", &[Neutral::Number(0.0)]),
    ("frequency_penalty", &[Neutral::Number(0.0)]),
    ("repetition_penalty", &[Neutral::Number(1.0)]),
    ("logit_bias", &[Neutral::Empty]),
    ("suffix", &[Neutral::Empty]),
    ("tools", &[Neutral::Empty]),
    ("response_format", &[Neutral::Text]),
    ("modalities", &[Neutral::Text]),
];

/// Parameters that change no answer.
const IGNORED: [&str; 8] = [
    "model",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "do_sample",
];

#[derive(Clone, Copy)]
enum Neutral {
    Number(f64),
    Empty,
    /// `{"type": "text"}` or `["text"]`.
    Text,
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match self {
            Self::Number(number) => value.as_f64() == Some(number),
            Self::Empty => match value {
                Value::Object(map) => map.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::String(text) => text.is_empty(),
                _ => false,
            },
            Self::Text => {
                value.get("type").and_then(Value::as_str) == Some("text")
                    || value.as_array().is_some_and(|list| list.len() == 1 && list[0] == "text")
            }
        }
    }
}

/// The parameters of a request that were not read yet.
struct Parameters {
    values: Map<String, Value>,
}

impl Parameters {
    /// A parameter, unless it is absent or null.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(Failure::bad(name, format!("`{name}` must be {expected}."))),
        }
    }

    fn flag(&mut self, name: &str) -> Result<bool, Failure> {
        Ok(self.read(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn count(&mut self, name: &str, most: usize) -> Result<Option<usize>, Failure> {
        let expected = format!("a whole number from 0 to {most}");
        let count = |value: &Value| {
            value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= most)
        };
        self.read(name, &expected, count)
    }

    /// Refuses what is left.
    fn end(mut self) -> Result<(), Failure> {
        for (name, values) in NEUTRAL {
            if let Some(value) = self.take(name)
                && !values.iter().any(|neutral| neutral.is(&value))
            {
                return Err(Failure::bad(
                    name,
                    format!(
                        "`{name}` would change the answer and is not supported here. Leave it out."
                    ),
                ));
            }
        }
        for name in IGNORED {
            self.take(name);
        }
        match self.values.into_iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => {
                Err(Failure::bad(&name, format!("`{name}` is not supported here. Leave it out.")))
            }
            None => Ok(()),
        }
    }
}

/// Reads the body of a request to one of the two paths.
///
/// # Errors
/// What is wrong with it, by the parameter's name.
pub fn read(
    body: &[u8],
    chat: bool,
    models: &[Served],
    most_tokens: usize,
) -> Result<Request, Failure> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad("", format!("The body is not JSON: {error}.")))?;
    let Value::Object(values) = value else {
        return Err(Failure::bad("", "The body must be a JSON object."));
    };
    let mut parameters = Parameters { values };
    let number = number_of(&parameters.take("model"), models)?;
    let model = &models[number].model;
    let parameters_of = &mut parameters;
    let echo = !chat && parameters_of.flag("echo")?;
    let raw = !chat && parameters_of.flag("raw")?;
    let prompts = match chat {
        true => vec![Asked::Turns(turns(parameters_of)?)],
        false => prompts(parameters_of, raw || model.is_plain())?,
    };
    let latents = parameters_of.count("latents", 1 << 20)?;
    let max_tokens = max_tokens(parameters_of, chat, most_tokens)?;
    let stream = parameters_of.flag("stream")?;
    let (edit, donor) = edit(parameters_of, chat)?;
    let request = Request {
        model: number,
        chat,
        latents,
        max_tokens,
        sampling: sampling(parameters_of)?,
        stop: stops(parameters_of)?,
        stream,
        usage: usage(parameters_of, stream)?,
        echo,
        log_probs: log_probs(parameters_of, chat)?,
        thoughts: parameters_of.count("thoughts", 100)?.filter(|n| *n > 0),
        edit,
        donor,
        iterations: parameters_of.count("iterations", MOST_ITERATIONS)?,
        endless: parameters_of.flag("ignore_eos")?,
        prompts,
    };
    parameters.end()?;
    request.check(model)?;
    Ok(request)
}

impl Request {
    /// Refuses what does not go together.
    fn check(&self, model: &Model) -> Result<(), Failure> {
        let asks = |asked: &Asked| matches!(asked, Asked::Question(_) | Asked::Turns(_));
        let questions = self.prompts.iter().any(asks);
        if !model.answers_text() && questions {
            return Err(Failure::bad(
                "prompt",
                "This checkpoint answers graphs, not text; give token ids.",
            ));
        }
        if self.echo && questions {
            return Err(Failure::bad(
                "echo",
                "A question is put with markers and latents, which are no text to be repeated. Use `raw: true` or token ids.",
            ));
        }
        if self.latents.is_some() && !(model.has_latents() && questions) {
            return Err(Failure::bad(
                "latents",
                "Only questions to a checkpoint that thinks are given latents. Leave it out.",
            ));
        }
        if self.iterations.is_some() && model.iterations().is_none() {
            return Err(Failure::bad(
                "iterations",
                "Only a checkpoint that thinks in parallel computes its latents anew. Leave it out.",
            ));
        }
        if self.echo && self.stream {
            return Err(Failure::bad(
                "echo",
                "`echo` does not go with `stream`. Leave one of them out.",
            ));
        }
        Ok(())
    }
}

/// Which of the served models is asked; the first one if none is named.
fn number_of(name: &Option<Value>, models: &[Served]) -> Result<usize, Failure> {
    match name {
        None => Ok(0),
        Some(Value::String(name)) => {
            let number = models.iter().position(|served| served.model.name == *name);
            number.ok_or_else(|| Failure {
                param: Some("model".into()),
                ..Failure::no_model(name, models.iter().map(|served| &*served.model.name))
            })
        }
        Some(_) => Err(Failure::bad("model", "`model` must be a text.")),
    }
}

fn prompts(parameters: &mut Parameters, raw: bool) -> Result<Vec<Asked>, Failure> {
    let bad = || {
        Failure::bad(
            "prompt",
            "`prompt` must be a text, a list of texts, a list of token ids, or a list of such lists, and not empty.",
        )
    };
    let asked = |text: &str| match raw {
        true => Asked::Text(text.to_owned()),
        false => Asked::Question(text.to_owned()),
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let one = |value: &Value| match value {
        Value::String(text) => Some(asked(text)),
        Value::Array(ids) => ids.iter().map(id).collect::<Option<Vec<u32>>>().map(Asked::Ids),
        _ => None,
    };
    let value = parameters.take("prompt").ok_or_else(bad)?;
    let found = match &value {
        Value::Array(list) if list.first().is_some_and(Value::is_u64) => {
            one(&value).map(|one| vec![one])
        }
        Value::Array(list) => list.iter().map(one).collect(),
        _ => one(&value).map(|one| vec![one]),
    };
    found.filter(|prompts| !prompts.is_empty()).ok_or_else(bad)
}

fn turns(parameters: &mut Parameters) -> Result<Vec<(String, String)>, Failure> {
    let bad = |message: &str| Failure::bad("messages", message.to_owned());
    let value = parameters.take("messages");
    let Some(Value::Array(messages)) = value.filter(|value| value != &Value::Array(Vec::new()))
    else {
        return Err(bad("`messages` must be a list of messages, and not empty."));
    };
    let turn = |message: &Value| {
        let role = message.get("role").and_then(Value::as_str);
        let role = role.ok_or_else(|| bad("Each message needs a `role`, which is a text."))?;
        if !matches!(role, "system" | "developer" | "user" | "assistant") {
            return Err(bad(&format!("The role `{role}` is not supported here.")));
        }
        let role = if role == "developer" { "system" } else { role };
        let text = message.get("content").and_then(content);
        let text = text.ok_or_else(|| {
            bad("Each message needs a `content`: a text, or a list of parts of type `text`.")
        })?;
        Ok((role.to_owned(), text))
    };
    messages.iter().map(turn).collect()
}

fn part_of_text(part: &Value) -> Option<&str> {
    let is_text = part.get("type").and_then(Value::as_str) == Some("text");
    part.get("text").and_then(Value::as_str).filter(|_| is_text)
}

/// A text, or parts of text.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(part_of_text).collect(),
        _ => None,
    }
}

fn max_tokens(parameters: &mut Parameters, chat: bool, most: usize) -> Result<usize, Failure> {
    let newer = if chat { parameters.count("max_completion_tokens", most)? } else { None };
    let older = parameters.count("max_tokens", most)?;
    let default = MAX_TOKENS.min(most);
    Ok(newer.or(older).unwrap_or(default))
}

fn sampling(parameters: &mut Parameters) -> Result<Sampling, Failure> {
    let temperature = |value: &Value| value.as_f64().filter(|t| (0.0..=100.0).contains(t));
    let temperature = parameters.read("temperature", "a number from 0 to 100", temperature)?;
    let top_k = parameters.count("top_k", 1 << 30)?;
    let seed = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(|seed| seed as u64));
    let seed = parameters.read("seed", "a whole number", seed)?;
    Ok(match temperature {
        Some(temperature) if temperature > 0.0 => Sampling::Random {
            temperature,
            top_k: top_k.unwrap_or(0),
            seed: seed.unwrap_or_else(any_seed),
        },
        _ => Sampling::Greedy,
    })
}

/// A seed that is another one each time.
fn any_seed() -> u64 {
    since_1970().as_nanos() as u64
}

fn stops(parameters: &mut Parameters) -> Result<Vec<String>, Failure> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let texts = |value: &Value| match value {
        Value::Array(texts) if texts.len() <= MOST_STOPS => texts.iter().map(text).collect(),
        value => text(value).map(|text| vec![text]),
    };
    let expected = format!("a text or up to {MOST_STOPS} of them, none of them empty");
    Ok(parameters.read("stop", &expected, texts)?.unwrap_or_default())
}

fn usage(parameters: &mut Parameters, stream: bool) -> Result<bool, Failure> {
    let options = |value: &Value| match value {
        Value::Object(options) if stream => {
            Some(options.get("include_usage").and_then(Value::as_bool).unwrap_or(false))
        }
        _ => None,
    };
    let expected = "an object, beside `stream: true`";
    Ok(parameters.read("stream_options", expected, options)?.unwrap_or(false))
}

fn log_probs(parameters: &mut Parameters, chat: bool) -> Result<Option<usize>, Failure> {
    if !chat {
        return parameters.count("logprobs", MOST_TOP);
    }
    let wanted = parameters.flag("logprobs")?;
    let top = parameters.count("top_logprobs", MOST_TOP)?;
    match (wanted, top) {
        (false, Some(1..)) => {
            Err(Failure::bad("top_logprobs", "`top_logprobs` needs `logprobs: true`."))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0))),
    }
}

/// What is done to thoughts, and the question whose thoughts are transplanted.
fn edit(
    parameters: &mut Parameters,
    chat: bool,
) -> Result<(Option<ByHand>, Option<Asked>), Failure> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let edit = parameters.read("edit", "a text, such as `zero@2`", text)?;
    let donor = parameters.read("donor", "a text: a question", text)?;
    let edit: Option<ByHand> = edit
        .map(|edit| edit.parse())
        .transpose()
        .map_err(|problem: String| Failure::bad("edit", format!("`edit`: {problem}.")))?;
    let transplants = edit.as_ref().is_some_and(ByHand::has_donor);
    let asked = |text: String| match chat {
        true => Asked::Turns(vec![("user".into(), text)]),
        false => Asked::Question(text),
    };
    match (transplants, donor) {
        (true, None) => {
            Err(Failure::bad("donor", "A transplant needs the question it is from, as `donor`."))
        }
        (false, Some(_)) => {
            Err(Failure::bad("donor", "`donor` needs an edit that transplants, as `transplant@2`."))
        }
        (_, donor) => Ok((edit, donor.map(asked))),
    }
}
