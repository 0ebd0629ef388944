//! Which tokens a stage shows and which it trains: a pure function of example, stage and settings.
//!
//! With `Q` the question, `A` the answer, `c` thoughts a step, `M` the last stage that still speaks and `n`
//! the example's steps (docs/method.md 3.1):
//!
//! | stage | sequence |
//! | --- | --- |
//! | −1 | `Q · steps · A` |
//! | 0 | `Q · bot · eot · steps · A` |
//! | s ≤ M | `Q · bot · latent × (min(s, n)·c) · eot · steps[s..] · A` |
//! | M + 1 | `Q · bot · latent × (min(M, n)·c) · eot · A` |
//!
//! With `pad_latent_to_max`, n does not bound the number of latents. The published code differs in one case:
//! without padding and with n < s ≤ M it trains with s·c latents and evaluates with n·c; here training and
//! evaluation always use the same number.

use std::{fmt, ops::Range, path::Path};

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};
use serde::{Deserialize, Serialize};

use super::{
    Encoded, SampleKey, SpecialTokens,
    draw::Stream,
    encode::{GraphPieces, Text},
};
use crate::{Error, Result};

/// What is compared in the paper's table, each a way to train the same model on the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Steps are replaced by continuous thoughts, one more at each stage.
    Coconut,
    /// All steps are spoken: stage −1 throughout.
    Cot,
    /// Question, then answer.
    NoCot,
    /// Steps are dropped stage by stage and nothing takes their place.
    NoThoughts,
    /// As Coconut, but a latent is an ordinary learned token: the model feeds nothing back.
    Pause,
    /// As Coconut, but in the last stage from the start.
    NoCurriculum,
}

impl Method {
    /// The method's name in recipes and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coconut => "coconut",
            Self::Cot => "cot",
            Self::NoCot => "no_cot",
            Self::NoThoughts => "no_thoughts",
            Self::Pause => "pause",
            Self::NoCurriculum => "no_curriculum",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far the steps have been replaced: −1 for chain of thought, then 0 ..= M, then M + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stage(pub i32);

impl Stage {
    /// All steps spoken, without markers.
    pub const COT: Self = Self(-1);

    pub(super) fn from_count(stage: usize) -> Self {
        Self(i32::try_from(stage).unwrap_or(i32::MAX))
    }

    /// The number of steps that this stage takes away, or `None` at [`Stage::COT`].
    fn n_replaced(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::COT { f.write_str("CoT") } else { write!(f, "{}", self.0) }
    }
}

/// The settings of a curriculum, under the names of the published recipes.
#[derive(Clone, Debug, PartialEq)]
pub struct Curriculum {
    /// What is trained.
    pub method: Method,
    /// `c`: continuous thoughts for each step that they replace.
    pub c_thought: usize,
    /// `M`: the last stage at which steps beyond the replaced ones are spoken.
    pub max_latent_stage: usize,
    /// Whether examples with fewer steps than the stage get as many latents as the others.
    pub pad_latent_to_max: bool,
    /// The probability with which an example is drawn at a stage uniform in 0 ..= n instead of the epoch's.
    pub uniform_prob: f64,
    /// Graphs only: a stage's label is drawn from all nodes at the next distance, not only from those on a
    /// shortest path to the target.
    pub frontier: bool,
}

/// A row of token ids with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids; latents hold their places.
    pub ids: Vec<u32>,
    /// As Hugging Face's `labels`: position i carries `ids[i]` if that token is to be predicted (from the
    /// positions before it), else `None` (−100).
    pub labels: Vec<Option<u32>>,
    /// How many positions are latents; they stand in one run.
    pub n_latents: usize,
    /// Where the run of latents starts; without latents, where the prompt ends.
    pub latent_start: usize,
    /// How many positions come before the first label.
    pub prompt_len: usize,
}

impl Sequence {
    /// The latents' positions.
    pub fn latents(&self) -> Range<usize> {
        self.latent_start..self.latent_start + self.n_latents
    }

