//! What an audit found, for people: on the terminal, in Markdown, in figures and in a run's report.

use std::path::{Path, PathBuf};

use comfy_table::Cell as Drawn;

use super::{
    plot,
    table::{self, p_value, signed},
};
use crate::{
    Error, Result,
    audit::{
        Cell, Direct, DirectCell, Intervention, ModelRecord, Readings, Record, Role, With,
        attention::AttentionReading, pieces::TokenClass, place_name,
    },
    latent::Places,
    run::file,
    stats::{LEVEL, Paired, Rate},
};

/// The file that holds everything.
const FILE: &str = "audit.json";
/// Heads of the table of interventions.
pub(crate) const HEAD: [&str; 9] = [
    "intervention",
    "n",
    "right\n%",
    "as is\n%",
    "difference\npoints, 95 %",
    "changed\n%",
    "follow\n%",
    "log p\nnats",
    "p\nHolm",
];
/// Heads of the table beside a model trained without thoughts.
pub(crate) const DIRECT_HEAD: [&str; 8] = [
    "intervention",
    "n",
    "right\n%",
    "direct\n%",
    "difference\npoints, 95 %",
    "p\nHolm",
    "stay right,\ndirect too",
    "fall,\ndirect too",
];
/// Columns of places side by side on a terminal.
const PLACES: usize = 9;

/// Writes `audit.json`, `audit.md` and the figures into a folder: the paths.
///
/// # Errors
/// [`Error::Io`].
pub fn write(record: &Record, folder: &Path) -> Result<Vec<PathBuf>> {
    file::create_folder(folder)?;
    let json = serde_json::to_vec_pretty(record).map_err(|e| Error::Internal(e.to_string()))?;
    let mut contents = vec![(FILE, json), ("audit.md", markdown(record).into_bytes())];
    contents.extend(figures(record).into_iter().map(|(name, _, svg)| (name, svg.into_bytes())));
    let mut files = Vec::new();
    for (name, content) in contents {
        let path = folder.join(name);
        file::replace(&path, &content)?;
        files.push(path);
    }
    Ok(files)
}

