//! How rows are cut into blocks of columns.

use std::ops::Range;

use super::row::Row;

/// How rows become passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassPlan {
    /// The token id that is a latent; with `None` every token is text.
    pub latent: Option<u32>,
    /// How latents are computed together, again and again; one after the other if `None`.
    pub parallel: Option<Parallel>,
    /// The position id of a row's first latent, from which its others count on; that of any token in its place
    /// if `None`.
    pub first_latent_position: Option<usize>,
    /// Whether passes are laid out as the replication reads them: padding is computed too, hidden states are
    /// fed back from the last column of the pass before, and input embeddings from as many columns from the
    /// rows' start as that pass is long.
    pub replication: bool,
    /// Whether the hidden states of each row's last latent are read, which feed no thought.
    pub reads_last_latent: bool,
    /// Whether what all rows begin with, such as a system prompt, is computed once. What is done to rows by themselves
    /// (dropout, constants in some rows, noise on the question) needs each row's own.
    pub shares_prefix: bool,
}

/// Fewer tokens that all rows begin with are not worth the copies that sharing takes.
pub(super) const SHORTEST_SHARED: usize = 8;

/// Thinking in parallel (docs/method.md 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallel {
    /// How often the latents are computed anew, after once with plain embeddings.
    pub iterations: usize,
    /// Whether a latent is fed what the position before it computed, as words are; else what it computed itself.
    pub shift: bool,
    /// Whether a latent keeps its own embedding beside what it is fed.
    pub residual: bool,
}

impl PassPlan {
    /// Tokens equal to `latent` are fed back to, one after the other.
    pub fn sequential(latent: u32) -> Self {
        Self { latent: Some(latent), ..Self::default() }
    }

    /// Tokens equal to `latent` are fed back to, all together.
    pub fn parallel(latent: u32, parallel: Parallel) -> Self {
        Self { latent: Some(latent), parallel: Some(parallel), ..Self::default() }
    }
}

/// What one row puts into one block of columns: tokens from its left edge on, and tokens up to its right edge,
/// as positions in the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowPart {
    pub left: Range<usize>,
    pub right: Range<usize>,
}

impl RowPart {
    pub fn text(right: Range<usize>) -> Self {
        Self { left: 0..0, right }
    }
}

/// Rows cut into blocks: for each row one part a block.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// For each row, its parts.
    pub rows: Vec<Vec<RowPart>>,
    /// For each row, what is its teacher's alone, as positions in the teacher's row. Empty without teachers.
    pub teachers: Vec<Range<usize>>,
    /// For each row, what of its first block its teacher does not have, as positions. Empty without teachers.
    pub unshared: Vec<Range<usize>>,
}

impl Blocks {
    /// Cuts rows.
    ///
    /// # Errors
    /// A sentence naming the row (from 0).
    pub fn new(rows: &[Row], plan: &PassPlan) -> Result<Self, String> {
        for (index, row) in rows.iter().enumerate() {
            if row.ids.is_empty() {
                return Err(format!("row {index} has no tokens"));
            }
            if latents(row, plan.latent).next() == Some(0) {
                return Err(format!(
                    "row {index} begins with a latent; a latent needs a token before it"
                ));
            }
            if row.teacher.is_some() != rows[0].teacher.is_some() {
                return Err(format!("of rows 0 and {index}, only one has a teacher"));
            }
        }
        let parts = match plan.parallel {
            None => sequential_parts(rows, plan.latent),
            Some(_) => parallel_parts(rows, plan.latent)?,
        };
        if !rows.is_empty() && parts.iter().all(|parts| parts[0].right.is_empty()) {
            return Err("no row has text before the token that its latents follow".into());
        }
        let mut blocks = Self { rows: parts, teachers: Vec::new(), unshared: Vec::new() };
        if rows.iter().any(|row| row.teacher.is_some()) {
            blocks.share(rows)?;
        }
        Ok(blocks)
    }

    /// Finds where rows and their teachers part. What rows go on with in their first block, such as the token before
    /// the latents, is computed beside what they share, out of their teachers' sight: a pass of its own, a column or
    /// two wide, would cost far more.
    fn share(&mut self, rows: &[Row]) -> Result<(), String> {
        for (index, (row, parts)) in rows.iter().zip(&self.rows).enumerate() {
            let teacher = row.teacher.map_or(&[][..], |teacher| teacher.ids);
            let same = row.ids.iter().zip(teacher).take_while(|(a, b)| a == b).count();
            let first = parts[0].right.clone();
            let shared = same.min(first.end);
            if shared == 0 {
                return Err(format!("row {index} and its teacher begin with different tokens"));
            }
            self.teachers.push(shared..teacher.len());
            self.unshared.push(shared..first.end);
        }
        Ok(())
    }
}

/// The positions of a row's latents.
pub(super) fn latents<'a>(
    row: &Row<'a>,
    latent: Option<u32>,
) -> impl Iterator<Item = usize> + use<'a> {
    let ids = row.ids;
    (0..ids.len()).filter(move |&position| Some(ids[position]) == latent)
}

/// For each row, text and then one part a latent of the row that has most: at most one latent on the left, then
/// text on the right.
fn sequential_parts(rows: &[Row], latent: Option<u32>) -> Vec<Vec<RowPart>> {
    let all: Vec<Vec<usize>> = rows.iter().map(|row| latents(row, latent).collect()).collect();
    let last_pass = all.iter().map(Vec::len).max().unwrap_or(0);
    let prefix = all.iter().filter_map(|latents| latents.first().copied()).max();

    let of_row = |(row, latents): (&Row, &Vec<usize>)| {
        let end = row.ids.len();
        // A row without latents fills the others' prefix before it takes columns of its own.
        let first = latents.first().copied().unwrap_or(end.min(prefix.unwrap_or(end)));
        let mut parts = vec![RowPart::text(0..first)];
        for (j, &position) in latents.iter().enumerate() {
            let next = latents.get(j + 1).copied().unwrap_or(end);
            parts.push(RowPart { left: position..position + 1, right: position + 1..next });
        }
        if latents.len() < last_pass {
            // The last text waits for the last pass, where every row ends.
            let mut last = RowPart::text(first..end);
            if let (Some(part), false) = (parts.last_mut(), latents.is_empty()) {
                last.right = std::mem::replace(&mut part.right, 0..0);
            }
            parts.resize(last_pass, RowPart::text(0..0));
            parts.push(last);
        }
        parts
    };
    rows.iter().zip(&all).map(of_row).collect()
}

/// For each row, text, the region of the latents with the token before them, and text. A row without latents is
/// text.
fn parallel_parts(rows: &[Row], latent: Option<u32>) -> Result<Vec<Vec<RowPart>>, String> {
    let of_row = |(index, row): (usize, &Row)| {
        let all: Vec<usize> = latents(row, latent).collect();
        let end = row.ids.len();
        let region = match (all.first(), all.last()) {
            (Some(first), Some(last)) => first - 1..last + 1,
            _ => return Ok(vec![RowPart::text(0..end), RowPart::text(0..0), RowPart::text(0..0)]),
        };
        if region.len() != all.len() + 1 {
            return Err(format!(
                "row {index} has text between its latents; those that are thought of in parallel stand side by side"
            ));
        }
        let before = RowPart::text(0..region.start);
        Ok(vec![
            before,
            RowPart { left: region.clone(), right: 0..0 },
            RowPart::text(region.end..end),
        ])
    };
    rows.iter().enumerate().map(of_row).collect()
}
