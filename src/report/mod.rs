//! What a run leaves for people to look at: tables, figures and `report.html`.
//!
//! `results` (the rows) → `series` (merged by method, one row a stage) → `table`, `plot`, `html`.

pub mod audit;
mod html;
pub(crate) mod plot;
mod series;
pub mod table;

pub use plot::{Curve, accuracy as accuracy_svg, loss as loss_svg, rates as rates_svg};
pub use series::{Series, series, stage_name};

use crate::run::samples::SampleGroup;
use crate::run::{Record, Results, file, read_metrics, samples};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What [`write()`] and [`compare`] made.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The merged results, for [`table::terminal`].
    pub series: Vec<Series>,
    /// The files written: `accuracy.svg` and `loss.svg` where there was something to draw, and
    /// `report.html`, last.
    pub files: Vec<PathBuf>,
}

/// What is known of one run; what its folder lacks is empty.
struct Run {
    folder: PathBuf,
    name: String,
    /// What the run trained, if its recipe or its rows tell.
    method: Option<String>,
    results: Option<Results>,
    metrics: Vec<Record>,
    samples: Vec<SampleGroup>,
    config: Option<String>,
    audit: Option<crate::audit::Record>,
}

/// Reports on a run: reads `results.json`, `metrics.jsonl`, `samples.jsonl` and `config.yaml` in
/// `folder` and in its folders that hold a `results.json` themselves (a baseline such as `no_cot/`), and writes
/// `accuracy.svg`, `loss.svg` and `report.html`. What is missing is left out.
///
/// # Errors
/// [`Error::Io`] if something cannot be read or written, [`Error::Input`] if a file is damaged or
/// the folder holds no run.
pub fn write(folder: &Path) -> Result<Report> {
    let mut folders = vec![folder.to_owned()];
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let inner = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut inner: Vec<PathBuf> =
        inner.filter(|path| path.join("results.json").is_file()).collect();
    inner.sort();
    folders.extend(inner);
    compare(&folders, folder)
}

/// Reports on several runs together, rows merged by method, and writes the same files as [`write()`]
/// into `out`.
///
/// # Errors
/// As [`write()`]; [`Error::Input`] names the folder that holds no run.
pub fn compare(folders: &[PathBuf], out: &Path) -> Result<Report> {
    let runs = folders.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<Run>>>()?;
    let results: Vec<&Results> = runs.iter().filter_map(|run| run.results.as_ref()).collect();
    let series = series(&results);

    let titles = titles(&runs);
    let with_metrics = runs.iter().zip(&titles);
    let curves: Vec<Curve> =
        with_metrics.map(|(run, title)| Curve { label: title, records: &run.metrics }).collect();
    let accuracy = plot::accuracy(&series);
    let loss = plot::loss(&curves);
    let html = html::render(&runs, &titles, &series, accuracy.as_deref(), loss.as_deref(), out)?;

    file::create_folder(out)?;
    let mut files = Vec::new();
    let contents = [("accuracy.svg", accuracy), ("loss.svg", loss), ("report.html", Some(html))];
    for (name, content) in contents {
        if let Some(content) = content {
            let path = out.join(name);
            file::replace(&path, content.as_bytes())?;
            files.push(path);
        }
    }
    Ok(Report { series, files })
}

/// What each run is called beside the others: its name; the method where runs share it, as a run and its baselines
/// do; both where neither is enough.
fn titles(runs: &[Run]) -> Vec<String> {
    let name = |run: &Run| run.name.clone();
    let method = |run: &Run| run.method.clone().unwrap_or_else(|| run.name.clone());
    let both = |run: &Run| match &run.method {
        Some(method) => format!("{}, {method}", run.name),
        None => run.name.clone(),
    };
    let differ = |title: &dyn Fn(&Run) -> String| {
        let titles: BTreeSet<String> = runs.iter().map(title).collect();
        titles.len() == runs.len()
    };
    let one_name = runs.windows(2).all(|pair| pair[0].name == pair[1].name);
    let title: &dyn Fn(&Run) -> String = match () {
        () if differ(&name) => &name,
        () if one_name && differ(&method) => &method,
        () => &both,
    };
    runs.iter().map(title).collect()
}

impl Run {
    fn read(folder: &Path) -> Result<Self> {
        fs::read_dir(folder).map_err(Error::io("read", folder))?;
        let existing = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let results = existing("results.json").map(|path| Results::read(&path)).transpose()?;
        let metrics = existing("metrics.jsonl").map(|path| read_metrics(&path)).transpose()?;
        if results.is_none() && metrics.is_none() {
            let problem = "holds neither results.json nor metrics.jsonl, so there is no run to \
                           report on. Give the folder that `coconut train` wrote.";
            return Err(Error::input(folder, "", problem));
        }
        let samples = existing("samples.jsonl").map(|path| samples::read(&path)).transpose()?;
        let config = existing("config.yaml")
            .map(|path| fs::read_to_string(&path).map_err(Error::io("read", &path)))
            .transpose()?;
        let named = results.as_ref().map(|results| results.run.clone());
        let method = results.as_ref().and_then(|results| {
            let of_recipe = results.config["method"].as_str().map(str::to_owned);
            of_recipe.or_else(|| results.rows.first().map(|row| row.method.clone()))
        });
        Ok(Self {
            folder: folder.to_owned(),
            name: named.filter(|name| !name.is_empty()).unwrap_or_else(|| folder_name(folder)),
            method,
            results,
            metrics: metrics.unwrap_or_default(),
            samples: samples.unwrap_or_default(),
            config,
            audit: audit::read(&folder.join("audit"))?,
        })
    }
}

/// The last part of a path, `.` and `..` worked out.
fn folder_name(folder: &Path) -> String {
    let whole = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned()
}
