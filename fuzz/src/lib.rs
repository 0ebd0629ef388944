//! What the targets feed: each loader takes bytes as a file, and may refuse them but not panic.
//!
//! With a nightly toolchain and cargo-fuzz, from the repository's root:
//! `cargo +nightly fuzz run tokenizer -- -max_total_time=600`. Good seeds are the files of tests/fixtures.

use std::path::Path;

use coconut::{
    config::RunConfig,
    data::{Tokenizer, encode_graphs, encode_texts, read, tokenizer::Units},
    model::{ModelConfig, weights},
};

/// A file of that name and content in a folder of its own.
fn with_file(name: &str, bytes: &[u8], use_it: impl FnOnce(&Path)) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join(name);
    if std::fs::write(&path, bytes).is_ok() {
        use_it(&path);
    }
}

/// `model.safetensors`.
pub fn weights(bytes: &[u8]) {
    with_file("model.safetensors", bytes, |path| drop(weights::read_tensors(path)));
}

/// `config.json`.
pub fn config(bytes: &[u8]) {
    with_file("config.json", bytes, |path| {
        drop(ModelConfig::load(path.parent().unwrap_or(path)));
    });
}

/// `tokenizer.json`, and a text through it.
pub fn tokenizer(bytes: &[u8]) {
    with_file("tokenizer.json", bytes, |path| {
        let Ok(tokenizer) = Tokenizer::load(path) else { return };
        if let Ok(tokens) = tokenizer.encode("Tom has <<16-3=13>> eggs.\n", true) {
            drop(tokenizer.decode(&tokens.ids));
        }
    });
}

/// A file of examples, read, and encoded as text and as graphs.
pub fn data(bytes: &[u8]) {
    with_file("examples", bytes, |path| {
        let Ok(examples) = read::load(path, Some(50)) else { return };
        if let Ok(tokenizer) = Tokenizer::build(&examples, Units::Words, path) {
            drop(encode_texts(&examples, &tokenizer));
        }
        if let Ok(tokenizer) = Tokenizer::for_graphs(40, path) {
            drop(encode_graphs(&examples, &tokenizer, path));
        }
    });
}

/// A recipe.
pub fn recipe(bytes: &[u8]) {
    with_file("recipe.yaml", bytes, |path| {
        let Ok(config) = RunConfig::load(path, &[]) else { return };
        drop(config.task());
        drop(config.to_yaml());
    });
}
