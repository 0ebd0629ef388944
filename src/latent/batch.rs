//! Rows of tokens laid out as columns, and the passes that compute them.
//!
//! A row is text, a latent, text, a latent, …, text. Thoughts are made one after the other: pass 0 computes the
//! text before the first latent; pass j the j-th latent of every row in its first column, and after it the text
//! up to the next latent. Text is right-aligned in its pass, so first latents line up and the token before a
//! latent is almost always the last column of the pass before. A row with fewer latents than its mates leaves the
//! passes in between empty and has its last text in the last pass, where every row ends. Padding is never visible
//! and has no position.
//!
//! ```text
//! Q Q ^ | ~ | ~ | ~ $ w w      two latents more than the row below
//! . Q ^ | ~ | . | . $ w w      Q question, ^ bot, ~ latent, $ eot, w words, . padding
//! ```
//!
//! Thinking in parallel, one region holds `^` and all latents; passes compute it again and again, and the last of
//! them is kept. A row may have a teacher, another row that begins as it does: what both begin with is computed
//! once, and each goes on by itself. The teacher does not see what else of its row the first pass computes.
//!
//! ```text
//! Q Q | ^ ~ ~ | ^ ~ ~ | … | $ w w            two iterations of three and more
//!
//! Q Q ^ | ~ | ~ | $ w w | s s s w w          and a teacher s s s w w after the same question
//! ```
//!
//! All of it is integers, made once, on whichever thread makes batches; forward and backward read it.

use std::ops::Range;

use coconut_kernels::TokenMask;

use super::{
    grid::Grid,
    plan::{Blocks, SHORTEST_SHARED, latents},
    reads::ReadPositions,
    runs::{Run, runs},
};
pub use super::{
    plan::{Parallel, PassPlan},
    row::{Chain, Row, SlotText, StepTarget, Target, TeacherRow},
    runs::{Branch, Fed, FedFrom},
};
use crate::model::{PassLayout, TokenInts, TokenLayout};

/// Targets that one pass predicts, ordered by column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassTargets {
    /// The pass.
    pub pass: usize,
    /// The targets; a target's column and position are those of the token that predicts it.
    pub targets: Vec<Target>,
}

/// Columns that are computed together, in one run of the transformer.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The columns of the batch. Passes may compute the same ones anew; only the last of those is kept.
    pub columns: Range<usize>,
    /// Whose columns they are.
    pub branch: Branch,
    /// How many columns the cache has that it sees.
    pub past: usize,
    /// The thoughts that it begins from; text only if `None`.
    pub fed: Option<Fed>,
    /// Whether later passes see its keys and values.
    pub keep: bool,
    /// For each row, after how many thoughts its tokens in this pass come; `None` if it has none there, or
    /// they are its teacher's.
    pub depths: Vec<Option<usize>>,
    /// Token ids of the text before and after the thoughts.
    pub(super) text: [TokenInts; 2],
    layout: PassLayout,
    /// The same, read at predictions only.
    predicting: PassLayout,
}

impl Pass {
    /// How its tokens lie in tensors, and which of them are read.
    pub fn layout(&self, positions: ReadPositions) -> &PassLayout {
        match positions {
            ReadPositions::All => &self.layout,
            ReadPositions::Predictions => &self.predicting,
        }
    }

    /// Which tokens its input embeddings hold.
    pub fn tokens(&self) -> &TokenLayout {
        &self.layout.tokens
    }

    /// Which tokens its keys and values are of.
    pub fn cached_tokens(&self) -> &TokenLayout {
        self.layout.cached_tokens()
    }

    /// Whether its thoughts are made of an earlier pass's hidden states.
    pub fn is_fed_from(&self, pass: usize) -> bool {
        self.fed.as_ref().is_some_and(|fed| fed.states.pass == pass)
    }
}

