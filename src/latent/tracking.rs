//! Through which passes of which rows gradients flow (`n_detached_recursions`, docs/method.md 4.3).

use burn::tensor::Tensor;

use super::batch::Batch;
use crate::model::{HiddenStates, NewColumns, TokenLayout};

/// The rows of one pass through which gradients flow; the others' results are constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tracked {
    /// All rows that have tokens in it.
    All,
    /// Some of them.
    Rows(Vec<bool>),
    /// None of them.
    None,
}

/// For each pass, the rows of which it is among the last `passes`, counted from the row's own last latent; all
/// rows if `None`. What a row's mates are changes nothing for it.
pub(super) fn tracked(batch: &Batch, passes: Option<usize>) -> Vec<Tracked> {
    let passes = passes.unwrap_or(usize::MAX);
    let depths = |row: usize| batch.passes.iter().filter_map(move |pass| pass.depths[row]);
    let deepest: Vec<usize> = (0..batch.rows).map(|row| depths(row).max().unwrap_or(0)).collect();
    let of_pass = |depths: &Vec<Option<usize>>| {
        let in_row = |(depth, deepest): (&Option<usize>, &usize)| {
            depth.map(|depth| depth.saturating_add(passes) > *deepest)
        };
        let rows: Vec<Option<bool>> = depths.iter().zip(&deepest).map(in_row).collect();
        let mut with_tokens = rows.iter().flatten();
        match with_tokens.clone().all(|&tracked| tracked) {
            true => Tracked::All,
            false if !with_tokens.any(|&tracked| tracked) => Tracked::None,
            false => Tracked::Rows(rows.iter().map(|row| *row == Some(true)).collect()),
        }
    };
    batch.passes.iter().map(|pass| of_pass(&pass.depths)).collect()
}

impl Tracked {
    /// Whether any row is tracked.
    pub fn any(&self) -> bool {
        *self != Self::None
    }

    /// The same values, constants in rows that are not tracked.
    pub fn gate(&self, x: Tensor<3>, tokens: &TokenLayout) -> Tensor<3> {
        match self {
            Self::Rows(rows) if x.is_tracked() => {
                let mask = tokens.of_rows(rows, &x.device()).expand(x.dims());
                x.clone().detach().mask_where(mask, x)
            }
            Self::None => x.detach(),
            Self::All | Self::Rows(_) => x,
        }
    }

    /// [`Tracked::gate`] of every hidden state of a pass.
    pub fn gate_states(&self, states: HiddenStates) -> HiddenStates {
        states.map(|x, tokens| self.gate(x, tokens))
    }

    /// [`Tracked::gate`] of a pass's queries, keys and values.
    pub fn gate_columns(&self, new: NewColumns, tokens: &TokenLayout) -> NewColumns {
        new.into_iter().map(|x| self.gate(x, tokens)).collect()
    }

    /// A gradient without the rows that are not tracked, at results that lie as `tokens` says.
    pub fn cut(&self, grad: Tensor<3>, tokens: &TokenLayout) -> Option<Tensor<3>> {
        match self {
            Self::All => Some(grad),
            Self::Rows(rows) => {
                let mask = tokens.of_rows(rows, &grad.device()).expand(grad.dims());
                Some(grad.zeros_like().mask_where(mask, grad))
            }
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latent::{PassPlan, batch::Row};

    #[test]
    fn passes_are_counted_from_each_rows_own_last_latent() {
        const L: u32 = 9;
        let ids: [&[u32]; 3] = [&[1, L, L, L, 2], &[1, 2, L, 3], &[1, 2, 3]];
        let rows = ids.map(Row::unlabelled);
        let batch = Batch::new(&rows, &PassPlan::sequential(L)).unwrap();
        let of = |passes| tracked(&batch, passes);
        let rows = |rows: [bool; 3]| Tracked::Rows(rows.to_vec());
        assert_eq!(of(None), vec![Tracked::All; 4]);
        // The last latent of the second row is in pass 1, its last text in pass 3; the third row is all in one.
        let last =
            [rows([false, false, true]), rows([false, true, false]), Tracked::None, Tracked::All];
        assert_eq!(of(Some(1)), last);
        let last_two =
            [rows([false, true, true]), rows([false, true, false]), Tracked::All, Tracked::All];
        assert_eq!(of(Some(2)), last_two);
        let last_three = [rows([false, true, true]), Tracked::All, Tracked::All, Tracked::All];
        assert_eq!(of(Some(3)), last_three);
        assert_eq!(of(Some(4)), vec![Tracked::All; 4]);
        assert_eq!(of(Some(0)), vec![Tracked::None; 4]);
    }
}
