//! `coconut devices`: what this build and this machine have to compute on.

use std::process::{Command, ExitStatus};

use clap::Args;
use coconut::{
    Error, Result,
    device::{self, Backend, DeviceName},
    memory,
    report::table::drawn,
};
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::verbs::{print_json, styled};

#[derive(Args)]
pub struct Devices {
    /// Compute one device's trial alone, in this process.
    #[arg(long, value_name = "NAME")]
    check: Option<DeviceName>,
    /// Print one line of JSON a device instead of a table.
    #[arg(long)]
    json: bool,
}

impl Devices {
    pub fn run(self) -> Result<()> {
        if let Some(name) = self.check {
            let opened = name.open(true);
            let device = opened.map_err(|problem| Error::Usage(format!("--check {problem}.")))?;
            let maker = device::maker_name(&device);
            print_json(&json!({"device": name, "name": maker, "problem": null}));
            return Ok(());
        }
        let mut rows = vec![json!({
            "device": DeviceName::Cpu,
            "name": format!("{} threads", rayon::current_num_threads()),
            "memory_gb": memory::total_mb().map(|mb| mb / 1e3),
            "problem": null,
        })];
        for backend in Backend::built() {
            match backend.devices().len() {
                0 => rows.push(json!({
                    "device": backend.name(),
                    "name": null,
                    "memory_gb": null,
                    "problem": "none on this machine, or its driver is missing",
                })),
                n => rows.extend((0..n).map(|number| tried(DeviceName::Of(backend, Some(number))))),
            }
        }
        match self.json {
            true => rows.iter().for_each(print_json),
            false => {
                say!("{}", table(&rows));
                let missing: Vec<&str> = Backend::ALL
                    .into_iter()
                    .filter(|&this| Backend::built().all(|built| built != this))
                    .map(Backend::name)
                    .collect();
                if !missing.is_empty() {
                    say!("not in this build: {} (docs/devices.md)", missing.join(", "));
                }
            }
        }
        Ok(())
    }
}

/// What becomes of a device's trial. It has a process of its own: drivers may crash.
fn tried(name: DeviceName) -> Value {
    let problem = |problem: String| {
        let none = Value::Null;
        json!({"device": name, "name": none, "memory_gb": none, "problem": problem})
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return problem(format!("cannot be tried: {error}")),
    };
    let output = Command::new(program).arg("devices").arg(format!("--check={name}")).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return problem(format!("cannot be tried: {error}")),
    };
    let told = String::from_utf8_lossy(&output.stdout);
    let told = told.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    match told {
        Some(told) if output.status.success() => told,
        _ => {
            let error = String::from_utf8_lossy(&output.stderr);
            let error = error.lines().find_map(|line| line.strip_prefix("error: --check is "));
            let error =
                error.and_then(|error| error.split_once(", which ")).map(|(_, fault)| fault);
            problem(error.map_or_else(|| crash(output.status), str::to_owned))
        }
    }
}

/// How a process ended that said nothing.
fn crash(status: ExitStatus) -> String {
    format!("its driver crashes at the first kernel ({status})")
}

fn table(rows: &[Value]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("–").to_owned();
    let cells = |row: &Value| {
        let memory = row["memory_gb"].as_f64().map_or("–".into(), |gb| format!("{gb:.1}"));
        let state = row["problem"].as_str().unwrap_or("ready").to_owned();
        [text(&row["device"]), text(&row["name"]), memory, state].map(Cell::new).to_vec()
    };
    drawn(&["device", "name", "memory GB", "state"], rows.iter().map(cells), &[0, 1, 3], styled())
}
