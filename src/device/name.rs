//! Names of devices, and what a build and a machine have of them.

use std::{fmt, str::FromStr};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{check, cpu};
use crate::quiet::caught;

/// A device as recipes and `--device` name it: `cpu`, `gpu`, a backend such as `wgpu`, or one of a backend's devices
/// by its number from 0, such as `wgpu:1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceName {
    /// The processor that the program runs on.
    #[default]
    Cpu,
    /// The first device of the first backend, in the order of [`Backend::ALL`], that this build and machine have.
    Gpu,
    /// A backend's device: that of a number, or the one that the backend prefers.
    Of(Backend, Option<usize>),
}

/// What runs a GPU: each is a cargo feature of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// NVIDIA's CUDA.
    Cuda,
    /// AMD's ROCm.
    Rocm,
    /// Apple's Metal, in its own shading language.
    Metal,
    /// Vulkan, Metal or DirectX 12, in WGSL.
    Wgpu,
    /// Vulkan, in SPIR-V.
    Vulkan,
}

impl Backend {
    /// All, in the order in which `gpu` takes them.
    pub const ALL: [Self; 5] = [Self::Cuda, Self::Rocm, Self::Metal, Self::Wgpu, Self::Vulkan];

    /// Its name in recipes, and the cargo feature that builds it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
        }
    }

    /// Those that this program was built with.
    pub fn built() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|backend| match backend {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Rocm => cfg!(feature = "rocm"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Vulkan => cfg!(feature = "vulkan"),
        })
    }

    /// Its devices on this machine, by number; none if the machine lacks its driver.
    pub fn devices(self) -> Vec<Device> {
        // Where a driver's library is missing, backends panic.
        caught(|| self.listed()).unwrap_or_default()
    }

    fn listed(self) -> Vec<Device> {
        #[cfg(feature = "gpu")]
        use burn::tensor::DeviceType;
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::enumerate(DeviceType::Cuda).into_iter().collect(),
            #[cfg(feature = "rocm")]
            Self::Rocm => Device::enumerate(DeviceType::Rocm).into_iter().collect(),
            #[cfg(feature = "metal")]
            Self::Metal => Device::enumerate(DeviceType::Metal).into_iter().collect(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::enumerate(DeviceType::Wgpu).into_iter().collect(),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Device::enumerate(DeviceType::Vulkan).into_iter().collect(),
            #[allow(unreachable_patterns)] // a build may have all
            _ => Vec::new(),
        }
    }

    /// The device that the backend prefers where a machine has several.
    fn preferred(self) -> Option<Device> {
        self.devices().into_iter().next()
    }
}

impl DeviceName {
    /// The device, ready to be used. Any but the processor computes a trial first ([`mod@check`]) if it is `checked`.
    ///
    /// # Errors
    /// What is wrong with the name: this build or this machine does not have it, or the device failed its trial.
    pub fn open(self, checked: bool) -> Result<Device, String> {
        let device = self.find()?;
        if checked && self != Self::Cpu {
            check::check(&device).map_err(|fault| format!("is `{self}`, which {fault}"))?;
        }
        Ok(device)
    }

    fn find(self) -> Result<Device, String> {
        match self {
            Self::Cpu => Ok(cpu()),
            Self::Gpu => Backend::built().find_map(Backend::preferred).ok_or_else(|| {
                let problem = match Backend::built().next() {
                    None => "this build has the CPU alone",
                    Some(_) => "this machine offers none; see `coconut devices`",
                };
                format!("is `gpu`, and {problem}. {}", advice())
            }),
            Self::Of(backend, _) if !Backend::built().any(|built| built == backend) => {
                Err(format!("is `{self}`; this build has {}. {}", built(), advice()))
            }
            Self::Of(backend, number) => {
                let mut devices = backend.devices();
                let number = number.unwrap_or(0);
                match devices.len() {
                    0 => Err(format!(
                        "is `{self}`, and this machine offers no {backend} device; its driver may not be installed"
                    )),
                    n if number < n => Ok(devices.swap_remove(number)),
                    n => Err(format!(
                        "is `{self}`; this machine has {n} such, from {backend}:0 on (see `coconut devices`)"
                    )),
                }
            }
        }
    }
}

/// What this build has, as a list.
fn built() -> String {
    let backends = Backend::built().map(Backend::name);
    ["cpu"].into_iter().chain(backends).collect::<Vec<_>>().join(", ")
}

fn advice() -> &'static str {
    "Build with `--features wgpu` (or cuda, rocm, metal, vulkan) for a GPU (docs/devices.md)"
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu => f.write_str("gpu"),
            Self::Of(backend, None) => write!(f, "{backend}"),
            Self::Of(backend, Some(number)) => write!(f, "{backend}:{number}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = match text.split_once(':') {
            None => (text, None),
            Some((name, number)) => (
                name,
                number.parse().ok().map(Some).ok_or_else(|| {
                    format!("`{text}`: what follows the colon is a device's number, such as wgpu:1")
                })?,
            ),
        };
        match (name, number) {
            ("cpu", None) => return Ok(Self::Cpu),
            ("gpu", None) => return Ok(Self::Gpu),
            _ => {}
        }
        let backend = Backend::ALL.into_iter().find(|backend| backend.name() == name);
        backend.map(|backend| Self::Of(backend, number)).ok_or_else(|| {
            format!("`{text}` is no device; it is one of cpu, gpu, cuda, rocm, metal, wgpu and vulkan, the last five with a number if there are several: wgpu:1")
        })
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_they_are_read() {
        for name in ["cpu", "gpu", "wgpu", "wgpu:0", "cuda:3", "rocm", "metal", "vulkan:12"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        for name in ["", "CPU", "cpu:0", "gpu:1", "wgpu:", "wgpu:-1", "wgpu:x", "tpu", ":1"] {
            let refusal = name.parse::<DeviceName>().unwrap_err();
            assert!(refusal.contains(&format!("`{name}`")), "{refusal}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let missing = Backend::ALL.into_iter().find(|&this| !Backend::built().any(|b| b == this));
        let Some(missing) = missing else { return };
        let refusal = DeviceName::Of(missing, None).open(true).unwrap_err();
        assert!(refusal.contains(&format!("is `{missing}`; this build has cpu")), "{refusal}");
    }
}
