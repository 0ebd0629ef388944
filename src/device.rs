//! Where tensors live, reading them from there, and what a device is slow at.

use burn::tensor::{Device, Element, Tensor, kind::Basic};
use coconut_kernels::{
    Precision,
    simd::{self, Level},
};

use crate::{Error, Result};

/// The processor that the program runs on.
pub fn cpu() -> Device {
    Device::flex()
}

/// The device of a name in a recipe: `cpu`, or one of a build with its cargo feature.
///
/// # Errors
/// A name that this build does not have.
pub fn named(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(cpu()),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        _ => {
            let built = ["cpu"].into_iter();
            let built = built.chain(cfg!(feature = "vulkan").then_some("vulkan"));
            let built = built.chain(cfg!(feature = "metal").then_some("metal"));
            let built: Vec<&str> = built.chain(cfg!(feature = "cuda").then_some("cuda")).collect();
            Err(Error::Config {
                origin: "recipe".into(),
                key: "device".into(),
                problem: format!(
                    "is `{name}`; this build has {}. Build with `--features vulkan` (or metal, cuda) for a GPU.",
                    built.join(", ")
                ),
            })
        }
    }
}

/// The values of a tensor on the host, the last dimension's side by side, converted to `E`.
///
/// # Errors
/// [`Error::Internal`] if the device failed.
pub fn to_host<E: Element, const D: usize, K: Basic>(tensor: Tensor<D, K>) -> Result<Vec<E>> {
    let values = tensor.try_into_vec_as::<E>();
    values.map_err(|problem| {
        Error::Internal(format!("the device's values cannot be read: {problem}"))
    })
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
