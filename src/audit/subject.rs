//! A model under audit: what it answers with its thoughts as they are, and with them changed.

use burn::tensor::Tensor;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Intervention, Values, With, donors::Donors};
use crate::{
    Error, Result,
    data::{Curriculum, Encoded, Sequence, Stage},
    device,
    eval::{
        Continuation, Evaluator, GenerateOptions, GenerationLoop, evaluate::answer_len, log_probs,
    },
    latent::{
        self, Batch, Edit, LatentModel, PassPlan, Places, ReadSet, Replacement, Trace, batch::Row,
    },
    rng,
};

/// A model with the questions that it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The questions, and how they are put and judged.
    pub evaluator: &'a Evaluator<'a>,
    /// The model, without autodiff.
    pub model: &'a LatentModel,
    /// The stage that prompts are laid out for.
    pub stage: Stage,
    /// The seed of noise and of the choice of donors.
    pub seed: u64,
}

/// What became of one question.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The answer that was read, if there was one.
    pub prediction: Option<String>,
    /// Whether it is the right one.
    pub correct: bool,
    /// Log probability of the right answer's tokens and eos, in nats, after the prompt and the right words before them;
    /// none if these do not fit the model's context.
    pub log_prob: Option<f64>,
    /// Tokens that were generated.
    pub tokens: usize,
}

/// A question that an intervention touched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Touched {
    /// Its number, from 0.
    pub question: usize,
    /// Whose thoughts it was given, if another question's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub donor: Option<usize>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What an intervention did to the questions that it touched. Those that it did not touch are not among them, so that
/// nothing can be divided by a number that includes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The intervention.
    pub intervention: Intervention,
    /// The questions, by number.
    pub touched: Vec<Touched>,
}

/// A model's answers with its thoughts as they are.
#[derive(Clone, Debug)]
pub struct Plain {
    /// By question.
    pub outcomes: Vec<Outcome>,
    /// What was fed, by question and place: `[d_model]` each.
    pub thoughts: Vec<Vec<Vec<f32>>>,
    /// What the questions' steps work out.
    pub values: Values,
    /// The questions as they were asked.
    pub(super) asked: Vec<Asked>,
    /// What running them left.
    pub(super) batches: Vec<PlainBatch>,
    donors: Donors,
    /// For each place, the sum of all questions' thoughts there, and how many there are.
    sums: Vec<(Vec<f64>, usize)>,
}

/// A question as it is asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The prompt.
    pub prompt: Sequence,
    /// Tokens of the answer that are given too, so that no words come before the rest.
    given: Vec<u32>,
    /// Prompt and given tokens.
    ids: Vec<u32>,
    /// What rightly follows them.
    right: Vec<u32>,
    /// So many of its last tokens are what is scored.
    scored: usize,
}

/// Questions that are run together, and what running them left.
#[derive(Clone, Debug)]
pub(super) struct PlainBatch {
    pub questions: Vec<usize>,
    pub layout: Batch,
    pub trace: Trace,
}

