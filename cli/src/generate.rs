//! `coconut generate`: answers to questions, with the thoughts on the way.

use std::{
    io::{BufRead, IsTerminal},
    num::NonZeroUsize,
    path::Path,
};

use clap::Args;
use coconut::{
    Error, Result,
    data::{Tokenizer, encode},
    eval::{Answer, AnswerOptions, Question, Thought, TrainedModel, answer_edited},
};
use comfy_table::{Attribute, Cell, CellAlignment, Table, presets};
use serde_json::json;

use crate::{
    edit::EditOption,
    options::{Dials, ModelOptions, PromptOptions, SamplingOptions},
    verbs,
};

#[derive(Args)]
pub struct Generate {
    #[command(flatten)]
    model: ModelOptions,
    /// The question; lines of standard input if absent.
    #[arg(long)]
    prompt: Option<String>,
    #[command(flatten)]
    dials: Dials,
    #[command(flatten)]
    prompts: PromptOptions,
    /// Show each thought too: the 5 (or so many) likeliest tokens by the logit lens, and the length of the
    /// vector fed back; and what the step decoder reads, if the checkpoint has one.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "5", value_name = "TOKENS")]
    thoughts: Option<NonZeroUsize>,
    /// Change thoughts before they are fed: zero, noise[σ], dropout[p], random or permute, move[k] for the question's own
    /// thought k, or donor:FILE for the thoughts of the question in a file's first line, then `@` and a place: all, a number
    /// from 1 on, first[k] or last[k].
    #[arg(long, value_name = "EDIT")]
    edit: Option<EditOption>,
    /// Most tokens generated.
    #[arg(long, default_value_t = 128, value_parser = verbs::at_least_one)]
    max_new_tokens: usize,
    /// Refuse a question with words or characters that the vocabulary lacks, instead of a warning.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// One line of JSON a question.
    #[arg(long)]
    json: bool,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let latents = self.dials.latents.is_some();
        let mut checkpoint = self.model.open_to_ask(latents)?;
        self.prompts.apply(&mut checkpoint)?;
        let stage = checkpoint.latent.stage;
        self.dials.set_iterations(&mut checkpoint, stage)?;
        let trained = checkpoint.trained();
        if let Some(prompt) = &self.prompt {
            self.print(&self.answer(&trained, prompt)?);
            return Ok(());
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            eprintln!("One question a line; end with Ctrl-D.");
        }
        for line in stdin.lock().lines() {
            let line = line.map_err(Error::io("read", Path::new("standard input")))?;
            if !line.trim().is_empty() {
                self.print(&self.answer(&trained, &line)?);
                if self.thoughts.is_some() && !self.json {
                    say!(); // between one answer and the next one's thoughts
                }
            }
        }
        Ok(())
    }

    fn answer(&self, trained: &TrainedModel, question: &str) -> Result<Answer> {
        self.check_words(trained.tokenizer, question)?;
        let asked = Question { latents: self.dials.latents, ..Question::from(question) };
        let options = AnswerOptions {
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.sampling(),
            thoughts: self.thoughts.map_or(0, NonZeroUsize::get),
        };
        let edit = self.edit.as_ref().map(|edit| edit.of(trained, &asked)).transpose()?;
        let answers = answer_edited(trained, &[asked], edit.as_ref(), &options).map_err(
            |error| match error {
                Error::Prompt { problem, .. } => Error::Usage(format!(
                    "The question `{question}` cannot be answered: {problem}."
                )),
                other => other,
            },
        )?;
        let one = answers.into_iter().next();
        one.ok_or_else(|| Error::Internal("a question without an answer".into()))
    }

    /// Warns of what the question says and the tokenizer cannot, or refuses it.
    fn check_words(&self, tokenizer: &Tokenizer, question: &str) -> Result<()> {
        let unknown = encode::unknown_in_question(question, tokenizer)?;
        let Some(no_token) = encode::no_token(&unknown) else { return Ok(()) };
        let problem = format!("the question `{question}`: {no_token}");
        if self.strict {
            return Err(Error::Usage(format!(
                "{problem}. Leave out `--strict` to be warned only."
            )));
        }
        eprintln!("warning: {problem}, so the model sees the unknown token or nothing there.");
        Ok(())
    }

    fn print(&self, answer: &Answer) {
        if self.json {
            return verbs::print_json(&self.to_json(answer));
        }
        if self.thoughts.is_some() && !answer.thoughts.is_empty() {
            say!("{}\n", table(&answer.thoughts, verbs::styled()));
        }
        for (number, text) in (1..).zip(&answer.readout) {
            say!("read {number}: {text}");
        }
        if !answer.readout.is_empty() {
            say!();
        }
        say!("{}", answer.text.trim_end());
    }

    fn to_json(&self, answer: &Answer) -> serde_json::Value {
        let mut object = json!({
            "prompt": answer.question,
            "generation": answer.text,
            "answer": answer.prediction,
            "prompt_ids": answer.prompt_ids,
            "ids": answer.ids,
            "latents": answer.latents,
            "finished": answer.finished,
        });
        if let Some(iterations) = self.dials.iterations {
            object["iterations"] = json!(iterations);
        }
        if self.thoughts.is_some() {
            object["thoughts"] = json!(answer.thoughts);
            if !answer.readout.is_empty() {
                object["readout"] = json!(answer.readout);
            }
        }
        object
    }
}

