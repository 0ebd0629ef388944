//! From a run's folder to its figures, tables and page.

use coconut::Error;
use coconut::{
    report::{self, Series, table},
    run::{Results, Row},
};
use std::fs;
use std::path::Path;

fn row(method: &str, stage: i32, accuracy: f64, tokens: f64) -> Row {
    Row {
        stage,
        method: method.into(),
        eval_acc: Some(accuracy),
        eval_tokens: Some(tokens),
        ..Row::default()
    }
}

fn series(label: &str, rows: Vec<Row>) -> Series {
    Series { label: label.into(), rows }
}

/// A small run with a baseline inside, every text in it hostile to HTML.
fn write_run(folder: &Path) {
    let rows = vec![row("coconut", -1, 1.0, 20.0), row("coconut", 0, 0.5, 5.0)];
    let run = Results { run: "a <b> run".into(), rows, ..Results::default() };
    run.write(&folder.join("results.json")).unwrap();
    fs::create_dir(folder.join("no_cot")).unwrap();
    let rows = vec![row("no_cot", 0, 0.25, 3.0)];
    let baseline = Results { run: "no_cot".into(), rows, ..Results::default() };
    baseline.write(&folder.join("no_cot/results.json")).unwrap();

    fs::write(folder.join("config.yaml"), "lr: 0.001 # <i>\n").unwrap();
    fs::write(
        folder.join("metrics.jsonl"),
        "{\"step\":1,\"epoch\":0,\"stage\":-1,\"loss\":2.0,\"seconds\":1.5}\n\
         {\"step\":2,\"epoch\":0,\"stage\":0,\"loss\":1.0,\"seconds\":2.5}\n\
         {\"step\":2,\"epoch\":0,\"stage\":0,\"eval/loss\":1.25}\n",
    )
    .unwrap();
    let sample = |index: usize| {
        let question = "<script>alert(1)</script>";
        serde_json::json!({"stage": 0, "method": "coconut", "index": index, "question": question,
            "generation": "<<1+1=2>> ### 2", "answer": "2", "correct": index.is_multiple_of(2),
            "thoughts": [[["<x>", 0.5], ["7", 0.25]]]})
        .to_string()
    };
    let lines: Vec<String> = (0..60).map(sample).collect();
    fs::write(folder.join("samples.jsonl"), lines.join("\n") + "\n{\"stage\":0,\"que").unwrap();
}

/// Panics unless every tag that opens closes, in order, and there is one root.
fn assert_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut roots = 0;
    for part in xml.split('<').skip(1) {
        let (tag, _) = part.split_once('>').expect("a tag without an end");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        assert!(!name.is_empty(), "a stray < in {part:?}");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else {
            roots += usize::from(open.is_empty());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in {tag:?}");
    }
    assert_eq!((open.len(), roots), (0, 1));
}

#[test]
fn writes_figures_and_a_page_that_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path());
    let report = report::write(folder.path()).unwrap();

    let names: Vec<_> = report.files.iter().map(|f| f.file_name().unwrap()).collect();
    assert_eq!(names, ["accuracy.svg", "loss.svg", "report.html"]);
    let labels: Vec<&str> = report.series.iter().map(|s| s.label.as_str()).collect();
    assert_eq!(labels, ["coconut", "no_cot"]);

    for figure in &report.files[..2] {
        assert_well_formed(&fs::read_to_string(figure).unwrap());
    }
    let html = fs::read_to_string(&report.files[2]).unwrap();
    assert_eq!(html.matches("<svg").count(), 2);
    // Nothing is fetched: the SVG name space is the only address.
    assert_eq!(html.matches("http").count(), html.matches("http://www.w3.org/2000/svg").count());
    for tag in ["<link", "<script", "<img", "@import", "url("] {
        assert!(!html.contains(tag), "{tag}");
    }
    // 60 samples of which 30 are right, the first 50 shown.
    assert!(html.contains("coconut, stage 0: 30 of 60 right, the first 50 shown"));
    assert_eq!(html.matches("class=\"sample").count(), 50);
    assert_eq!(html.matches("class=\"sample right\"").count(), 25);
    assert!(html.contains("coconut train ") && html.contains("coconut report "));
}

