//! Where tensors live.

use burn::tensor::Device;

use crate::{Error, Result};

/// The device of a name in a recipe: `cpu`, or one of a build with its cargo feature.
///
/// # Errors
/// A name that this build does not have.
pub fn named(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::flex()),
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
