//! `coconut train RECIPE --dry-run`: what a run would do.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use coconut::{
    Error, Result,
    config::{
        Resolved, RunConfig,
        resolved::{ModelSource, TokenizerSource},
    },
    data::{Encoded, SampleKey, ScheduleState, Sequence, Stage, Tokenizer, schedule::Pace},
    latent::batch::{Batch, Branch, Pass, SlotText, StepTarget},
    model::{ModelConfig, Transformer},
    train::{Data, model_config, steps::lay_out},
};

/// Characters of a line, if its tokens allow.
const WIDTH: usize = 100;
/// Of tokens side by side of which nothing differs but what they are, so many at the beginning and at the end are
/// shown.
const ENDS: [usize; 2] = [16, 8];
/// Of long lists, so many at the beginning and at the end are shown.
const LISTED: usize = 4;

/// Prints a recipe's keys and what its run would do, or why it cannot start yet.
pub fn show(config: &RunConfig) -> Result<()> {
    config.task()?;
    say!("{}", config.to_yaml()?);
    let (run, missing) = match Resolved::new(config, None) {
        Ok(run) => {
            let problem = whole(&run).err().map(|error| error.to_string());
            (Some(run), problem.into_iter().chain(absent(config)).collect::<Vec<_>>())
        }
        Err(problem) => {
            (None, std::iter::once(problem.to_string()).chain(absent(config)).collect())
        }
    };
    match run {
        Some(_) if config.only_eval && missing.is_empty() => {
            let named = |path: &Option<PathBuf>| {
                path.as_deref().unwrap_or(Path::new("")).display().to_string()
            };
            say!(
                "# evaluates {} on {}, at the stage that it was trained to; trains nothing",
                named(&config.load_model_path),
                named(&config.val_path)
            );
            Ok(())
        }
        Some(run) if missing.is_empty() => show_run(&run),
        _ => {
            let stages = if config.only_eval { Vec::new() } else { config.schedule().stages() };
            for (stage, epochs) in stages {
                say!("# stage {stage}: epochs {} to {}", epochs.start + 1, epochs.end);
            }
            say!("\n# This run cannot start yet:");
            missing.iter().for_each(|problem| say!("# {problem}"));
            Ok(())
        }
    }
}

/// The files that a recipe names and this machine does not have, a sentence each.
fn absent(config: &RunConfig) -> Vec<String> {
    let paths = [
        ("load_model_path", &config.load_model_path),
        ("train_path", &config.train_path),
        ("val_path", &config.val_path),
    ];
    let absent = paths.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)));
    let absent = absent.filter(|(_, path)| !path.exists());
    absent.map(|(key, path)| format!("`{key}`: {} is missing", path.display())).collect()
}

/// Refuses a folder that no run can start from: weights that do not fit, no tokenizer.
fn whole(run: &Resolved) -> Result<()> {
    let ModelSource::Folder { path, .. } = &run.model else { return Ok(()) };
    if !path.exists() {
        return Ok(()); // said of the key that names it
    }
    Transformer::check(path)?;
    if run.data.tokenizer == TokenizerSource::Path(path.clone()) {
        Tokenizer::load(path)?;
    }
    Ok(())
}

/// Prints the size of a run's model and data, and what its first example becomes at each stage.
fn show_run(run: &Resolved) -> Result<()> {
    let data = Data::prepare(run)?;
    for warning in &data.warnings {
        say!("warning: {warning}");
    }
    let model = match &run.model {
        ModelSource::Random(shape) => model_config(shape, run, &data),
        ModelSource::Folder { path, .. } | ModelSource::Checkpoint(path) => {
            ModelConfig::load(path)?
        }
    };
    say!(
        "# {} parameters: {} blocks, width {}, {} heads, context {}, vocabulary {}",
        model.num_parameters(),
        model.n_layer,
        model.d_model,
        model.heads.query,
        model.n_positions,
        model.vocab_size
    );
    say!(
        "# {} training examples, {} test examples, {} optimizer steps an epoch",
        data.train.encoded.len(),
        data.val.encoded.len(),
        run.batches.steps(data.train.encoded.len())
    );
    for Outline { stage, epoch, when } in outline(run, run.batches.steps(data.train.encoded.len()))
    {
        say!("\n# stage {stage}: {when}");
        if let Some(example) = data.train.encoded.first() {
            let key = SampleKey { seed: run.seed, epoch: epoch as u64, index: 0 };
            show_example(run, &data.tokenizer, example, stage, key)?;
        }
    }
    Ok(())
}

/// A stage of a run, and when it is trained.
struct Outline {
    stage: Stage,
    /// Its first epoch, from 0.
    epoch: usize,
    when: String,
}