/// A batch: what to compute, in which order, and what to predict.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// The passes, in order.
    pub passes: Vec<Pass>,
    /// For each row, the column of its last token.
    pub ends: Vec<usize>,
    /// For each row, its number of tokens, latents included.
    pub lengths: Vec<usize>,
    /// For each row, its number of latents.
    pub latents: Vec<usize>,
    /// For each row, the columns of its latents.
    latent_columns: Vec<Vec<usize>>,
    /// Every label, ordered by column.
    pub targets: Vec<Target>,
    /// Every label of the rows' teachers, ordered by column.
    pub teacher_targets: Vec<Target>,
    /// Every token that positions of the rows are to predict besides labels.
    pub step_targets: Vec<PassTargets>,
    /// What slots of thoughts are to be read as, each with its row; ordered by slot.
    pub slots: Vec<(usize, SlotText)>,
    /// For each row, the columns of the token whose hidden states are compared with its teacher's, and of that;
    /// empty if none are compared.
    pub anchors: Vec<[usize; 2]>,
    /// For each row, the columns of the first pass that its teacher does not see; empty without teachers.
    pub unshared: Vec<Range<usize>>,
    /// For each row, where its teacher's steps and answer are; empty if their keys and values are not compared.
    pub chains: Vec<Chain>,
    /// Where the hidden states of each row's last latent are, if the plan reads them.
    pub last_latents: Option<FedFrom>,
    /// Tokens that rows have no place for.
    lost_step_targets: usize,
    /// Tokens that only teachers have.
    teacher_tokens: usize,
    grid: Grid,
}

impl Batch {
    /// Lays rows out.
    ///
    /// # Errors
    /// A sentence naming the row (from 0) if a row is empty, begins with a latent, which has no hidden state
    /// before it, or has nothing in common with its teacher.
    pub fn new(rows: &[Row], plan: &PassPlan) -> Result<Self, String> {
        let blocks = Blocks::new(rows, plan)?;
        let grid = Grid::new(rows, &blocks, plan);
        let latents: Vec<usize> =
            rows.iter().map(|row| latents(row, plan.latent).count()).collect();
        let runs = runs(&grid, &blocks, &latents, plan);
        let ends = grid.token_columns.iter().map(|columns| columns.last().copied().unwrap_or(0));
        let teachers = || rows.iter().filter_map(|row| row.teacher);
        let mut batch = Self {
            rows: rows.len(),
            columns: grid.columns,
            passes: Vec::new(),
            ends: ends.collect(),
            lengths: rows.iter().map(|row| row.ids.len()).collect(),
            latent_columns: latent_columns(rows, &grid, plan),
            latents,
            targets: Grid::targets(rows.iter().map(|row| row.labels), &grid.token_columns),
            teacher_targets: Grid::targets(
                teachers().map(|teacher| teacher.labels),
                &grid.teacher_columns,
            ),
            step_targets: step_targets(rows, &grid, &runs),
            slots: slots(rows),
            anchors: anchors(rows, &grid),
            unshared: grid.unshared(&blocks),
            chains: chains(rows, &blocks),
            last_latents: None,
            lost_step_targets: rows.iter().map(|row| row.lost_step_targets).sum(),
            teacher_tokens: blocks.teachers.iter().map(Range::len).sum(),
            grid,
        };
        if plan.reads_last_latent {
            batch.last_latents = Some(batch.last_latents(rows, &runs, plan)?);
        }
        let shared = if plan.shares_prefix { batch.shared_prefix(rows, &runs) } else { 0 };
        let pass = |number| batch.pass(number, &runs, plan, shared);
        batch.passes = (0..runs.len()).map(pass).collect();
        Ok(batch)
    }

