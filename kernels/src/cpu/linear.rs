//! Linear maps of one input, side by side, their weights `[d_out, d_in]` as `torch.nn.Linear` has
//! them. Queries, keys and values keep a weight each and come out as one row.

use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::bridge::{Fused, GradSinks, apply, sizes, slice, tensor, uninit};
use super::deferred::Columns;
use super::matrix::{Dst, Matrix, fill_rows, sum_rows};
use super::weight::{Share, Side, multiply_weight, put_share};
use crate::{Deferred, Precision, Weight};

/// [`crate::linear`] on operands that were found fit.
pub(crate) fn linear(x: Tensor<3>, weights: Vec<Weight>, biases: &[Tensor<1>]) -> Tensor<3> {
    let part = |weight: &Weight| (weight.precision, weight.deferred.clone());
    let op = Linear { parts: weights.iter().map(part).collect() };
    let n_operands = 1 + weights.len() + biases.len();
    let mut operands = [x.into_dispatch()]
        .into_iter()
        .chain(weights.into_iter().map(|weight| weight.values.into_dispatch()))
        .chain(biases.iter().map(|bias| bias.clone().into_dispatch()));
    macro_rules! run {
        ($n:literal) => {
            apply(op, std::array::from_fn::<_, $n, _>(|_| operands.next().expect("N operands")))
        };
    }
    // The number of operands is part of a step's type.
    match n_operands {
        2 => run!(2),
        3 => run!(3),
        4 => run!(4),
        5 => run!(5),
        7 => run!(7),
        n => unreachable!("callers pass one to three maps, not {n} operands"),
    }
}

/// Operands: `x: [batch, seq, d_in]`, then a weight `[d_out, d_in]` a part, then as many biases
/// `[d_out]` or none.
#[derive(Debug)]
struct Linear {
    /// Precision of the products with each weight, and where shares of its gradient wait.
    parts: Vec<(Precision, Option<Deferred>)>,
}

impl Linear {
    /// For each part its first column and its width, and the width of all.
    fn columns(&self, weights: &[FlexTensor]) -> (Vec<(usize, usize)>, usize) {
        let mut total = 0;
        let columns = weights.iter().map(|weight| {
            let width = weight.layout().shape()[0];
            total += width;
            (total - width, width)
        });
        (columns.collect(), total)
    }
}

impl<const N: usize> Fused<N> for Linear {
    /// The input `x` if a weight's gradient is needed, and the weights.
    type Saved = (Option<FlexTensor>, Vec<FlexTensor>);

    fn forward(
        &self,
        operands: [FlexTensor; N],
        needs_grad: [bool; N],
    ) -> (FlexTensor, Option<<Self as Fused<N>>::Saved>) {
        let parts = self.parts.len();
        let (x, weights, biases) = (&operands[0], &operands[1..=parts], &operands[1 + parts..]);
        let (columns, total) = self.columns(weights);
        let [batch, seq, d_in] = sizes(x);
        let rows = batch * seq;
        let mut y = uninit(rows * total);
        if !biases.is_empty() {
            let bias: Vec<f32> = biases.iter().flat_map(slice).copied().collect();
            fill_rows(&mut y, &bias);
        }
        let parts = weights.iter().zip(&columns).zip(&self.parts);
        for ((weight, &(first, _)), &(precision, _)) in parts {
            let mut y = Dst { slice: &mut y, stride: total, add: !biases.is_empty() };
            let x = Matrix::new(slice(x), rows, d_in);
            multiply_weight(precision, y.starting_at(first), x, weight, Side::Transposed);
        }
        let weight_needs_grad = needs_grad[1..=weights.len()].contains(&true);
        let saved = || (weight_needs_grad.then(|| x.clone()), weights.to_vec());
        let saved = needs_grad.contains(&true).then(saved);
        (tensor(y, [batch, seq, total]), saved)
    }

    fn backward(
        self,
        (x, weights): <Self as Fused<N>>::Saved,
        grad: FlexTensor,
        sinks: &mut GradSinks<'_, N>,
    ) {
        let (columns, total) = self.columns(&weights);
        let ([batch, seq, _], d_in) = (sizes(&grad), weights[0].layout().shape()[1]);
        let rows = batch * seq;
        let part = |first: usize, width| {
            Matrix::part(slice(&grad).get(first..).unwrap_or_default(), rows, width, total)
        };
        let parts = self.parts.len();
        if (1 + parts..N).any(|operand| sinks.needs_grad(operand)) {
            let sums = sum_rows(slice(&grad), total);
            for (i, &(first, width)) in columns.iter().enumerate() {
                let sums = sums[first..first + width].to_vec();
                sinks.put(1 + parts + i, tensor(sums, [width]));
            }
        }
        if let Some(x) = x {
            let parts = columns.iter().zip(&self.parts).enumerate();
            for (i, (&(first, width), (precision, deferred))) in parts {
                let lhs = Columns { tensor: grad.clone(), stride: total, first, width };
                let rhs = Columns { tensor: x.clone(), stride: d_in, first: 0, width: d_in };
                let share = Share { precision: *precision, rows, lhs, rhs };
                put_share(sinks, 1 + i, share, deferred.as_ref());
            }
        }
        if sinks.needs_grad(0) {
            let mut grad_x = uninit(rows * d_in);
            let parts = weights.iter().zip(&columns).zip(&self.parts);
            for (i, ((weight, &(first, width)), &(precision, _))) in parts.enumerate() {
                let dst = Dst { slice: &mut grad_x, stride: d_in, add: i > 0 };
                multiply_weight(precision, dst, part(first, width), weight, Side::Plain);
            }
            sinks.put(0, tensor(grad_x, [batch, seq, d_in]));
        }
    }

    fn accumulates(&self, operand: usize) -> bool {
        (1..=self.parts.len()).contains(&operand)
    }
}
