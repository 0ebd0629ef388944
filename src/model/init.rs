//! Layers made of tensors from any source: random numbers, files, or names and shapes alone.

use burn::{
    module::Param,
    tensor::{Device, Tensor, TensorData},
};
use coconut_kernels::host;

use super::layers::{Conv1d, Embedding, LayerNorm, Linear, RmsNorm};

/// Gives the tensor of a name and a shape.
pub(super) type TensorSource<'a> = &'a mut dyn FnMut(&str, &[usize]) -> TensorData;

/// Makes layers from a source of tensors.
pub(super) struct Make<'a> {
    pub(super) source: TensorSource<'a>,
    pub(super) device: &'a Device,
}

impl Make<'_> {
    pub(super) fn param<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Param<Tensor<D>> {
        let data = (self.source)(name, &shape);
        Param::from_tensor(host::upload(data, self.device))
    }

    pub(super) fn embedding(&mut self, name: &str, rows: usize, d: usize) -> Embedding {
        Embedding::from(self.param(&format!("{name}.weight"), [rows, d]))
    }

    pub(super) fn conv1d(&mut self, name: &str, d_in: usize, d_out: usize) -> Conv1d {
        Conv1d {
            weight: self.param(&format!("{name}.weight"), [d_in, d_out]),
            bias: self.param(&format!("{name}.bias"), [d_out]),
            adapter: None,
            deferred: None,
        }
    }

    pub(super) fn linear(&mut self, name: &str, d_in: usize, d_out: usize, bias: bool) -> Linear {
        Linear {
            weight: self.param(&format!("{name}.weight"), [d_out, d_in]),
            bias: bias.then(|| self.param(&format!("{name}.bias"), [d_out])),
            adapter: None,
            deferred: None,
        }
    }

    pub(super) fn layer_norm(&mut self, name: &str, d: usize) -> LayerNorm {
        LayerNorm {
            weight: self.param(&format!("{name}.weight"), [d]),
            bias: self.param(&format!("{name}.bias"), [d]),
        }
    }

    pub(super) fn rms_norm(&mut self, name: &str, width: usize, offset: f64) -> RmsNorm {
        RmsNorm { weight: self.param(&format!("{name}.weight"), [width]), offset }
    }
}
