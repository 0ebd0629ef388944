//! `coconut merge`: adapters added to the model below them.

use std::path::PathBuf;

use clap::Args;
use coconut::{
    Error, Result,
    checkpoint::{self, Checkpoint},
    objective::Learner,
};

use crate::{options::ModelOptions, verbs};

#[derive(Args)]
pub struct Merge {
    #[command(flatten)]
    model: ModelOptions,
    /// The folder to write; it must not exist, or be empty.
    #[arg(short, long)]
    out: PathBuf,
}

impl Merge {
    pub fn run(self) -> Result<()> {
        verbs::check_new_folder(&self.out)?;
        let Checkpoint { mut model, objective, tokenizer, latent } = self.model.load()?;
        if model.transformer.lora.is_none() {
            return Err(Error::Usage(format!(
                "{} is a whole model already; there is nothing to merge.",
                self.model.checkpoint.display()
            )));
        }
        model.transformer = model.transformer.merged();
        checkpoint::write_model(&self.out, &Learner { model, objective }, &tokenizer, &latent)?;
        say!("wrote {}", self.out.display());
        Ok(())
    }
}
