//! Model folders that are not whole, and folders written and grown: one clear error, or the same
//! weights again.

use std::{fs, path::Path};

use coconut::{
    data::Tokenizer,
    latent::{
        PassPlan,
        batch::{Batch, Row},
    },
    model::{
        ModelConfig, Transformer, parameters,
        tensors::{HostTensors, INDEX_FILE, WEIGHTS_FILE},
        weights::read_tensors,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::device;
use crate::torch::{fixtures, json as read_json, largest_difference, logits, tensors, thinking};

/// A copy of a fixture's folder, to be spoiled.
fn copy(name: &str) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, place.path().join(path.file_name().unwrap())).unwrap();
    }
    place
}

fn refused(folder: &Path, words: &[&str]) {
    let error = Transformer::load(folder, &device()).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

/// Changes `config.json`.
fn reshape(folder: &Path, changes: &[(&str, Value)]) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn fields_that_would_change_the_result_are_refused_by_name() {
    let rope = |kind: &str| json!({"rope_type": kind, "rope_theta": 1e4, "factor": 2.0});
    for (family, key, value) in [
        ("families/qwen2", "use_sliding_window", json!(true)),
        ("families/qwen3", "layer_types", json!(["full_attention", "sliding_attention"])),
        ("families/qwen3", "hidden_act", json!("gelu")),
        ("families/llama", "rope_parameters", rope("yarn")),
        ("families/llama", "rope_scaling", rope("linear")),
        ("families/llama", "rope_scaling", rope("llama3")), // without its factors
        ("families/llama", "partial_rotary_factor", json!(0.5)),
        ("families/llama", "pretraining_tp", json!(2)),
        ("families/llama", "quantization_config", json!({"bits": 4})),
        ("families/llama", "num_key_value_heads", json!(4)), // of 6
        ("families/llama", "head_dim", json!(7)),
        ("families/llama", "num_hidden_layers", json!(1_000_000_000u64)),
        ("families/llama", "model_type", json!("gemma2")),
        ("families/gemma3_text", "final_logit_softcapping", json!(30.0)),
        ("families/gemma3_text", "attn_logit_softcapping", json!(50.0)),
        ("families/gemma3_text", "use_bidirectional_attention", json!(true)),
        ("families/gemma3_text", "hidden_activation", json!("silu")),
        ("families/gemma3_text", "query_pre_attn_scalar", json!(0)),
        ("families/gemma3_text", "layer_types", json!(["full_attention"])),
        ("families/gemma3_text", "rope_parameters", json!({"rope_type": "default"})),
        ("families/mistral", "layer_types", json!(["chunked_attention"])),
        ("families/smollm3", "no_rope_layers", json!([1])),
        ("families/olmo2", "hidden_act", json!("gelu")),
        ("gpt2", "activation_function", json!("gelu_10")),
        ("gpt2", "activation_function", json!("relu")),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true)),
        ("gpt2", "n_head", json!(0)),
        ("gpt2", "attn_pdrop", json!(1.0)),
        ("families/qwen3", "rms_norm_eps", json!(-1.0)),
    ] {
        let place = copy(family);
        let mut changes = vec![(key, value)];
        if key == "use_sliding_window" {
            // Layers from the second on, by the rule for files that do not list them.
            changes.extend([("layer_types", Value::Null), ("max_window_layers", json!(1))]);
            changes.push(("sliding_window", json!(4)));
        }
        if key == "partial_rotary_factor" {
            changes.push(("rope_parameters", Value::Null));
        }
        reshape(place.path(), &changes);
        refused(place.path(), &["config.json", key]);
    }
}

#[test]
fn both_spellings_of_rotary_positions_mean_the_same() {
    let now = ModelConfig::load(&fixtures().join("families/llama")).unwrap();
    let place = copy("families/llama");
    let rope = json!({
        "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 40
    });
    let before =
        [("rope_parameters", Value::Null), ("rope_theta", json!(500.0)), ("rope_scaling", rope)];
    reshape(place.path(), &before);
    assert_eq!(ModelConfig::load(place.path()).unwrap().rotary, now.rotary);
    assert!(now.rotary.unwrap().scaling.is_some());
}

