//! All integration tests of the library and the program, in one binary.

use std::path::PathBuf;

use burn::tensor::Device;
use coconut::device::DeviceName;

mod answers;
mod architecture;
mod audit;
mod audit_stats;
mod bench;
mod cli;
mod curriculum;
mod data_files;
mod data_properties;
mod decoder;
mod devices;
mod dials;
mod dry_run;
mod edit;
#[cfg(feature = "serve")]
mod explorer;
mod families;
mod generation;
mod import;
#[cfg(target_os = "linux")]
mod kill;
mod latent_forward;
#[cfg(unix)]
mod launchers;
mod lens;
mod lora;
mod methods;
mod metrics;
mod miscount;
mod model_files;
mod objectives;
mod optim;
mod paths;
mod plain_folder;
mod planted;
mod probes;
mod program;
mod published_sets;
mod recipe_keys;
mod recompute;
mod reinject;
mod report_files;
mod report_results;
mod runs;
mod scorers;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod server;
mod shared_prefix;
mod shifts;
mod stats;
mod sweep;
mod thinking;
mod thoughts;
mod tokenizer_families;
mod torch;
mod wandb;

/// The repository's root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Where tests compute: the device that `COCONUT_TEST_DEVICE` names, or the CPU.
fn device() -> Device {
    let name = std::env::var("COCONUT_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse::<DeviceName>().and_then(|name| name.open(false)).unwrap()
}

/// A file or folder below `tests/fixtures`.
fn fixture(path: &str) -> PathBuf {
    PathBuf::from(ROOT).join("tests/fixtures").join(path)
}
