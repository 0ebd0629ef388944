//! The settings of AdamW with decoupled weight decay.
//!
//! Source: Loshchilov and Hutter 2019, arXiv 1711.05101.

/// The settings of one AdamW step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the mean of gradients and of the mean of their squares.
    pub betas: (f64, f64),
    /// Number that is added to the root of the second mean.
    pub eps: f64,
    /// Share of the parameter, times the learning rate, that each step takes away.
    pub weight_decay: f64,
    /// Which step this is, from 1: the means started at zero and are corrected for it.
    pub step: u64,
    /// Factor on the gradients: 1, or less to clip their norm.
    pub grad_scale: f64,
}

/// PyTorch's defaults.
impl Default for AdamW {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 1e-2,
            step: 1,
            grad_scale: 1.0,
        }
    }
}

impl AdamW {
    /// The learning rate over the first mean's correction, and the root of the second's.
    pub(crate) fn corrections(&self) -> (f64, f64) {
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        (self.learning_rate / correction(self.betas.0), correction(self.betas.1).sqrt())
    }
}