    /// How many tokens of the first pass all rows begin with, none of which is read; 0 if they are not worth sharing.
    fn shared_prefix(&self, rows: &[Row], runs: &[Run]) -> usize {
        let [first, others @ ..] = rows else { return 0 };
        let columns = &runs[0].columns;
        let own = |row: usize| {
            self.columns_of(row).iter().take_while(|column| columns.contains(column)).count()
        };
        // Each row keeps a token of its own.
        let longest = (0..rows.len()).map(|row| own(row).saturating_sub(1)).min().unwrap_or(0);
        let alike =
            |other: &Row| first.ids.iter().zip(other.ids).take_while(|(a, b)| a == b).count();
        let alike = others.iter().map(alike).min().unwrap_or(0);
        let before_reads = self.predictions(0, runs).into_iter().map(|(row, column)| {
            self.columns_of(row).partition_point(|&at| at < columns.start + column)
        });
        let shared = before_reads.chain([longest, alike]).min().unwrap_or(0);
        if shared < SHORTEST_SHARED { 0 } else { shared }
    }

    fn pass(&self, number: usize, runs: &[Run], plan: &PassPlan, shared: usize) -> Pass {
        let (grid, run) = (&self.grid, &runs[number]);
        let Run { columns, branch, fed, keep, depths } = run.clone();
        // The first pass is long, and its rows differ in length: it leaves padding out.
        let first = runs[0].columns.clone();
        let unpads = !plan.replication && (grid.has_padding(&first) || shared > 0);
        let unpadded = unpads && number == 0;
        let (tokens, prefix) = match (unpadded, shared) {
            (false, _) => (TokenLayout::padded(self.rows, columns.len()), None),
            (true, 0) => {
                (TokenLayout::unpadded(self.rows, columns.len(), &grid.tokens(&columns)), None)
            }
            (true, shared) => {
                let all = grid.tokens(&columns);
                let (held, prefix) = TokenLayout::sharing(self.rows, columns.len(), &all, shared);
                (held, Some(prefix))
            }
        };
        let ints = |of: &[i32], columns: &Range<usize>| match unpadded && !columns.is_empty() {
            true => grid.ints_of(of, columns.start, &tokens.held()),
            false => grid.ints(of, columns),
        };
        let position_ids = ints(&grid.position_ids, &columns);
        let seen = match branch {
            Branch::Shared | Branch::Student => [0..columns.start, columns.clone()],
            Branch::Teacher => [first.clone(), columns.clone()],
        };
        let past = seen[0].len();
        let attention_mask = self.mask_of(&seen).unpadded(if unpads { first.len() } else { 0 });
        let attention_mask = match branch {
            Branch::Teacher => attention_mask.hiding(self.unshared.clone()),
            Branch::Shared | Branch::Student => attention_mask,
        };
        let fed_columns =
            fed.as_ref().map_or(columns.len()..columns.len(), |fed| fed.columns.clone());
        let before = columns.start..columns.start + fed_columns.start;
        let after = columns.start + fed_columns.end..columns.end;
        let text = [before, after].map(|columns| ints(&grid.ids, &columns));
        let layout = PassLayout::new(tokens, position_ids, attention_mask);
        let layout = PassLayout { shared: prefix, ..layout };
        let predicting = match plan.replication {
            true => layout.clone(),
            false => layout.clone().reading(&self.predictions(number, runs)),
        };
        let depths = depths
            .iter()
            .enumerate()
            .map(|(row, &depth)| depth.filter(|_| grid.has_tokens(row, &columns)))
            .collect();
        Pass { columns, branch, past, fed, keep, depths, text, layout, predicting }
    }

