//! Rows of tokens laid out as columns, so that every position is computed once.
//!
//! A row is words, a latent, words, a latent, …, words. Pass 0 holds the words before the first
//! latent; pass j holds the j-th latent of every row in its first column and the words up to the
//! next latent after it. Words are right-aligned in their pass, so first latents line up and the
//! token before a latent is almost always the last column of the pass before. A row with fewer
//! latents than its mates leaves the passes in between empty and speaks its last words in the last
//! pass, where every row ends. Padding is never visible and has no position.
//!
//! ```text
//! Q Q ^ | ~ | ~ | ~ $ w w      two latents more than the row below
//! . Q ^ | ~ | . | . $ w w      Q question, ^ bot, ~ latent, $ eot, w words, . padding
//! ```

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use coconut_kernels::Visible;

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

/// Columns that are computed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The columns; the first of a pass after pass 0 is a latent's.
    pub columns: Range<usize>,
    /// For each row, the column of the pass before whose hidden state is fed back into the latent.
    /// Rows without that latent name the last column; what they make of it is not visible.
    pub sources: Vec<usize>,
}

/// A batch: what to compute, in which order, and what to predict.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns over all passes.
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
    ids: Vec<i32>,          // [rows, columns]
    position_ids: Vec<i32>, // [rows, columns], counting tokens from 0
    visible: Vec<bool>,     // [rows, columns]
}

impl Batch {
    /// Lays rows out. Tokens equal to `latent` are latents; with `None` every token is a word.
    ///
    /// # Errors
    /// A sentence naming the row (from 0) if a row is empty or begins with a latent, which has no
    /// hidden state before it.
    pub fn new(rows: &[Row], latent: Option<u32>) -> Result<Self, String> {
        let slots = slots(rows, latent)?;
        let passes = slots.first().map_or(0, Vec::len);
        let mut columns = 0;
        let passes: Vec<Pass> = (0..passes)
            .map(|pass| {
                let words = slots.iter().map(|row| row[pass].words.len()).max().unwrap_or(0);
                let start = columns;
                columns += words + usize::from(pass > 0);
                Pass { columns: start..columns, sources: Vec::new() }
            })
            .collect();

        let cells = rows.len() * columns;
        let mut batch = Self {
            rows: rows.len(),
            columns,
            passes,
            ends: Vec::with_capacity(rows.len()),
            lengths: rows.iter().map(|row| row.ids.len()).collect(),
            latents: Vec::with_capacity(rows.len()),
            targets: Vec::new(),
            ids: vec![0; cells],
            position_ids: vec![0; cells],
            visible: vec![false; cells],
        };
        for (index, (row, slots)) in rows.iter().zip(&slots).enumerate() {
            batch.place(index, row, slots);
        }
        batch.targets.sort_by_key(|target| target.column);
        Ok(batch)
    }

    fn place(&mut self, index: usize, row: &Row, slots: &[Slot]) {
        let mut previous = None; // column of the token before
        for (pass, slot) in slots.iter().enumerate() {
            let columns = self.passes[pass].columns.clone();
            if pass > 0 {
                let source = previous.filter(|_| slot.latent.is_some());
                self.passes[pass].sources.push(source.unwrap_or(columns.start - 1));
            }
            let latent = slot.latent.map(|position| (position, columns.start));
            let words = slot.words.clone().zip(columns.end - slot.words.len()..columns.end);
            for (position, column) in latent.into_iter().chain(words) {
                let cell = index * self.columns + column;
                self.ids[cell] = row.ids[position] as i32;
                self.position_ids[cell] = position as i32;
                self.visible[cell] = true;
                if let (Some(&Some(token)), Some(column)) = (row.labels.get(position), previous) {
                    self.targets.push(Target { row: index, column, position, token });
                }
                previous = Some(column);
            }
        }
        self.ends.push(previous.unwrap_or(0));
        self.latents.push(slots.iter().filter(|slot| slot.latent.is_some()).count());
    }

    /// Token ids of some columns: `[rows, columns.len()]`, 0 at padding; `[1, tokens]` if `packed`, without
    /// padding.
    pub fn ids(&self, columns: Range<usize>, packed: bool, device: &Device) -> Tensor<2, Int> {
        self.host(&self.ids, columns, packed, device)
    }

