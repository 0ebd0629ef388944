//! Which passes compute a batch's columns.
//!
//! Thinking one after the other, thinking in parallel and not thinking are three ways to make the same list of passes;
//! whoever runs it does not know which it was.

use std::ops::Range;

use super::{
    grid::Grid,
    plan::{Blocks, Parallel, PassPlan, RowPart},
};
use crate::model::TokenLayout;

/// Whose columns a pass computes. Each branch has a cache of its own, and all begin with what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The first pass: what rows and their teachers have in common, and the rows' text up to their first latent.
    Shared,
    /// The rows.
    Student,
    /// Their teachers.
    Teacher,
}

impl Branch {
    /// The number of the cache that its passes see.
    pub fn cache(self) -> usize {
        usize::from(self == Self::Teacher)
    }
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
    /// The token whose embedding is added to the thoughts, if one is.
    pub residual: Option<u32>,
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

/// What a pass computes: from this and the grid follows everything else of it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub columns: Range<usize>,
    pub branch: Branch,
    pub fed: Option<Fed>,
    pub keep: bool,
    /// For each row, after how many thoughts its tokens come; `None` for a teacher's, which come after none and
    /// before all.
    pub depths: Vec<Option<usize>>,
}

/// The passes of a plan, in order.
pub(super) fn runs(grid: &Grid, blocks: &Blocks, latents: &[usize], plan: &PassPlan) -> Vec<Run> {
    if latents.is_empty() {
        return Vec::new();
    }
    let before = Run {
        columns: grid.blocks[0].clone(),
        branch: Branch::Shared,
        fed: None,
        keep: true,
        depths: vec![Some(0); latents.len()],
    };
    let thinking = match plan.parallel {
        None => sequential(grid, blocks, latents, plan),
        Some(parallel) => iterated(grid, latents, parallel, plan.latent),
    };
    let teacher = grid.teacher.clone().map(|columns| Run {
        columns,
        branch: Branch::Teacher,
        fed: None,
        keep: true,
        depths: vec![None; latents.len()],
    });
    // Nobody has text before the region, or after it.
    let some = |run: &Run| !run.columns.is_empty();
    std::iter::once(before).chain(thinking).chain(teacher).filter(some).collect()
}

/// A pass for each latent; all are kept.
fn sequential(grid: &Grid, blocks: &Blocks, latents: &[usize], plan: &PassPlan) -> Vec<Run> {
    let run = |number: usize| {
        // In the blocks, the one that thought `number` is made of, and the one that it is fed to.
        let (before, own) = (number, number + 1);
        let source = &grid.blocks[before];
        let last = source.len() - 1;
        let of_row = |(row, parts): (usize, &Vec<RowPart>)| {
            let latent = parts[own].left.clone().next().filter(|_| !plan.replication);
            latent.map_or(last, |latent| grid.token_columns[row][latent - 1] - source.start)
        };
        let states: Vec<usize> = blocks.rows.iter().enumerate().map(of_row).collect();
        let inputs = match plan.replication {
            true => {
                let first = grid.blocks[0].len();
                FedFrom { pass: 0, columns: vec![last.min(first - 1); states.len()] }
            }
            false => FedFrom { pass: before, columns: states.clone() },
        };
        let states = FedFrom { pass: before, columns: states };
        let fed = Fed { columns: 0..1, first_thought: number, states, inputs, residual: None };
        Run {
            columns: grid.blocks[own].clone(),
            branch: Branch::Student,
            fed: Some(fed),
            keep: true,
            depths: latents.iter().map(|&latents| Some(latents.min(number + 1))).collect(),
        }
    };
    (0..grid.blocks.len() - 1).map(run).collect()
}

/// The region with plain embeddings, then `iterations` times anew, then text. Only the last of the region's
/// passes is kept.
fn iterated(
    grid: &Grid,
    latents: &[usize],
    Parallel { iterations, shift, residual }: Parallel,
    latent: Option<u32>,
) -> Vec<Run> {
    let [region, after] = [1, 2].map(|at| grid.blocks[at].clone());
    let run = |columns: &Range<usize>, fed, keep, depth: usize| {
        let depth = |&latents: &usize| Some(if latents > 0 { depth } else { 0 });
        let depths = latents.iter().map(depth).collect();
        Run { columns: columns.clone(), branch: Branch::Student, fed, keep, depths }
    };
    let mut runs = vec![run(&region, None, iterations == 0, 0)];
    let times = if region.is_empty() { 0 } else { iterations };
    for t in 1..=times {
        let (from, to) = if shift { (0, region.len() - 1) } else { (1, region.len()) };
        let columns = latents.iter().flat_map(|_| from..to).collect();
        let states = FedFrom { pass: t, columns };
        let fed = Fed {
            columns: 1..region.len(),
            first_thought: 0,
            inputs: states.clone(),
            states,
            residual: latent.filter(|_| residual),
        };
        runs.push(run(&region, Some(fed), t == iterations, t));
    }
    runs.push(run(&after, None, true, iterations));
    runs
}