    /// The tokens `(row, column)` of a pass that predict a label, end their row, feed a thought or are compared,
    /// row after row; columns count from the pass's first.
    fn predictions(&self, number: usize, runs: &[Run]) -> Vec<(usize, usize)> {
        let Run { columns, keep, .. } = &runs[number];
        let labels = self.targets.iter().chain(&self.teacher_targets);
        let labels = labels.map(|target| (target.row, target.column));
        let ends = self.ends.iter().copied().enumerate();
        let anchors = self.anchors.iter().enumerate();
        let anchors = anchors.flat_map(|(row, both)| both.map(|column| (row, column)));
        let kept = labels.chain(ends).chain(anchors).filter(|_| *keep);
        let steps = self.step_targets.iter().filter(|steps| steps.pass == number);
        let steps =
            steps.flat_map(|steps| &steps.targets).map(|target| (target.row, target.column));
        let own = kept.chain(steps).filter(|(_, column)| columns.contains(column));
        let fed = runs.iter().filter_map(|run| run.fed.as_ref()).map(|fed| &fed.states);
        let read = fed.chain(&self.last_latents);
        let feeds = read.filter(|states| states.pass == number).flat_map(|states| {
            let thoughts = states.columns.len() / self.rows;
            states.columns.iter().enumerate().map(move |(at, &column)| (at / thoughts, column))
        });
        let mut tokens: Vec<(usize, usize)> =
            own.map(|(row, column)| (row, column - columns.start)).chain(feeds).collect();
        tokens.sort_unstable();
        tokens.dedup();
        if tokens.is_empty() {
            // Keys and values are all that is wanted; one token keeps the last block's tensors from being empty.
            tokens.extend(self.grid.tokens(columns).last());
        }
        tokens
    }

    /// Where each row's last latent is; in the same pass for all rows, which have as many.
    fn last_latents(&self, rows: &[Row], runs: &[Run], plan: &PassPlan) -> Result<FedFrom, String> {
        let of_row = |(index, row): (usize, &Row)| {
            let last = latents(row, plan.latent).last();
            let last = last.ok_or_else(|| format!("row {index} has no latent to read"))?;
            Ok::<_, String>(self.grid.token_columns[index][last])
        };
        let columns: Vec<usize> = rows.iter().enumerate().map(of_row).collect::<Result<_, _>>()?;
        let holds = |run: &Run| run.keep && columns.iter().all(|c| run.columns.contains(c));
        let alike = self.latents.windows(2).all(|two| two[0] == two[1]);
        let pass = runs.iter().position(holds).filter(|_| alike);
        let pass =
            pass.ok_or("rows have different numbers of latents, and their last ones are read")?;
        let start = runs[pass].columns.start;
        Ok(FedFrom { pass, columns: columns.iter().map(|column| column - start).collect() })
    }

    /// Which columns of some ranges, side by side, hold tokens.
    fn mask_of(&self, ranges: &[Range<usize>]) -> TokenMask {
        let rows = self.grid.attention_mask.chunks(self.columns.max(1));
        let of_row = |row: &[bool]| -> Vec<bool> {
            ranges.iter().flat_map(|range| row[range.clone()].iter().copied()).collect()
        };
        let columns = ranges.iter().map(Range::len).sum();
        TokenMask::new(self.rows, columns, rows.flat_map(of_row).collect::<Vec<bool>>())
    }

    /// Which of the first `columns` columns hold tokens.
    pub fn attention_mask(&self, columns: usize) -> TokenMask {
        self.mask_of(std::slice::from_ref(&(0..columns)))
    }

    /// The columns that hold a row's tokens, in order.
    pub fn columns_of(&self, row: usize) -> &[usize] {
        &self.grid.token_columns[row]
    }

    /// The columns that hold a row's latents, in order.
    pub fn latent_columns(&self, row: usize) -> &[usize] {
        &self.latent_columns[row]
    }

    /// Number of columns of the first chunk of a cache if it leaves padding out, else 0
    /// ([`TokenMask::unpadded`]).
    pub fn unpadded_columns(&self) -> usize {
        let first = self.passes.first().filter(|pass| pass.layout.tokens.is_unpadded());
        first.map_or(0, |pass| pass.columns.len())
    }

    /// Number of tokens, padding not counted, nor what rows and their teachers share counted twice.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum::<usize>() + self.teacher_tokens
    }

    /// Number of tokens that positions of the rows are to predict besides labels, those that have no place counted.
    pub fn n_step_targets(&self) -> usize {
        self.lost_step_targets + self.step_targets.iter().map(|of| of.targets.len()).sum::<usize>()
    }

    /// Number of caches: one for the rows, and one for their teachers.
    pub fn caches(&self) -> usize {
        1 + usize::from(self.grid.teacher.is_some())
    }
}

