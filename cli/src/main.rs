//! The `coconut` program: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;

/// `println!`, but a reader that goes away, such as `head`, ends the program as it ends others.
macro_rules! say {
    () => { crate::verbs::say(format_args!("")) };
    ($($text:tt)*) => { crate::verbs::say(format_args!($($text)*)) };
}

mod audit;
mod bench;
mod data;
mod devices;
mod dry_run;
mod edit;
mod eval;
mod generate;
mod import;
mod log;
mod logits;
mod merge;
mod options;
mod processes;
mod progress;
#[cfg(feature = "serve")]
mod serve;
mod sweep;
mod train;
mod verbs;
mod watcher;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    coconut_kernels::allocator::keep_freed_memory();
    processes::share_cores();
    // In rayon's pool: the many short operations of a step then begin on this thread, where from
    // outside each would wait for one of the pool's to wake.
    match rayon::scope(|_| verbs::run(verbs::Cli::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
