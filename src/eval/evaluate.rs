//! Evaluation of a model on a set of questions at one stage (docs/method.md 12).

use std::{path::Path, time::Instant};

use serde::{Deserialize, Serialize};

use super::{
    diversity::{ThoughtDiversity, Thoughts},
    generate::{GenerateOptions, Generation, GenerationLoop, Sampling, prompt_problem},
    lens::{Reading, lens},
    readout::readout,
    score::{self, Scorer},
};
use crate::{
    Error, Result,
    data::{Curriculum, Dataset, Encoded, SampleKey, Sequence, Stage, Tokenizer, encode::Text},
    device,
    latent::{
        self, LatentModel, PassPlan, ReadSet,
        batch::{Batch, Row, Target},
    },
    objective::{self, StepDecoder},
    stats::Rate,
};

/// Questions of an evaluation whose thoughts are looked at, the first ones.
const QUESTIONS_LOOKED_AT: usize = 8;
/// Tokens that each of those thoughts is read as.
const TOKENS_READ: usize = 5;

/// What to evaluate on, and how.
#[derive(Clone, Debug)]
pub struct Evaluator<'a> {
    /// The questions.
    pub data: &'a Dataset,
    /// The network that reads the model's thoughts as words, if there is one.
    pub decoder: Option<StepDecoder<'a>>,
    /// The tokenizer of the questions and the model.
    pub tokenizer: &'a Tokenizer,
    /// What a stage shows; `uniform_prob` is ignored.
    pub curriculum: Curriculum,
    /// Questions generated at once.
    pub batch_size: usize,
    /// Most tokens generated for one question.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// How answers are read and judged; graphs' are always read after their mark.
    pub scorer: Scorer,
    /// Seed of the order of each graph's edges.
    pub seed: u64,
}

/// What an evaluation found.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// What was generated and how right it is.
    pub answers: Answers,
    /// How likely the right tokens are.
    pub likelihoods: Likelihoods,
}

/// What was generated, question by question, and how right it is. Means are over questions.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Right answers.
    pub accuracy: Rate,
    /// Generated steps equal to those still to be spoken, over the examples that have any.
    pub cot_em: Rate,
    /// Mean tokens generated, the eos included.
    pub tokens: f64,
    /// Mean latents.
    pub latents: f64,
    /// Mean positions computed, latents included.
    pub forward_positions: f64,
    /// Wall time of generation a question, in milliseconds, in batches.
    pub ms_per_question: f64,
    /// The part of it before the first token: question and latents.
    pub thinking_ms_per_question: f64,
    /// What became of each question, in the set's order.
    pub samples: Vec<Sample>,
}

/// How likely the right tokens are, each after the right ones before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihoods {
    /// Mean cross entropy over all labelled tokens, in nats; NaN if there are none.
    pub loss: f64,
    /// Perplexity of the right answers' tokens, mark and eos included, after the right steps; text only.
    pub answer_perplexity: Option<f64>,
    /// Perplexity of another question's answer in its place, over that of the right one.
    pub perplexity_ratio: Option<f64>,
    /// How far the thoughts of different questions differ, if there are any.
    pub diversity: Option<ThoughtDiversity>,
}

/// One question and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The question's number, from 0.
    pub index: usize,
    /// The question's text.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// The text generated.
    pub generation: String,
    /// The answer read from the generation, if it has one.
    #[serde(alias = "read")]
    pub prediction: Option<String>,
    /// Whether the prediction is the right answer.
    pub correct: bool,
    /// Whether the steps spoken are the right ones; absent if none are due.
    pub steps_correct: Option<bool>,
    /// Number of tokens generated, the eos included.
    pub tokens: usize,
    /// Number of latents in the prompt.
    pub latents: usize,
    /// Whether the generation ended by itself rather than at a limit.
    pub finished: bool,
    /// For each latent, the tokens that the lens reads; empty but for the first few questions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thoughts: Vec<Reading>,
    /// For each slot of thoughts, the text that the step decoder reads; empty as `thoughts`, and without a decoder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readout: Vec<String>,
}

