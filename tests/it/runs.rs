//! Run folders as their users meet them: resumed, cleared up, reported on.

use std::{fs, path::Path};

use assert_cmd::assert::OutputAssertExt;

use crate::program::{Place, coconut, refused, train};

const DATA: &str = r#"[{"question": "ant bee", "steps": ["cat", "dog"], "answer": "eel"},
 {"question": "bee ant", "steps": ["dog", "cat"], "answer": "fox"}]"#;

fn place_of_words(epochs: &str) -> Place {
    let place = Place::new();
    let data = place.file("data.json", DATA);
    let more =
        [("name", "r"), ("num_epochs", epochs), ("max_latent_stage", "1"), ("tokenizer", "words")];
    place.recipe_of_data(&data, &more);
    place
}

#[test]
fn resuming_needs_something_to_resume() {
    let place = Place::new();
    let recipe = place.recipe(&[]);
    refused(train(&recipe, &["--resume"]), &["nothing to resume", "runs/r"]);
    assert!(!place.run().exists(), "a folder was made for nothing");

    // A run whose checkpoints are gone: nothing of it is emptied.
    train(&recipe, &[]).assert().success();
    fs::remove_dir_all(place.run().join("checkpoints")).unwrap();
    let before = fs::read(place.run().join("metrics.jsonl")).unwrap();
    refused(train(&recipe, &["--resume"]), &["nothing to resume", "--overwrite"]);
    assert_eq!(fs::read(place.run().join("metrics.jsonl")).unwrap(), before);

    // A run's folder stands for its recipe.
    refused(train(&place.run(), &["--resume"]), &["nothing to resume", "--overwrite"]);
    refused(train(place.folder(), &["--resume"]), &["cannot read", "config.yaml"]);
}

/// Each of them would write the same run.
#[cfg(not(feature = "mpi"))]
#[test]
fn one_of_several_processes_is_refused_without_mpi() {
    let place = Place::new();
    let recipe = place.recipe(&[]);
    for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"] {
        let mut command = train(&recipe, &[]);
        command.env(variable, "2");
        refused(command, &[variable, "--features coconut-cli/mpi"]);
        assert!(!place.run().exists(), "something was written");
    }
    let mut command = train(&recipe, &["--dry-run"]);
    command.env("SLURM_STEP_NUM_TASKS", "1").assert().success();
}

/// What is refused leaves the run that it would have replaced.
#[test]
fn a_run_that_cannot_begin_does_not_clear_the_old_one_away() {
    let place = Place::new();
    let recipe = place.recipe(&[]);
    train(&recipe, &[]).assert().success();
    let log = || fs::read(place.run().join("log.txt")).unwrap();
    let (model, before) = (place.path("model"), log());
    // Found when the weights are read, after everything else.
    fs::create_dir(&model).unwrap();
    let checkpoint = place.run().join("checkpoints/latest");
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(checkpoint.join(file), model.join(file)).unwrap();
    }
    let set = format!("model_id={}", model.display());
    refused(train(&recipe, &["--overwrite", "-s", &set]), &["model.safetensors"]);
    assert!(log() == before && place.run().join("results.json").exists(), "the old run is gone");
}

