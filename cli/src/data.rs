//! `coconut data`: convert, generate, describe.

use std::path::PathBuf;

use crate::verbs;
use clap::{Args, Subcommand};
use coconut::{
    Error, Result,
    config::RunConfig,
    data::{read, stats::Stats, tasks, write},
};
use serde_json::{Map, Value, json};

#[derive(Subcommand)]
pub enum Data {
    /// Read any known form and write a JSON list of question, steps and answer.
    Convert {
        /// JSON list, JSON lines, iCoT text or ProntoQA.
        input: PathBuf,
        /// Where to write.
        output: PathBuf,
        /// Keep only the first so many.
        #[arg(long, value_parser = crate::verbs::at_least_one)]
        max_size: Option<usize>,
    },
    /// Make examples of a task: arithmetic, graph, multiply, pointer or prosqa.
    ///
    /// Example: coconut data generate arithmetic -n 1000 -o test.json -s operations=[4,4]
    #[command(verbatim_doc_comment)]
    Generate(Generate),
    /// Print statistics of a file as JSON.
    Stats {
        /// The file.
        input: PathBuf,
    },
}

#[derive(Args)]
pub struct Generate {
    /// The task.
    task: String,
    /// How many examples.
    #[arg(short, value_parser = crate::verbs::at_least_one)]
    n: usize,
    /// Where to write them.
    #[arg(short, long)]
    output: PathBuf,
    /// The same seed makes the same examples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Keep the examples of this file out, such as a test set's.
    #[arg(long)]
    exclude: Vec<PathBuf>,
    /// A setting of the task, as in a recipe.
    #[arg(short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Data {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Convert { input, output, max_size } => {
                let examples = read::load(&input, max_size)?;
                write::write_json(&output, &examples)?;
                println!("wrote {} examples to {}", examples.len(), output.display());
            }
            Self::Generate(generate) => {
                let keys = Map::from_iter([("task".to_owned(), Value::String(generate.task))]);
                let config = RunConfig::from_keys(keys, &generate.set, "coconut data generate")?;
                let Some(task) = config.task()? else {
                    return Err(Error::Usage("Name a task to generate.".into()));
                };
                let mut exclude = std::collections::HashSet::new();
                for path in &generate.exclude {
                    exclude.extend(tasks::keys(&read::load(path, None)?));
                }
                let examples = tasks::generate(&task, generate.n, generate.seed, &exclude)?;
                write::write_json(&generate.output, &examples)?;
                println!("wrote {} examples to {}", examples.len(), generate.output.display());
            }
            Self::Stats { input } => {
                let examples = read::load(&input, None)?;
                verbs::print_json(&json!(Stats::of(&examples, None)));
            }
        }
        Ok(())
    }
}
