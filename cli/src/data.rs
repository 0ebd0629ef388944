//! `coconut data`: convert, generate, describe.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use crate::verbs;
use clap::{Args, Subcommand, ValueEnum};
use coconut::{
    Error, Result,
    config::{RunConfig, resolved::Examples},
    data::{
        published::Steps,
        read,
        shortcuts::Shortcuts,
        stats::Stats,
        tasks::{self, Task, shift::Shift},
        write,
    },
    report::table,
};
use comfy_table::Cell;
use serde_json::{Map, Value, json};

#[derive(Subcommand)]
pub enum Data {
    /// Read any known form and write a JSON list of question, steps and answer.
    ///
    /// Known are question, steps and answer as JSON list or JSON lines, iCoT text, and, as their sources publish them in
    /// JSON or Parquet, GSM8K, GSM8k-Aug, GSM-Hard, SVAMP, MultiArith, ASDiv, MATH, CommonsenseQA, ARC, ProntoQA and
    /// ProsQA.
    Convert {
        /// The file to read.
        input: PathBuf,
        /// Where to write.
        output: PathBuf,
        /// Keep only the first so many.
        #[arg(long, value_parser = crate::verbs::at_least_one)]
        max_size: Option<usize>,
        /// Of worked solutions, keep the annotations such as <<3*4=12>> alone, or the words without them.
        #[arg(long)]
        steps: Option<StepsKept>,
    },
    /// Make examples of a task: arithmetic, graph, multiply, pointer or prosqa.
    ///
    /// Beside the file, it tells how often trivial rules are right: a model that is no better has learned no more.
    ///
    /// Examples:
    ///   coconut data generate arithmetic -n 1000 -o test.json -s operations=[4,4]
    ///   coconut data generate pointer -n 1000 -o pointer.json -s entries=8 -s hops=[3,4]
    ///   coconut data generate graph -n 1000 -o dag.json --shift dag
    ///   coconut data generate graph -n 400 -o misled.json --misled-by nearer
    ///
    /// A recipe in the task's place gives its settings. To test the quickstart beyond what it trained, give it room
    /// for longer questions first, since a model's context is as long as its data's if nothing else is said:
    ///   coconut train configs/quickstart.yaml -s n_positions=64
    ///   coconut data generate configs/quickstart.yaml -n 400 -o longer.json --shift longer
    ///   coconut eval runs/quickstart/checkpoints/latest --data longer.json
    #[command(verbatim_doc_comment)]
    Generate(Generate),
    /// Print statistics of a file as JSON, with what trivial rules get right.
    Stats {
        /// The file.
        input: PathBuf,
    },
}

/// What of worked solutions is kept.
#[derive(Clone, Copy, ValueEnum)]
pub enum StepsKept {
    Equations,
    Words,
}

impl From<StepsKept> for Steps {
    fn from(kept: StepsKept) -> Self {
        match kept {
            StepsKept::Equations => Self::Equations,
            StepsKept::Words => Self::Words,
        }
    }
}

#[derive(Args)]
pub struct Generate {
    /// The task; or a recipe, or a run's config.yaml, whose task it is: what it trains on is kept out.
    #[arg(value_name = "TASK|RECIPE")]
    source: String,
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
    /// Change the task in one thing, for a test beyond what was trained:
    ///   longer    more steps than any example had: +1 or +2; multiply: a digit more (all tasks)
    ///   operands  numbers beyond the largest one (arithmetic)
    ///   tree      every node has one parent, so that one path leads to it (graph, prosqa)
    ///   dag       every node has two parents or more, so that paths join (graph, prosqa)
    ///   denser    one more parent a node on average (graph, prosqa)
    ///   permuted  nodes are numbered at random (graph)
    ///   larger    half as many entries again; `names` must be enough (pointer)
    /// The setting that makes the shift is printed; with `-s` it does the same.
    #[arg(long, value_name = "NAME", value_parser = shift, verbatim_doc_comment)]
    shift: Option<Shift>,
    /// Keep only examples that this trivial rule gets wrong, so that who follows it is found out. The rule is named by words
    /// that only it has in the table that is printed, such as `nearer`.
    #[arg(long, value_name = "RULE")]
    misled_by: Option<String>,
    /// Write nothing if a trivial rule is right more often than chance, by more than so many points and than two standard
    /// errors.
    #[arg(long, value_name = "POINTS", value_parser = points)]
    max_shortcut: Option<f64>,
    /// Print what was made as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn shift(name: &str) -> Result<Shift, String> {
    let names = Shift::ALL.map(Shift::name).join(", ");
    Shift::named(name).ok_or_else(|| format!("expected one of {names}"))
}

fn points(text: &str) -> Result<f64, String> {
    let points = text.parse::<f64>().ok().filter(|points| (0.0..=100.0).contains(points));
    points.ok_or_else(|| "expected a number of points, 0 to 100".into())
}

