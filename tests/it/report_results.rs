//! `results.json`: its keys are a contract with other programs.

use coconut::run::{Results, Row};
use std::fs;

#[test]
fn has_the_keys_of_the_contract_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    let row = Row {
        stage: 2,
        epoch: 7,
        method: "coconut".into(),
        reinject: Some("hs[-1]".into()),
        ..Row::default()
    };
    let results = Results {
        run: "quickstart".into(),
        config: serde_json::json!({"lr": 1e-4}),
        rows: vec![row.clone(), row.with_accuracy(8, 10).with_cot_em(1, 4)],
    };
    results.write(&path).unwrap();
    assert_eq!(Results::read(&path).unwrap(), results);

    let text = fs::read_to_string(&path).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&json), ["run", "config", "rows"]);
    let contract = [
        "stage",
        "epoch",
        "method",
        "reinject",
        "eval_acc",
        "eval_cot_em",
        "eval_tokens",
        "eval_latents",
        "eval_ms_per_question",
        "train_seconds",
        "train_loss",
        "eval_loss",
    ];
    // Every key of the contract is there even when it was not measured; the others only when they were.
    assert_eq!(keys(&json["rows"][0]), contract);
    let optional = ["n", "eval_acc_interval", "n_cot_em", "eval_cot_em_interval"];
    assert_eq!(keys(&json["rows"][1]), [&contract[..], &optional[..]].concat());
    assert_eq!(json["rows"][1]["eval_acc"], 0.8);
    assert_eq!(json["rows"][1]["eval_cot_em"], 0.25);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn reads_rows_with_the_least_there_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    let text =
        r#"{"run": "r", "rows": [{"stage": -1, "method": "cot", "eval_acc": null, "new": 1}]}"#;
    fs::write(&path, text).unwrap();
    let expected = Row { stage: -1, method: "cot".into(), ..Row::default() };
    assert_eq!(Results::read(&path).unwrap().rows, [expected]);
}

#[test]
fn a_row_becomes_a_record_of_what_was_measured() {
    let row =
        Row { stage: 1, epoch: 3, eval_tokens: Some(4.5), eval_loss: Some(0.5), ..Row::default() };
    let record = row.with_accuracy(3, 4).to_record(120);
    assert_eq!((record.step, record.epoch, record.stage), (120, 3, 1));
    let expected = [("eval/acc", 0.75), ("eval/tokens", 4.5), ("eval/loss", 0.5)];
    assert_eq!(record.values, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_results() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.json");
    Results { run: "old".into(), ..Results::default() }.write(&path).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("results.json.partial")).unwrap();
    let error = Results { run: "new".into(), ..Results::default() }.write(&path).unwrap_err();
    assert!(matches!(error, coconut::Error::Io { action: "write", .. }), "{error}");
    assert_eq!(Results::read(&path).unwrap().run, "old");
}