/// The words that a run's ids stand for are its checkpoint's, whatever its data have become.
#[test]
fn a_resumed_run_keeps_its_tokenizer() {
    let tokenizer = |place: &Place, name: &str| {
        fs::read_to_string(place.run().join("checkpoints").join(name).join("tokenizer.json"))
            .unwrap()
    };
    let place = place_of_words("4");
    train(&place.path("recipe.yaml"), &["-s", "keep_checkpoints=0"]).assert().success();
    let before = tokenizer(&place, "latest");
    // As if it had been stopped in the middle, its data changed since: as many words, others.
    let removed =
        fs::read_dir(place.run().join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = removed.filter(|path| !path.is_symlink()).collect();
    all.sort();
    assert_eq!(all.len(), 4);
    fs::remove_dir_all(&all[3]).unwrap();
    place.file("data.json", &DATA.replace("bee", "elk"));
    let output = train(&place.path("recipe.yaml"), &["-s", "keep_checkpoints=0", "--resume"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // The new word has no token: refused by its name, or trained as unknown; never with another word's id.
    match output.status.code() {
        Some(0) => assert_eq!(tokenizer(&place, "latest"), before),
        Some(2) => {}
        code => panic!("{code:?}: {said}"),
    }
    assert!(said.contains("elk"), "{said}");
}

/// Only `model_id` says where the base was; a whole model's checkpoint does not need it.
#[test]
fn a_whole_model_is_resumed_without_its_base() {
    let place = Place::new();
    train(&place.recipe(&[("name", "base"), ("num_epochs", "1"), ("n_positions", "40")]), &[])
        .assert()
        .success();
    let base = place.path("runs/base/checkpoints/latest").canonicalize().unwrap();
    let moved = place.path("moved");
    let folder = place.path("model");
    fs::rename(&base, &folder).unwrap();
    let model = folder.display().to_string();
    let keys = [
        ("model_id", model.as_str()),
        ("num_epochs", "4"),
        ("keep_checkpoints", "0"),
        ("baselines", "[no_cot]"),
    ];
    let recipe = place.recipe(&keys);
    train(&recipe, &[]).assert().success();
    let newest = place.run().join("checkpoints/latest").canonicalize().unwrap();
    let weights = fs::read(newest.join("model.safetensors")).unwrap();
    fs::remove_dir_all(&newest).unwrap();
    fs::rename(&folder, &moved).unwrap();
    train(&recipe, &["--resume"]).assert().success();
    assert!(fs::read(newest.join("model.safetensors")).unwrap() == weights, "it ends elsewhere");
}

#[test]
fn leftovers_of_a_killed_process_are_cleared() {
    let place = Place::new();
    let recipe = place.recipe(&[]);
    train(&recipe, &[]).assert().success();
    let checkpoints = place.run().join("checkpoints");
    for name in [".partial-9-9", ".removed-9-9", ".replaced-3-4"] {
        fs::create_dir(checkpoints.join(name)).unwrap();
        fs::write(checkpoints.join(name).join("model.safetensors"), "half").unwrap();
    }
    train(&recipe, &["--resume"]).assert().success();
    let mut names: Vec<String> = fs::read_dir(&checkpoints)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["2-3", "3-4", "latest"]);
    assert_eq!(fs::read_link(checkpoints.join("latest")).unwrap(), Path::new("3-4"));
}

#[test]
fn the_log_tells_the_run_and_the_report_its_methods() {
    let place = Place::new();
    train(&place.recipe(&[("baselines", "[no_cot]")]), &[]).assert().success();
    let log = fs::read_to_string(place.run().join("log.txt")).unwrap();
    for word in [
        "train",
        "recipe.yaml",
        "device cpu",
        "stage",
        "% of the answers",
        "s training",
        "s evaluating",
    ] {
        assert!(log.contains(word), "{word:?} is missing from\n{log}");
    }
    coconut(["report", &place.run().display().to_string()]).assert().success();
    let page = fs::read_to_string(place.run().join("report.html")).unwrap();
    for heading in ["<h1>r</h1>", "beside no_cot", "<h2>coconut</h2>", "<h2>no_cot</h2>"] {
        assert!(page.contains(heading), "{heading} is missing");
    }
}

#[test]
fn recipes_are_read_as_pyyaml_reads_them() {
    let place = Place::new();
    let dry = |more: &[(&str, &str)], set: &[&str]| {
        let mut flags = vec!["--dry-run"];
        flags.extend(set.iter().flat_map(|set| ["-s", set]));
        let output = train(&place.recipe(more), &flags).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // Words that are booleans elsewhere, and digits where a text is asked for.
    assert!(
        dry(&[("name", "y")], &[]).contains("name: \"y\"\n")
            || dry(&[("name", "y")], &[]).contains("name: y\n")
    );
    assert!(
        dry(&[], &["name=n"])
            .lines()
            .any(|line| line.trim_matches('"') == "name: n" || line == "name: \"n\"")
    );
    assert!(
        dry(&[], &["name=1"]).lines().any(|line| line.starts_with("name:") && line.contains('1'))
    );
    assert!(
        dry(&[("value_steps", "yes")], &["pad_latent_to_max=on"])
            .contains("pad_latent_to_max: true")
    );
    refused(train(&place.recipe(&[("lr", "1\nlr: 2")]), &["--dry-run"]), &["`lr`", "line"]);
    refused(train(&place.recipe(&[("lr", "1\n---\nlr: 2")]), &["--dry-run"]), &["second document"]);
    refused(
        train(&place.recipe(&[("replacement_method", "[hs, -1]")]), &["--dry-run"]),
        &["replacement_method", "not a list"],
    );
    // A mistake that is found late still names its file.
    refused(
        train(&place.recipe(&[("task", "cooking")]), &["--dry-run"]),
        &["recipe.yaml", "`task`", "cooking"],
    );
}

#[test]
fn a_path_may_begin_at_home_and_be_written_in_two_ways() {
    let place = Place::new();
    let recipe = place.recipe(&[("save_path", "~/mine"), ("num_epochs", "1")]);
    let home = place.path("home");
    fs::create_dir(&home).unwrap();
    train(&recipe, &[]).env("HOME", &home).current_dir(place.path("")).assert().success();
    assert!(home.join("mine/r/results.json").is_file() && !place.path("~").exists());

    // `./data.json` is the file that `data.json` was.
    let place = Place::new();
    place.file("data.json", DATA);
    let more = [("name", "r"), ("num_epochs", "2")];
    let recipe = place.recipe_of_data(Path::new("data.json"), &more);
    train(&recipe, &[]).current_dir(place.path("")).assert().success();
    let recipe = place.recipe_of_data(Path::new("./data.json"), &more);
    train(&recipe, &["--resume"]).current_dir(place.path("")).assert().success();
}

#[test]
fn a_dry_run_of_an_evaluation_does_nothing() {
    let place = Place::new();
    train(&place.recipe(&[("num_epochs", "1")]), &[]).assert().success();
    let data = place.file("data.json", DATA).display().to_string();
    let checkpoint = place.run().join("checkpoints/latest").display().to_string();
    let keys = [
        ("only_eval", "True"),
        ("load_model_path", checkpoint.as_str()),
        ("val_path", data.as_str()),
    ];
    let told = train(&place.recipe(&keys), &["--dry-run"]).assert().success();
    let told = String::from_utf8(told.get_output().stdout.clone()).unwrap();
    let (_, done) = told.split_once("# evaluates").unwrap();
    assert!(done.contains("trains nothing") && !done.contains("accuracy"), "{told}");
    let keys = [("only_eval", "True"), ("load_model_path", "nowhere"), ("val_path", data.as_str())];
    let told = train(&place.recipe(&keys), &["--dry-run"]).assert().success();
    let told = String::from_utf8(told.get_output().stdout.clone()).unwrap();
    assert!(told.contains("cannot start yet") && told.contains("nowhere"), "{told}");
}

#[test]
fn a_key_that_changes_nothing_is_named() {
    let place = Place::new();
    train(&place.recipe(&[("num_epochs", "1"), ("n_positions", "40")]), &[]).assert().success();
    let model = place.path("runs/r/checkpoints/latest").display().to_string();
    let recipe = place.recipe(&[
        ("name", "s"),
        ("model_id", model.as_str()),
        ("num_epochs", "1"),
        ("n_layer", "7"),
    ]);
    let output = train(&recipe, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("`n_layer` is ignored"), "{said}");
}