/// The stages of a run whose epochs have `steps` optimizer steps; of those that change within an epoch, the first one.
fn outline(run: &Resolved, steps: usize) -> Vec<Outline> {
    let planned = |(stage, epochs): (Stage, Range<usize>)| Outline {
        stage,
        epoch: epochs.start,
        when: format!("epochs {} to {}", epochs.start + 1, epochs.end),
    };
    match run.schedule.pace {
        Pace::Clock => run.schedule.stages().into_iter().map(planned).collect(),
        Pace::Gated { accuracy } => {
            let stages = run.schedule.all_stages().into_iter();
            let gate =
                |stage| Outline { stage, epoch: 0, when: format!("until {accuracy} is reached") };
            stages.map(gate).collect()
        }
        Pace::Tokenwise { .. } => {
            let last = run.schedule.last_stage();
            let mut outline = Vec::new();
            for epoch in run.epochs.clone() {
                let stages = run.schedule.stages_of(epoch, steps, &ScheduleState::default());
                let (Some((stage, _)), Some((end, _))) = (stages.first(), stages.last()) else {
                    break;
                };
                let when = match *stage == last {
                    true => format!("epochs {} to {}", epoch + 1, run.epochs.end),
                    false => format!("epoch {}, which ends at stage {end}", epoch + 1),
                };
                outline.push(Outline { stage: *stage, epoch, when });
                if *stage == last {
                    break;
                }
            }
            outline
        }
    }
}

/// Prints the rows that an example becomes at a stage, and the passes that compute them.
fn show_example(
    run: &Resolved,
    tokenizer: &Tokenizer,
    example: &Encoded,
    stage: Stage,
    key: SampleKey,
) -> Result<()> {
    let markers = tokenizer.special_tokens();
    let rows = run.objective.rows(&run.curriculum, example, stage, markers, key);
    let plan = run.latent.plan(markers.latent, run.curriculum.n_replaced(stage));
    let batch = lay_out(&[&rows], &run.objective, &run.curriculum, &plan)
        .map_err(|problem| Error::Internal(format!("the first example: {problem}")))?;
    for (name, row) in ["row", "teacher"].into_iter().zip(&rows) {
        say!("{name}");
        print!("{}", aligned(&lines(run, tokenizer, row), WIDTH));
    }
    if let Some(row) = rows.first() {
        let read = readings(run, tokenizer, row);
        if !read.is_empty() {
            say!("decoder: {}", listed(&read));
        }
    }
    say!("passes: {}", passes(&batch));
    Ok(())
}

// ---- Rows -----------------------------------------------------------------------------------------------------------

/// One thing that is said of each token of a row; nothing is said where the text is empty.
struct Line {
    name: &'static str,
    cells: Vec<String>,
}

/// A row's tokens, its labels, the tokens that latents are to say and after which iteration, and where hidden states
/// are compared with the teacher's.
fn lines(run: &Resolved, tokenizer: &Tokenizer, row: &Sequence) -> Vec<Line> {
    let word = |id: u32| shown(tokenizer, id);
    let label = |label: &Option<u32>| label.map_or("·".into(), word);
    let (steps, _) = run.objective.step_targets(row, run.curriculum.c_thought);
    let of = |position: usize, show: &dyn Fn(&StepTarget) -> String| {
        let own = steps.iter().filter(|step| step.position == position);
        own.map(show).collect::<Vec<_>>().join("+")
    };
    let said = |position| of(position, &|step| word(step.token));
    let after = |position| {
        of(position, &|step| {
            step.iteration.map(|iteration| iteration.to_string()).unwrap_or_default()
        })
    };
    let compared = |position: usize| match position == row.anchor && run.objective.distils() {
        true => "^".to_owned(),
        false => String::new(),
    };
    let lines = [
        ("tokens", row.ids.iter().copied().map(word).collect::<Vec<_>>()),
        ("labels", row.labels.iter().map(label).collect()),
        ("steps", (0..row.ids.len()).map(said).collect()),
        ("after", (0..row.ids.len()).map(after).collect()),
        ("distil", (0..row.ids.len()).map(compared).collect()),
    ];
    let lines = lines.into_iter().map(|(name, cells)| Line { name, cells });
    lines.filter(|line| line.cells.iter().any(|cell| !cell.is_empty())).collect()
}

/// What a step decoder is to read in each slot of a row's thoughts.
fn readings(run: &Resolved, tokenizer: &Tokenizer, row: &Sequence) -> Vec<String> {
    let slot = |slot: &SlotText| {
        let words: Vec<String> = slot.ids.iter().map(|&id| shown(tokenizer, id)).collect();
        let (first, last) = (slot.thoughts.start + 1, slot.thoughts.end);
        let thoughts = if first == last {
            format!("thought {first}")
        } else {
            format!("thoughts {first}–{last}")
        };
        format!("{thoughts} read {}", words.join(" "))
    };
    run.objective.slots(row, &run.curriculum).iter().map(slot).collect()
}