/// Gemma 3's folders of transformers 4 name two bases and a pattern of layers.
#[test]
fn both_spellings_of_two_kinds_of_layers_mean_the_same() {
    let now = ModelConfig::load(&fixtures().join("families/gemma3_text")).unwrap();
    let place = copy("families/gemma3_text");
    let before = [
        ("rope_parameters", Value::Null),
        ("rope_theta", json!(5000.0)),
        ("rope_local_base_freq", json!(100.0)),
        ("layer_types", Value::Null),
        ("sliding_window_pattern", json!(2)),
    ];
    reshape(place.path(), &before);
    let then = ModelConfig::load(place.path()).unwrap();
    assert_eq!((then.rotary, then.local_rotary), (now.rotary, now.local_rotary));
    assert_eq!(then.layer_rotary, now.layer_rotary);
    let thetas = [now.rotary, now.local_rotary].map(|rotary| rotary.unwrap().theta);
    assert_eq!(thetas, [5000.0, 100.0]);
}

/// A longer row would need windows, which are not computed.
#[test]
fn a_context_is_as_long_as_its_window() {
    for (family, changes, context) in [
        ("mistral", vec![], 48),
        ("mistral", vec![("sliding_window", json!(20))], 20),
        ("mistral", vec![("sliding_window", json!(100))], 48),
        ("gemma3_text", vec![("sliding_window", json!(20))], 20),
        (
            "gemma3_text",
            vec![
                ("sliding_window", json!(20)),
                ("layer_types", json!(["full_attention", "full_attention", "full_attention"])),
            ],
            48,
        ),
        ("smollm3", vec![("sliding_window", json!(20))], 48),
        (
            "smollm3",
            vec![
                ("sliding_window", json!(20)),
                ("layer_types", json!(["full_attention", "sliding_attention", "full_attention"])),
            ],
            20,
        ),
        ("llama", vec![("sliding_window", json!(20))], 48),
    ] {
        let place = copy(&format!("families/{family}"));
        reshape(place.path(), &changes);
        let config = ModelConfig::load(place.path()).unwrap();
        assert_eq!(config.n_positions, context, "{family}, {changes:?}");
        assert_eq!(config.to_json()["max_position_embeddings"], 48, "written as it was read");
    }
}

#[derive(Deserialize)]
struct Ropes {
    cases: Vec<Rope>,
}

#[derive(Deserialize)]
struct Rope {
    config: Value,
    frequencies: Vec<f64>,
}

/// What transformers makes of every spelling (`python/fixtures/make_model_files.py`): where `rope_scaling` says nothing, as `{}`
/// does, `rope_parameters` count; else it counts alone.
#[test]
fn rotary_positions_are_read_as_transformers_reads_them() {
    let ropes: Ropes = read_json("files/rope");
    assert!(ropes.cases.len() > 60);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("config.json");
    for Rope { config, frequencies } in ropes.cases {
        fs::write(&path, config.to_string()).unwrap();
        let ours = ModelConfig::load_file(&path).unwrap_or_else(|e| panic!("{config}: {e}"));
        let ours = ours.rotary.unwrap().frequencies(ours.heads.dim);
        assert_eq!(ours.len(), frequencies.len());
        for (ours, theirs) in ours.iter().zip(&frequencies) {
            assert!((ours / theirs - 1.0).abs() < 1e-6, "{config}: {ours}, not {theirs}"); // theirs in f32
        }
    }
}