    /// The number of labelled positions.
    pub fn n_labels(&self) -> usize {
        self.labels.iter().flatten().count()
    }

    fn new(prompt: Prompt, labelled: impl IntoIterator<Item = u32>) -> Self {
        let Prompt { mut ids, n_latents, latent_start } = prompt;
        let prompt_len = ids.len();
        let mut labels = vec![None; prompt_len];
        for id in labelled {
            ids.push(id);
            labels.push(Some(id));
        }
        Self { ids, labels, n_latents, latent_start, prompt_len }
    }
}

// ---- What a stage replaces ------------------------------------------------------------------------------------------

impl Curriculum {
    /// What decides a prompt, with nothing left to chance: no `uniform_prob`, no `frontier`.
    pub fn new(
        method: Method,
        c_thought: usize,
        max_latent_stage: usize,
        pad_latent_to_max: bool,
    ) -> Self {
        Self {
            method,
            c_thought,
            max_latent_stage,
            pad_latent_to_max,
            uniform_prob: 0.0,
            frontier: false,
        }
    }

    /// Whether the sequences carry `bot` and `eot`, and latents between them.
    fn has_latents(&self) -> bool {
        matches!(self.method, Method::Coconut | Method::Pause | Method::NoCurriculum)
    }

    /// Whether a latent's input is fed back from the hidden states rather than learned.
    pub fn feeds_back(&self) -> bool {
        matches!(self.method, Method::Coconut | Method::NoCurriculum)
    }

    /// The most latents that a row has.
    pub fn most_latents(&self) -> usize {
        self.c_thought * self.max_latent_stage
    }

    /// The number of latents of an example with `n_steps` steps, in training and evaluation alike.
    pub fn n_latents(&self, stage: Stage, n_steps: usize) -> usize {
        if !self.has_latents() {
            return 0;
        }
        let replaced = stage.n_replaced().unwrap_or(0).min(self.max_latent_stage);
        let replaced = if self.pad_latent_to_max { replaced } else { replaced.min(n_steps) };
        replaced * self.c_thought
    }

    /// The number of an example's first steps that a stage does not show.
    fn n_skipped_steps(&self, stage: Stage, n_steps: usize) -> usize {
        match (self.method, stage.n_replaced()) {
            (Method::Cot, _) => 0,
            (Method::NoCot, _) => n_steps,
            (_, None) => 0,
            (_, Some(replaced)) if replaced > self.max_latent_stage => n_steps,
            (_, Some(replaced)) => replaced.min(n_steps),
        }
    }

    /// The steps of an example with `n_steps` steps that a stage still shows as words, after the latents.
    ///
    /// Graphs show steps at stage −1 only.
    pub fn remaining_steps(&self, stage: Stage, n_steps: usize) -> Range<usize> {
        self.n_skipped_steps(stage, n_steps)..n_steps
    }
}

// ---- The sequences --------------------------------------------------------------------------------------------------

/// The positions that are given, up to and including `eot`.
struct Prompt {
    ids: Vec<u32>,
    n_latents: usize,
    latent_start: usize,
}

impl Prompt {
    fn new(ids: Vec<u32>) -> Self {
        let latent_start = ids.len();
        Self { ids, n_latents: 0, latent_start }
    }

    fn push_latents(&mut self, n_latents: usize, latent: u32) {
        self.latent_start = self.ids.len();
        self.n_latents = n_latents;
        self.ids.extend(std::iter::repeat_n(latent, n_latents));
    }
}

impl Curriculum {
    /// The row to train on; `key` decides `uniform_prob` and, for graphs, the edges' order and the label.
    pub fn train_sequence(
        &self,
        example: &Encoded,
        stage: Stage,
        markers: SpecialTokens,
        key: SampleKey,
    ) -> Sequence {
        let stage = self.drawn_stage(example, stage, key);
        match example {
            Encoded::Text(text) => self.text_sequence(text, stage, markers),
            Encoded::Graph(graph) => self.graph_sequence(graph, stage, markers, key),
        }
    }