/// Reads what [`write()`] wrote; `None` if there is nothing.
///
/// # Errors
/// [`Error::Input`] if the file is damaged, [`Error::Io`] if it cannot be read.
pub fn read(folder: &Path) -> Result<Option<Record>> {
    let path = folder.join(FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let record = serde_json::from_slice(&text).map_err(|error| {
        let problem = format!("not what an audit found: {error}. Run `coconut audit` again.");
        Error::input(&path, format!("line {}", error.line()), problem)
    })?;
    Ok(Some(record))
}

/// Name, caption and SVG of each figure of the audited model.
pub(crate) fn figures(record: &Record) -> Vec<(&'static str, &'static str, String)> {
    let Some(model) = record.models.first() else { return Vec::new() };
    let all = [
        (
            "audit_places.svg",
            "Change of accuracy, in points, by what is fed and where; bold where it is one after Holm's correction.",
            plot::audit::places(model),
        ),
        (
            "audit_latents.svg",
            "Accuracy with other numbers of latents, and answers that no further thought changes; dashed, the number in training.",
            plot::audit::latents(&record.models),
        ),
        (
            "audit_probes.svg",
            "Values of steps that linear probes read, in percent, by position (0 is the end of the question), at the layer that reads best; framed where it is more than chance after Benjamini and Hochberg's correction.",
            model.readings.as_ref().and_then(plot::audit::probes),
        ),
        (
            "audit_selectivity.svg",
            "Selectivity of probes, in points: a latent's own step's value less the other step's that is read best there, by layer (0 is what is fed) and position.",
            model.readings.as_ref().and_then(plot::audit::selectivity),
        ),
        (
            "audit_lens.svg",
            "Questions whose likeliest token, by the head at the last layer, is a step's value, in percent, by position.",
            model.readings.as_ref().and_then(plot::audit::lens),
        ),
        (
            "audit_donors.svg",
            "Answers that follow the question whose thoughts are given, by how many are, from the first and from the last on.",
            plot::audit::donors(model),
        ),
    ];
    all.into_iter().filter_map(|(name, caption, svg)| Some((name, caption, svg?))).collect()
}

// ---- Tables ---------------------------------------------------------------------------------------------------------

/// The figures of a cell under [`HEAD`].
pub(crate) fn row(cell: &Cell) -> Vec<String> {
    vec![
        cell.intervention.to_string(),
        cell.right.n.to_string(),
        percent(cell.right.rate()),
        percent(cell.plain.rate()),
        change(cell.difference, cell.difference_interval),
        percent(cell.changed.rate()),
        match cell.follows {
            Some(follows) if follows.n < cell.right.n => {
                format!("{} of {}", percent(follows.rate()), follows.n)
            }
            follows => percent(follows.and_then(|follows| follows.rate())),
        },
        cell.log_prob.map_or("–".into(), |change| signed(change, 2)),
        p_value(cell.p_holm),
    ]
}

/// A share in percent, if there is one.
fn percent(share: Option<f64>) -> String {
    share.map_or("–".into(), |share| format!("{:.1}", 100.0 * share))
}

/// A change of accuracy with its interval, in points.
fn change(difference: f64, [low, high]: [f64; 2]) -> String {
    let points = |share: f64| signed(100.0 * share, 1);
    format!("{} [{}, {}]", points(difference), points(low), points(high))
}

/// The figures beside a direct model under [`DIRECT_HEAD`]: as it is, then those of some cells. Shares with their
/// intervals, or counts alone where there is no room.
pub(crate) fn direct_rows<'a>(
    direct: &'a Direct,
    cells: impl IntoIterator<Item = &'a DirectCell>,
    with_shares: bool,
) -> Vec<Vec<String>> {
    let too = |rate: Rate| match (rate.rate(), rate.interval()) {
        (Some(share), Some([low, high])) if with_shares => format!(
            "{} of {}: {:.1} % [{:.1}, {:.1}]",
            rate.hits,
            rate.n,
            100.0 * share,
            100.0 * low,
            100.0 * high
        ),
        _ => format!("{} of {}", rate.hits, rate.n),
    };
    let line = |name: String, paired: Paired, p: String, stay: String, fall: String| {
        vec![
            name,
            paired.n().to_string(),
            percent(paired.a().rate()),
            percent(paired.b().rate()),
            change(paired.difference().unwrap_or(0.0), paired.interval().unwrap_or([-1.0, 1.0])),
            p,
            stay,
            fall,
        ]
    };
    let right = direct.as_it_is.a().hits;
    let both = Rate { hits: direct.as_it_is.both, n: right };
    let as_it_is =
        line("as it is".into(), direct.as_it_is, p_value(direct.p), too(both), "–".into());
    let of = |cell: &DirectCell| {
        let (name, p) = (cell.intervention.to_string(), p_value(cell.p_holm));
        line(name, cell.paired, p, too(cell.stay), too(cell.fall))
    };
    std::iter::once(as_it_is).chain(cells.into_iter().map(of)).collect()
}

/// Edits at single places and at all: a line for each that was made, with the change at each place.
pub(crate) fn by_place(model: &ModelRecord) -> Vec<(With, Vec<(Places, &Cell)>)> {
    let mut lines: Vec<(With, Vec<(Places, &Cell)>)> = Vec::new();
    for cell in &model.cells {
        let Intervention::Edit { with, places: places @ (Places::All | Places::One(_)) } =
            cell.intervention
        else {
            continue;
        };
        match lines.iter_mut().find(|(have, _)| *have == with) {
            Some((_, cells)) => cells.push((places, cell)),
            None => lines.push((with, vec![(places, cell)])),
        }
    }
    lines
}