/// `safetensors.torch.save_model` keeps one name of a tied table, and it is the head's.
#[test]
fn a_tied_model_may_have_its_table_under_the_head_alone() {
    let reference = tensors("files/tied");
    let ids = [3, 14, 15, 9, 26, 5, 35, 8]; // as in the script
    for name in ["gpt2", "qwen2", "llama"] {
        let folder = fixtures().join("files/tied").join(name);
        let model = Transformer::load(&folder, &device()).unwrap();
        let batch = Batch::new(&[Row::unlabelled(&ids)], &PassPlan::default()).unwrap();
        let off = largest_difference(&logits(&thinking(model), &batch)[0], &reference[name].1);
        assert!(off < 1e-4, "{name}: {off:e}");
    }
    // Of another size it is named as it stands in the file.
    let place = copy("files/tied/qwen2");
    reshape(place.path(), &[("vocab_size", json!(42))]);
    refused(place.path(), &["`lm_head.weight` is [41, 24]", "[42, 24]"]);
    // An untied model needs both.
    let place = copy("files/tied/qwen2");
    reshape(place.path(), &[("tie_word_embeddings", json!(false))]);
    refused(place.path(), &["`model.embed_tokens.weight` is missing"]);
}

/// A file of other names and elements, written by hand.
fn write_file(path: &Path, tensors: &HostTensors) {
    let mut header = serde_json::Map::new();
    let mut bytes: Vec<u8> = Vec::new();
    for (name, (shape, values)) in tensors {
        let first = bytes.len();
        bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let offsets = [first, bytes.len()];
        let about = json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
        header.insert(name.clone(), about);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length, header.as_bytes(), &bytes].concat()).unwrap();
}

#[test]
fn keys_of_a_wrapper_around_the_model_are_named() {
    for family in ["gpt2", "families/qwen2", "families/qwen3"] {
        let whole = read_tensors(&fixtures().join(family).join(WEIGHTS_FILE)).unwrap();
        let own = if family == "gpt2" { "transformer." } else { "model." };
        for prefix in ["module.", "_orig_mod.module.", "base_causallm.", "model.", "größe."] {
            for bare in [false, true] {
                let named = whole.iter().map(|(name, tensor)| {
                    let inner = name.strip_prefix(own).filter(|_| bare).unwrap_or(name);
                    (format!("{prefix}{inner}"), tensor.clone())
                });
                let place = copy(family);
                write_file(&place.path().join(WEIGHTS_FILE), &named.collect());
                // The family's own prefix is none of a wrapper's.
                if bare && prefix == own {
                    continue;
                }
                refused(place.path(), &[WEIGHTS_FILE, &format!("begins with `{prefix}`")]);
            }
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    for (name, value) in
        [("transformer.h.1.mlp.c_fc.weight", f32::NAN), ("transformer.wte.weight", f32::INFINITY)]
    {
        let place = copy("gpt2");
        let path = place.path().join(WEIGHTS_FILE);
        let mut tensors = read_tensors(&path).unwrap();
        tensors.get_mut(name).unwrap().1[5] = value;
        write_file(&path, &tensors);
        refused(place.path(), &[WEIGHTS_FILE, name, "element 5", "diverged"]);
    }
}

#[test]
fn a_pointer_of_git_lfs_is_told_from_a_damaged_file() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 548105171\n";
    for (family, file) in
        [("gpt2", WEIGHTS_FILE), ("families/qwen2_shards", "model-00002-of-00003.safetensors")]
    {
        let place = copy(family);
        fs::write(place.path().join(file), pointer).unwrap();
        refused(place.path(), &[file, "Git LFS pointer", "git lfs pull"]);
    }
}

/// A folder in the cache of `huggingface_hub` whose files were not all fetched.
#[test]
fn what_a_snapshot_lacks_is_told_with_the_command_that_fetches_it() {
    let commit = "607a30d783dfa663caf39e06633721c8d4cfcd7e";
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--org--name");
    let snapshot = repository.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    let config = "config.json";
    fs::copy(fixtures().join("gpt2").join(config), snapshot.join(config)).unwrap();
    let by_commit = format!("`hf download org/name --revision {commit}`");
    refused(&snapshot, &["no weights", &by_commit]);
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), commit).unwrap();
    refused(&snapshot, &["no weights", "`hf download org/name`"]);

    let index =
        json!({"weight_map": {"transformer.wte.weight": "model-00001-of-00001.safetensors"}});
    fs::write(snapshot.join(INDEX_FILE), index.to_string()).unwrap();
    refused(&snapshot, &["00001-of-00001.safetensors` is missing", "`hf download org/name`"]);

    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../../blobs/none", snapshot.join(WEIGHTS_FILE)).unwrap();
        refused(&snapshot, &[WEIGHTS_FILE, "link", "`hf download org/name`"]);
    }
    let error = Tokenizer::load(&snapshot).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains("`hf download org/name`"),
        "{error}"
    );
}

