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
//! All of it is integers, made once, on whichever thread makes batches; forward and backward read it.

use std::ops::Range;

use coconut_kernels::TokenMask;

use super::reads::ReadPositions;
use crate::model::{PassLayout, TokenInts, TokenLayout};

/// One row before it is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// For each token, itself if it is to be predicted (Hugging Face's `labels`; `None` is −100).
    /// Empty if nothing is.
    pub labels: &'a [Option<u32>],
}

/// Where a label is predicted, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Row of the batch.
    pub row: usize,
    /// Column of the token before the labelled one.
    pub column: usize,
    /// Position in the row of the labelled token.
    pub position: usize,
    /// The labelled token's id.
    pub token: u32,
}

/// How rows become passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassPlan {
    /// The token id that is a latent; with `None` every token is text.
    pub latent: Option<u32>,
    /// The position id of a row's first latent, from which its others count on; that of any token in its place
    /// if `None`.
    pub first_latent_position: Option<usize>,
    /// Whether passes are laid out as the replication reads them: padding is computed too, hidden states are
    /// fed back from the last column of the pass before, and input embeddings from as many columns from the
    /// rows' start as that pass is long.
    pub replication: bool,
}

impl PassPlan {
    /// Tokens equal to `latent` are fed back to, one after the other.
    pub fn sequential(latent: u32) -> Self {
        Self { latent: Some(latent), ..Self::default() }
    }
}

/// Columns that are computed together, in one run of the transformer.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The columns of the batch. Passes may compute the same ones anew; only the last of those is kept.
    pub columns: Range<usize>,
    /// The thoughts that it begins from; text only if `None`.
    pub fed: Option<Fed>,
    /// Whether later passes see its keys and values.
    pub keep: bool,
    /// For each row, after how many thoughts its tokens in this pass come; `None` if it has none there.
    pub depths: Vec<Option<usize>>,
    /// Token ids of the text before and after the thoughts.
    pub(super) text: [TokenInts; 2],
    layout: PassLayout,
    /// The same, read at predictions only.
    predicting: PassLayout,
}

/// Columns of a pass that are fed thoughts, and where these come from. Rows without those latents have padding
/// there, and what they are fed is not visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fed {
    /// The columns, counted from the pass's first.
    pub columns: Range<usize>,
    /// Which of a row's thoughts (from 0) the first of them holds; the others follow on.
    pub first_thought: usize,
    /// Where the hidden states are that become thoughts.
    pub states: FedFrom,
    /// Where the input embeddings are: in the same pass, or in one that is not fed.
    pub inputs: FedFrom,
}

/// One column of an earlier pass for each row and thought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FedFrom {
    /// The pass.
    pub pass: usize,
    /// Its columns, counted from its first, row after row: `[rows, thoughts]`.
    pub columns: Vec<usize>,
}

impl Fed {
    /// How the thoughts of a batch's rows lie: `[rows, thoughts, d_model]`.
    pub fn tokens(&self, rows: usize) -> TokenLayout {
        TokenLayout::padded(rows, self.columns.len())
    }
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
    /// Every label, ordered by column.
    pub targets: Vec<Target>,
    grid: Grid,
}

impl Batch {
    /// Lays rows out.
    ///
    /// # Errors
    /// A sentence naming the row (from 0) if a row is empty or begins with a latent, which has no
    /// hidden state before it.
    pub fn new(rows: &[Row], plan: &PassPlan) -> Result<Self, String> {
        let slots = slots(rows, plan.latent)?;
        let grid = Grid::new(rows, &slots, plan);
        let runs = sequential(&grid, &slots, plan);
        Ok(Self::from_runs(rows, grid, runs, plan))
    }

    /// A batch whose passes are `runs`.
    fn from_runs(rows: &[Row], grid: Grid, runs: Vec<Run>, plan: &PassPlan) -> Self {
        let ends = grid.token_columns.iter().map(|columns| columns.last().copied().unwrap_or(0));
        let mut batch = Self {
            rows: rows.len(),
            columns: grid.columns,
            passes: Vec::new(),
            ends: ends.collect(),
            lengths: rows.iter().map(|row| row.ids.len()).collect(),
            latents: rows.iter().map(|row| latents(row, plan.latent).count()).collect(),
            targets: grid.targets(rows),
            grid,
        };
        batch.passes = (0..runs.len()).map(|number| batch.pass(number, &runs, plan)).collect();
        batch
    }