/// Places that occur in [`by_place`], all first, then one by one.
pub(crate) fn columns(lines: &[(With, Vec<(Places, &Cell)>)]) -> Vec<Places> {
    let mut columns: Vec<Places> =
        lines.iter().flat_map(|(_, cells)| cells.iter().map(|(places, _)| *places)).collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// Whether a cell is in the short table: what is done everywhere or to the question, and no thoughts at all.
fn is_main(intervention: Intervention) -> bool {
    match intervention {
        Intervention::Edit { places, .. } => matches!(places, Places::All | Places::Question),
        Intervention::Latents(n) | Intervention::Early(n) => n == 0,
    }
}

/// Tables and sentences that fit 100 columns.
pub fn terminal(record: &Record, styled: bool) -> String {
    let mut parts = Vec::new();
    for model in &record.models {
        let rate = model.plain.rate().map_or("–".into(), |rate| format!("{:.1} %", 100.0 * rate));
        parts.push(format!(
            "{}, {}: {rate} of {} right as it is",
            model.name, model.method, model.plain.n
        ));
        let rows = model.cells.iter().filter(|cell| is_main(cell.intervention)).map(|cell| {
            let bold = cell.p_holm < LEVEL;
            let text = row(cell).into_iter().enumerate();
            text.map(|(at, text)| match bold && at == 4 {
                true => Drawn::new(text).add_attribute(comfy_table::Attribute::Bold),
                false => Drawn::new(text),
            })
            .collect()
        });
        parts.push(table::drawn(&HEAD, rows, &[0], styled));
        if model.role == Role::Audited {
            parts.extend(place_tables(model, styled));
        }
        if let Some(direct) = &model.direct {
            parts.push(format!(
                "beside {}, {}, trained without thoughts",
                direct.name, direct.method
            ));
            let main = direct.cells.iter().filter(|cell| is_main(cell.intervention));
            let rows = direct_rows(direct, main, false).into_iter();
            let rows = rows.map(|row| row.into_iter().map(Drawn::new).collect());
            parts.push(table::drawn(&DIRECT_HEAD, rows, &[0], styled));
        }
    }
    parts.push(record.words.iter().map(|words| wrapped(words, 100)).collect::<Vec<_>>().join("\n"));
    parts.join("\n\n")
}

/// The change of accuracy by what is fed and where, in points; a star where it is one after Holm's correction.
fn place_tables(model: &ModelRecord, styled: bool) -> Vec<String> {
    let lines = by_place(model);
    let columns = columns(&lines);
    let table = |columns: &[Places]| {
        let names: Vec<String> = columns.iter().map(|places| place_name(*places)).collect();
        let head: Vec<&str> =
            std::iter::once("points at").chain(names.iter().map(String::as_str)).collect();
        let rows = lines.iter().filter_map(|(with, cells)| {
            let at =
                |places: &Places| cells.iter().find(|(at, _)| at == places).map(|(_, cell)| *cell);
            columns.iter().any(|places| at(places).is_some()).then(|| {
                let shown = |cell: &Cell| {
                    let star = if cell.p_holm < LEVEL { "*" } else { " " };
                    Drawn::new(signed(100.0 * cell.difference, 1) + star)
                };
                let cells = columns.iter().map(|places| at(places).map_or(Drawn::new(""), shown));
                std::iter::once(Drawn::new(with.to_string())).chain(cells).collect()
            })
        });
        table::drawn(&head, rows, &[0], styled)
    };
    match columns.len() > 1 {
        true => columns.chunks(PLACES).map(table).collect(),
        false => Vec::new(),
    }
}

/// A sentence in lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

/// What was read off thoughts, as Markdown.
fn readings_tables(readings: &Readings) -> String {
    let mut text = String::from(
        "\nValues of steps by linear probes that never saw the question, at the layer that reads best; position 0 is the end of the question, 1 the first latent. p is of the permutation test, corrected by Benjamini and Hochberg over all layers, positions and steps:\n\n",
    );
    let rows = readings.best_probes().into_iter().map(|probe| {
        vec![
            format!("position {}, step {}", probe.position, probe.step),
            probe.layer.to_string(),
            probe.right.n.to_string(),
            percent(probe.right.rate()),
            percent(probe.most_frequent.rate()),
            format!("{:.1}", 100.0 * probe.shuffled),
            p_value(probe.p_corrected),
        ]
    });
    text += &table::piped(
        &["value", "layer", "n", "right %", "most frequent %", "shuffled %", "p, corrected"],
        rows,
    );
    if !readings.selectivity.is_empty() {
        text += "\nSelectivity: a latent's own step's value less the other one that is read best there, in points:\n\n";
        let rows = readings.selectivity.iter().map(|of| {
            vec![
                format!("layer {}, position {}", of.layer, of.position),
                of.own.to_string(),
                of.against.to_string(),
                of.n.to_string(),
                signed(100.0 * of.value, 1),
            ]
        });
        text += &table::piped(&["where", "own step", "other", "n", "points"], rows);
    }
    text += "\nThe output head at the last layer: the first token of a step's value, and of another question's in its place:\n\n";
    let rows = readings.last_lens().into_iter().map(|lens| {
        vec![
            format!("position {}, step {}", lens.position, lens.step),
            lens.top.n.to_string(),
            percent(lens.top.rate()),
            percent(lens.top_shuffled.rate()),
            format!("{:.3}", lens.probability),
            format!("{:.3}", lens.shuffled),
            format!("{}", lens.rank),
            format!("{:.2}", lens.entropy),
        ]
    });
    text += &table::piped(
        &["value", "n", "likeliest %", "another's %", "p", "another's p", "median rank", "entropy"],
        rows,
    );
    text += &tuned_tables(readings);
    text += "\nHow far thoughts of different questions differ; lengths in those of a token embedding, rank about the mean:\n\n";
    let rows = readings.spread.iter().map(|of| {
        vec![
            of.position.to_string(),
            of.n.to_string(),
            format!("{:.2}", of.length),
            format!("{:.2}", of.cosine),
            format!("{:.2}", of.entropy),
            of.rank.map_or("–".into(), |rank| format!("{rank:.1}")),
        ]
    });
    text += &table::piped(&["latent", "n", "length", "cosine", "entropy", "effective rank"], rows);
    if !readings.attention.is_empty() {
        text += &attention_table(&readings.attention);
    }
    if !readings.nodes.is_empty() {
        text += "\nInner products of thoughts with embeddings of nodes:\n\n";
        let rows = readings.nodes.iter().map(|of| {
            vec![
                format!("latent {}, {}", of.position, of.class),
                of.n.to_string(),
                signed(of.mean, 3),
            ]
        });
        text += &table::piped(&["nodes", "n", "mean"], rows);
    }
    text
}

/// What the head reads through maps to the last layer, as Markdown; nothing without maps.
fn tuned_tables(readings: &Readings) -> String {
    if readings.tuned.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nThe same through an affine map of each layer's states to the last layer's, fitted on other questions, and the share of the last states' variance that it explains of those it was not fitted on:\n\n",
    );
    let rows = readings
        .tuned
        .iter()
        .map(|of| vec![of.layer.to_string(), of.n.to_string(), percent(of.explained)]);
    text += &table::piped(&["layer", "states", "explained %"], rows);
    text += "\nAt the layer that is read best through its map, and what the head reads there without:\n\n";
    let rows = readings.best_tuned().into_iter().map(|(tuned, plain)| {
        vec![
            format!("position {}, step {}", tuned.position, tuned.step),
            tuned.layer.to_string(),
            tuned.top.n.to_string(),
            percent(tuned.top.rate()),
            percent(tuned.top_shuffled.rate()),
            percent(plain.top.rate()),
            format!("{:.3}", tuned.probability),
            format!("{}", tuned.rank),
        ]
    });
    let head = [
        "value",
        "layer",
        "n",
        "likeliest %",
        "another's %",
        "without a map %",
        "p",
        "median rank",
    ];
    text + &table::piped(&head, rows)
}