#[test]
fn missing_extra_and_misshapen_tensors_are_listed_together() {
    let place = copy("families/qwen2");
    let layers = [("num_hidden_layers", json!(1)), ("intermediate_size", json!(27))];
    reshape(place.path(), &layers);
    refused(
        place.path(),
        &["mlp.gate_proj.weight` is [26, 24]", "[27, 24]", "not part of the model"],
    );
    reshape(
        place.path(),
        &[("num_hidden_layers", json!(3)), ("tie_word_embeddings", json!(false))],
    );
    refused(place.path(), &["model.layers.2.", "is missing", "more"]);
}

#[test]
fn a_tied_head_must_be_the_embedding() {
    let place = copy("families/qwen3"); // its head is its own
    reshape(place.path(), &[("tie_word_embeddings", json!(true))]);
    refused(place.path(), &["lm_head.weight", "differs", "tie_word_embeddings"]);
}

#[test]
fn shards_that_are_missing_or_lie_are_refused() {
    let shards = "families/qwen2_shards";
    let place = copy(shards);
    for name in ["model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"] {
        fs::remove_file(place.path().join(name)).unwrap();
    }
    refused(place.path(), &[INDEX_FILE, "00002-of-00003", "00003-of-00003", "missing"]);

    let place = copy(shards);
    let path = place.path().join(INDEX_FILE);
    let text = fs::read_to_string(&path).unwrap();
    let mut index: Value = serde_json::from_str(&text).unwrap();
    index["weight_map"]["no.such.tensor"] = json!("model-00001-of-00003.safetensors");
    fs::write(&path, index.to_string()).unwrap();
    refused(place.path(), &[INDEX_FILE, "no.such.tensor"]);

    index["weight_map"]["no.such.tensor"] = json!("../secret.safetensors");
    fs::write(&path, index.to_string()).unwrap();
    refused(place.path(), &[INDEX_FILE, "../secret.safetensors"]);

    // One tensor in two shards.
    let place = copy(shards);
    let first = place.path().join("model-00001-of-00003.safetensors");
    fs::copy(first, place.path().join("model-00002-of-00003.safetensors")).unwrap();
    refused(place.path(), &[INDEX_FILE, " is in `model-00001", "model-00002"]);

    fs::remove_file(place.path().join(INDEX_FILE)).unwrap();
    refused(place.path(), &["no weights", INDEX_FILE]);
}

#[test]
fn files_that_are_cut_short_or_lie_about_sizes_are_refused() {
    let whole = fs::read(fixtures().join("families/llama").join(WEIGHTS_FILE)).unwrap();
    let place = copy("families/llama");
    let path = place.path().join(WEIGHTS_FILE);
    let try_bytes = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        refused(place.path(), &[WEIGHTS_FILE, "cut short"]);
    };
    for keep in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        try_bytes(&whole[..keep]);
    }
    for size in [u64::MAX, 1 << 40, whole.len() as u64] {
        try_bytes(&[&size.to_le_bytes(), &whole[8..]].concat());
    }
    let header = |header: Value| {
        let text = header.to_string();
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    };
    for (shape, end) in
        [(json!([1u64 << 40]), 1u64 << 42), (json!([u64::MAX, 8]), 32), (json!([8]), 16)]
    {
        let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": [0, end]});
        try_bytes(&header(json!({"model.norm.weight": tensor})));
    }
    try_bytes(&[whole.as_slice(), &[0; 4]].concat());
}

