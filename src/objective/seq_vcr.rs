//! Seq-VCR: variance and covariance of the hidden states at each time step, so that they do not collapse
//! (Arefin et al. 2024, arXiv 2411.02344; docs/method.md 9).

use burn::tensor::{Device, Float, Int, Tensor, TensorData, activation};
use coconut_kernels::host;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    latent::{Trace, batch::Batch},
    linalg::extend_basis,
    model::{Transformer, parameters::constant_like},
    rng,
};

/// The loss's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeqVcr {
    /// λ₁, the weight of the variance term.
    pub lambda1: f64,
    /// λ₂, the weight of the covariance term.
    pub lambda2: f64,
    /// η, added to variances.
    pub eta: f64,
    /// Which hidden states the loss reads.
    pub layers: Layers,
    /// What the covariance term is divided by.
    pub divisor: Divisor,
}

/// Which hidden states the loss reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// Those of all L + 1 layers, summed, over the last pass's columns (replication).
    #[default]
    All,
    /// Those of the last layer, over all columns (paper).
    Last,
}

/// The map before the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// A map with orthonormal rows, drawn once from the seed (replication; 32 dimensions).
    #[default]
    Fixed,
    /// A map that is trained (paper; 2048 dimensions).
    Trained,
}

/// What the covariance term is divided by; T time steps of width P.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divisor {
    /// `T·P·(P − 1)` (replication).
    #[default]
    Pairs,
    /// `T·P` (paper).
    Width,
}

/// The loss's two terms, each `[1]` and multiplied by its λ.
#[derive(Clone, Debug)]
pub struct Terms {
    /// `λ₁ · mean_{t,k} max(0, 1 − √(C_kk + η))`.
    pub variance: Tensor<1>,
    /// `λ₂ · Σ_t Σ_{k≠k'} C_kk'² / divisor`.
    pub covariance: Tensor<1>,
}

impl SeqVcr {
    /// The loss of a batch whose trace holds the hidden states of all tokens; `projection: [projected,
    /// d_model]`. `None` if no time step has two rows.
    pub fn loss(&self, batch: &Batch, trace: &Trace, projection: &Tensor<2>) -> Option<Terms> {
        let seen = batch.attention_mask(batch.columns);
        let counts = |columns: std::ops::Range<usize>| -> Vec<Vec<bool>> {
            (0..batch.rows).map(|row| seen.row(row)[columns.clone()].to_vec()).collect()
        };
        let states: Vec<Tensor<3>> = match self.layers {
            Layers::All => {
                let states = trace.hidden.last()?;
                (0..states.count()).map(|k| states.padded(k)).collect()
            }
            Layers::Last => {
                let last = trace.hidden.iter().map(|states| states.padded(states.count() - 1));
                vec![Tensor::cat(last.collect(), 1)]
            }
        };
        let columns = match self.layers {
            Layers::All => batch.passes.last()?.columns.clone(),
            Layers::Last => 0..batch.columns,
        };
        let attention_mask = counts(columns);
        let sum = |a: Terms, b: Terms| Terms {
            variance: a.variance + b.variance,
            covariance: a.covariance + b.covariance,
        };
        let of = |x: Tensor<3>| {
            let [rows, seq, d] = x.dims();
            let x = x.reshape([rows * seq, d]).matmul(projection.clone().transpose());
            let [_, width] = x.dims();
            self.terms(x.reshape([rows, seq, width]), &attention_mask)
        };
        states.into_iter().map(of).reduce(|a, b| Some(sum(a?, b?)))?
    }

    /// The loss of projected states `x: [batch, time, width]`; `visible[row][step]` says which cells hold
    /// tokens. `None` if no time step has two of them.
    pub fn terms(&self, x: Tensor<3>, attention_mask: &[Vec<bool>]) -> Option<Terms> {
        let [rows, seq, width] = x.dims();
        let count = |step: usize| attention_mask.iter().filter(|row| row[step]).count();
        let steps: Vec<usize> = (0..seq).filter(|&step| count(step) >= 2).collect();
        if steps.is_empty() {
            return None;
        }
        let device = x.device();
        let time = steps.len();
        let picked: Vec<i32> = steps.iter().map(|&step| step as i32).collect();
        let picked = host::upload::<1, Int>(picked.as_slice(), &device);
        let x = x.select(1, picked).swap_dims(0, 1); // [time, rows, width]
        let like = x.clone();
        let constant = |values: Vec<f32>, shape: [usize; 3]| {
            constant_like(host::upload::<3, Float>(TensorData::new(values, shape), &device), &like)
        };
        let mask: Vec<f32> = (steps.iter())
            .flat_map(|&step| attention_mask.iter().map(move |row| f32::from(u8::from(row[step]))))
            .collect();
        let mask = constant(mask, [time, rows, 1]);
        let each = |f: &dyn Fn(f32) -> f32| {
            constant(steps.iter().map(|&step| f(count(step) as f32)).collect(), [time, 1, 1])
        };
        let mean = (x.clone() * mask.clone()).sum_dim(1) * each(&|n| 1.0 / n); // [time, 1, width]
        let centered = (x - mean) * mask * each(&|n| 1.0 / (n - 1.0).sqrt());

        let variances = centered.clone().square().sum_dim(1); // C_kk, [time, 1, width]
        let short = activation::relu(((variances.clone() + self.eta).sqrt()).neg() + 1.0);
        // ‖XᵀX‖ = ‖XXᵀ‖, so the smaller of the two products will do.
        let (a, b) = (centered.clone(), centered.swap_dims(1, 2));
        let product = if rows < width { a.matmul(b) } else { b.matmul(a) };
        let off_diagonal = product.square().sum() - variances.square().sum();
        let divisor = match self.divisor {
            Divisor::Pairs => time * width * width.saturating_sub(1).max(1),
            Divisor::Width => time * width,
        };
        Some(Terms {
            variance: short.mean() * self.lambda1,
            covariance: off_diagonal * (self.lambda2 / divisor as f64),
        })
    }
}

/// A projection with orthonormal rows (columns, if it widens), drawn from a seed: `[projected, d_model]`.
pub fn orthogonal(projected: usize, d_model: usize, seed: u64, device: &Device) -> Tensor<2> {
    let (few, long) = (projected.min(d_model), projected.max(d_model));
    let mut rng: ChaCha8Rng = rng::stream(seed, &[rng::THOUGHTS, 3]);
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(few);
    while basis.len() < few {
        let x = rng::normals(&mut rng, long, 1.0).into_iter().map(f64::from).collect();
        extend_basis(&mut basis, x, 0.0);
    }
    let values: Vec<f32> = basis.concat().into_iter().map(|x| x as f32).collect();
    let x = host::upload(TensorData::new(values, [few, long]), device);
    if projected <= d_model { x } else { x.transpose() }
}

/// The fixed projection of a run, on the same side of autodiff as the model: `[projected, d_model]`.
pub(super) fn fixed_projection(model: &Transformer, projected: usize, seed: u64) -> Tensor<2> {
    let fixed = orthogonal(projected, model.config.d_model, seed, &model.device());
    constant_like(fixed, &model.head().weight.values)
}