impl Evaluator<'_> {
    /// Evaluates a model without autodiff at a stage: its answers, their likelihoods, and the first few
    /// questions' thoughts by the lens. `advance` is told of each batch's questions; its error ends the
    /// evaluation.
    ///
    /// # Errors
    /// [`Error::Prompt`] with the number of a question that the model cannot be given, and
    /// [`Error::Internal`] if the device failed.
    pub fn evaluate(
        &self,
        model: &LatentModel,
        stage: Stage,
        mut advance: impl FnMut(usize) -> Result<()>,
    ) -> Result<Evaluation> {
        let prompts = self.prompts(stage);
        let (mut answers, mut likelihoods) = (Answering::default(), Scoring::default());
        for batch in self.batches(&prompts) {
            self.answer(model, stage, &prompts, &batch, &mut answers)?;
            self.score(model, stage, &batch, &mut likelihoods)?;
            advance(batch.len())?;
        }
        let mut answers = answers.finish();
        let looked_at = &prompts[..prompts.len().min(QUESTIONS_LOOKED_AT)];
        let thoughts = self.lens(model, stage, looked_at, TOKENS_READ)?;
        for (sample, thoughts) in answers.samples.iter_mut().zip(thoughts) {
            sample.thoughts = thoughts;
        }
        for (sample, prompt) in answers.samples.iter_mut().zip(looked_at) {
            sample.readout = self.readout(model, stage, prompt)?;
        }
        Ok(Evaluation { answers, likelihoods: likelihoods.finish() })
    }

    /// The answers alone, as [`Evaluator::evaluate`] finds them, without thoughts.
    ///
    /// # Errors
    /// As [`Evaluator::evaluate`].
    pub fn answers(
        &self,
        model: &LatentModel,
        stage: Stage,
        mut advance: impl FnMut(usize) -> Result<()>,
    ) -> Result<Answers> {
        let prompts = self.prompts(stage);
        let mut answers = Answering::default();
        for batch in self.batches(&prompts) {
            self.answer(model, stage, &prompts, &batch, &mut answers)?;
            advance(batch.len())?;
        }
        Ok(answers.finish())
    }

    /// The likelihoods alone, as [`Evaluator::evaluate`] finds them.
    ///
    /// # Errors
    /// As [`Evaluator::evaluate`].
    pub fn likelihoods(
        &self,
        model: &LatentModel,
        stage: Stage,
        mut advance: impl FnMut(usize) -> Result<()>,
    ) -> Result<Likelihoods> {
        let mut likelihoods = Scoring::default();
        for batch in self.batches(&self.prompts(stage)) {
            self.score(model, stage, &batch, &mut likelihoods)?;
            advance(batch.len())?;
        }
        Ok(likelihoods.finish())
    }

    /// For each prompt and each of its latents, the `n_tokens` likeliest tokens by the [`lens`].
    ///
    /// # Errors
    /// As [`Evaluator::evaluate`].
    pub fn lens(
        &self,
        model: &LatentModel,
        stage: Stage,
        prompts: &[Sequence],
        n_tokens: usize,
    ) -> Result<Vec<Vec<Reading>>> {
        let rows: Vec<&[u32]> = prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
        lens(model, self.tokenizer, &rows, &self.generation(self.plan(model, stage)), n_tokens)
    }

    /// What the step decoder reads in a prompt's thoughts, slot by slot; nothing without one.
    fn readout(&self, model: &LatentModel, stage: Stage, prompt: &Sequence) -> Result<Vec<String>> {
        let Some(decoder) = self.decoder else { return Ok(Vec::new()) };
        let options = self.generation(self.plan(model, stage));
        let width = decoder.style.width(self.curriculum.c_thought);
        readout(model, decoder, self.tokenizer, &prompt.ids, &options, width)
    }

    /// The questions' prompts at a stage, in the set's order.
    pub fn prompts(&self, stage: Stage) -> Vec<Sequence> {
        let markers = self.tokenizer.special_tokens();
        let numbered = self.data.encoded.iter().enumerate();
        numbered
            .map(|(i, example)| self.curriculum.prompt(example, stage, markers, self.sample_key(i)))
            .collect()
    }

    /// Refuses a set with a question that the model cannot be given; `path` is the set's file.
    ///
    /// # Errors
    /// [`Error::Input`] with the first such example.
    pub fn check(&self, model: &LatentModel, stage: Stage, path: &Path) -> Result<()> {
        let advice = match self.tokenizer.shots() {
            [] => "Remove the example",
            _ => "Show fewer solved examples, or remove this one",
        };
        for (index, prompt) in self.prompts(stage).iter().enumerate() {
            if let Some(problem) = prompt_problem(model, &prompt.ids, &self.plan(model, stage)) {
                let problem = format!("its prompt cannot be answered: {problem}. {advice}.");
                return Err(Error::input(path, format!("example {}", index + 1), problem));
            }
        }
        Ok(())
    }

    /// Questions' numbers in batches of alike prompts.
    pub(crate) fn batches(&self, prompts: &[Sequence]) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&i| (prompts[i].n_latents, prompts[i].ids.len(), i));
        order.chunks(self.batch_size.max(1)).map(<[usize]>::to_vec).collect()
    }

    pub(crate) fn sample_key(&self, index: usize) -> SampleKey {
        SampleKey { seed: self.seed, epoch: 0, index: index as u64 }
    }

    /// How prompts and rows of a stage become passes.
    pub(crate) fn plan(&self, model: &LatentModel, stage: Stage) -> PassPlan {
        let latent = self.tokenizer.special_tokens().latent;
        model.config.plan(latent, self.curriculum.n_replaced(stage))
    }

    pub(crate) fn generation(&self, plan: PassPlan) -> GenerateOptions<'_> {
        GenerateOptions {
            plan,
            stops: self.tokenizer.stops(),
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling,
        }
    }

    /// Answers a batch of questions and judges what was said.
    fn answer(
        &self,
        model: &LatentModel,
        stage: Stage,
        prompts: &[Sequence],
        batch: &[usize],
        found: &mut Answering,
    ) -> Result<()> {
        let max_new_tokens = self.tokens_left(batch.iter().map(|&i| (&prompts[i], i)));
        let options =
            GenerateOptions { max_new_tokens, ..self.generation(self.plan(model, stage)) };
        let rows: Vec<&[u32]> = batch.iter().map(|&i| prompts[i].ids.as_slice()).collect();
        let start = Instant::now();
        let mut speaking =
            GenerationLoop::new(model, &rows, options).map_err(|error| match error {
                Error::Prompt { row, problem } => Error::Prompt { row: batch[row], problem },
                other => other,
            })?;
        let mut more = !speaking.step_until(self.tokenizer)?.is_empty();
        found.seconds_to_first_token += start.elapsed().as_secs_f64();
        while more {
            more = !speaking.step_until(self.tokenizer)?.is_empty();
        }
        found.seconds += start.elapsed().as_secs_f64();
        let generations = speaking.finish();
        for (&index, generation) in batch.iter().zip(&generations) {
            let sample = self.judge(stage, index, &prompts[index], generation)?;
            found.add(sample, generation.positions);
        }
        Ok(())
    }

    /// Most tokens that some questions' prompts leave to say: one where each ends with a graph's answer mark.
    pub(crate) fn tokens_left<'b>(
        &self,
        prompts: impl IntoIterator<Item = (&'b Sequence, usize)>,
    ) -> usize {
        let mut prompts = prompts.into_iter();
        let all_marked = prompts.all(|(prompt, index)| self.ends_with_mark(prompt, index));
        if all_marked { 1 } else { self.max_new_tokens }
    }

    pub(crate) fn ends_with_mark(&self, prompt: &Sequence, index: usize) -> bool {
        match &self.data.encoded[index] {
            Encoded::Text(_) => false,
            Encoded::Graph(graph) => prompt.ids.last() == Some(&graph.marks.answer),
        }
    }

    pub(crate) fn judge(
        &self,
        stage: Stage,
        index: usize,
        prompt: &Sequence,
        generation: &Generation,
    ) -> Result<Sample> {
        let example = &self.data.examples[index];
        let encoded = &self.data.encoded[index];
        let mark = encoded.answer_mark(self.tokenizer);
        let ids = without_stop(generation, self.tokenizer.stops());
        let (answer, spoken, text) = match encoded {
            Encoded::Text(text) => (
                example.answer.clone(),
                text.spoken_answer(self.tokenizer)?,
                said(self.tokenizer, ids)?,
            ),
            Encoded::Graph(graph) => {
                let answer = self.tokenizer.token_strings(&[graph.target]).concat();
                (answer, None, self.tokenizer.token_strings(ids).join(" "))
            }
        };
        let scorer = match encoded {
            Encoded::Text(_) => &self.scorer,
            Encoded::Graph(_) => &Scorer::Mark,
        };
        let prediction = if self.ends_with_mark(prompt, index) {
            scorer.read(&format!("{mark} {text}"), mark)
        } else {
            scorer.read(&text, mark)
        };
        let steps_correct = match encoded {
            Encoded::Text(encoded) => self.steps_correct(encoded, stage, &text, mark)?,
            Encoded::Graph(_) => None,
        };
        Ok(Sample {
            index,
            question: example.question.clone(),
            correct: scorer.is_right(prediction.as_deref(), &answer, spoken.as_deref()),
            answer,
            generation: text,
            prediction,
            steps_correct,
            tokens: generation.ids.len(),
            latents: prompt.n_latents,
            finished: generation.finished,
            thoughts: Vec::new(),
            readout: Vec::new(),
        })
    }

    /// Whether a generated text speaks the steps due at a stage; `None` if there are none.
    fn steps_correct(
        &self,
        encoded: &Text,
        stage: Stage,
        text: &str,
        mark: &str,
    ) -> Result<Option<bool>> {
        let due = &encoded.steps[self.curriculum.remaining_steps(stage, encoded.steps.len())];
        if due.is_empty() {
            return Ok(None);
        }
        let right = Text::spoken_steps(due, self.tokenizer)?;
        Ok(Some(right.is_some_and(|right| score::same_steps(text, &right, mark))))
    }

    /// Teacher-forced losses of a batch of questions: all labels, the right answer's, and a wrong answer's.
    fn score(
        &self,
        model: &LatentModel,
        stage: Stage,
        batch: &[usize],
        found: &mut Scoring,
    ) -> Result<()> {
        let curriculum = self.curriculum.unmixed();
        let plan = self.plan(model, stage);
        let markers = self.tokenizer.special_tokens();
        let right = batch.iter().map(|&i| {
            let example = &self.data.encoded[i];
            let sequence = curriculum.train_sequence(example, stage, markers, self.sample_key(i));
            (sequence, answer_len(example))
        });
        let thoughts = Some(&mut found.thoughts);
        let (all, answers) = self.losses(model, &plan, &right.collect::<Vec<_>>(), thoughts)?;
        found.all.add(all);
        found.answers.add(answers);

        let wrong = batch.iter().filter_map(|&i| {
            let example = self.with_wrong_answer(i)?;
            let sequence = curriculum.train_sequence(&example, stage, markers, self.sample_key(i));
            Some((sequence, answer_len(&example)))
        });
        let (_, answers) = self.losses(model, &plan, &wrong.collect::<Vec<_>>(), None)?;
        found.corrupted.add(answers);
        Ok(())
    }

    /// The example with the next question's answer that differs from its own.
    fn with_wrong_answer(&self, index: usize) -> Option<Encoded> {
        let Encoded::Text(text) = &self.data.encoded[index] else { return None };
        let n = self.data.encoded.len();
        let others = (1..n).map(|k| &self.data.encoded[(index + k) % n]);
        let answer = others.into_iter().find_map(|other| match other {
            Encoded::Text(other) if other.answer != text.answer => Some(other.answer.clone()),
            _ => None,
        })?;
        Some(Encoded::Text(Text { answer, ..text.clone() }))
    }

    /// Losses over all labels, and over the last `answer_len` of each row. Rows that do not fit the model's
    /// context are left out.
    fn losses(
        &self,
        model: &LatentModel,
        plan: &PassPlan,
        rows: &[(Sequence, usize)],
        thoughts: Option<&mut Thoughts>,
    ) -> Result<(TokenLoss, TokenLoss)> {
        let context = model.transformer.config.n_positions;
        let rows: Vec<_> = rows.iter().filter(|(s, _)| s.ids.len() <= context).collect();
        if rows.is_empty() {
            return Ok(Default::default());
        }
        let layout: Vec<Row> = rows.iter().map(|(s, _)| Row::new(&s.ids, &s.labels)).collect();
        let batch = Batch::new(&layout, plan).map_err(Error::Internal)?;
        let trace = latent::forward(model, &batch, ReadSet::PREDICTIONS);
        if let Some(thoughts) = thoughts {
            thoughts.add(&batch, &trace)?;
        }
        let in_answer = |t: &&Target| {
            let (sequence, answer_len) = rows[t.row];
            t.position + answer_len >= sequence.ids.len()
        };
        let answers: Vec<Target> = batch.targets.iter().filter(in_answer).copied().collect();
        let over = |targets: &[Target]| -> Result<TokenLoss> {
            let loss = objective::cross_entropy(&model.transformer, &batch, &trace, targets);
            let loss: Vec<f32> = loss.map_or(Ok(Vec::new()), device::to_host)?; // one value, or none
            Ok(TokenLoss { loss_sum: loss.into_iter().map(f64::from).sum(), n: targets.len() })
        };
        Ok((over(&batch.targets)?, over(&answers)?))
    }
}

