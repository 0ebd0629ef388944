//! `results.json`: what each evaluation found, for people and programs to read.

use super::{Record, file};
use crate::data::{Method, Stage};
use crate::eval::Evaluation;
use crate::stats::{Rate, wilson_interval};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The content of `results.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The run's name.
    pub run: String,
    /// The resolved recipe.
    #[serde(default)]
    pub config: Value,
    /// One row per evaluation, oldest first.
    pub rows: Vec<Row>,
}

/// One evaluation of one method at one stage.
///
/// Only `stage` and `method` must be present in a file; what was not measured is `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Curriculum stage; −1 is chain of thought in words.
    pub stage: i32,
    /// Epoch, from 0, counted over all stages.
    #[serde(default)]
    pub epoch: usize,
    /// `coconut`, `cot`, `no_cot`, `no_thoughts`, `pause`, …
    pub method: String,
    /// What is fed back as the next thought, such as `hs[-1]`; none for methods without latents.
    pub reinject: Option<String>,
    /// Share of answers that are exactly right, 0 to 1.
    pub eval_acc: Option<f64>,
    /// Share of chains that are spoken exactly as they should be, 0 to 1, over the `n_cot_em`
    /// examples that have any step left to speak.
    pub eval_cot_em: Option<f64>,
    /// Mean number of generated tokens a question.
    pub eval_tokens: Option<f64>,
    /// Mean number of latents a question.
    pub eval_latents: Option<f64>,
    /// Milliseconds of generation a question.
    pub eval_ms_per_question: Option<f64>,
    /// The part of it before the first token: question and latents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_thinking_ms_per_question: Option<f64>,
    /// Seconds of training up to this row, all stages before it included.
    pub train_seconds: Option<f64>,
    /// Mean training loss of the epoch, in nats a token.
    pub train_loss: Option<f64>,
    /// Loss on the evaluation set, in nats a token.
    pub eval_loss: Option<f64>,
    /// Number of questions behind `eval_acc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// 95 % interval of `eval_acc`, low and high.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_acc_interval: Option<[f64; 2]>,
    /// Number of questions behind `eval_cot_em`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_cot_em: Option<usize>,
    /// 95 % interval of `eval_cot_em`, low and high.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_cot_em_interval: Option<[f64; 2]>,
    /// Mean number of positions a question sent through the model, prompt included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_forward_positions: Option<f64>,
    /// Perplexity of the right answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_answer_perplexity: Option<f64>,
    /// Perplexity of the right answers over that of corrupted ones; below 1 is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_perplexity_ratio: Option<f64>,
    /// Matrix entropy of the thoughts over questions, in nats; 0 if all are alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_thought_entropy: Option<f64>,
    /// Mean cosine of two questions' thoughts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_thought_cosine: Option<f64>,
    /// Largest resident memory up to this row, in MB (10⁶ bytes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_mb: Option<f64>,
}

impl Results {
    /// Reads a `results.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Input`] with the line if it is not such a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(Error::io("read", path))?;
        serde_json::from_slice(&text).map_err(|error| {
            let problem = format!(
                "not the results of a run: {error}. Run `coconut eval` on a checkpoint to write them anew."
            );
            Error::input(path, format!("line {}", error.line()), problem)
        })
    }

    /// Writes a `results.json` in one go: readers see the old one or the new one.
    ///
    /// # Errors
    /// [`Error::Io`]; the old file is then intact.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::io("write", path)(error.into()))?;
        text.push(b'\n');
        file::replace(path, &text)
    }
}

impl Row {
    /// The row of an evaluation; `reinject` is what is fed back, if anything is.
    pub fn of(
        found: &Evaluation,
        stage: Stage,
        epoch: usize,
        method: Method,
        reinject: Option<String>,
    ) -> Self {
        let Evaluation { answers, likelihoods } = found;
        Self {
            stage: stage.0,
            epoch,
            method: method.to_string(),
            reinject,
            eval_tokens: Some(answers.tokens),
            eval_latents: Some(answers.latents),
            eval_ms_per_question: Some(answers.ms_per_question),
            eval_thinking_ms_per_question: Some(answers.thinking_ms_per_question),
            eval_loss: Some(likelihoods.loss).filter(|loss| loss.is_finite()),
            eval_forward_positions: Some(answers.forward_positions),
            eval_answer_perplexity: likelihoods.answer_perplexity,
            eval_perplexity_ratio: likelihoods.perplexity_ratio,
            eval_thought_entropy: likelihoods.diversity.map(|thoughts| thoughts.entropy),
            eval_thought_cosine: likelihoods.diversity.map(|thoughts| thoughts.cosine),
            ..Self::default()
        }
        .with_accuracy(answers.accuracy.hits, answers.accuracy.n)
        .with_cot_em(answers.cot_em.hits, answers.cot_em.n)
    }

    /// Sets `eval_acc`, its interval and `n`: `right` of `n` answers were right.
    pub fn with_accuracy(mut self, right: usize, n: usize) -> Self {
        let rate = Rate { hits: right, n };
        (self.eval_acc, self.eval_acc_interval) = (rate.rate(), rate.interval());
        self.n = Some(n);
        self
    }

    /// Sets `eval_cot_em`, its interval and `n_cot_em`: `exact` of `n` chains were exact.
    pub fn with_cot_em(mut self, exact: usize, n: usize) -> Self {
        let rate = Rate { hits: exact, n };
        (self.eval_cot_em, self.eval_cot_em_interval) = (rate.rate(), rate.interval());
        self.n_cot_em = Some(n);
        self
    }

    /// The interval of `eval_acc`: as stored, else worked out from `n`.
    pub fn accuracy_interval(&self) -> Option<[f64; 2]> {
        self.eval_acc_interval.or_else(|| {
            let n = self.n?;
            Some(wilson_interval((self.eval_acc? * n as f64).round() as usize, n))
        })
    }

    /// The same evaluation as a record of metrics, after `step` optimizer steps.
    pub fn to_record(&self, step: u64) -> Record {
        let values = [
            ("eval/acc", self.eval_acc),
            ("eval/cot_em", self.eval_cot_em),
            ("eval/tokens", self.eval_tokens),
            ("eval/latents", self.eval_latents),
            ("eval/ms_per_question", self.eval_ms_per_question),
            ("eval/loss", self.eval_loss),
            ("eval/answer_perplexity", self.eval_answer_perplexity),
            ("eval/perplexity_ratio", self.eval_perplexity_ratio),
            ("eval/thought_entropy", self.eval_thought_entropy),
            ("eval/thought_cosine", self.eval_thought_cosine),
        ];
        values
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .fold(Record::new(step, self.epoch, self.stage), |record, (name, value)| {
                record.with(name, value)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: [f64; 2], expected: [f64; 2]) {
        for (a, b) in found.into_iter().zip(expected) {
            assert!((a - b).abs() < 1e-5, "{found:?} is not {expected:?}");
        }
    }

    #[test]
    fn an_interval_is_worked_out_when_only_n_is_stored() {
        let row = Row { eval_acc: Some(0.8), n: Some(10), ..Row::default() };
        assert_near(row.accuracy_interval().unwrap(), [0.490162, 0.943318]);
        assert_eq!(Row { eval_acc: Some(0.8), ..Row::default() }.accuracy_interval(), None);
    }

    #[test]
    fn a_rate_over_no_examples_is_not_a_number_but_nothing() {
        let row = Row::default().with_cot_em(0, 0);
        assert_eq!((row.eval_cot_em, row.eval_cot_em_interval), (None, None));
    }
}
