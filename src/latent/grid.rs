//! Tokens of a batch in rows and columns.

use std::ops::Range;

use super::{
    plan::{Blocks, PassPlan, RowPart},
    row::{Row, Target},
};
use crate::model::TokenInts;

/// Tokens in rows and columns. Rows and their teachers share rows, and the columns of what they have in common.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub columns: usize,
    /// The columns of each block of the rows.
    pub blocks: Vec<Range<usize>>,
    /// The columns of what is the teachers' alone, if there are teachers.
    pub teacher: Option<Range<usize>>,
    /// For each row, the columns of its tokens, in order.
    pub token_columns: Vec<Vec<usize>>,
    /// The same for each row's teacher.
    pub teacher_columns: Vec<Vec<usize>>,
    pub ids: Vec<i32>,             // [rows, columns], 0 at padding
    pub position_ids: Vec<i32>,    // [rows, columns], 0 at padding
    pub attention_mask: Vec<bool>, // [rows, columns], false at padding
}

impl Grid {
    pub fn new(rows: &[Row], blocks: &Blocks, plan: &PassPlan) -> Self {
        let mut columns = 0;
        let mut block = |width: usize| {
            let start = columns;
            columns += width;
            start..columns
        };
        let widest = |number: usize, part: fn(&RowPart) -> &Range<usize>| {
            blocks.rows.iter().map(|parts| part(&parts[number]).len()).max().unwrap_or(0)
        };
        let n_blocks = blocks.rows.first().map_or(0, Vec::len);
        let ranges = (0..n_blocks)
            .map(|number| {
                block(widest(number, |part| &part.left) + widest(number, |part| &part.right))
            })
            .collect();
        let teacher = blocks.teachers.iter().map(Range::len).max().map(&mut block);
        let mut grid = Self {
            columns,
            blocks: ranges,
            teacher,
            token_columns: Vec::with_capacity(rows.len()),
            teacher_columns: Vec::with_capacity(blocks.teachers.len()),
            ids: vec![0; rows.len() * columns],
            position_ids: vec![0; rows.len() * columns],
            attention_mask: vec![false; rows.len() * columns],
        };
        for (row, parts) in rows.iter().zip(&blocks.rows) {
            grid.lay_out(row, parts, plan);
        }
        for (index, own) in blocks.teachers.iter().enumerate() {
            grid.lay_out_teacher(index, &rows[index], own.clone());
        }
        grid
    }

    /// Puts one more row's tokens into their columns.
    fn lay_out(&mut self, row: &Row, parts: &[RowPart], plan: &PassPlan) {
        let in_block = |(part, block): (&RowPart, &Range<usize>)| {
            let (left, right) = (part.left.len(), part.right.len());
            (block.start..block.start + left).chain(block.end - right..block.end)
        };
        let columns: Vec<usize> = parts.iter().zip(&self.blocks).flat_map(in_block).collect();
        let index = self.token_columns.len();
        let mut thoughts = 0;
        for (position, (&column, &id)) in columns.iter().zip(row.ids).enumerate() {
            let mut position_id = position;
            if Some(id) == plan.latent {
                position_id = plan.first_latent_position.map_or(position, |first| first + thoughts);
                thoughts += 1;
            }
            self.put(index, column, id, position_id);
        }
        self.token_columns.push(columns);
    }

    /// Puts what is a row's teacher's alone into its columns, after what both have in common.
    fn lay_out_teacher(&mut self, index: usize, row: &Row, own: Range<usize>) {
        let (Some(teacher), Some(block)) = (row.teacher, self.teacher.clone()) else { return };
        let mut columns = self.token_columns[index][..own.start].to_vec();
        for (position, column) in own.zip(block) {
            self.put(index, column, teacher.ids[position], position);
            columns.push(column);
        }
        self.teacher_columns.push(columns);
    }

    /// For each row, the columns of what of its first block its teacher does not have.
    pub fn unshared(&self, blocks: &Blocks) -> Vec<Range<usize>> {
        // Text is right-aligned, so they are side by side and the block's last.
        let end = self.blocks.first().map_or(0, |block| block.end);
        blocks.unshared.iter().map(|own| end - own.len()..end).collect()
    }

    fn put(&mut self, row: usize, column: usize, id: u32, position_id: usize) {
        let at = row * self.columns + column;
        self.ids[at] = id as i32;
        self.position_ids[at] = position_id as i32;
        self.attention_mask[at] = true;
    }

    /// Where each label is predicted: at the token before. `columns` are those of the rows' tokens.
    pub fn targets<'a>(
        labels: impl Iterator<Item = &'a [Option<u32>]>,
        columns: &[Vec<usize>],
    ) -> Vec<Target> {
        let of_row = |(row, (labels, columns)): (usize, (&[Option<u32>], &Vec<usize>))| {
            let label = |(position, (&label, column))| {
                Some(Target { row, column, position, token: label? })
            };
            let before = columns.iter().copied();
            (1..).zip(labels.iter().skip(1).zip(before)).filter_map(label).collect::<Vec<_>>()
        };
        let mut targets: Vec<Target> = labels.zip(columns).enumerate().flat_map(of_row).collect();
        targets.sort_by_key(|target| target.column);
        targets
    }

    /// Integers of some columns: `[rows, columns]`.
    pub fn ints(&self, of: &[i32], columns: &Range<usize>) -> TokenInts {
        let rows = of.chunks(self.columns.max(1));
        let shape = [rows.len(), columns.len()];
        TokenInts::new(rows.flat_map(|row| &row[columns.clone()]).copied().collect(), shape)
    }

    /// Integers of some tokens `(row, column)`, columns counted from `start`: `[1, tokens]`.
    pub fn ints_of(&self, of: &[i32], start: usize, tokens: &[(usize, usize)]) -> TokenInts {
        let at = |&(row, column): &(usize, usize)| of[row * self.columns + start + column];
        TokenInts::new(tokens.iter().map(at).collect(), [1, tokens.len()])
    }

    /// The tokens `(row, column)` of some columns, row after row, counted from the first of these.
    pub fn tokens(&self, columns: &Range<usize>) -> Vec<(usize, usize)> {
        let of_row = |(row, mask): (usize, &[bool])| {
            let own = columns.clone().filter(|&column| mask[column]);
            own.map(|column| (row, column - columns.start)).collect::<Vec<_>>()
        };
        self.attention_mask.chunks(self.columns.max(1)).enumerate().flat_map(of_row).collect()
    }

    pub fn has_padding(&self, columns: &Range<usize>) -> bool {
        let mut rows = self.attention_mask.chunks(self.columns.max(1));
        rows.any(|row| row[columns.clone()].contains(&false))
    }

    /// Whether a row has tokens among some columns.
    pub fn has_tokens(&self, row: usize, columns: &Range<usize>) -> bool {
        let start = row * self.columns;
        self.attention_mask[start + columns.start..start + columns.end].contains(&true)
    }
}