/// Written again, a folder says the same, but for the type of the weights and what was changed.
#[test]
fn a_saved_folder_keeps_what_it_does_not_compute() {
    for family in ["gpt2", "families/qwen2_bf16", "families/qwen3", "families/llama"] {
        let model = Transformer::load(&fixtures().join(family), &device()).unwrap();
        let place = tempfile::tempdir().unwrap();
        model.save(place.path()).unwrap();
        let config = |folder: &Path| -> Value {
            let text = fs::read_to_string(folder.join("config.json")).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        let mut before = config(&fixtures().join(family));
        before["dtype"] = json!("float32");
        assert_eq!(config(place.path()), before, "{family}");
        let read = |folder: &Path| read_tensors(&folder.join(WEIGHTS_FILE)).unwrap();
        assert_eq!(read(place.path()), read(&fixtures().join(family)), "{family}");
        assert_eq!(
            model.config.num_parameters(),
            read(place.path()).values().map(|(_, values)| values.len()).sum::<usize>()
        );
    }
}

#[test]
fn embeddings_and_an_untied_head_grow_by_copies_or_the_mean_row() {
    for family in ["gpt2", "families/qwen3"] {
        let load = || Transformer::load(&fixtures().join(family), &device()).unwrap();
        let tables = |model: &Transformer| {
            [model.embeddings(), model.head()]
                .map(|table| table.whole().into_data().try_into_vec::<f32>().unwrap())
        };
        let (before, width) = (tables(&load()), load().config.d_model);
        assert_eq!(before[0] == before[1], family == "gpt2");
        let copied = load().resize_embeddings(44, Some(7));
        assert_eq!(copied.config.vocab_size, 44);
        for (table, before) in tables(&copied).iter().zip(&before) {
            assert_eq!(table.len(), 44 * width);
            assert_eq!(table[..41 * width], before[..]);
            for row in table[41 * width..].chunks(width) {
                assert_eq!(row, &before[7 * width..8 * width]);
            }
        }
        let mean = load().resize_embeddings(42, None);
        for (table, before) in tables(&mean).iter().zip(&before) {
            for (column, got) in table[41 * width..].iter().enumerate() {
                let column = before.iter().skip(column).step_by(width);
                let want = column.map(|&x| f64::from(x)).sum::<f64>() / 41.0;
                assert!((f64::from(*got) - want).abs() < 1e-6);
            }
        }
        assert_eq!(tables(&load().resize_embeddings(5, None)), before, "never shrunk");

        // Rows that exist already, as in vocabularies padded beyond their tokens.
        let started = load().init_token_rows(&[3, 40], Some(7));
        assert_eq!(started.config.vocab_size, 41);
        for (table, before) in tables(&started).iter().zip(&before) {
            for (row, got) in table.chunks(width).enumerate() {
                let source = if [3, 40].contains(&row) { 7 } else { row };
                assert_eq!(got, &before[source * width..][..width]);
            }
        }

        // What was grown is saved and loads again.
        let place = tempfile::tempdir().unwrap();
        copied.save(place.path()).unwrap();
        let again = Transformer::load(place.path(), &device()).unwrap();
        assert_eq!(tables(&again), tables(&copied));
    }
}

#[test]
fn random_models_of_every_family_have_the_checkpoint_names() {
    for family in ["gpt2", "families/qwen2", "families/qwen3", "families/llama"] {
        let config = ModelConfig::load(&fixtures().join(family)).unwrap();
        let named = parameters::named(&Transformer::random(config, 1, &device()));
        let file = read_tensors(&fixtures().join(family).join(WEIGHTS_FILE)).unwrap();
        let shapes: Vec<_> = named.iter().map(|(name, flat)| (name, &flat.shape)).collect();
        assert_eq!(shapes, file.iter().map(|(name, (shape, _))| (name, shape)).collect::<Vec<_>>());
    }
}
