//! From a recipe and a command line to the runs of a sweep.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Axis, Choice, ComparedRow, Reference, Run};
use crate::{
    Error, Result,
    config::{RunConfig, SWEEP, read_keys},
};

/// What the command line says of a sweep; it goes before what the recipe says.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Overrides of every run, `key=value`.
    pub set: Vec<String>,
    /// Axes, `key=v1,v2,…`; several of one key are joined. An axis of the recipe is replaced by one of the
    /// same name.
    pub over: Vec<String>,
    /// Seeds of every cell.
    pub seeds: Option<Vec<u64>>,
    /// Which row of a run is compared.
    pub compare: Option<ComparedRow>,
    /// What the cells are compared with.
    pub against: Option<Reference>,
    /// The accuracy from which on a run counts as solved.
    pub solved: Option<f64>,
}

/// A sweep: every cell of the grid, its runs, and how they are to be compared.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The sweep's name.
    pub name: String,
    /// `save_path/name`: holds a folder a run, and the tables.
    pub folder: PathBuf,
    /// In the order of the axes, the last one fastest.
    pub cells: Vec<Cell>,
    /// Which row of a run is compared.
    pub compare: ComparedRow,
    /// What the cells are compared with.
    pub against: Reference,
    /// The accuracy from which on a run counts as solved.
    pub solved: f64,
    /// What a reader should know, a sentence each.
    pub notes: Vec<String>,
}

/// The accuracy from which on a run counts as solved, if nothing is said.
const SOLVED: f64 = 0.95;

/// One variant, with a run for each seed.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The labels of its value on every axis, in the axes' order.
    pub labels: Vec<String>,
    /// A run a seed.
    pub runs: Vec<Run>,
}

impl Cell {
    /// What tables call it.
    pub fn label(&self) -> String {
        self.labels.join(", ")
    }
}

impl Plan {
    /// Reads a recipe, its key `sweep` if it has one, and lays out the grid.
    ///
    /// ```yaml
    /// sweep:
    ///   seeds: [0, 1, 2]
    ///   compare: last          # or best
    ///   against: best          # or first, or a label
    ///   solved: 0.95           # the accuracy from which on a run counts as solved
    ///   over:
    ///     replacement_method:  # a list of values …
    ///       - hs[-1]
    ///       - {label: pause, method: pause}    # … or of several keys at once
    /// ```
    ///
    /// # Errors
    /// The first key, value or cell at fault.
    pub fn load(recipe: &Path, request: &Request) -> Result<Self> {
        let mut keys = read_keys(recipe)?;
        let origin = recipe.display().to_string();
        let section = Section::read(keys.remove(SWEEP), &origin)?;
        let axes = axes(section.over, &request.over)?;
        for text in &request.set {
            let key = text.split('=').next().unwrap_or_default();
            if axes.iter().flat_map(|axis| &axis.choices).any(|c| c.keys.contains_key(key)) {
                return Err(Error::Usage(format!(
                    "-s {text}: the sweep varies `{key}`. Choose its values with `--over {key}=…`."
                )));
            }
        }
        // JSON is YAML, so that a value comes through `key=value` as it was read.
        let overrides = |choices: &[&Choice]| {
            let pairs = choices.iter().flat_map(|choice| &choice.keys);
            let varied = pairs.map(|(key, value)| format!("{key}={value}"));
            request.set.iter().cloned().chain(varied).collect::<Vec<String>>()
        };
        // What the axes give, the recipe need not: it is read as its first cell.
        let grid = product(&axes);
        let first = grid.first().map(|choices| overrides(choices)).unwrap_or_default();
        let base = RunConfig::from_keys(keys.clone(), &first, &origin)?;
        let mut seeds = request.seeds.clone().or(section.seeds).unwrap_or_else(|| vec![base.seed]);
        let mut seen = std::collections::BTreeSet::new();
        seeds.retain(|&seed| seen.insert(seed));
        if seeds.is_empty() {
            return Err(Error::Usage("a sweep needs at least one seed: `--seeds 0,1,2`.".into()));
        }
        let mut notes = Vec::new();
        if !base.baselines.is_empty() {
            notes.push(
                "`baselines` are not trained in a sweep, as they would be in every cell; add them as variants, such as `--over method=coconut,no_cot`."
                    .to_owned(),
            );
        }

        let mut plan = Self {
            folder: base.run_dir(),
            name: base.name,
            cells: Vec::new(),
            compare: request.compare.or(section.compare).unwrap_or_default(),
            against: request.against.clone().or(section.against).unwrap_or_default(),
            solved: request.solved.or(section.solved).unwrap_or(SOLVED),
            notes,
        };
        let mut names: Vec<String> = Vec::new();
        for choices in grid {
            let labels: Vec<String> = choices.iter().map(|choice| choice.label.clone()).collect();
            let config = RunConfig::from_keys(keys.clone(), &overrides(&choices), &origin)
                .map_err(|error| in_cell(error, &labels))?;
            let name = unique(slug(&labels.join("_")), &names);
            names.push(name.clone());
            let run = |&seed: &u64| {
                let name = match name.as_str() {
                    "" => format!("seed{seed}"),
                    name => format!("{name}-seed{seed}"),
                };
                let mut config = config.clone();
                (config.seed, config.baselines) = (seed, Vec::new());
                (config.save_path, config.name) = (plan.folder.clone(), name);
                Run::new(config)
            };
            let runs = seeds.iter().map(run).collect();
            plan.cells.push(Cell { labels, runs });
        }
        if let Reference::Label(label) = &plan.against
            && !plan.cells.iter().any(|cell| cell.is_called(label))
        {
            let labels: Vec<String> = plan.cells.iter().map(Cell::label).collect();
            return Err(Error::Usage(format!(
                "--against {label}: no variant is called so. It is `best`, `first` or one of: {}.",
                labels.join("; ")
            )));
        }
        Ok(plan)
    }