impl Subject<'_> {
    /// Asks all questions. `advance` is told of each batch's questions; its error ends it.
    ///
    /// # Errors
    /// [`Error::Usage`] if no question has thoughts that are fed, [`Error::Prompt`] with the number of a question that
    /// the model cannot be given, and [`Error::Internal`] if the device failed.
    pub fn plain(&self, mut advance: impl FnMut(usize) -> Result<()>) -> Result<Plain> {
        let asked = self.asked(false);
        let mut outcomes = vec![Outcome::default(); asked.len()];
        let mut thoughts = vec![Vec::new(); asked.len()];
        let mut batches = Vec::new();
        let prompts: Vec<Sequence> = asked.iter().map(|asked| asked.prompt.clone()).collect();
        for questions in self.evaluator.batches(&prompts) {
            let layout = self.lay_out(&asked, &questions)?;
            let trace = latent::forward(self.model, &layout, ReadSet::PREDICTIONS);
            let fed = trace.thoughts_in_order(&layout);
            if !fed.is_empty() {
                let fed = Tensor::cat(fed, 1); // [batch, latents, d_model]
                let [_, latents, d] = fed.dims();
                let values: Vec<f32> = device::to_host(fed)?;
                for (row, &question) in questions.iter().enumerate() {
                    let own = values[row * latents * d..].chunks(d).take(layout.latents[row]);
                    thoughts[question] = own.map(<[f32]>::to_vec).collect();
                }
            }
            let found = self.outcomes(&questions, &asked, &layout, trace.clone())?;
            for (&question, outcome) in questions.iter().zip(found) {
                outcomes[question] = outcome;
            }
            advance(questions.len())?;
            batches.push(PlainBatch { questions, layout, trace });
        }
        if thoughts.iter().all(Vec::is_empty) {
            return Err(Error::Usage("no question has a thought".into()));
        }
        let places: Vec<usize> = thoughts.iter().map(Vec::len).collect();
        Ok(Plain {
            values: Values::new(self.evaluator, self.stage, &places),
            donors: Donors::new(self.evaluator, &places, self.seed),
            sums: sums(&thoughts),
            outcomes,
            thoughts,
            asked,
            batches,
        })
    }

    /// Does something to the thoughts, and asks all questions that it touches.
    ///
    /// # Errors
    /// [`Error::Usage`] if so many latents do not fit the model's context, and [`Error::Internal`] if the device failed.
    pub fn effect(&self, plain: &Plain, intervention: Intervention) -> Result<Effect> {
        let mut touched = match intervention {
            Intervention::Edit { with, places } => self.edited(plain, with, places)?,
            Intervention::Latents(latents) => self.with_latents(plain, latents, false)?,
            Intervention::Early(latents) => self.with_latents(plain, latents, true)?,
        };
        touched.sort_by_key(|touched| touched.question);
        Ok(Effect { intervention, touched })
    }

    /// The most latents with which every question and its right answer fit the model's context.
    pub fn room(&self, plain: &Plain) -> usize {
        let needed = |asked: &Asked| asked.ids.len() - asked.prompt.n_latents + asked.right.len();
        let most = plain.asked.iter().map(needed).max().unwrap_or(0);
        self.model.transformer.config.n_positions.saturating_sub(most)
    }

    /// Tokens of the longest right continuation of a prompt.
    pub fn longest_right(&self) -> usize {
        self.asked(false).iter().map(|asked| asked.right.len()).max().unwrap_or(0)
    }

    fn edited(&self, plain: &Plain, with: With, places: Places) -> Result<Vec<Touched>> {
        let mut found = Vec::new();
        for PlainBatch { questions, layout, trace } in &plain.batches {
            let donor = |&q: &usize| plain.donors.of(q, with, places, &plain.values);
            let donors: Vec<Option<usize>> = questions.iter().map(donor).collect();
            let replacement = self.replacement(plain, questions, with, places, &donors);
            let edit = Edit { places, replacement };
            let edited =
                latent::forward_edited(self.model, layout, ReadSet::PREDICTIONS, &edit, trace);
            let mut rows: Vec<usize> = match places {
                Places::Question => (0..layout.rows).filter(|&r| layout.latents[r] > 0).collect(),
                _ => edited.edited.iter().map(|&(row, _)| row).collect(),
            };
            rows.dedup();
            if rows.is_empty() {
                continue;
            }
            let outcomes = self.outcomes(questions, &plain.asked, layout, edited)?;
            found.extend(rows.into_iter().map(|row| Touched {
                question: questions[row],
                donor: donors[row],
                outcome: outcomes[row].clone(),
            }));
        }
        Ok(found)
    }

    /// All questions with so many latents, and with the answer's mark given if it is to be answered at once.
    fn with_latents(&self, plain: &Plain, latents: usize, at_once: bool) -> Result<Vec<Touched>> {
        let room = self.room(plain);
        if latents > room {
            return Err(Error::Usage(format!(
                "{latents} latents: the model's context has room for {room} beside the longest question and its answer."
            )));
        }
        let curriculum = Curriculum { latents: Some(latents), ..self.evaluator.curriculum.clone() };
        let evaluator = Evaluator { curriculum, ..self.evaluator.clone() };
        let subject = Subject { evaluator: &evaluator, ..*self };
        let asked = subject.asked(at_once);
        let mut found = Vec::new();
        for PlainBatch { questions, layout: before, trace } in &plain.batches {
            let layout = subject.lay_out(&asked, questions)?;
            // Before the first latent there is the same text, computed already.
            let think = |layout: &Batch| layout.latents.iter().all(|&latents| latents > 0);
            let done = usize::from(think(before) && think(&layout));
            let trace =
                latent::forward_after(self.model, &layout, ReadSet::PREDICTIONS, trace, done);
            let outcomes = subject.outcomes(questions, &asked, &layout, trace)?;
            let touched = questions.iter().zip(outcomes);
            found.extend(touched.map(|(&question, outcome)| Touched {
                question,
                donor: None,
                outcome,
            }));
        }
        Ok(found)
    }

    /// What some questions' thoughts are replaced by.
    fn replacement(
        &self,
        plain: &Plain,
        questions: &[usize],
        with: With,
        places: Places,
        donors: &[Option<usize>],
    ) -> Replacement {
        let seed = |&q: &usize| rng::hash(self.seed, &[rng::EDITS, q as u64]);
        let seeds = || questions.iter().map(seed).collect();
        let rows: Vec<Vec<Vec<f32>>> = match with {
            With::Zero => return Replacement::Zero,
            With::Noise(scale) => return Replacement::Noise { scale, seeds: seeds() },
            With::Dropout(rate) => return Replacement::Dropout { rate, seeds: seeds() },
            With::Random => return Replacement::Random { seeds: seeds() },
            With::Mean => questions.iter().map(|&q| plain.means_without(q)).collect(),
            With::Permute => {
                questions.iter().map(|q| permuted(&plain.thoughts[*q], places, seed(q))).collect()
            }
            With::Transplant | With::PatchSame | With::PatchOther => donors
                .iter()
                .map(|donor| donor.map_or(Vec::new(), |d| plain.thoughts[d].clone()))
                .collect(),
        };
        Replacement::given(&rows, self.model.transformer.config.d_model, &self.model.device())
    }

    /// The questions as they are asked, with the answer's mark if it is to be answered at once.
    fn asked(&self, at_once: bool) -> Vec<Asked> {
        let Evaluator { data, tokenizer, ref curriculum, .. } = *self.evaluator;
        let curriculum = curriculum.unmixed();
        let of = |(question, prompt): (usize, Sequence)| {
            let example = &data.encoded[question];
            let (mut right, answer, scored) = match example {
                Encoded::Graph(graph) => (vec![graph.target], 1, 1),
                Encoded::Text(_) => {
                    let markers = tokenizer.special_tokens();
                    let key = self.evaluator.sample_key(question);
                    let whole = curriculum.train_sequence(example, self.stage, markers, key);
                    let scored = whole.ids.len() - 1 - whole.anchor;
                    (whole.ids[prompt.ids.len()..].to_vec(), answer_len(example), scored)
                }
            };
            let mut given = Vec::new();
            if at_once {
                right.drain(..right.len() - answer);
                given.extend(right.drain(..answer - scored));
            }
            let ids = [prompt.ids.as_slice(), &given].concat();
            Asked { prompt, given, ids, right, scored }
        };
        self.evaluator.prompts(self.stage).into_iter().enumerate().map(of).collect()
    }

    fn lay_out(&self, asked: &[Asked], questions: &[usize]) -> Result<Batch> {
        // Noise on the question is each row's own.
        let plan = PassPlan { shares_prefix: false, ..self.evaluator.plan(self.model, self.stage) };
        let rows: Vec<Row> = questions.iter().map(|&q| Row::unlabelled(&asked[q].ids)).collect();
        Batch::new(&rows, &plan).map_err(Error::Internal)
    }

    /// What becomes of questions that were run.
    fn outcomes(
        &self,
        questions: &[usize],
        asked: &[Asked],
        layout: &Batch,
        trace: Trace,
    ) -> Result<Vec<Outcome>> {
        let right = questions.iter().map(|&q| &asked[q]);
        let continuations: Vec<Continuation> = right
            .map(|Asked { right, scored, .. }| Continuation { ids: right, scored: *scored })
            .collect();
        let log_probs = log_probs(self.model, layout, &trace, &continuations)?;
        let max_new_tokens =
            self.evaluator.tokens_left(questions.iter().map(|&q| (&asked[q].prompt, q)));
        let options = self.evaluator.generation(self.evaluator.plan(self.model, self.stage));
        let options = GenerateOptions { max_new_tokens, ..options };
        let mut speaking = GenerationLoop::after(self.model, layout, trace, options);
        while !speaking.step()?.is_empty() {}
        let said = questions.iter().zip(speaking.finish()).zip(log_probs);
        said.map(|((&question, mut generation), log_prob)| {
            let Asked { prompt, given, .. } = &asked[question];
            let tokens = generation.ids.len();
            generation.ids.splice(0..0, given.iter().copied());
            let sample = self.evaluator.judge(self.stage, question, prompt, &generation)?;
            let (prediction, correct) = (sample.prediction, sample.correct);
            Ok(Outcome { prediction, correct, log_prob, tokens })
        })
        .collect()
    }
}