/// Where attention looks, as Markdown: of the question also by class of token, beside what would be even.
fn attention_table(attention: &[AttentionReading]) -> String {
    let share = |share: f64| format!("{:.1}", 100.0 * share);
    let of_class =
        |of: &AttentionReading, class| of.classes.iter().find(|of| of.class == class).copied();
    let mut classes = TokenClass::ALL.to_vec();
    classes.retain(|&class| attention.iter().any(|of| of_class(of, class).is_some()));
    let rows = attention.iter().map(|of| {
        let by_class = classes.iter().map(|&class| {
            let found = of_class(of, class);
            found.map_or("–".into(), |of| format!("{} ({})", share(of.share), share(of.even)))
        });
        let from = [format!("block {}, position {}", of.layer, of.position), of.n.to_string()];
        let after = [of.markers, of.latents, of.itself].map(share);
        from.into_iter().chain([share(of.question)]).chain(by_class).chain(after).collect()
    });
    let named = classes.iter().map(|class| match class {
        TokenClass::Number => "numbers",
        TokenClass::Name => "names",
        TokenClass::Word => "other words",
        TokenClass::Symbol => "symbols",
    });
    let head = ["from", "n", "question"].into_iter().chain(named);
    let head: Vec<&str> = head.chain(["markers", "earlier latents", "itself"]).collect();
    let text = "\nWhere attention looks, in percent, mean over heads; the last position is the end of the prompt. Of the question: numbers, names (words that are the value of a step in the file), other words, and symbols, each beside (in brackets) what it would get if all tokens of the question got as much:\n\n";
    text.to_owned() + &table::piped(&head, rows)
}

