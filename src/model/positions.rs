//! Where a pass's columns stand: position ids, and for rotary families the angles they turn by.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use coconut_kernels::host;

use super::{
    ModelConfig, TokenInts,
    rotary::{LayerRotary, Rotary},
};

/// The positions of one pass's columns: made once, read by every block.
#[derive(Clone, Debug)]
pub struct Positions {
    /// `[batch, new]`.
    pub ids: Tensor<2, Int>,
    /// Of rotary families: what [`ModelConfig::rotary`](super::ModelConfig::rotary) turns heads by.
    pub global: Option<Rotation>,
    /// The same of its `local_rotary`.
    pub local: Option<Rotation>,
}

/// Cosines and sines of each pair's angle, `[batch, new, dim / 2]` each.
pub type Rotation = [Tensor<3>; 2];

impl Positions {
    /// Of a model's columns, on `device`.
    pub fn new(config: &ModelConfig, ids: &TokenInts, device: &Device) -> Self {
        let turns = |rotary: &Rotary| rotation(rotary, config.heads.dim, ids, device);
        let (global, local) = (config.rotary.as_ref(), config.local_rotary.as_ref());
        Self { ids: ids.tensor(device), global: global.map(turns), local: local.map(turns) }
    }

    /// What a layer turns heads by; `None` if it does not turn them.
    pub(super) fn rotation(&self, layer: LayerRotary) -> Option<&Rotation> {
        match layer {
            LayerRotary::Global => self.global.as_ref(),
            LayerRotary::Local => self.local.as_ref(),
            LayerRotary::None => None,
        }
    }
}

/// The angles of columns in heads of width `dim`, on `device`.
fn rotation(rotary: &Rotary, dim: usize, ids: &TokenInts, device: &Device) -> Rotation {
    let [batch, new] = ids.shape;
    let frequencies = rotary.frequencies(dim);
    // Angles in double precision: an f32 is off by a hundredth of a turn at position 100,000.
    // Rows share positions, so each one's are computed once.
    let mut seen: BTreeMap<i32, Vec<(f32, f32)>> = BTreeMap::new();
    let mut cos = Vec::with_capacity(ids.values.len() * frequencies.len());
    let mut sin = Vec::with_capacity(ids.values.len() * frequencies.len());
    for &position in &ids.values {
        let turns = seen.entry(position).or_insert_with(|| {
            let angle = |frequency: &f64| (f64::from(position) * frequency).sin_cos();
            let pair = |(sin, cos): (f64, f64)| (cos as f32, sin as f32);
            frequencies.iter().map(|frequency| pair(angle(frequency))).collect()
        });
        cos.extend(turns.iter().map(|turn| turn.0));
        sin.extend(turns.iter().map(|turn| turn.1));
    }
    let tensor = |values: Vec<f32>| {
        host::upload(TensorData::new(values, [batch, new, frequencies.len()]), device)
    };
    [tensor(cos), tensor(sin)]
}