#[test]
fn samples_link_into_the_explorer_where_there_is_a_model_to_ask() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path());
    fs::create_dir_all(folder.path().join("checkpoints/latest")).unwrap();
    let page = || {
        let report = report::write(folder.path()).unwrap();
        fs::read_to_string(&report.files[2]).unwrap()
    };
    let html = page();
    let link = "<a class=\"quiet\" href=\"http://127.0.0.1:8000/#q=%3Cscript%3Ealert%281%29%3C%2Fscript%3E\">open in the explorer</a>";
    assert_eq!(html.matches(link).count(), 50);
    assert!(html.contains("checkpoints&#x2f;latest --open"));
    // Graphs cannot be asked as text.
    fs::write(folder.path().join("config.yaml"), "task: graph\n").unwrap();
    assert!(!page().contains("explorer"));
    fs::write(folder.path().join("config.yaml"), "task: graph\ntokenizer: symbols\n").unwrap();
    assert!(page().contains(link));
}

#[test]
fn text_from_files_is_escaped() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path());
    let report = report::write(folder.path()).unwrap();
    let html = fs::read_to_string(&report.files[2]).unwrap();
    for escaped in ["&lt;script&gt;alert(1)", "a &lt;b&gt; run", "# &lt;i&gt;", "&lt;x&gt; 50 %"] {
        assert!(html.contains(escaped), "{escaped} is missing");
    }
    for raw in ["<script>alert", "a <b> run", "# <i>", "<x>", "<<1+1"] {
        assert!(!html.contains(raw), "{raw} came through");
    }
}

#[test]
fn missing_pieces_are_left_out() {
    // Only metrics, as while the first stage still trains.
    let folder = tempfile::tempdir().unwrap();
    let line = "{\"step\":1,\"epoch\":0,\"stage\":0,\"loss\":2.0}\n";
    fs::write(folder.path().join("metrics.jsonl"), line).unwrap();
    let report = report::write(folder.path()).unwrap();
    assert_eq!(report.files.len(), 2);
    assert!(!folder.path().join("accuracy.svg").exists());
    assert_well_formed(&fs::read_to_string(&report.files[0]).unwrap());

    // Only results, of a run that was evaluated and not trained.
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"run": "r", "rows": [{"stage": 2, "method": "coconut"}]}"#;
    fs::write(folder.path().join("results.json"), text).unwrap();
    let report = report::write(folder.path()).unwrap();
    assert_eq!(report.files.len(), 1);
    let html = fs::read_to_string(&report.files[0]).unwrap();
    assert!(html.contains("<td>coconut</td><td>2</td><td>–</td>"), "{html}");
}

#[test]
fn what_is_no_run_or_damaged_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = report::write(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::Input { path, .. } if path == folder.path()), "{error}");
    let error = report::write(&folder.path().join("absent")).unwrap_err();
    assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");

    fs::write(folder.path().join("results.json"), "{\n\"run\": 3}").unwrap();
    let error = report::write(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::Input { place, .. } if place == "line 2"), "{error}");

    fs::write(folder.path().join("results.json"), "{\"run\": \"r\", \"rows\": []}").unwrap();
    fs::write(folder.path().join("samples.jsonl"), "{\"question\": 1}\n").unwrap();
    let error = report::write(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::Input { place, .. } if place == "line 1"), "{error}");
}

#[test]
fn of_several_evaluations_of_a_stage_the_last_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("results.json"), "{\"run\": \"r\", \"rows\": []}").unwrap();
    let sample = |epoch: usize, generation: &str| {
        format!(
            "{{\"stage\":1,\"epoch\":{epoch},\"question\":\"q\",\"generation\":\"{generation}\",\"answer\":\"a\"}}\n"
        )
    };
    let lines = sample(3, "early") + &sample(4, "late one") + &sample(4, "late two");
    fs::write(folder.path().join("samples.jsonl"), lines).unwrap();
    let report = report::write(folder.path()).unwrap();
    let html = fs::read_to_string(&report.files[0]).unwrap();
    assert!(html.contains("late one") && html.contains("late two") && !html.contains("early"));
}

#[test]
fn comparing_merges_runs_by_method() {
    let folder = tempfile::tempdir().unwrap();
    let mut folders = Vec::new();
    for (method, accuracy) in [("coconut", 0.75), ("pause", 0.5)] {
        let path = folder.path().join(method);
        fs::create_dir(&path).unwrap();
        let rows = vec![row(method, 1, accuracy, 3.0)];
        let run = Results { run: method.into(), rows, ..Results::default() };
        run.write(&path.join("results.json")).unwrap();
        folders.push(path);
    }
    let out = folder.path().join("both");
    let report = report::compare(&folders, &out).unwrap();
    let labels: Vec<&str> = report.series.iter().map(|s| s.label.as_str()).collect();
    assert_eq!(labels, ["coconut", "pause"]);
    let svg = fs::read_to_string(out.join("accuracy.svg")).unwrap();
    assert!(svg.contains("coconut") && svg.contains("pause"));
}

