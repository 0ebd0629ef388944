//! The command line: its verbs, and what they share.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{Parser, Subcommand};
use coconut::{Error, Result};

#[cfg(feature = "serve")]
use crate::serve;
use crate::{audit, bench, data, devices, eval, generate, import, logits, merge, sweep, train};

/// Train, evaluate and open up language models that reason in a continuous latent space.
#[derive(Parser)]
#[command(name = "coconut", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a recipe through its stages, evaluate, and report.
    ///
    /// Examples:
    ///   coconut train configs/quickstart.yaml
    ///   coconut train configs/quickstart.yaml -s seed=1 -s name=quickstart-1
    ///   coconut train configs/quickstart.yaml --dry-run
    ///   coconut train configs/quickstart.yaml --resume
    #[command(verbatim_doc_comment)]
    Train(train::Train),
    /// Train a grid of variants with several seeds each, and compare them.
    ///
    /// Goes on where it stopped, skips what is done, and keeps going past a run that fails.
    ///
    /// Examples:
    ///   coconut sweep configs/sweep_ablations.yaml --jobs 2
    ///   coconut sweep configs/quickstart.yaml --over lr=1e-3,2e-3 --over c_thought=1,2 --seeds 0,1,2
    ///   coconut sweep configs/quickstart.yaml --over "replacement_method=hs[-1],norm(hs[-1]),zero"
    ///   coconut sweep configs/quickstart.yaml --seeds 0,1,2 --launcher slurm --partition gpu --time 4:00:00
    ///   coconut sweep configs/quickstart.yaml --over "v={label: no thoughts, method: no_thoughts},{method: pause}"
    #[command(verbatim_doc_comment)]
    Sweep(sweep::Sweep),
    /// Evaluate a checkpoint on a file of examples.
    ///
    /// Examples, after the quickstart:
    ///   coconut data generate arithmetic -n 1000 -o test.json -s operations=[4,4] -s value_steps=True
    ///   coconut eval runs/quickstart/checkpoints/latest --data test.json
    ///
    /// A pretrained model may stand there too, by its folder or its name in the Hugging Face cache:
    ///   coconut eval SmolLM2-135M-Instruct --chat --data gsm8k.jsonl,svamp.json --max-size 100
    ///   coconut eval HuggingFaceTB/SmolLM2-135M --shots 8 --shots-from train.jsonl --data test.jsonl
    #[command(verbatim_doc_comment)]
    Eval(eval::Eval),
    /// Find out whether a checkpoint's thoughts do any work.
    ///
    /// What is fed back is replaced, place by place, and every figure says over how many questions it is.
    ///
    /// Examples, after the quickstart:
    ///   coconut data generate arithmetic -n 400 -o test.json -s operations=[4,4] -s value_steps=True
    ///   coconut audit runs/quickstart/checkpoints/latest --data test.json --control untrained
    ///   coconut audit runs/quickstart/checkpoints/latest --data test.json --only zero@all,zero@2 -o zeroed
    #[command(verbatim_doc_comment)]
    Audit(audit::Audit),
    /// Answer a question, or each line of standard input.
    ///
    /// Examples:
    ///   coconut generate runs/quickstart/checkpoints/5-12 --latents 8 --prompt "3+5*2-7+1"
    ///   coconut generate runs/quickstart/checkpoints/5-12 --thoughts --prompt "3+5*2-7+1"
    ///   coconut generate runs/quickstart/checkpoints/5-12 --edit zero@2 --prompt "3+5*2-7+1"
    ///   coconut generate HuggingFaceTB/SmolLM2-135M-Instruct --chat --prompt "How much is 12 times 4?"
    #[command(verbatim_doc_comment)]
    Generate(generate::Generate),
    /// Serve a checkpoint over HTTP, in OpenAI's forms, and a page that shows its thoughts and lets one change them.
    ///
    /// Examples:
    ///   coconut serve runs/quickstart/checkpoints/latest
    ///   coconut serve runs/quickstart/checkpoints/latest --open
    ///   coconut serve runs/quickstart/checkpoints/latest --beside runs/pause/checkpoints/latest --open
    ///   curl localhost:8000/v1/completions -d '{"prompt": "3+5*2-7+1", "thoughts": 3}'
    ///   COCONUT_TOKEN=secret coconut serve SmolLM2-135M --host 0.0.0.0 --port 9000
    #[cfg(feature = "serve")]
    #[command(verbatim_doc_comment)]
    Serve(serve::Serve),
    /// Print the logits of every position of token ids, or of lines of them, latents fed back.
    ///
    /// Example: coconut logits runs/quickstart/checkpoints/latest --ids 13,20,15,6,3,5,5,4 --json
    #[command(verbatim_doc_comment)]
    Logits(logits::Logits),
    /// Add a checkpoint's adapters to the model below and write a plain Hugging Face folder.
    ///
    /// Example: coconut merge runs/gsm_qwen3_0.6b_lora/checkpoints/latest -o merged
    #[command(verbatim_doc_comment)]
    Merge(merge::Merge),
    /// Open a checkpoint of a published latent program, and write it as one of this program's.
    ///
    /// Reads what facebookresearch/coconut, yingfan-bot/lotus, zhenyi4/codi and InternLM/SIM-CoT write. Nothing in a
    /// pickle is carried out.
    ///
    /// Examples:
    ///   coconut import checkpoint_33 --base openai-community/gpt2 --method coconut --c-thought 2 --max-latent-stage 3 --pad-latent-to-max -o gsm
    ///   coconut import codi_gpt2 --base openai-community/gpt2 --c-thought 6 --lora-alpha 32 -o codi
    #[command(verbatim_doc_comment)]
    Import(import::Import),
    /// Convert, generate or describe data sets.
    #[command(subcommand)]
    Data(data::Data),
    /// Measure training steps and generation at several stages, with random weights.
    Bench(bench::Bench),
    /// List what this build and this machine have to compute on, each after its trial against the CPU.
    ///
    /// Examples:
    ///   coconut devices
    ///   coconut train configs/quickstart.yaml --device gpu
    #[command(verbatim_doc_comment)]
    Devices(devices::Devices),
    /// Write tables, figures and report.html of one run or several together.
    Report {
        /// Run folders.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// Where to write; the first run's folder if absent.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

/// Carries out a command line.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Train(train) => train.run(),
        Command::Sweep(sweep) => sweep.run(),
        Command::Eval(eval) => eval.run(),
        Command::Audit(audit) => audit.run(),
        Command::Generate(generate) => generate.run(),
        #[cfg(feature = "serve")]
        Command::Serve(serve) => serve.run(),
        Command::Logits(logits) => logits.run(),
        Command::Merge(merge) => merge.run(),
        Command::Import(import) => import.run(),
        Command::Data(data) => data.run(),
        Command::Bench(bench) => bench.run(),
        Command::Devices(devices) => devices.run(),
        Command::Report { runs, out } => {
            let report = match (&out, runs.as_slice()) {
                (None, [run]) => coconut::report::write(run)?,
                (out, [first, ..]) => {
                    coconut::report::compare(&runs, out.as_ref().unwrap_or(first))?
                }
                (_, []) => return Ok(()),
            };
            print_report(&report);
            Ok(())
        }
    }
}