    fn pass(&self, number: usize, runs: &[Run], plan: &PassPlan) -> Pass {
        let (grid, run) = (&self.grid, &runs[number]);
        let Run { columns, fed, keep, depths } = run.clone();
        // The first pass is long, and its rows differ in length: it leaves padding out.
        let first = runs[0].columns.clone();
        let unpads = !plan.replication && grid.has_padding(&first);
        let unpadded = unpads && number == 0;
        let tokens = match unpadded {
            true => TokenLayout::unpadded(self.rows, columns.len(), &grid.tokens(&columns)),
            false => TokenLayout::padded(self.rows, columns.len()),
        };
        let position_ids = grid.ints(&grid.position_ids, &columns, unpadded);
        let attention_mask =
            self.attention_mask(columns.end).unpadded(if unpads { first.len() } else { 0 });
        let layout = PassLayout::new(tokens, position_ids, attention_mask);
        let predicting = match plan.replication {
            true => layout.clone(),
            false => layout.clone().reading(&self.predictions(number, runs)),
        };
        let fed_columns =
            fed.as_ref().map_or(columns.len()..columns.len(), |fed| fed.columns.clone());
        let before = columns.start..columns.start + fed_columns.start;
        let after = columns.start + fed_columns.end..columns.end;
        let text = [before, after].map(|columns| grid.ints(&grid.ids, &columns, unpadded));
        let has_tokens = |row: usize| grid.token_columns[row].iter().any(|c| columns.contains(c));
        let depths = depths
            .iter()
            .enumerate()
            .map(|(row, &depth)| has_tokens(row).then_some(depth))
            .collect();
        Pass { columns, fed, keep, depths, text, layout, predicting }
    }