    /// Position ids of some columns, as [`Batch::ids`].
    pub fn position_ids(
        &self,
        columns: Range<usize>,
        packed: bool,
        device: &Device,
    ) -> Tensor<2, Int> {
        self.host(&self.position_ids, columns, packed, device)
    }

    fn host(
        &self,
        of: &[i32],
        columns: Range<usize>,
        packed: bool,
        device: &Device,
    ) -> Tensor<2, Int> {
        let all = of.chunks(self.columns).zip(self.visible.chunks(self.columns));
        let cells: Vec<i32> = all
            .flat_map(|(row, seen)| row[columns.clone()].iter().zip(&seen[columns.clone()]))
            .filter_map(|(&value, &seen)| (seen || !packed).then_some(value))
            .collect();
        let shape = if packed { [1, cells.len()] } else { [self.rows, columns.len()] };
        Tensor::from_data(TensorData::new(cells, shape), device)
    }

    /// Whether the first pass has padding.
    pub fn pads_first(&self) -> bool {
        let columns = self.passes.first().map_or(0..0, |pass| pass.columns.clone());
        self.visible.chunks(self.columns).any(|row| row[columns.clone()].contains(&false))
    }

    /// The cells of a pass that hold tokens, row after row; columns count from the pass's first.
    pub fn tokens_of(&self, pass: usize) -> Vec<(usize, usize)> {
        let columns = self.passes[pass].columns.clone();
        let of_row = |(row, seen): (usize, &[bool])| {
            let seen: Vec<bool> = seen[columns.clone()].to_vec();
            seen.into_iter().enumerate().filter(|&(_, seen)| seen).map(move |(c, _)| (row, c))
        };
        self.visible.chunks(self.columns).enumerate().flat_map(of_row).collect()
    }

    /// The cells of a pass that predict a label, end their row or feed a thought, row after row, as
    /// [`Batch::tokens_of`].
    pub fn read_of(&self, pass: usize) -> Vec<(usize, usize)> {
        let columns = &self.passes[pass].columns;
        let labels = self.targets.iter().map(|target| (target.row, target.column));
        let ends = self.ends.iter().copied().enumerate();
        let sources = self.passes.get(pass + 1).map_or(&[][..], |next| &next.sources);
        let mut cells: Vec<_> = (labels.chain(ends).chain(sources.iter().copied().enumerate()))
            .filter(|(_, column)| columns.contains(column))
            .map(|(row, column)| (row, column - columns.start))
            .collect();
        cells.sort_unstable();
        cells.dedup();
        cells
    }

    /// Which of the first `columns` columns hold tokens.
    pub fn visible(&self, columns: usize) -> Visible {
        let cells: Vec<bool> = self
            .visible
            .chunks(self.columns)
            .flat_map(|row| row[..columns].iter().copied())
            .collect();
        Visible::new(self.rows, columns, cells)
    }

    /// The columns that hold a row's tokens, in order.
    pub fn columns_of(&self, row: usize) -> Vec<usize> {
        let cells = &self.visible[row * self.columns..(row + 1) * self.columns];
        (0..self.columns).filter(|&column| cells[column]).collect()
    }

    /// Number of tokens, padding not counted.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

/// What one row puts into one pass: at most one latent, then words; positions in the row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    latent: Option<usize>,
    words: Range<usize>,
}