impl Data {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Convert { input, output, max_size, steps } => {
                let mut examples = read::load(&input, max_size)?;
                if let Some(steps) = steps {
                    let steps = Steps::from(steps);
                    examples = examples.into_iter().map(|example| steps.of(example)).collect();
                }
                write::write_json(&output, &examples)?;
                say!("wrote {} examples to {}", examples.len(), output.display());
            }
            Self::Generate(generate) => generate.run()?,
            Self::Stats { input } => {
                let examples = read::load(&input, None)?;
                verbs::print_json(&json!(Stats::of(&examples, None)));
            }
        }
        Ok(())
    }
}

impl Generate {
    fn run(&self) -> Result<()> {
        let (task, mut exclude) = self.task()?;
        let (task, setting) = match self.shift {
            None => (task, None),
            Some(shift) => {
                let name = task.name();
                let shifted = shift.apply(&task);
                let refused = |problem| {
                    Error::Usage(format!("--shift {}: the task {name} {problem}.", shift.name()))
                };
                let (task, setting) = shifted.map_err(refused)?;
                (task, Some(setting))
            }
        };
        for path in &self.exclude {
            exclude.extend(tasks::keys(&read::load(path, None)?));
        }
        let examples = match &self.misled_by {
            None => tasks::generate(&task, self.n, self.seed, &exclude)?,
            Some(rule) => tasks::generate_misled(&task, self.n, self.seed, &exclude, rule)?,
        };
        let shortcuts = Shortcuts::of(&examples);
        shortcuts.as_ref().map_or(Ok(()), |shortcuts| self.check(shortcuts))?;
        write::write_json(&self.output, &examples)?;
        self.tell(&examples.len(), setting, shortcuts);
        Ok(())
    }

    /// Refuses examples that a trivial rule answers better than is allowed.
    fn check(&self, shortcuts: &Shortcuts) -> Result<()> {
        let Some(points) = self.max_shortcut else { return Ok(()) };
        let Some(above) = shortcuts.above(points / 100.0) else { return Ok(()) };
        Err(Error::Usage(format!(
            "{} is not written: with `--max-shortcut {points}` no trivial rule may be right more than {points} points above chance ({:.1} %), and these are: {above}. Change the task's settings, or allow more.",
            self.output.display(),
            100.0 * shortcuts.chance,
        )))
    }

    /// The task, and the keys of the examples that its recipe trains on.
    fn task(&self) -> Result<(Task, HashSet<String>)> {
        let unnamed = || Error::Usage(format!("{} names no task to generate.", self.source));
        if Task::NAMES.contains(&self.source.as_str()) {
            let keys = Map::from_iter([("task".to_owned(), Value::String(self.source.clone()))]);
            let config = RunConfig::from_keys(keys, &self.set, "coconut data generate")?;
            return Ok((config.task()?.ok_or_else(unnamed)?, HashSet::new()));
        }
        let path = Path::new(&self.source);
        if !path.is_file() {
            return Err(Error::Usage(format!(
                "`{}` is neither a task ({}) nor the file of a recipe.",
                self.source,
                Task::NAMES.join(", ")
            )));
        }
        let task = RunConfig::load(path, &self.set)?.task()?.ok_or_else(unnamed)?;
        let [train, val] = Examples::of(&RunConfig::load(path, &[])?)?;
        let trained = train.load(&val.load(&[])?)?;
        Ok((task, tasks::keys(&trained)))
    }

    fn tell(&self, n: &usize, setting: Option<String>, shortcuts: Option<Shortcuts>) {
        if self.json {
            let found = json!({"output": self.output, "examples": n, "shift": setting, "shortcuts": shortcuts});
            return verbs::print_json(&found);
        }
        say!("wrote {n} examples to {}", self.output.display());
        if let (Some(shift), Some(setting)) = (self.shift, setting) {
            say!("shifted to be {}: {setting}", shift.name());
        }
        let Some(shortcuts) = shortcuts else { return };
        say!("\n{}", rules(&shortcuts));
        if let Some(warning) = shortcuts.warning() {
            eprintln!("warning: {}: {warning}", self.output.display());
        }
    }
}

/// The rules, best first, and chance.
fn rules(shortcuts: &Shortcuts) -> String {
    let percent = |share: f64| Cell::new(format!("{:.1}", 100.0 * share));
    let above = |share: f64| Cell::new(format!("{:+.1}", 100.0 * (share - shortcuts.chance)));
    let rows = shortcuts
        .rules
        .iter()
        .map(|rule| vec![Cell::new(&rule.answer), percent(rule.accuracy), above(rule.accuracy)]);
    let chance = vec![Cell::new("chance"), percent(shortcuts.chance), Cell::new("")];
    let head = ["trivial rule", "right\n%", "above\nchance"];
    table::drawn(&head, rows.chain([chance]), &[0], verbs::styled())
}