/// Everything, as Markdown.
pub fn markdown(record: &Record) -> String {
    let mut text = String::from("# Audit\n\n");
    text += &record.words.join(" ");
    text += "\n\nEvery figure of a line is over the n questions that were touched there. Intervals are of 95 %: of differences by the bootstrap over questions; p is McNemar's, corrected by Holm over the lines of its table. `follow` is the share of questions that get the answer of the one whose thoughts they were given.\n";
    for model in &record.models {
        let rate = model.plain.rate().map_or("–".into(), |rate| format!("{:.1} %", 100.0 * rate));
        text += &format!(
            "\n## {}, {}, stage {}: {rate} of {} right as it is\n\n",
            model.name, model.method, model.stage, model.plain.n
        );
        text += &table::piped(&HEAD, model.cells.iter().map(row));
        if model.role == Role::Audited {
            for (name, caption, _) in figures(record) {
                text += &format!("\n![{caption}]({name})\n");
            }
        }
        if let Some(direct) = &model.direct {
            text += &format!(
                "\nBeside {}, {}, stage {}, a model trained without thoughts, on the same questions. p is McNemar's of the two models, corrected by Holm over the interventions; as it is, alone. `stay right`: right as it is and under the intervention; `fall`: right as it is alone; of each, those that the model without thoughts has right too:\n\n",
                direct.name, direct.method, direct.stage
            );
            text += &table::piped(&DIRECT_HEAD, direct_rows(direct, &direct.cells, true));
        }
        if let Some(sufficiency) = &model.sufficiency {
            text += "\nWith t thoughts, and with every number from there on, the answer is the one that all give:\n\n";
            let rows = sufficiency.from.iter().enumerate().map(|(t, rate)| {
                vec![
                    t.to_string(),
                    rate.n.to_string(),
                    rate.rate().map_or("–".into(), |r| format!("{:.1}", 100.0 * r)),
                ]
            });
            text += &table::piped(&["t", "n", "%"], rows);
        }
        if let Some(readings) = &model.readings {
            text += &readings_tables(readings);
        }
        for samples in &model.samples {
            text += &format!(
                "\nUnder `{}`, drawn {} times for each of {} questions: the most frequent answer is right in {:.1} %; one of k answers is:\n\n",
                samples.under,
                samples.pass_at.len(),
                samples.n,
                100.0 * samples.vote.rate().unwrap_or(0.0)
            );
            let rows = (1..).zip(&samples.pass_at);
            let rows = rows.map(|(k, pass)| vec![k.to_string(), format!("{:.1}", 100.0 * pass)]);
            text += &table::piped(&["k", "%"], rows);
        }
    }
    if !record.over_seeds.is_empty() {
        text += "\n## Over seeds\n\nMean change of accuracy in points and its standard error; p of Student's t test that it is 0, corrected by Holm for each method; p of Welch's test against the audited method.\n\n";
        let rows = record.over_seeds.iter().map(|row| {
            let p = |p: Option<f64>| p.map_or("–".into(), p_value);
            vec![
                format!("{}, {}", row.method, row.intervention),
                row.difference.values.len().to_string(),
                format!(
                    "{} ± {}",
                    signed(100.0 * row.difference.mean, 1),
                    row.difference
                        .standard_error
                        .map_or("–".into(), |e| format!("{:.1}", 100.0 * e))
                ),
                p(row.p),
                p(row.p_holm),
                p(row.p_against_audited),
            ]
        });
        text += &table::piped(
            &["method, intervention", "seeds", "points", "p", "p, Holm", "p against audited"],
            rows,
        );
    }
    text
}
