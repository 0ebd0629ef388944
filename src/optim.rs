//! AdamW with global-norm clipping (Loshchilov and Hutter 2019), and learning-rate schedules.

use std::{collections::BTreeMap, fmt};

use burn::{module::Module, tensor::Tensor};
use coconut_kernels as kernels;
use serde::{Deserialize, Serialize};

use crate::model::parameters::{self, FlatTensor, NamedTensors};

/// AdamW's settings and moments.
///
/// As PyTorch's `AdamW`: decoupled weight decay on every parameter, bias-corrected moments, ε outside
/// the root.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// ε, added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Steps taken since the moments were zero.
    pub steps: usize,
    /// The first and second moment of each parameter, by its name.
    moments: BTreeMap<String, [Tensor<1>; 2]>,
}

impl AdamW {
    /// An optimizer without moments; ε is 1e-8, as PyTorch's.
    pub fn new(betas: [f64; 2], weight_decay: f64) -> Self {
        Self { betas, epsilon: 1e-8, weight_decay, steps: 0, moments: BTreeMap::new() }
    }

    /// One update of every parameter that has a gradient; each gradient is multiplied by `scale`
    /// first (see [`clip_scale`]).
    pub fn step<M: Module>(
        &mut self,
        module: M,
        mut gradients: NamedTensors,
        lr: f64,
        scale: f64,
    ) -> M {
        self.steps += 1;
        let settings = kernels::AdamW {
            learning_rate: lr,
            betas: (self.betas[0], self.betas[1]),
            eps: self.epsilon,
            weight_decay: self.weight_decay,
            step: self.steps as u64,
            grad_scale: scale,
        };
        parameters::map(module, |name, value| {
            let Some(gradient) = gradients.remove(name).map(|flat| flat.values) else {
                return value;
            };
            let moments = self
                .moments
                .remove(name)
                .unwrap_or_else(|| [gradient.zeros_like(), gradient.zeros_like()]);
            let (value, moments) = kernels::adamw(value, gradient, moments, &settings);
            self.moments.insert(name.to_owned(), moments);
            value
        })
    }

    /// The moments, named `first.<parameter>` and `second.<parameter>`.
    pub fn state(&self) -> NamedTensors {
        let flat = |values: &Tensor<1>| FlatTensor {
            shape: values.dims().to_vec(),
            values: values.clone(),
        };
        let pair = |(name, [first, second]): (&String, &[Tensor<1>; 2])| {
            [(format!("first.{name}"), flat(first)), (format!("second.{name}"), flat(second))]
        };
        self.moments.iter().flat_map(pair).collect()
    }

    /// Takes up the moments that [`AdamW::state`] gave after `steps` steps.
    pub fn restore(&mut self, steps: usize, mut state: BTreeMap<String, Tensor<1>>) {
        self.steps = steps;
        self.moments.clear();
        let names: Vec<String> =
            state.keys().filter_map(|key| key.strip_prefix("first.").map(str::to_owned)).collect();
        for name in names {
            let first = state.remove(&format!("first.{name}"));
            let second = state.remove(&format!("second.{name}"));
            if let (Some(first), Some(second)) = (first, second) {
                self.moments.insert(name, [first, second]);
            }
        }
    }
}

/// The square of the norm of all gradients together, `[1]`, on their device; `None` if there are none.
pub fn squared_norm(gradients: &NamedTensors) -> Option<Tensor<1>> {
    let values: Vec<Tensor<1>> = gradients.values().map(|flat| flat.values.clone()).collect();
    (!values.is_empty()).then(|| kernels::squared_norm(&values))
}

/// What gradients of norm `norm` are multiplied by so that it is at most `max_norm` (0 for no limit),
/// as PyTorch's `clip_grad_norm_` does.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}

/// The learning rate's course after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// The peak rate throughout.
    Constant,
    /// A straight line down to 0 at the last step.
    Linear,
    /// Half a cosine down to 0 at the last step.
    Cosine,
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Constant => "constant",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        })
    }
}

/// The learning rate over optimizer steps: up from 0 in `warmup` steps, then the schedule's course to
/// `horizon`, as `transformers`' `get_*_schedule_with_warmup`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrSchedule {
    /// The rate's course after warm-up.
    pub scheduler: Scheduler,
    /// The rate at the end of warm-up.
    pub peak: f64,
    /// The number of optimizer steps of warm-up.
    pub warmup: usize,
    /// The number of optimizer steps in all.
    pub horizon: usize,
}

impl LrSchedule {
    /// The learning rate of optimizer step `step`, counted from 0.
    pub fn lr(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let rest = self.horizon.saturating_sub(self.warmup).max(1) as f64;
        let progress = (step - self.warmup) as f64 / rest;
        self.peak
            * match self.scheduler {
                Scheduler::Constant => 1.0,
                Scheduler::Linear => (1.0 - progress).max(0.0),
                Scheduler::Cosine => {
                    (0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())).max(0.0)
                }
            }
    }
}
