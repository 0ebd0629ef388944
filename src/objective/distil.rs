//! Distillation: a row's hidden states at one token, drawn to those of its teacher (CODI, Shen et al. 2025,
//! arXiv 2502.21074; docs/method.md 8.5).

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::latent::{Trace, batch::Batch};

/// Which hidden states are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistilLayers {
    /// All `L + 1`, the embeddings among them (CODI).
    #[default]
    All,
    /// Those after each block (PCCoT).
    Blocks,
}

/// The mean over layers of the smooth L1 distance between a row's hidden state and its teacher's, divided by the
/// standard deviation of the teacher's values over rows and width: `[1]`. The teacher's are constants. `None` if
/// nothing is compared, or one value alone, which has no deviation.
pub fn distil(batch: &Batch, trace: &Trace, layers: DistilLayers) -> Option<Tensor<1>> {
    let columns =
        |which: usize| batch.anchors.iter().map(|both| both[which]).collect::<Vec<usize>>();
    let (students, teachers) = (columns(0), columns(1));
    let n = trace.hidden.first()?.count();
    let first = match layers {
        DistilLayers::All => 0,
        DistilLayers::Blocks => 1,
    };
    let distances = (first..n).map(|k| {
        let student = trace.hidden_by_row(batch, k, &students)?; // [rows, d_model]
        let teacher = trace.hidden_by_row(batch, k, &teachers)?.detach();
        let [rows, d] = teacher.dims();
        let deviation = teacher.clone().reshape([rows * d]).var(0).sqrt();
        (rows * d > 1).then(|| smooth_l1(student - teacher) / deviation)
    });
    let distances: Vec<Tensor<1>> = distances.collect::<Option<_>>()?;
    let count = distances.len() as f64;
    Some(distances.into_iter().reduce(|a, b| a + b)? / count)
}

/// The mean of x²/2 where |x| < 1, of |x| − 1/2 elsewhere: `[1]`.
fn smooth_l1(x: Tensor<2>) -> Tensor<1> {
    let size = x.clone().abs();
    let near = size.clone().lower_elem(1.0);
    (size - 0.5).mask_where(near, x.square() / 2.0).mean()
}