/// A line a thought: its number, the length of the vector fed back, and tokens with their probabilities.
fn table(thoughts: &[Thought], styled: bool) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    match styled {
        true => table.enforce_styling(),
        false => table.force_no_tty(),
    };
    let head = |text: &str| Cell::new(text).add_attribute(Attribute::Bold);
    table.set_header([head("thought"), head("length"), head("tokens")]);
    for (number, thought) in (1..).zip(thoughts) {
        let length = thought.length.map_or("–".to_owned(), |length| format!("{length:.2}"));
        let mut cells = vec![Cell::new(number), Cell::new(length)];
        for (token, probability) in &thought.tokens {
            let attribute = match probability {
                0.5.. => Attribute::Bold,
                0.1..0.5 => Attribute::NormalIntensity,
                _ => Attribute::Dim,
            };
            let token = Cell::new(shown(token)).add_attribute(attribute);
            let probability = Cell::new(format!("{probability:.2}")).add_attribute(attribute);
            cells.extend([token, probability]);
        }
        table.add_row(cells);
    }
    // Numbers stand to the right, tokens to the left, each close to its probability.
    for (index, column) in table.column_iter_mut().enumerate() {
        let token = index >= 2 && index % 2 == 0;
        column.set_padding((u16::from(index > 0), u16::from(!token)));
        column.set_cell_alignment(if token { CellAlignment::Left } else { CellAlignment::Right });
    }
    table.trim_fmt()
}

/// A token on one line, its blanks visible.
fn shown(token: &str) -> String {
    let visible = |c: char| match c {
        ' ' => "␣".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    token.chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thoughts() -> Vec<Thought> {
        let reading =
            |tokens: &[(&str, f64)]| tokens.iter().map(|&(t, p)| (t.to_owned(), p)).collect();
        vec![
            Thought {
                tokens: reading(&[("7", 0.934), ("the end", 0.06)]),
                length: Some(11.204),
                cosines: Vec::new(),
            },
            Thought {
                tokens: reading(&[("\n", 0.5), ("é", 0.125)]),
                length: None,
                cosines: vec![None],
            },
        ]
    }

    #[test]
    fn thoughts_stand_in_columns() {
        let lines: Vec<String> = table(&thoughts(), false).lines().map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "thought  length  tokens",
                "      1   11.20  7      0.93  the␣end 0.06",
                "      2       –  \\n     0.50  é       0.12",
            ]
        );
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        assert!(!table(&thoughts(), false).contains('\x1b'));
        assert!(table(&thoughts(), true).contains("\x1b["));
    }
}