/// What positions predict besides labels, by pass.
fn step_targets(rows: &[Row], grid: &Grid, runs: &[Run]) -> Vec<PassTargets> {
    let mut by_pass: Vec<PassTargets> =
        (0..runs.len()).map(|pass| PassTargets { pass, targets: Vec::new() }).collect();
    for (row, (Row { step_targets, .. }, columns)) in
        rows.iter().zip(&grid.token_columns).enumerate()
    {
        for &StepTarget { position, token, iteration } in *step_targets {
            let Some(&column) = columns.get(position) else { continue };
            let mut computing = runs
                .iter()
                .enumerate()
                .filter(|(_, run)| run.branch != Branch::Teacher && run.columns.contains(&column));
            let pass = match iteration {
                Some(iteration) => computing.nth(iteration),
                None => computing.find(|(_, run)| run.keep),
            };
            if let Some((pass, _)) = pass {
                by_pass[pass].targets.push(Target { row, column, position, token });
            }
        }
    }
    by_pass.retain(|of| !of.targets.is_empty());
    by_pass.iter_mut().for_each(|of| of.targets.sort_by_key(|target| target.column));
    by_pass
}

/// What slots are to be read as, slot by slot.
fn slots(rows: &[Row]) -> Vec<(usize, SlotText)> {
    let numbered = rows.iter().map(|row| row.slots).enumerate();
    let of_row = |(row, slots): (usize, &[SlotText])| {
        slots.iter().map(|slot| (row, slot.clone())).collect::<Vec<_>>()
    };
    let mut slots: Vec<(usize, SlotText)> = numbered.flat_map(of_row).collect();
    slots.sort_by_key(|(_, text)| text.slot);
    slots
}

/// The columns of each row's latents.
fn latent_columns(rows: &[Row], grid: &Grid, plan: &PassPlan) -> Vec<Vec<usize>> {
    let of_row = |(row, columns): (&Row, &Vec<usize>)| {
        latents(row, plan.latent).map(|position| columns[position]).collect()
    };
    rows.iter().zip(&grid.token_columns).map(of_row).collect()
}

/// Where teachers' steps and answers are in their own pass.
fn chains(rows: &[Row], blocks: &Blocks) -> Vec<Chain> {
    let of_row = |(row, own): (&Row, &Range<usize>)| {
        let answer = row.teacher?.answer?.max(own.start) - own.start;
        Some(Chain { steps: 0..answer, answer: answer..own.len() })
    };
    let all: Option<Vec<Chain>> = rows.iter().zip(&blocks.teachers).map(of_row).collect();
    all.unwrap_or_default()
}