    /// The tokens `(row, column)` of a pass that predict a label, end their row or feed a thought, row after row;
    /// columns count from the pass's first.
    fn predictions(&self, number: usize, runs: &[Run]) -> Vec<(usize, usize)> {
        let Run { columns, keep, .. } = &runs[number];
        let labels = self.targets.iter().map(|target| (target.row, target.column));
        let ends = self.ends.iter().copied().enumerate();
        let own = labels.chain(ends).filter(|(_, column)| *keep && columns.contains(column));
        let fed = runs.iter().filter_map(|run| run.fed.as_ref()).map(|fed| &fed.states);
        let feeds = fed.filter(|states| states.pass == number).flat_map(|states| {
            let thoughts = states.columns.len() / self.rows;
            states.columns.iter().enumerate().map(move |(at, &column)| (at / thoughts, column))
        });
        let mut tokens: Vec<(usize, usize)> =
            own.map(|(row, column)| (row, column - columns.start)).chain(feeds).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// Which of the first `columns` columns hold tokens.
    pub fn attention_mask(&self, columns: usize) -> TokenMask {
        let rows = self.grid.attention_mask.chunks(self.columns.max(1));
        let tokens: Vec<bool> = rows.flat_map(|row| row[..columns].iter().copied()).collect();
        TokenMask::new(self.rows, columns, tokens)
    }

    /// The columns that hold a row's tokens, in order.
    pub fn columns_of(&self, row: usize) -> &[usize] {
        &self.grid.token_columns[row]
    }

    /// Number of columns of the first chunk of a cache if it leaves padding out, else 0
    /// ([`TokenMask::unpadded`]).
    pub fn unpadded_columns(&self) -> usize {
        let first = self.passes.first().filter(|pass| pass.layout.tokens.is_unpadded());
        first.map_or(0, |pass| pass.columns.len())
    }

    /// Number of tokens, padding not counted.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

/// What a pass computes: from this and the grid follows everything else of it.
#[derive(Clone, Debug)]
struct Run {
    columns: Range<usize>,
    fed: Option<Fed>,
    keep: bool,
    /// For each row, after how many thoughts its tokens come.
    depths: Vec<usize>,
}

/// A pass for each slot, fed one thought of each row after the first; all are kept.
fn sequential(grid: &Grid, slots: &[Vec<Slot>], plan: &PassPlan) -> Vec<Run> {
    let run = |(number, columns): (usize, &Range<usize>)| {
        let fed = number.checked_sub(1).map(|before| {
            let (first, source) = (grid.blocks[0].len(), &grid.blocks[before]);
            let last = source.len() - 1;
            let of_row = |(row, slots): (usize, &Vec<Slot>)| {
                let latent = slots[number].left.clone().next().filter(|_| !plan.replication);
                latent.map_or(last, |latent| grid.token_columns[row][latent - 1] - source.start)
            };
            let states: Vec<usize> = slots.iter().enumerate().map(of_row).collect();
            let inputs = match plan.replication {
                true => FedFrom { pass: 0, columns: vec![last.min(first - 1); slots.len()] },
                false => FedFrom { pass: before, columns: states.clone() },
            };
            let states = FedFrom { pass: before, columns: states };
            Fed { columns: 0..1, first_thought: before, states, inputs }
        });
        let latents =
            slots.iter().map(|row| row.iter().filter(|slot| !slot.left.is_empty()).count());
        let depths = latents.map(|latents| latents.min(number)).collect();
        Run { columns: columns.clone(), fed, keep: true, depths }
    };
    grid.blocks.iter().enumerate().map(run).collect()
}

/// Tokens in rows and columns.
#[derive(Clone, Debug)]
struct Grid {
    columns: usize,
    /// The columns of each slot.
    blocks: Vec<Range<usize>>,
    /// For each row, the columns of its tokens, in order.
    token_columns: Vec<Vec<usize>>,
    ids: Vec<i32>,             // [rows, columns], 0 at padding
    position_ids: Vec<i32>,    // [rows, columns], 0 at padding
    attention_mask: Vec<bool>, // [rows, columns], false at padding
}

impl Grid {
    fn new(rows: &[Row], slots: &[Vec<Slot>], plan: &PassPlan) -> Self {
        let mut columns = 0;
        let block = |number: usize| {
            let widest = |part: fn(&Slot) -> &Range<usize>| {
                slots.iter().map(|row| part(&row[number]).len()).max().unwrap_or(0)
            };
            let start = columns;
            columns += widest(|slot| &slot.left) + widest(|slot| &slot.right);
            start..columns
        };
        let blocks: Vec<_> = (0..slots.first().map_or(0, Vec::len)).map(block).collect();
        let mut grid = Self {
            columns,
            blocks,
            token_columns: Vec::with_capacity(rows.len()),
            ids: vec![0; rows.len() * columns],
            position_ids: vec![0; rows.len() * columns],
            attention_mask: vec![false; rows.len() * columns],
        };
        for (row, slots) in rows.iter().zip(slots) {
            grid.lay_out(row, slots, plan);
        }
        grid
    }

    /// Puts one more row's tokens into their columns.
    fn lay_out(&mut self, row: &Row, slots: &[Slot], plan: &PassPlan) {
        let in_slot = |(slot, block): (&Slot, &Range<usize>)| {
            let (left, right) = (slot.left.len(), slot.right.len());
            (block.start..block.start + left).chain(block.end - right..block.end)
        };
        let columns: Vec<usize> = slots.iter().zip(&self.blocks).flat_map(in_slot).collect();
        let start = self.token_columns.len() * self.columns;
        let mut thoughts = 0;
        for (position, (&column, &id)) in columns.iter().zip(row.ids).enumerate() {
            let mut position_id = position;
            if Some(id) == plan.latent {
                position_id = plan.first_latent_position.map_or(position, |first| first + thoughts);
                thoughts += 1;
            }
            self.ids[start + column] = id as i32;
            self.position_ids[start + column] = position_id as i32;
            self.attention_mask[start + column] = true;
        }
        self.token_columns.push(columns);
    }

    /// Where each label is predicted: at the token before.
    fn targets(&self, rows: &[Row]) -> Vec<Target> {
        let of_row = |(row, (Row { labels, .. }, columns)): (usize, (&Row, &Vec<usize>))| {
            let label = |(position, (&label, column))| {
                Some(Target { row, column, position, token: label? })
            };
            let before = columns.iter().copied();
            (1..).zip(labels.iter().skip(1).zip(before)).filter_map(label).collect::<Vec<_>>()
        };
        let rows = rows.iter().zip(&self.token_columns).enumerate();
        let mut targets: Vec<Target> = rows.flat_map(of_row).collect();
        targets.sort_by_key(|target| target.column);
        targets
    }

    /// Integers of some columns: `[rows, columns]`, or `[1, tokens]` if `unpadded`.
    fn ints(&self, of: &[i32], columns: &Range<usize>, unpadded: bool) -> TokenInts {
        let rows =
            of.chunks(self.columns.max(1)).zip(self.attention_mask.chunks(self.columns.max(1)));
        let values: Vec<i32> = rows
            .flat_map(|(row, seen)| row[columns.clone()].iter().zip(&seen[columns.clone()]))
            .filter_map(|(&value, &seen)| (seen || !unpadded).then_some(value))
            .collect();
        let shape = match unpadded {
            true => [1, values.len()],
            false => [self.token_columns.len(), columns.len()],
        };
        TokenInts::new(values, shape)
    }

    /// The tokens `(row, column)` of some columns, row after row, counted from the first of these.
    fn tokens(&self, columns: &Range<usize>) -> Vec<(usize, usize)> {
        let of_row = |(row, all): (usize, &Vec<usize>)| {
            let own = all.iter().filter(|column| columns.contains(column));
            own.map(|column| (row, column - columns.start)).collect::<Vec<_>>()
        };
        self.token_columns.iter().enumerate().flat_map(of_row).collect()
    }

    fn has_padding(&self, columns: &Range<usize>) -> bool {
        self.attention_mask
            .chunks(self.columns.max(1))
            .any(|row| row[columns.clone()].contains(&false))
    }
}

/// What one row puts into one block of columns: tokens from its left edge on, and tokens up to its right edge,
/// as positions in the row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    left: Range<usize>,
    right: Range<usize>,
}

/// The positions of a row's latents.
fn latents<'a>(row: &Row<'a>, latent: Option<u32>) -> impl Iterator<Item = usize> + use<'a> {
    let ids = row.ids;
    (0..ids.len()).filter(move |&position| Some(ids[position]) == latent)
}

