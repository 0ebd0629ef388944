//! Where a sweep's runs are trained.

use std::str::FromStr;

use clap::Args;
use coconut::{Error, Result, sweep::slurm::Resources};

/// `--launcher`, and what it says of each run.
#[derive(Args)]
pub struct Options {
    /// Where runs are trained: `here`, on `slurm` as an array job, or by any other `command:TEXT`, in which a run's own
    /// command takes the place of `{command}` or the end: `--launcher "command:srun -n1"`.
    #[arg(long, value_name = "WHERE", default_value = "here")]
    launcher: Where,
    /// slurm: stay until all runs have ended.
    #[arg(long)]
    pub wait: bool,
    /// slurm: the partition.
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// slurm: the longest time of a run, such as 30 (minutes) or 4:00:00. What is not done by then is saved, and submitted
    /// again by the same command.
    #[arg(long, value_name = "LIMIT")]
    time: Option<String>,
    /// slurm: the memory of a run, such as 8G.
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// slurm: the processors of a run.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    cpus: Option<u16>,
    /// slurm: the devices of a run, such as gpu:1.
    #[arg(long, value_name = "LIST")]
    gres: Option<String>,
    /// slurm: another option of sbatch, as it stands there: `--sbatch=--account=lab`. May be given again.
    #[arg(long, value_name = "OPTION", value_parser = sbatch_option)]
    sbatch: Vec<String>,
    /// slurm: seconds before its time is up at which a run is told to save and stop; 120 if absent.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=65535))]
    grace: Option<u32>,
}

/// Where runs are trained.
pub enum Launcher {
    /// In processes of this machine.
    Here,
    /// As an array job.
    Slurm(Resources),
    /// By this command.
    Command(String),
}

#[derive(Clone)]
enum Where {
    Here,
    Slurm,
    Command(String),
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "here" => Ok(Self::Here),
            None if text == "slurm" => Ok(Self::Slurm),
            Some(("command", command)) if !command.trim().is_empty() => {
                Ok(Self::Command(command.into()))
            }
            _ => Err("expected here, slurm or command:TEXT".into()),
        }
    }
}

fn sbatch_option(text: &str) -> Result<String, String> {
    match text.starts_with('-') && !text.contains(['\n', '\r']) {
        true => Ok(text.into()),
        false => Err("expected an option of sbatch, such as --sbatch=--account=lab".into()),
    }
}

impl Options {
    /// What is asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] if something is said of Slurm that is not used.
    pub fn launcher(&self) -> Result<Launcher> {
        let of_slurm = [
            ("wait", self.wait),
            ("partition", self.partition.is_some()),
            ("time", self.time.is_some()),
            ("memory", self.memory.is_some()),
            ("cpus", self.cpus.is_some()),
            ("gres", self.gres.is_some()),
            ("sbatch", !self.sbatch.is_empty()),
            ("grace", self.grace.is_some()),
        ];
        let given = of_slurm.iter().find(|(_, given)| *given);
        match (&self.launcher, given) {
            (Where::Here | Where::Command(_), Some((option, _))) => {
                Err(Error::Usage(format!("--{option} needs `--launcher slurm`.")))
            }
            (Where::Here, None) => Ok(Launcher::Here),
            (Where::Command(command), None) => Ok(Launcher::Command(command.clone())),
            (Where::Slurm, _) => Ok(Launcher::Slurm(Resources {
                partition: self.partition.clone(),
                time: self.time.clone(),
                memory: self.memory.clone(),
                cpus: self.cpus,
                gres: self.gres.clone(),
                more: self.sbatch.clone(),
                grace: self.grace.unwrap_or(120),
            })),
        }
    }
}