    /// All runs: every cell's first seed, then every cell's second, so that an unfinished sweep already
    /// says something of each variant.
    pub fn runs(&self) -> Vec<(&Cell, &Run)> {
        let seeds = self.cells.iter().map(|cell| cell.runs.len()).max().unwrap_or(0);
        let of_seed = |seed| self.cells.iter().filter_map(move |c| Some((c, c.runs.get(seed)?)));
        (0..seeds).flat_map(of_seed).collect()
    }
}

impl Cell {
    /// Whether a label names it: the whole one, or the one on any axis.
    pub(super) fn is_called(&self, label: &str) -> bool {
        self.label() == label || self.labels.iter().any(|own| own == label)
    }
}

/// The content of a recipe's key `sweep`.
#[derive(Default)]
struct Section {
    over: Vec<Axis>,
    seeds: Option<Vec<u64>>,
    compare: Option<ComparedRow>,
    against: Option<Reference>,
    solved: Option<f64>,
}

impl Section {
    fn read(section: Option<Value>, origin: &str) -> Result<Self> {
        let error = |problem: String| {
            Err(Error::Config { origin: origin.into(), key: SWEEP.into(), problem })
        };
        let section = match section {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(section)) => section,
            Some(_) => {
                return error(
                    "is not a mapping; it may hold over, seeds, compare, against, solved".into(),
                );
            }
        };
        let mut found = Self::default();
        for (key, value) in section {
            match (key.as_str(), &value) {
                ("over", Value::Object(axes)) => {
                    for (name, values) in axes {
                        match Axis::from_recipe(name, values) {
                            Ok(axis) => found.over.push(axis),
                            Err(problem) => return error(format!("over: {problem}")),
                        }
                    }
                }
                ("over", _) => return error("over: is not a mapping of keys to values".into()),
                ("seeds", _) => match serde_json::from_value(value) {
                    Ok(seeds) => found.seeds = Some(seeds),
                    Err(_) => return error("seeds: is not a list of whole numbers".into()),
                },
                ("compare", Value::String(text)) if text.parse::<ComparedRow>().is_ok() => {
                    found.compare = text.parse().ok();
                }
                ("compare", _) => return error(format!("compare: is {value}; it is last or best")),
                ("against", Value::String(text)) => {
                    found.against = Some(Reference::from(text.as_str()));
                }
                ("against", _) => {
                    return error(format!("against: is {value}; it is best, first or a label"));
                }
                ("solved", _) => match value.as_f64().filter(|share| (0.0..=1.0).contains(share)) {
                    Some(share) => found.solved = Some(share),
                    None => return error(format!("solved: is {value}; it is a share from 0 to 1")),
                },
                _ => {
                    return error(format!(
                        "`{key}` is unknown; it may hold over, seeds, compare, against, solved"
                    ));
                }
            }
        }
        Ok(found)
    }
}

/// The recipe's axes with the command line's in their place or after them.
fn axes(mut axes: Vec<Axis>, flags: &[String]) -> Result<Vec<Axis>> {
    let mut given: Vec<Axis> = Vec::new();
    for flag in flags {
        let axis = Axis::from_flag(flag)?;
        match given.iter_mut().find(|earlier| earlier.name == axis.name) {
            Some(earlier) => earlier.choices.extend(axis.choices),
            None => given.push(axis),
        }
    }
    for axis in given {
        match axes.iter_mut().find(|recipe| recipe.name == axis.name) {
            Some(recipe) => *recipe = axis,
            None => axes.push(axis),
        }
    }
    for axis in &axes {
        let repeated = (1..axis.choices.len()).find(|&i| {
            axis.choices[..i].iter().any(|choice| choice.label == axis.choices[i].label)
        });
        if let Some(place) = repeated {
            return Err(Error::Usage(format!(
                "`{}` takes the value `{}` twice; give each variant its own `label`.",
                axis.name, axis.choices[place].label
            )));
        }
    }
    Ok(axes)
}

/// Every choice on every axis, the last axis fastest; one empty cell if there are no axes.
fn product(axes: &[Axis]) -> Vec<Vec<&Choice>> {
    axes.iter().fold(vec![Vec::new()], |cells, axis| {
        let longer = |cell: &Vec<_>| {
            axis.choices
                .iter()
                .map(|choice| [cell.as_slice(), &[choice]].concat())
                .collect::<Vec<_>>()
        };
        cells.iter().flat_map(longer).collect()
    })
}

/// An override that fails in a cell is the cell's, not the command line's.
fn in_cell(error: Error, labels: &[String]) -> Error {
    match error {
        Error::Config { origin, key, problem } if origin == "-s" => {
            Error::Config { origin: format!("the variant `{}`", labels.join(", ")), key, problem }
        }
        other => other,
    }
}

/// A label as a plain folder name: what a shell would have to quote becomes `_`.
fn slug(label: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-.=+".contains(c);
    let words = label.split(|c| !plain(c)).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("_");
    name.trim_start_matches(['.', '-']).chars().take(120).collect()
}

fn unique(name: String, taken: &[String]) -> String {
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    let mut candidates = std::iter::once(name.clone()).chain(numbered);
    candidates.find(|candidate| !taken.contains(candidate)).unwrap_or(name)
}
