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
//! That is `row: stages`. The other rows (docs/method.md 3.5):
//!
//! | row | sequence |
//! | --- | --- |
//! | `blocks`, stage s | `Q · bot · latent × (min(s, M)·c) · eot · steps[s..] · A`, at M for good |
//! | `fixed` | `Q · bot · latent × c · eot · A` |
//! | `tokenwise`, stage s | `Q · steps without their first s + o tokens · A`, o drawn |
//! | a teacher's | `Q · steps without the last one · A` |
//!
//! With `pad_latent_to_max`, n does not bound the number of latents. The published code differs in one case:
//! without padding and with n < s ≤ M it trains with s·c latents and evaluates with n·c; here training and
//! evaluation always use the same number.

use std::{ops::Range, path::Path};

use super::{
    Encoded, Method, RowKind, SampleKey, SpecialTokens, Stage,
    draw::Stream,
    encode::{GraphPieces, Text},
};
use crate::{Error, Result};
use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

/// The settings of a curriculum, under the names of the published recipes.
#[derive(Clone, Debug, PartialEq)]
pub struct Curriculum {
    /// What is trained.
    pub method: Method,
    /// Which tokens a row holds.
    pub row: RowKind,
    /// `c`: continuous thoughts for each step that they replace; of a `fixed` row, all of them.
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
    /// λ of removal smoothing, for `tokenwise` rows to train on.
    pub removal_smoothing: Option<f64>,
    /// Of `tokenwise` rows, the stage from which on no token of the steps is left.
    pub remove_all_from: Option<usize>,
    /// So many latents in every row that has any, whatever the stage.
    pub latents: Option<usize>,
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
    /// The tokens of each step that the row's latents stand for, so that it does not show them; the k-th block of `c`
    /// latents stands for the k-th, and latents in one for all of them.
    pub replaced: Vec<Vec<u32>>,
    /// The position of the token before the first one of the answer's value, in a row to train on.
    pub anchor: usize,
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
        Self { ids, labels, n_latents, latent_start, prompt_len, replaced: Vec::new(), anchor: 0 }
    }

    /// The same, whose last `after` tokens begin with the answer's value.
    fn anchored(self, after: usize) -> Self {
        Self { anchor: self.ids.len().saturating_sub(after + 1), ..self }
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
            row: method.row(),
            c_thought,
            max_latent_stage,
            pad_latent_to_max,
            uniform_prob: 0.0,
            frontier: false,
            removal_smoothing: None,
            remove_all_from: None,
            latents: None,
        }
    }

    /// The same, with every row at its own stage: none is drawn from another one, and none loses more tokens by
    /// chance.
    pub fn unmixed(&self) -> Self {
        Self { uniform_prob: 0.0, removal_smoothing: None, ..self.clone() }
    }

    /// Whether the sequences carry `bot` and `eot`, and latents between them.
    pub fn has_latents(&self) -> bool {
        self.method.has_latents() && self.row != RowKind::Tokenwise
    }

    /// The last stage that rows of this kind know.
    pub fn last_stage(&self) -> Stage {
        self.row.last_stage(self.max_latent_stage, self.remove_all_from)
    }

    /// The most latents that a row has.
    pub fn most_latents(&self) -> usize {
        match self.row {
            RowKind::Fixed => self.c_thought,
            _ => self.c_thought * self.max_latent_stage,
        }
    }

    /// The number of steps that have given way to latents in rows of a stage, at most.
    pub fn n_replaced(&self, stage: Stage) -> usize {
        match self.row {
            RowKind::Fixed => usize::from(stage != Stage::COT),
            _ => stage.n_replaced().unwrap_or(0).min(self.max_latent_stage),
        }
    }

    /// The number of latents of an example with `n_steps` steps, in training and evaluation alike.
    pub fn n_latents(&self, stage: Stage, n_steps: usize) -> usize {
        if !self.has_latents() {
            return 0;
        }
        if let Some(latents) = self.latents.filter(|_| stage != Stage::COT) {
            return latents;
        }
        let replaced = self.n_replaced(stage);
        let all = self.pad_latent_to_max || matches!(self.row, RowKind::Fixed | RowKind::Blocks);
        let replaced = if all { replaced } else { replaced.min(n_steps) };
        replaced * self.c_thought
    }

    /// The number of an example's first steps that a stage does not show.
    fn n_skipped_steps(&self, stage: Stage, n_steps: usize) -> usize {
        match (self.method, stage.n_replaced()) {
            (Method::Cot, _) => 0,
            (Method::NoCot, _) => n_steps,
            (_, None) => 0,
            (_, Some(replaced)) => match self.row {
                RowKind::Fixed => n_steps,
                RowKind::Blocks => replaced.min(self.max_latent_stage).min(n_steps),
                RowKind::Stages if replaced > self.max_latent_stage => n_steps,
                RowKind::Stages => replaced.min(n_steps),
                RowKind::Tokenwise if replaced == 0 => 0,
                RowKind::Tokenwise => n_steps,
            },
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

    /// The length of an example's teacher's row.
    pub fn teacher_len(&self, example: &Encoded, markers: SpecialTokens, last_step: bool) -> usize {
        let key = SampleKey { seed: 0, epoch: 0, index: 0 };
        self.teacher_sequence(example, markers, key, last_step).ids.len()
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
        if self.row == RowKind::Tokenwise {
            return self.smoothed(stage, key);
        }
        let unstaged = matches!(self.method, Method::Cot | Method::NoCot | Method::NoCurriculum);
        let staged = !unstaged && matches!(self.row, RowKind::Stages | RowKind::Blocks);
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

    /// The number of tokens of the steps that a stage takes away, from the left.
    fn n_removed(&self, stage: Stage) -> usize {
        let removed = stage.n_replaced().unwrap_or(0);
        if self.remove_all_from.is_some_and(|all| removed >= all) { usize::MAX } else { removed }
    }

    /// Removal smoothing (Deng et al. 2024, section 3.2): o more tokens are missing with probability ∝ e^{−λ·o}.
    fn smoothed(&self, stage: Stage, key: SampleKey) -> Stage {
        let (Some(lambda), Some(removed)) = (self.removal_smoothing, stage.n_replaced()) else {
            return stage;
        };
        let u: f64 = key.rng(Stream::Removal).random();
        // P(o ≥ k) = e^{−λ·k}.
        let more = (-(1.0 - u).ln() / lambda).floor();
        Stage::from_count(removed.saturating_add(more as usize))
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
        let n_steps = text.steps.len();
        let value = text.answer.len() - text.value_start.min(text.answer.len());
        if self.row == RowKind::Tokenwise {
            let removed = self.n_removed(stage);
            let chain = text.steps.iter().flatten().skip(removed).chain(&text.answer).copied();
            return Sequence::new(self.text_prompt(text, stage, markers), chain).anchored(value);
        }
        let remaining = &text.steps[self.remaining_steps(stage, n_steps)];
        let labelled = remaining.iter().flatten().chain(&text.answer).copied();
        let row = Sequence::new(self.text_prompt(text, stage, markers), labelled).anchored(value);
        let replaced = match self.has_latents() {
            true => &text.steps[..self.n_skipped_steps(stage, n_steps)],
            false => &[],
        };
        Sequence { replaced: replaced.to_vec(), ..row }
    }

    /// The row beside a row to train on that still has its steps: all of them, or all but the last, which says
    /// what the answer is.
    pub fn teacher_sequence(
        &self,
        example: &Encoded,
        markers: SpecialTokens,
        key: SampleKey,
        last_step: bool,
    ) -> Sequence {
        match example {
            Encoded::Text(text) => {
                let shown = text.steps.len().saturating_sub(usize::from(!last_step));
                let labelled = text.steps[..shown].iter().flatten().chain(&text.answer).copied();
                let value = text.answer.len() - text.value_start.min(text.answer.len());
                Sequence::new(Prompt::new(text.question.clone()), labelled).anchored(value)
            }
            Encoded::Graph(graph) => {
                let path = graph.path(key);
                let shown = path.len().saturating_sub(usize::from(!last_step));
                let answer = [graph.marks.answer, graph.target, markers.eos];
                let labelled = path[..shown].iter().copied().chain(answer);
                Sequence::new(Prompt::new(graph.question(markers, key)), labelled).anchored(2)
            }
        }
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
        let all = self.row == RowKind::Fixed;
        if all || replaced >= graph.n_steps() || replaced > self.max_latent_stage {
            let prompt = self.graph_answer_prompt(graph, markers, key);
            return Sequence::new(prompt, [graph.target]).anchored(1);
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
            let blocks = match self.row {
                RowKind::Fixed => 1,
                RowKind::Blocks => self.max_latent_stage,
                _ => graph.n_steps().min(self.max_latent_stage),
            };
            let latents = self.latents.unwrap_or(blocks * self.c_thought);
            prompt.push_latents(latents, markers.latent);
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