/// Tokens of the answer piece, mark and eos included; 0 for graphs, whose answer is one of two nodes.
pub(crate) fn answer_len(example: &Encoded) -> usize {
    match example {
        Encoded::Text(text) => text.answer.len(),
        Encoded::Graph(_) => 0,
    }
}

fn without_stop<'a>(generation: &'a Generation, stops: &[u32]) -> &'a [u32] {
    match generation.ids.split_last() {
        Some((last, before)) if stops.contains(last) => before,
        _ => &generation.ids,
    }
}

/// The text of generated tokens up to a stop text.
pub(super) fn said(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    let mut text = tokenizer.decode(ids)?;
    text.truncate(tokenizer.stop_in(&text).unwrap_or(text.len()));
    Ok(text)
}

/// Cross entropy over some tokens.
#[derive(Clone, Copy, Debug, Default)]
struct TokenLoss {
    /// Summed −log p of the tokens, in nats.
    loss_sum: f64,
    /// Number of tokens.
    n: usize,
}

impl TokenLoss {
    fn add(&mut self, other: Self) {
        self.loss_sum += other.loss_sum;
        self.n += other.n;
    }

    fn mean(self) -> f64 {
        self.loss_sum / self.n as f64
    }
}

/// [`Answers`] of the batches so far; what will be means are sums yet.
#[derive(Debug, Default)]
struct Answering {
    sums: Answers,
    /// Wall time of generation.
    seconds: f64,
    /// The part of it before the first token.
    seconds_to_first_token: f64,
}