/// The columns whose hidden states are compared.
fn anchors(rows: &[Row], grid: &Grid) -> Vec<[usize; 2]> {
    let of_row = |(index, row): (usize, &Row)| {
        let [student, teacher] = row.teacher?.anchors?;
        Some([grid.token_columns[index][student], grid.teacher_columns[index][teacher]])
    };
    let all: Option<Vec<[usize; 2]>> = rows.iter().enumerate().map(of_row).collect();
    all.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: u32 = 9;

    fn rows<'a>(ids: &[&'a [u32]]) -> Vec<Row<'a>> {
        ids.iter().map(|ids| Row::unlabelled(ids)).collect()
    }

    fn batch(rows: &[Row]) -> Batch {
        Batch::new(rows, &PassPlan::sequential(L)).unwrap()
    }

    /// The columns of the pass before that feed a pass, one a row.
    fn fed_from(batch: &Batch, pass: usize) -> &[usize] {
        &batch.passes[pass].fed.as_ref().unwrap().states.columns
    }

    fn table(batch: &Batch) -> Vec<String> {
        let token = |row: usize, column: usize| {
            let (at, grid) = (row * batch.columns + column, &batch.grid);
            if grid.attention_mask[at] { grid.ids[at].to_string() } else { ".".into() }
        };
        (0..batch.rows)
            .map(|row| {
                let pass = |pass: &Pass| {
                    pass.columns.clone().map(|c| token(row, c)).collect::<Vec<_>>().join(" ")
                };
                batch.passes.iter().map(pass).collect::<Vec<_>>().join(" | ")
            })
            .collect()
    }

    #[test]
    fn first_latents_line_up_and_every_row_ends_in_the_last_pass() {
        let batch =
            batch(&rows(&[&[1, 2, 3, L, L, L, 4, 5], &[1, 2, L, 4, 5, 6], &[1, 2, 3, 4, 5]]));
        assert_eq!(
            table(&batch),
            ["1 2 3 | 9 | 9 | 9 . 4 5", ". 1 2 | 9 | . | . 4 5 6", "1 2 3 | . | . | . . 4 5"]
        );
        assert_eq!(batch.ends, [8, 8, 8]);
        assert_eq!(batch.latents, [3, 1, 0]);
        assert_eq!(batch.grid.position_ids[9..18], [0, 0, 1, 2, 0, 0, 3, 4, 5]);
        assert_eq!(fed_from(&batch, 1), [2, 2, 2]);
        assert_eq!(fed_from(&batch, 3), [0, 0, 0]);
    }

    #[test]
    fn words_between_latents_and_a_latent_after_a_latent() {
        let batch = batch(&rows(&[&[1, L, 2, 3, L, 4], &[1, L, L, 5, 6]]));
        assert_eq!(table(&batch), ["1 | 9 2 3 | 9 . 4", "1 | 9 . . | 9 5 6"]);
        // The second latent of the second row feeds on the first latent, not on padding.
        assert_eq!(fed_from(&batch, 2), [2, 0]);
    }

    #[test]
    fn labels_are_predicted_by_the_token_before() {
        let labels = [None, None, None, None, Some(4), Some(5)];
        let row = Row::new(&[1, 2, L, L, 4, 5], &labels);
        let batch = batch(&[row]);
        let target = |column, position, token| Target { row: 0, column, position, token };
        assert_eq!(batch.targets, [target(3, 4, 4), target(4, 5, 5)]);
    }

    #[test]
    fn a_row_may_end_in_a_latent_but_not_begin_with_one() {
        let batch = batch(&rows(&[&[1, L], &[1, 2, 3]]));
        assert_eq!(table(&batch), ["1 | 9 . .", "1 | . 2 3"]);
        assert_eq!(batch.ends, [1, 3]);
        let wrong = |ids: &[&[u32]]| Batch::new(&rows(ids), &PassPlan::sequential(L)).unwrap_err();
        assert!(wrong(&[&[L, 1]]).contains("row 0"));
        assert!(wrong(&[&[1], &[]]).contains("row 1"));
    }

    #[test]
    fn latents_have_positions_of_their_own_where_the_plan_says_so() {
        let plan = PassPlan { first_latent_position: Some(100), ..PassPlan::sequential(L) };
        let batch = Batch::new(&rows(&[&[1, 2, L, L, 4], &[1, L, 5]]), &plan).unwrap();
        assert_eq!(table(&batch), ["1 2 | 9 | 9 4", ". 1 | 9 | . 5"]);
        assert_eq!(batch.grid.position_ids, [0, 1, 100, 101, 4, 0, 0, 100, 0, 2]);
    }

    #[test]
    fn the_first_pass_leaves_padding_out_but_not_for_the_replication() {
        let ids: [&[u32]; 2] = [&[1, 2, L, L, 4], &[1, L, 5]];
        let plan = PassPlan::sequential(L);
        for replication in [false, true] {
            let batch = Batch::new(&rows(&ids), &PassPlan { replication, ..plan }).unwrap();
            let shape = batch.passes[0].text[0].shape;
            assert_eq!(shape, if replication { [2, 2] } else { [1, 3] });
            assert_eq!(batch.unpadded_columns(), if replication { 0 } else { 2 });
        }
        // Of the last pass, two columns long, both rows are read in one: `ie` in the first pass's.
        let batch = Batch::new(&rows(&ids), &PassPlan { replication: true, ..plan }).unwrap();
        let fed = batch.passes[2].fed.as_ref().unwrap();
        assert_eq!(fed.inputs, FedFrom { pass: 0, columns: vec![0, 0] });
    }

    /// Rows of which the latents are thought of in parallel, each thought made of the column before it.
    fn parallel(rows: &[Row], iterations: usize) -> Batch {
        let parallel = Parallel { iterations, shift: true, residual: false };
        Batch::new(rows, &PassPlan::parallel(L, parallel)).unwrap()
    }

    /// Thinking in parallel, each thought made of the column before, as often as there are latents, is thinking
    /// one after the other: values and gradients, whatever is computed again.
    #[test]
    fn passes_over_the_same_columns_come_to_the_same() {
        use crate::{
            latent::{BackwardOptions, LatentModel, ReadSet, Recompute, Trace, backward},
            model::{ModelConfig, Transformer},
        };
        use burn::{
            module::Module,
            tensor::{Device, Tensor},
        };

        let ids: [&[u32]; 4] = [
            &[1, 2, 3, 7, L, L, L, 8, 4, 5],
            &[4, 7, L, L, 8, 6, 1],
            &[2, 2, 5, 6, 7, L, 8],
            &[5, 4, 3],
        ];
        let rows = rows(&ids);
        let mut config = ModelConfig::gpt2(10, 16, 8, 2, 2);
        config.initializer_range = 0.3;
        let transformer = Transformer::random(config, 3, &Device::flex());
        for feedback in ["hs[-1]", "mlp(hs[1])+ie"] {
            let config = feedback.parse::<crate::latent::Feedback>().unwrap().into();
            let sizes = Default::default();
            let model = LatentModel::new(transformer.clone(), config, sizes).unwrap().train();
            let of = |batch: &Batch, recompute| {
                let mut values = Vec::new();
                // Hidden states of all layers where rows end, and at a latent and before one.
                let loss = |trace: &Trace| {
                    let mut total = Tensor::<1>::zeros([1], &model.device()).require_grad();
                    for (row, position) in [(0, 9), (0, 5), (1, 2), (1, 6), (2, 4), (2, 6), (3, 2)]
                    {
                        for k in 0..3 {
                            let token = (row, batch.columns_of(row)[position]);
                            let x = trace.hidden_at(batch, k, &[token])?;
                            values.extend(x.clone().into_data().try_into_vec::<f32>().unwrap());
                            total = total + (x.clone() * x.clone() + x).sum();
                        }
                    }
                    Some((total, ()))
                };
                let options =
                    BackwardOptions { reads: ReadSet::ALL, recompute, ..Default::default() };
                let (found, ()) = backward(&model, &model, batch, options, loss).unwrap();
                (values, found)
            };
            let (values, expected) = of(&batch(&rows), Recompute::None);
            for recompute in [Recompute::None, Recompute::Passes, Recompute::Blocks] {
                let (ours, found) = of(&parallel(&rows, 3), recompute);
                assert_eq!(ours.len(), values.len());
                for (a, b) in ours.iter().zip(&values) {
                    assert!((a - b).abs() < 1e-5, "{feedback} {recompute:?}: {a} {b}");
                }
                for (name, flat) in &found {
                    let numbers = |x: &crate::model::parameters::FlatTensor| {
                        x.values.clone().into_data().try_into_vec::<f32>().unwrap()
                    };
                    let ours = numbers(flat);
                    let theirs = expected.get(name).map_or(vec![0.0; ours.len()], numbers);
                    let size = theirs.iter().fold(1f32, |size, x| size.max(x.abs()));
                    for (a, b) in ours.iter().zip(&theirs) {
                        let off = (a - b).abs() / size;
                        assert!(off < 1e-5, "{feedback} {recompute:?} {name}: {a} {b}");
                    }
                }
            }
            // Fewer times than there are latents is something else.
            let (ours, _) = of(&parallel(&rows, 2), Recompute::None);
            assert!(ours.iter().zip(&values).any(|(a, b)| (a - b).abs() > 1e-3));
        }
    }
}