/// For each row, one slot a pass.
fn slots(rows: &[Row], latent: Option<u32>) -> Result<Vec<Vec<Slot>>, String> {
    let mut latents = Vec::with_capacity(rows.len()); // positions, by row
    for (index, row) in rows.iter().enumerate() {
        let positions: Vec<usize> =
            (0..row.ids.len()).filter(|&i| Some(row.ids[i]) == latent).collect();
        if row.ids.is_empty() {
            return Err(format!("row {index} has no tokens"));
        }
        if positions.first() == Some(&0) {
            return Err(format!(
                "row {index} begins with a latent; a latent needs a token before it"
            ));
        }
        latents.push(positions);
    }
    let last_pass = latents.iter().map(Vec::len).max().unwrap_or(0);
    let prefix = latents.iter().filter_map(|p| p.first().copied()).max();

    let slots = rows.iter().zip(&latents).map(|(row, latents)| {
        let end = row.ids.len();
        // A row without latents fills the others' prefix before it takes columns of its own.
        let first = latents.first().copied().unwrap_or(end.min(prefix.unwrap_or(end)));
        let mut slots = vec![Slot { latent: None, words: 0..first }];
        for (j, &position) in latents.iter().enumerate() {
            let next = latents.get(j + 1).copied().unwrap_or(end);
            slots.push(Slot { latent: Some(position), words: position + 1..next });
        }
        if latents.len() < last_pass {
            // The last words wait for the last pass, where every row ends.
            let mut last = Slot { latent: None, words: first..end };
            if let (Some(slot), false) = (slots.last_mut(), latents.is_empty()) {
                last.words = std::mem::replace(&mut slot.words, 0..0);
            }
            slots.resize(last_pass, Slot { latent: None, words: 0..0 });
            slots.push(last);
        }
        slots
    });
    Ok(slots.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: u32 = 9;

    fn rows<'a>(ids: &[&'a [u32]]) -> Vec<Row<'a>> {
        ids.iter().map(|ids| Row { ids, labels: &[] }).collect()
    }

    fn table(batch: &Batch) -> Vec<String> {
        let cell = |row: usize, column: usize| {
            let cell = row * batch.columns + column;
            if batch.visible[cell] { batch.ids[cell].to_string() } else { ".".into() }
        };
        (0..batch.rows)
            .map(|row| {
                let pass = |pass: &Pass| {
                    pass.columns.clone().map(|c| cell(row, c)).collect::<Vec<_>>().join(" ")
                };
                batch.passes.iter().map(pass).collect::<Vec<_>>().join(" | ")
            })
            .collect()
    }

    #[test]
    fn first_latents_line_up_and_every_row_ends_in_the_last_pass() {
        let batch = Batch::new(
            &rows(&[&[1, 2, 3, L, L, L, 4, 5], &[1, 2, L, 4, 5, 6], &[1, 2, 3, 4, 5]]),
            Some(L),
        )
        .unwrap();
        assert_eq!(
            table(&batch),
            ["1 2 3 | 9 | 9 | 9 . 4 5", ". 1 2 | 9 | . | . 4 5 6", "1 2 3 | . | . | . . 4 5"]
        );
        assert_eq!(batch.ends, [8, 8, 8]);
        assert_eq!(batch.latents, [3, 1, 0]);
        assert_eq!(batch.position_ids[9..18], [0, 0, 1, 2, 0, 0, 3, 4, 5]);
        assert_eq!(batch.passes[1].sources, [2, 2, 2]);
        assert_eq!(batch.passes[3].sources, [4, 4, 4]);
    }

    #[test]
    fn words_between_latents_and_a_latent_after_a_latent() {
        let batch = Batch::new(&rows(&[&[1, L, 2, 3, L, 4], &[1, L, L, 5, 6]]), Some(L)).unwrap();
        assert_eq!(table(&batch), ["1 | 9 2 3 | 9 . 4", "1 | 9 . . | 9 5 6"]);
        // The second latent of the second row feeds on the first latent, not on padding.
        assert_eq!(batch.passes[2].sources, [3, 1]);
    }

    #[test]
    fn labels_are_predicted_by_the_token_before() {
        let labels = [None, None, None, None, Some(4), Some(5)];
        let row = Row { ids: &[1, 2, L, L, 4, 5], labels: &labels };
        let batch = Batch::new(&[row], Some(L)).unwrap();
        let target = |column, position, token| Target { row: 0, column, position, token };
        assert_eq!(batch.targets, [target(3, 4, 4), target(4, 5, 5)]);
    }

    #[test]
    fn a_row_may_end_in_a_latent_but_not_begin_with_one() {
        let batch = Batch::new(&rows(&[&[1, L], &[1, 2, 3]]), Some(L)).unwrap();
        assert_eq!(table(&batch), ["1 | 9 . .", "1 | . 2 3"]);
        assert_eq!(batch.ends, [1, 3]);
        assert!(Batch::new(&rows(&[&[L, 1]]), Some(L)).unwrap_err().contains("row 0"));
        assert!(Batch::new(&rows(&[&[1], &[]]), Some(L)).unwrap_err().contains("row 1"));
    }
}
