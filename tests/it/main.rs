//! All integration tests of the library and the program, in one binary.

use std::path::PathBuf;

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
mod dials;
mod dry_run;
mod edit;
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

/// A file or folder below `tests/fixtures`.
fn fixture(path: &str) -> PathBuf {
    PathBuf::from(ROOT).join("tests/fixtures").join(path)
}