impl Answering {
    /// Takes up a judged answer for which so many positions were computed.
    fn add(&mut self, sample: Sample, positions: usize) {
        let sums = &mut self.sums;
        sums.tokens += sample.tokens as f64;
        sums.latents += sample.latents as f64;
        sums.forward_positions += positions as f64;
        sums.accuracy.add(sample.correct);
        if let Some(hit) = sample.steps_correct {
            sums.cot_em.add(hit);
        }
        sums.samples.push(sample);
    }

    fn finish(self) -> Answers {
        let Self { sums: mut answers, seconds, seconds_to_first_token } = self;
        let n = answers.samples.len().max(1) as f64;
        answers.tokens /= n;
        answers.latents /= n;
        answers.forward_positions /= n;
        answers.ms_per_question = 1e3 * seconds / n;
        answers.thinking_ms_per_question = 1e3 * seconds_to_first_token / n;
        answers.samples.sort_by_key(|sample| sample.index);
        answers
    }
}

/// What [`Likelihoods`] are worked out from, of the batches so far.
#[derive(Debug, Default)]
struct Scoring {
    all: TokenLoss,
    answers: TokenLoss,
    corrupted: TokenLoss,
    thoughts: Thoughts,
}

impl Scoring {
    fn finish(self) -> Likelihoods {
        let perplexity = |loss: TokenLoss| (loss.n > 0).then(|| loss.mean().exp());
        let answer_perplexity = perplexity(self.answers);
        let both = perplexity(self.corrupted).zip(answer_perplexity);
        Likelihoods {
            loss: self.all.mean(),
            answer_perplexity,
            perplexity_ratio: both.map(|(corrupted, right)| corrupted / right),
            diversity: self.thoughts.diversity(),
        }
    }
}
