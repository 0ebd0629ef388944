//! Evaluation of a model on a set of questions at one stage (METHOD.md 7).

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{
    generate::{GenerateOptions, Generation, Sampling, generate},
    lens, score,
    spread::{Spread, Thoughts},
};
use crate::{
    Error, Result,
    data::{Curriculum, Dataset, Draw, Encoded, Sequence, Stage, Tokenizer, encode::Text},
    latent::{
        self, LatentModel, Wanted,
        batch::{Batch, Row, Target},
    },
    objective,
};

/// What to evaluate on, and how.
#[derive(Clone, Debug)]
pub struct Evaluator<'a> {
    /// The questions.
    pub data: &'a Dataset,
    /// Their tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// What a stage shows; `uniform_prob` is ignored.
    pub curriculum: Curriculum,
    /// Questions generated at once.
    pub batch_size: usize,
    /// Most tokens generated for one question.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Draws the order of a graph's edges.
    pub seed: u64,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Successes.
    pub hits: usize,
    /// Trials.
    pub n: usize,
}

impl Count {
    fn add(&mut self, hit: bool) {
        self.hits += usize::from(hit);
        self.n += 1;
    }

    /// The rate; NaN if nothing was tried.
    pub fn rate(self) -> f64 {
        self.hits as f64 / self.n as f64
    }
}

/// What an evaluation found. Means are over questions.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Right answers.
    pub accuracy: Count,
    /// Generated steps equal to those still to be spoken, over the examples that have any.
    pub cot_em: Count,
    /// Mean tokens generated, the eos included.
    pub tokens: f64,
    /// Mean latents.
    pub latents: f64,
    /// Mean positions computed, latents included.
    pub forward_positions: f64,
    /// Wall time of generation a question, in milliseconds, in batches.
    pub ms_per_question: f64,
    /// Mean cross entropy over all labelled tokens, in nats.
    pub loss: f64,
    /// Perplexity of the right answers' tokens, mark and eos included, after the right steps; text only.
    pub answer_perplexity: Option<f64>,
    /// Perplexity of another question's answer in its place, over that of the right one.
    pub perplexity_ratio: Option<f64>,
    /// How far the thoughts of different questions differ, if there are any.
    pub thoughts: Option<Spread>,
    /// One a question, in the set's order.
    pub samples: Vec<Sample>,
}

/// One question and what was made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The question's number, from 0.
    pub index: usize,
    /// As asked.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// The text generated.
    pub generation: String,
    /// The answer read from it, if it has one.
    pub read: Option<String>,
    /// Whether that is the right one.
    pub correct: bool,
    /// Whether the steps spoken are the right ones; absent if none are due.
    pub steps_correct: Option<bool>,
    /// Tokens generated.
    pub tokens: usize,
    /// Latents in the prompt.
    pub latents: usize,
    /// Whether it ended by itself.
    pub finished: bool,
    /// For each latent what it would say; of the first few questions only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thoughts: Vec<lens::Reading>,
}

