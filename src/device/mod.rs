//! Where tensors live: names of devices, the trial that each but the CPU passes first, reading tensors from there, and
//! what a device is slow at.

pub mod check;
mod name;

use burn::tensor::{Device, Element, Tensor, kind::Basic};
use coconut_kernels::{
    Precision, host,
    simd::{self, Level},
};

pub use name::{Backend, DeviceName};

#[cfg(feature = "gpu")]
use crate::quiet::caught;
use crate::{Error, Result};

/// The processor that the program runs on.
pub fn cpu() -> Device {
    Device::flex()
}

/// The values of a tensor on the host, the last dimension's side by side, converted to `E`.
///
/// # Errors
/// [`Error::Internal`] if the device failed.
pub fn to_host<E: Element, const D: usize, K: Basic>(tensor: Tensor<D, K>) -> Result<Vec<E>> {
    host::read(tensor).map_err(|problem| {
        Error::Internal(format!("the device's values cannot be read: {problem}"))
    })
}

/// What a device is called by its maker, as far as it says so; opens the device.
#[cfg(feature = "gpu")]
pub fn maker_name(device: &Device) -> Option<String> {
    caught(|| device.identity()).flatten().map(|identity| identity.name)
}

/// What a device is called by its maker; of the CPU it is not known.
#[cfg(not(feature = "gpu"))]
pub fn maker_name(_: &Device) -> Option<String> {
    None
}

/// What a recipe's `bf16` asks of products.
pub fn precision(bf16: bool) -> Precision {
    if bf16 { Precision::Bf16 } else { Precision::F32 }
}

/// What to say of `bf16: True` if this processor is slow at it.
pub fn bf16_warning(bf16: bool) -> Option<&'static str> {
    (bf16 && simd::level() < Level::Avx512Bf16).then_some(
        "this processor has no bf16 products (AVX512-BF16): `bf16: True` gives what it gives elsewhere, but takes longer than f32",
    )
}