    /// The row to evaluate on: what is given, without labels.
    ///
    /// A text's prompt ends after `eot`. A graph's, from stage 0 on, always has the latents of the last stage
    /// and ends after `[A]`: the published code evaluates so, since earlier stages train no answer.
    pub fn prompt(
        &self,
        example: &Encoded,
        stage: Stage,
        markers: SpecialTokens,
        key: SampleKey,
    ) -> Sequence {
        let prompt = match example {
            Encoded::Text(text) => self.text_prompt(text, stage, markers),
            Encoded::Graph(graph) if self.shows_path(stage) || self.method == Method::NoCot => {
                Prompt::new(graph.question(markers, key))
            }
            Encoded::Graph(graph) => self.graph_answer_prompt(graph, markers, key),
        };
        Sequence::new(prompt, [])
    }

    /// The longest row of any of `stages`, to be held against the model's context.
    pub fn max_len(&self, example: &Encoded, stages: &[Stage], markers: SpecialTokens) -> usize {
        // Chance changes an order or a label, never a length, except through `uniform_prob`.
        let uniform = (0..=example.n_steps()).map(Stage::from_count);
        let uniform = uniform.filter(|_| self.uniform_prob > 0.0);
        let key = SampleKey { seed: 0, epoch: 0, index: 0 };
        let lengths = stages.iter().copied().chain(uniform).map(|stage| match example {
            Encoded::Text(text) => self.text_sequence(text, stage, markers).ids.len(),
            Encoded::Graph(graph) => self.graph_sequence(graph, stage, markers, key).ids.len(),
        });
        lengths.max().unwrap_or(0)
    }

    /// Refuses a set with an example that does not fit the model's context at one of `stages`; `path` is
    /// the set's file and `context` the number of positions, less those kept for generation.
    pub fn check_fits(
        &self,
        examples: &[Encoded],
        stages: &[Stage],
        markers: SpecialTokens,
        context: usize,
        path: &Path,
    ) -> Result<()> {
        let lengths = examples.iter().map(|example| self.max_len(example, stages, markers));
        let too_long: Vec<(usize, usize)> =
            lengths.enumerate().filter(|&(_, length)| length > context).collect();
        let Some(&(index, length)) = too_long.first() else { return Ok(()) };
        let problem = format!(
            "needs {length} positions, the model has {context} ({} of {} examples are too long). Take the long \
             examples out, lower `c_thought` or `max_latent_stage`, or choose a model with a longer context (`n_positions`).",
            too_long.len(),
            examples.len()
        );
        Err(Error::input(path, format!("example {}", index + 1), problem))
    }

    /// `uniform_prob`: now and then another stage than the epoch's, so that earlier ones are not forgotten.
    ///
    /// Only the methods with stages draw, and not before stage 0. A graph draws from the stages it has
    /// already been through, as published.
    fn drawn_stage(&self, example: &Encoded, stage: Stage, key: SampleKey) -> Stage {
        let staged = matches!(self.method, Method::Coconut | Method::NoThoughts | Method::Pause);
        let Some(current) = stage.n_replaced().filter(|_| staged && self.uniform_prob > 0.0) else {
            return stage;
        };
        let mut rng = key.rng(Stream::Stage);
        if !rng.random_bool(self.uniform_prob.clamp(0.0, 1.0)) {
            return stage;
        }
        let last = match example {
            Encoded::Text(text) => text.steps.len(),
            Encoded::Graph(graph) => graph.n_steps().min(current),
        };
        Stage::from_count(rng.random_range(0..=last))
    }

    fn text_prompt(&self, text: &Text, stage: Stage, markers: SpecialTokens) -> Prompt {
        let mut prompt = Prompt::new(text.question.clone());
        if self.has_latents() && stage != Stage::COT {
            prompt.ids.push(markers.start_latent);
            prompt.push_latents(self.n_latents(stage, text.steps.len()), markers.latent);
            prompt.ids.push(markers.end_latent);
        }
        prompt
    }