/// By hand: the legend is 36 high, the margin 16, the plot 220 for 0 to 103 %, so that 100 % is at
/// 52 + 220 · 3/103 = 58.4 and 50 % at 52 + 220 · 53/103 = 165.2.
#[test]
fn points_of_the_figure_stand_where_they_should() {
    let rows = vec![row("coconut", -1, 1.0, 20.0), row("coconut", 0, 0.5, 5.0)];
    let svg = report::accuracy_svg(&[series("coconut", rows)]).unwrap();
    assert_well_formed(&svg);
    let heights: Vec<f64> = svg
        .lines()
        .filter(|line| line.starts_with("<circle"))
        .map(|line| line.split("cy=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
        .collect();
    // The legend's marker, two accuracies, two counts of tokens.
    assert_eq!(heights.len(), 5);
    assert!((heights[1] - 58.4).abs() <= 1.0, "{heights:?}");
    assert!((heights[2] - 165.2).abs() <= 1.0, "{heights:?}");
    assert!(heights[3] < heights[4], "more tokens stand higher: {heights:?}");
    let texts: Vec<&str> = svg.lines().filter(|line| !line.starts_with('<')).collect();
    assert_eq!(texts.iter().filter(|text| **text == "CoT").count(), 2);
    assert_eq!(texts[0], "coconut");
}

#[test]
fn odd_series_can_be_drawn() {
    // Only a baseline; twenty methods with markup in their names; one stage far from the others.
    let baseline = series("no_cot", vec![row("no_cot", 0, 0.5, 3.0)]);
    assert_well_formed(&report::accuracy_svg(&[baseline]).unwrap());
    let many: Vec<Series> =
        (0..20).map(|i| series(&format!("<&\"{i}"), vec![row("m", i, 0.0, f64::NAN)])).collect();
    assert_well_formed(&report::accuracy_svg(&many).unwrap());
    let far = vec![row("m", -1, 1.0, 0.0), row("m", i32::MAX, 1.0, 0.0)];
    assert_well_formed(&report::accuracy_svg(&[series("far", far)]).unwrap());
    assert_eq!(report::accuracy_svg(&[]), None);
    assert_eq!(report::accuracy_svg(&[series("m", vec![Row::default()])]), None);
}

fn table_series() -> Vec<Series> {
    let full = Row {
        eval_latents: Some(3.0),
        eval_cot_em: Some(0.5),
        eval_ms_per_question: Some(12.34),
        train_seconds: Some(99.6),
        ..row("coconut", 3, 0.0, 4.25)
    };
    let baseline = row("no_cot", 0, 0.25, 3.0);
    vec![series("coconut", vec![full.with_accuracy(8, 10)]), series("no_cot", vec![baseline])]
}

#[test]
fn the_terminal_table_is_aligned_and_fits_80_columns() {
    assert_eq!(
        table::text(&table_series(), false),
        "\
method   stage  latents  tokens  accuracy       95 %  cot_em    ms per  train
                                        %   interval       %  question      s
──────────────────────────────────────────────────────────────────────────────
coconut      3      3.0     4.2      80.0  49.0–94.3    50.0      12.3    100
no_cot       –        –     3.0      25.0          –       –         –      –"
    );
}

#[test]
fn colours_are_only_added_when_asked_for() {
    assert!(!table::text(&table_series(), false).contains('\x1b'));
    assert!(table::text(&table_series(), true).contains("\x1b["));
    // A test's stdout is captured or piped into CI's log, and NO_COLOR rules where it is not.
    if std::env::var_os("NO_COLOR").is_some() {
        assert!(!table::terminal(&table_series()).contains('\x1b'));
    }
}

#[test]
fn the_markdown_table() {
    assert_eq!(
        table::markdown(&table_series()),
        "\
| method | stage | latents | tokens | accuracy % | 95 % interval | cot_em % | ms per question | train s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| coconut | 3 | 3.0 | 4.2 | **80.0** | 49.0–94.3 | 50.0 | 12.3 | 100 |
| no_cot | – | – | 3.0 | 25.0 | – | – | – | – |
"
    );
}