/// For each row, one slot a pass: at most one latent on the left, then text on the right.
fn slots(rows: &[Row], latent: Option<u32>) -> Result<Vec<Vec<Slot>>, String> {
    let all: Vec<Vec<usize>> = rows.iter().map(|row| latents(row, latent).collect()).collect();
    for (index, (row, latents)) in rows.iter().zip(&all).enumerate() {
        if row.ids.is_empty() {
            return Err(format!("row {index} has no tokens"));
        }
        if latents.first() == Some(&0) {
            return Err(format!(
                "row {index} begins with a latent; a latent needs a token before it"
            ));
        }
    }
    let last_pass = all.iter().map(Vec::len).max().unwrap_or(0);
    let prefix = all.iter().filter_map(|latents| latents.first().copied()).max();

    let of_row = |(row, latents): (&Row, &Vec<usize>)| {
        let end = row.ids.len();
        // A row without latents fills the others' prefix before it takes columns of its own.
        let first = latents.first().copied().unwrap_or(end.min(prefix.unwrap_or(end)));
        let mut slots = vec![Slot { left: 0..0, right: 0..first }];
        for (j, &position) in latents.iter().enumerate() {
            let next = latents.get(j + 1).copied().unwrap_or(end);
            slots.push(Slot { left: position..position + 1, right: position + 1..next });
        }
        if latents.len() < last_pass {
            // The last text waits for the last pass, where every row ends.
            let mut last = Slot { left: 0..0, right: first..end };
            if let (Some(slot), false) = (slots.last_mut(), latents.is_empty()) {
                last.right = std::mem::replace(&mut slot.right, 0..0);
            }
            slots.resize(last_pass, Slot { left: 0..0, right: 0..0 });
            slots.push(last);
        }
        slots
    };
    Ok(rows.iter().zip(&all).map(of_row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: u32 = 9;

    fn rows<'a>(ids: &[&'a [u32]]) -> Vec<Row<'a>> {
        ids.iter().map(|ids| Row { ids, labels: &[] }).collect()
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
        let row = Row { ids: &[1, 2, L, L, 4, 5], labels: &labels };
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

    /// Rows of which the latents `~` after `^` are thought about all at once: text, then `^~~…` with plain
    /// embeddings and `iterations` times anew, each thought made of the column before it, then text.
    fn parallel(rows: &[Row], iterations: usize) -> Batch {
        let plan = PassPlan::sequential(L);
        let slot = |row: &Row| {
            let (first, n) = (latents(row, plan.latent).next(), latents(row, plan.latent).count());
            let end = row.ids.len();
            let first = first.unwrap_or(end);
            let region = if n > 0 { first - 1..first + n } else { end..end };
            let text = |right| Slot { left: 0..0, right };
            let after = region.end..end;
            vec![text(0..region.start), Slot { left: region, right: 0..0 }, text(after)]
        };
        let grid = Grid::new(rows, &rows.iter().map(slot).collect::<Vec<_>>(), &plan);
        let [before, region, after] = [0, 1, 2].map(|block| grid.blocks[block].clone());
        let run = |columns: &Range<usize>, fed, keep, depth: usize| {
            let most = |row| if latents(row, plan.latent).count() > 0 { iterations } else { 0 };
            let depths = rows.iter().map(|row| most(row).min(depth)).collect();
            Run { columns: columns.clone(), fed, keep, depths }
        };
        let mut runs = vec![run(&before, None, true, 0), run(&region, None, iterations == 0, 0)];
        for t in 1..=iterations {
            let columns = rows.iter().flat_map(|_| 0..region.len() - 1).collect();
            let states = FedFrom { pass: t, columns };
            let inputs = states.clone();
            let fed = Fed { columns: 1..region.len(), first_thought: 0, states, inputs };
            runs.push(run(&region, Some(fed), t == iterations, t));
        }
        runs.push(run(&after, None, true, iterations));
        Batch::from_runs(rows, grid, runs, &plan)
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