    fn text_sequence(&self, text: &Text, stage: Stage, markers: SpecialTokens) -> Sequence {
        let remaining = &text.steps[self.remaining_steps(stage, text.steps.len())];
        let labelled = remaining.iter().flatten().chain(&text.answer).copied();
        Sequence::new(self.text_prompt(text, stage, markers), labelled)
    }
}

// ---- Graphs ---------------------------------------------------------------------------------------------------------

impl Curriculum {
    fn shows_path(&self, stage: Stage) -> bool {
        self.method == Method::Cot || (self.method != Method::NoCot && stage == Stage::COT)
    }

    fn graph_sequence(
        &self,
        graph: &GraphPieces,
        stage: Stage,
        markers: SpecialTokens,
        key: SampleKey,
    ) -> Sequence {
        let answer = [graph.marks.answer, graph.target, markers.eos];
        if self.shows_path(stage) {
            let path = graph.path(key);
            return Sequence::new(
                Prompt::new(graph.question(markers, key)),
                path.into_iter().chain(answer),
            );
        }
        if self.method == Method::NoCot {
            return Sequence::new(Prompt::new(graph.question(markers, key)), answer);
        }
        let replaced = stage.n_replaced().unwrap_or(0);
        if replaced >= graph.n_steps() || replaced > self.max_latent_stage {
            return Sequence::new(self.graph_answer_prompt(graph, markers, key), [graph.target]);
        }
        let mut prompt = Prompt::new(graph.question(markers, key));
        if self.has_latents() {
            prompt.push_latents(replaced * self.c_thought, markers.latent);
        }
        let layers = if self.frontier { &graph.frontier } else { &graph.neighbor_k };
        let label =
            layers.get(replaced + 1).and_then(|layer| layer.choose(&mut key.rng(Stream::Label)));
        Sequence::new(prompt, label.copied())
    }

    /// `question · latents · [A]`: as many latents as steps (no more than M), whatever `pad_latent_to_max`
    /// says, as published: a further thought would search beyond the target.
    fn graph_answer_prompt(
        &self,
        graph: &GraphPieces,
        markers: SpecialTokens,
        key: SampleKey,
    ) -> Prompt {
        let mut prompt = Prompt::new(graph.question(markers, key));
        if self.has_latents() {
            let n_latents = graph.n_steps().min(self.max_latent_stage) * self.c_thought;
            prompt.push_latents(n_latents, markers.latent);
        }
        prompt.ids.push(graph.marks.answer);
        prompt
    }
}

impl GraphPieces {
    /// `<eos> a b | c d | … [Q] candidate candidate [R] root`, edges and candidates in a drawn order.
    pub fn question(&self, markers: SpecialTokens, key: SampleKey) -> Vec<u32> {
        let mut edges = self.edges.clone();
        edges.shuffle(&mut key.rng(Stream::Edges));
        let mut candidates = [self.target, self.neg_target];
        candidates.shuffle(&mut key.rng(Stream::Candidates));

        let mut ids = vec![markers.eos];
        for (index, edge) in edges.iter().enumerate() {
            if index > 0 {
                ids.push(self.marks.bar);
            }
            ids.extend(edge);
        }
        ids.push(self.marks.question);
        ids.extend(candidates);
        ids.extend([self.marks.root, self.root]);
        ids
    }

    /// A shortest path, without the root and with the target; drawn where there are several.
    pub fn path(&self, key: SampleKey) -> Vec<u32> {
        let mut rng = key.rng(Stream::Path);
        let mut here = self.root;
        let mut path = Vec::with_capacity(self.n_steps());
        for layer in self.neighbor_k.iter().skip(1) {
            let ahead: Vec<u32> =
                layer.iter().copied().filter(|&node| self.edges.contains(&[here, node])).collect();
            let Some(&next) = ahead.choose(&mut rng) else { break };
            path.push(next);
            here = next;
        }
        path
    }
}
