//! Parameters that only losses read.

use burn::{
    module::{Module, Param},
    tensor::{Device, TensorData},
};
use coconut_kernels::host;

use crate::{
    model::{Transformer, layers::Embedding},
    rng,
};

/// Parameters of an objective's terms; a model that is used has no need of them.
#[derive(Module, Debug)]
pub struct ObjectiveParameters {
    /// Seq-VCR's projection, `[projected, d_model]`, if it is trained.
    pub seq_vcr: Option<Embedding>,
    /// The network that reads thoughts as words, if there is one.
    pub decoder: Option<Transformer>,
}

impl ObjectiveParameters {
    /// Fresh parameters for a model of width `d_model`, without a decoder; `seq_vcr` is the width of a trained
    /// projection.
    pub fn new(seq_vcr: Option<usize>, d_model: usize, seed: u64, device: &Device) -> Self {
        let table = |rows: usize| {
            let std = 1.0 / (d_model as f64).sqrt();
            let mut rng = rng::stream(seed, &[rng::THOUGHTS, 2]);
            let values = rng::normals(&mut rng, rows * d_model, std as f32);
            let data = TensorData::new(values, [rows, d_model]);
            Embedding::from(Param::from_tensor(host::upload(data, device)))
        };
        Self { seq_vcr: seq_vcr.map(table), decoder: None }
    }
}
