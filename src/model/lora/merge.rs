//! Adapters made part of the weights, and the weights below them stored in fewer bytes.

use burn::{
    module::Param,
    tensor::{DType, Tensor},
};
use coconut_kernels::Precision;

use super::config::FrozenDtype;
use crate::model::{Transformer, parameters};

impl Transformer {
    /// The same function without adapters: each is added to its linear layer, and rows that override a table's
    /// are put into the table. Everything is trainable again.
    pub fn merged(mut self) -> Self {
        if self.lora.take().is_none() {
            return self;
        }
        self.linears().into_iter().for_each(|(_, mut linear)| linear.merge());
        for (_, table) in self.tables() {
            table.weight = Param::from_tensor(table.table(Precision::F32).whole());
            table.token_adapter = None;
        }
        parameters::set_trained(self, |_| true)
    }

    /// Stores the matrices of the blocks and the tables in `dtype`. Without adapters nothing is frozen, and
    /// nothing changes.
    pub fn store_frozen_as(mut self, dtype: FrozenDtype) -> Self {
        if self.lora.is_none() || dtype == FrozenDtype::F32 {
            return self;
        }
        self.linears().into_iter().for_each(|(_, mut linear)| to_bf16(linear.weight()));
        self.tables().into_iter().for_each(|(_, table)| to_bf16(&mut table.weight));
        self
    }
}

/// Stores a weight in bf16, as a constant.
fn to_bf16(weight: &mut Param<Tensor<2>>) {
    let stored = weight.val().detach().cast(DType::BF16);
    *weight = Param::from_tensor(stored).set_require_grad(false);
}