impl Plain {
    /// For each place of a question at which others have a thought too, the mean of the others'.
    fn means_without(&self, question: usize) -> Vec<Vec<f32>> {
        let own = self.thoughts[question].iter().zip(&self.sums);
        let of_others = own.take_while(|(_, (_, n))| *n > 1).map(|(thought, (sum, n))| {
            let mean = |(sum, x): (&f64, &f32)| ((sum - f64::from(*x)) / (*n as f64 - 1.0)) as f32;
            sum.iter().zip(thought).map(mean).collect()
        });
        of_others.collect()
    }

    /// The most thoughts that a question has.
    pub fn most_thoughts(&self) -> usize {
        self.thoughts.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// For each place, the sum of all questions' thoughts there, and how many there are.
fn sums(thoughts: &[Vec<Vec<f32>>]) -> Vec<(Vec<f64>, usize)> {
    let mut sums: Vec<(Vec<f64>, usize)> = Vec::new();
    for thoughts in thoughts {
        for (place, thought) in thoughts.iter().enumerate() {
            if sums.len() == place {
                sums.push((vec![0.0; thought.len()], 0));
            }
            let (sum, n) = &mut sums[place];
            sum.iter_mut().zip(thought).for_each(|(sum, x)| *sum += f64::from(*x));
            *n += 1;
        }
    }
    sums
}

/// Thoughts with those at some places in another order; nothing if there are fewer than two.
pub fn permuted(thoughts: &[Vec<f32>], places: Places, seed: u64) -> Vec<Vec<f32>> {
    let chosen: Vec<usize> =
        (0..thoughts.len()).filter(|&index| places.contain(index, thoughts.len())).collect();
    if chosen.len() < 2 {
        return Vec::new();
    }
    let mut order = chosen.clone();
    let mut rng = rng::stream(seed, &[rng::EDITS]);
    while order == chosen {
        order.shuffle(&mut rng);
    }
    let mut permuted = thoughts.to_vec();
    for (&to, &from) in chosen.iter().zip(&order) {
        permuted[to] = thoughts[from].clone();
    }
    permuted
}
