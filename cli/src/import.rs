//! `coconut import`: a checkpoint of a published program, written as one of this program's own.

use std::path::PathBuf;

use clap::Args;
use coconut::{
    Error, Result,
    data::Method,
    hub::HubCache,
    import::{Imported, Options},
};

use crate::verbs;

#[derive(Args)]
pub struct Import {
    /// A file of `torch.save` or of safetensors, or the folder that a program saved one in.
    source: PathBuf,
    /// The checkpoint folder to write; it must not exist, or be empty.
    #[arg(short, long)]
    out: PathBuf,
    /// The model that was trained, for shape and tokenizer: a Hugging Face folder, or `org/name` in the local cache.
    #[arg(long, value_name = "MODEL")]
    base: String,
    /// Which program trained it, where the names do not tell: coconut or lotus.
    #[arg(long, value_parser = method)]
    method: Option<Method>,
    /// Latents for each step; of CODI its `num_latent`.
    #[arg(long, value_name = "C")]
    c_thought: Option<usize>,
    /// The last stage that may still speak steps.
    #[arg(long, value_name = "M")]
    max_latent_stage: Option<usize>,
    /// The stage that it was saved at; the last one if absent.
    #[arg(long, value_name = "S")]
    stage: Option<i32>,
    /// Short examples got as many latents as others.
    #[arg(long)]
    pad_latent_to_max: bool,
    /// LoRA's α.
    #[arg(long, value_name = "ALPHA")]
    lora_alpha: Option<f64>,
}

/// Reads a method by its name in recipes.
fn method(name: &str) -> Result<Method, String> {
    serde_json::from_value(name.into())
        .map_err(|_| "expected coconut, lotus, codi or cot".to_owned())
}

impl Import {
    pub fn run(self) -> Result<()> {
        verbs::check_new_folder(&self.out)?;
        let base = HubCache::from_env().folder(&self.base, None);
        let base = base.map_err(|problem| Error::Usage(format!("--base {problem}")))?;
        let options = Options {
            method: self.method,
            c_thought: self.c_thought,
            max_latent_stage: self.max_latent_stage,
            stage: self.stage,
            pad_latent_to_max: self.pad_latent_to_max,
            lora_alpha: self.lora_alpha,
        };
        let imported = Imported::read(&self.source, &base, &options)?;
        for note in &imported.notes {
            eprintln!("note: {note}");
        }
        imported.write(&self.out)?;
        let latent = &imported.latent;
        let thoughts = match latent.thinking.feeds_back() {
            true => format!(", stage {}, fed back {}", latent.stage, latent.thinking.feedback),
            false => String::new(),
        };
        say!("wrote {}: {}{thoughts}", self.out.display(), latent.method);
        Ok(())
    }
}