/// A token on one line.
fn shown(tokenizer: &Tokenizer, id: u32) -> String {
    tokenizer.token_strings(&[id]).concat().replace('\n', "\\n")
}

/// The lines below each other, what belongs to a token in one column; broken where they are longer than `width`.
fn aligned(lines: &[Line], width: usize) -> String {
    let lines = shortened(lines);
    let columns = lines.first().map_or(0, |line| line.cells.len());
    let room = |column: usize| {
        lines.iter().map(|line| line.cells[column].chars().count()).max().unwrap_or(0)
    };
    let name = lines.iter().map(|line| line.name.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    let mut start = 0;
    while start < columns {
        let (mut end, mut used) = (start, name + 2);
        while end < columns && (end == start || used + 1 + room(end) <= width) {
            used += 1 + room(end);
            end += 1;
        }
        for line in &lines {
            let cells =
                (start..end).map(|column| format!(" {:<1$}", line.cells[column], room(column)));
            let cells = cells.collect::<String>();
            if !cells.trim().is_empty() {
                text += format!("  {:<name$}{}", line.name, cells.trim_end()).trim_end();
                text.push('\n');
            }
        }
        start = end;
    }
    text
}

/// The same lines without the middle of long runs of tokens of which the other lines say the same kind of thing.
fn shortened(lines: &[Line]) -> Vec<Line> {
    let columns = lines.first().map_or(0, |line| line.cells.len());
    let kind = |column: usize| -> Vec<bool> {
        let others = lines.iter().skip(1);
        others.map(|line| matches!(line.cells[column].as_str(), "" | "·")).collect()
    };
    let mut short: Vec<Line> =
        lines.iter().map(|line| Line { name: line.name, cells: Vec::new() }).collect();
    let all: Vec<usize> = (0..columns).collect();
    for alike in all.chunk_by(|&a, &b| kind(a) == kind(b)) {
        let [first, last] = ENDS;
        let hidden = alike.len().saturating_sub(first + last);
        let hidden = if hidden > 1 { first..first + hidden } else { 0..0 };
        for (place, &column) in alike.iter().enumerate() {
            for (line, short) in lines.iter().zip(&mut short) {
                if !hidden.contains(&place) {
                    short.cells.push(line.cells[column].clone());
                } else if place == hidden.start {
                    short.cells.push(match line.cells[column].as_str() {
                        "" => String::new(),
                        _ if line.name == "tokens" => format!("… {} …", hidden.len()),
                        _ => "…".into(),
                    });
                }
            }
        }
    }
    short
}

// ---- Passes ---------------------------------------------------------------------------------------------------------

/// A batch's passes in order: whose columns each computes, which, and from which pass it is fed.
fn passes(batch: &Batch) -> String {
    let numbered = batch.passes.iter().enumerate();
    listed(&numbered.map(|(number, of)| pass(number, of, batch)).collect::<Vec<_>>())
}

/// Texts on one line, without the middle of many.
fn listed(texts: &[String]) -> String {
    match texts.len() > 2 * LISTED + 1 {
        true => {
            let (first, last) = (&texts[..LISTED], &texts[texts.len() - LISTED..]);
            [first, &["…".to_owned()], last].concat().join(" | ")
        }
        false => texts.join(" | "),
    }
}

fn pass(number: usize, pass: &Pass, batch: &Batch) -> String {
    let whose = match pass.branch {
        Branch::Shared if batch.caches() > 1 => "shared",
        Branch::Shared | Branch::Student => "row",
        Branch::Teacher => "teacher",
    };
    let columns = match pass.columns.len() {
        1 => format!("column {}", pass.columns.start + 1),
        _ => format!("columns {}–{}", pass.columns.start + 1, pass.columns.end),
    };
    let fed = pass.fed.as_ref().map_or(String::new(), |fed| match fed.columns.len() {
        1 => format!(", a latent fed from {}", fed.states.pass),
        latents => format!(", {latents} latents fed from {}", fed.states.pass),
    });
    let kept = if pass.keep { "" } else { ", not kept" };
    let unshared = match (pass.branch, batch.unshared.first().map(Range::len)) {
        (Branch::Shared, Some(1)) => ", the last one the row's alone".to_owned(),
        (Branch::Shared, Some(own @ 2..)) => format!(", the last {own} the row's alone"),
        _ => String::new(),
    };
    format!("{number} {whose} {columns}{unshared}{fed}{kept}")
}