pub fn print_report(report: &coconut::report::Report) {
    say!("{}", coconut::report::table::terminal(&report.series));
    for file in &report.files {
        say!("wrote {}", file.display());
    }
}

/// True once Ctrl-C was pressed; pressed again, the process ends at once.
pub fn stop_on_ctrl_c() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let _ = ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    stop
}

/// Whether to style what is printed: standard output is a terminal, and `NO_COLOR` is not set
/// (no-color.org).
pub fn styled() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !no_color
}

/// Refuses a folder to write that has something in it.
pub fn check_new_folder(folder: &Path) -> Result<()> {
    match std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        false => Ok(()),
        true => Err(Error::Usage(format!(
            "{} is not empty. Name another folder with `-o`.",
            folder.display()
        ))),
    }
}

/// Reads a count that must not be zero.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    let count = text.parse::<usize>().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "expected a whole number from 1 up".into())
}

/// Prints a line. If nobody reads any more, the program ends with the status that a shell gives those who are ended so.
pub fn say(line: std::fmt::Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{line}") {
        const BROKEN_PIPE: i32 = 128 + 13;
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(BROKEN_PIPE);
        }
        eprintln!("error: cannot write to standard output: {error}.");
        std::process::exit(1);
    }
}

/// JSON on one line.
pub fn print_json(value: &serde_json::Value) {
    say!("{value}");
}