impl Evaluator<'_> {
    /// Evaluates a model without autodiff at a stage. `advance` is told of each batch's questions; its error
    /// ends the evaluation.
    pub fn evaluate(
        &self,
        model: &LatentModel,
        stage: Stage,
        mut advance: impl FnMut(usize) -> Result<()>,
    ) -> Result<Evaluation> {
        let prompts: Vec<Sequence> = (0..self.data.encoded.len())
            .map(|i| {
                self.curriculum.prompt(
                    &self.data.encoded[i],
                    stage,
                    self.tokenizer.markers(),
                    self.draw(i),
                )
            })
            .collect();
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&i| (prompts[i].n_latents, prompts[i].ids.len(), i));

        let mut evaluation = Evaluation::default();
        let mut nll = NegativeLogLikelihoods::default();
        let mut thoughts = Thoughts::default();
        let mut seconds = 0.0;
        for indices in order.chunks(self.batch_size.max(1)) {
            let start = Instant::now();
            let generations = self.generate(model, &prompts, indices)?;
            seconds += start.elapsed().as_secs_f64();
            for (&index, generation) in indices.iter().zip(generations) {
                evaluation.tokens += generation.ids.len() as f64;
                evaluation.latents += prompts[index].n_latents as f64;
                evaluation.forward_positions += generation.positions as f64;
                let sample = self.judge(stage, index, &prompts[index], &generation)?;
                evaluation.accuracy.add(sample.correct);
                if let Some(hit) = sample.steps_correct {
                    evaluation.cot_em.add(hit);
                }
                evaluation.samples.push(sample);
            }
            self.likelihoods(model, stage, indices, &mut nll, &mut thoughts)?;
            advance(indices.len())?;
        }
        let n = prompts.len().max(1) as f64;
        evaluation.tokens /= n;
        evaluation.latents /= n;
        evaluation.forward_positions /= n;
        evaluation.ms_per_question = 1e3 * seconds / n;
        evaluation.thoughts = thoughts.spread();
        evaluation.loss = nll.all.mean();
        if nll.answers.n > 0 {
            let perplexity = nll.answers.mean().exp();
            evaluation.answer_perplexity = Some(perplexity);
            evaluation.perplexity_ratio =
                (nll.corrupted.n > 0).then(|| nll.corrupted.mean().exp() / perplexity);
        }
        evaluation.samples.sort_by_key(|sample| sample.index);
        let looked_at = &prompts[..prompts.len().min(lens::QUESTIONS)];
        for (sample, thoughts) in evaluation.samples.iter_mut().zip(self.lens(model, looked_at)?) {
            sample.thoughts = thoughts;
        }
        Ok(evaluation)
    }

    fn draw(&self, index: usize) -> Draw {
        Draw { seed: self.seed, epoch: 0, index: index as u64 }
    }

    /// The latent's id if it is fed back.
    pub(super) fn latent(&self) -> Option<u32> {
        self.curriculum.feeds_back().then_some(self.tokenizer.markers().latent)
    }

    fn generate(
        &self,
        model: &LatentModel,
        prompts: &[Sequence],
        indices: &[usize],
    ) -> Result<Vec<Generation>> {
        // A prompt that ends with a graph's answer mark leaves one token to say.
        let marked = |i: &usize| self.ends_with_mark(&prompts[*i], *i);
        let limit = if indices.iter().all(marked) { 1 } else { self.max_new_tokens };
        let options = GenerateOptions {
            latent: self.latent(),
            stops: self.tokenizer.stops(),
            max_new_tokens: limit,
            sampling: self.sampling,
        };
        let prompts: Vec<&[u32]> = indices.iter().map(|&i| prompts[i].ids.as_slice()).collect();
        generate(model, &prompts, &options).map_err(|problem| {
            Error::Training(format!("the questions {indices:?} cannot be answered: {problem}"))
        })
    }

    fn ends_with_mark(&self, prompt: &Sequence, index: usize) -> bool {
        match &self.data.encoded[index] {
            Encoded::Text(_) => false,
            Encoded::Graph(graph) => prompt.ids.last() == Some(&graph.marks.answer),
        }
    }

    fn judge(
        &self,
        stage: Stage,
        index: usize,
        prompt: &Sequence,
        generation: &Generation,
    ) -> Result<Sample> {
        let example = &self.data.examples[index];
        let (mark, answer, text) = match &self.data.encoded[index] {
            encoded @ Encoded::Text(_) => (
                encoded.answer_mark(),
                example.answer.clone(),
                self.tokenizer.decode(without_eos(generation))?,
            ),
            encoded @ Encoded::Graph(graph) => {
                let answer = self.tokenizer.token_strings(&[graph.target]).concat();
                let words = self.tokenizer.token_strings(without_eos(generation));
                (encoded.answer_mark(), answer, words.join(" "))
            }
        };
        let read = if self.ends_with_mark(prompt, index) {
            score::read_answer(&format!("{mark} {text}"), mark)
        } else {
            score::read_answer(&text, mark)
        };
        let steps_correct = match &self.data.encoded[index] {
            Encoded::Text(encoded) => self.spoken(encoded, stage)?.map(|expected| {
                score::read_steps(&text, mark) == score::read_steps(&expected, mark)
            }),
            Encoded::Graph(_) => None,
        };
        Ok(Sample {
            index,
            question: example.question.clone(),
            correct: score::is_right(read.as_deref(), &answer),
            answer,
            generation: text,
            read,
            steps_correct,
            tokens: generation.ids.len(),
            latents: prompt.n_latents,
            finished: generation.finished,
            thoughts: Vec::new(),
        })
    }

    /// The steps due at a stage, as the tokenizer would decode them; `None` if there are none.
    fn spoken(&self, text: &Text, stage: Stage) -> Result<Option<String>> {
        let due = &text.steps[self.curriculum.remaining_steps(stage, text.steps.len())];
        if due.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.tokenizer.decode(&due.concat())?))
    }

    /// Teacher-forced: all labels, the right answer's, and a wrong answer's.
    fn likelihoods(
        &self,
        model: &LatentModel,
        stage: Stage,
        indices: &[usize],
        nll: &mut NegativeLogLikelihoods,
        thoughts: &mut Thoughts,
    ) -> Result<()> {
        let curriculum = Curriculum { uniform_prob: 0.0, ..self.curriculum.clone() };
        let markers = self.tokenizer.markers();
        let right = indices.iter().map(|&i| {
            let example = &self.data.encoded[i];
            let sequence = curriculum.train_sequence(example, stage, markers, self.draw(i));
            (sequence, answer_len(example))
        });
        let (all, answers) = self.nll(model, &right.collect::<Vec<_>>(), Some(thoughts))?;
        nll.all.add(all);
        nll.answers.add(answers);

        let wrong = indices.iter().filter_map(|&i| {
            let example = self.with_wrong_answer(i)?;
            let sequence = curriculum.train_sequence(&example, stage, markers, self.draw(i));
            Some((sequence, answer_len(&example)))
        });
        let (_, answers) = self.nll(model, &wrong.collect::<Vec<_>>(), None)?;
        nll.corrupted.add(answers);
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

    /// Summed −log p over all labels, and over the last `answer_len` of each row.
    fn nll(
        &self,
        model: &LatentModel,
        rows: &[(Sequence, usize)],
        thoughts: Option<&mut Thoughts>,
    ) -> Result<(Sum, Sum)> {
        let context = model.transformer.config.n_positions;
        let rows: Vec<_> = rows.iter().filter(|(s, _)| s.ids.len() <= context).collect();
        if rows.is_empty() {
            return Ok(Default::default());
        }
        let layout: Vec<Row> =
            rows.iter().map(|(s, _)| Row { ids: &s.ids, labels: &s.labels }).collect();
        let batch = Batch::new(&layout, self.latent()).map_err(Error::Training)?;
        let trace = latent::forward(model, &batch, Wanted::Predictions);
        if let Some(thoughts) = thoughts {
            thoughts.add(&batch, &trace);
        }
        let in_answer = |t: &&Target| {
            let (sequence, answer_len) = rows[t.row];
            t.position + answer_len >= sequence.ids.len()
        };
        let answers: Vec<Target> = batch.targets.iter().filter(in_answer).copied().collect();
        let sum = |targets: &[Target]| Sum {
            nats: objective::cross_entropy(&model.transformer, &batch, &trace, targets)
                .map_or(0.0, |loss| f64::from(loss.into_scalar::<f32>())),
            n: targets.len(),
        };
        Ok((sum(&batch.targets), sum(&answers)))
    }
}

/// Tokens of the answer piece, mark and eos included; 0 for graphs, whose answer is one of two nodes.
fn answer_len(example: &Encoded) -> usize {
    match example {
        Encoded::Text(text) => text.answer.len(),
        Encoded::Graph(_) => 0,
    }
}

fn without_eos(generation: &Generation) -> &[u32] {
    match generation.ids.split_last() {
        Some((_, before)) if generation.finished => before,
        _ => &generation.ids,
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    nats: f64,
    n: usize,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.nats += other.nats;
        self.n += other.n;
    }

    fn mean(self) -> f64 {
        self.nats / self.n as f64
    }
}

#[derive(Debug, Default)]
struct NegativeLogLikelihoods {
    all: Sum,
    answers: Sum,
    corrupted: Sum,
}
