//! What the targets feed: each loader takes bytes as a file, and may refuse them but not panic.
//!
//! With a nightly toolchain and cargo-fuzz, from the repository's root:
//! `cargo +nightly fuzz run tokenizer -- -max_total_time=600`. Good seeds are the files of tests/fixtures.

use std::path::Path;

use coconut::{
    config::RunConfig,
    data::{Tokenizer, encode_graphs, encode_texts, read, tokenizer::Units},
    import::{layout::Layout, state_dict::StateDict},
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

/// A file of `torch.save`.
pub fn torch(bytes: &[u8]) {
    with_file("model.pt", bytes, |path| {
        let Ok(found) = StateDict::open(path) else { return };
        for (name, shape) in found.shapes() {
            let Ok(values) = found.read(name) else { continue };
            assert_eq!(values.len(), shape.iter().product::<usize>());
        }
        if let Ok(layout) = Layout::of(&found) {
            drop((layout.vocabulary(), layout.feedback(8), layout.projection()));
        }
    });
}

/// The pickle in such a file, with storages `0` to `9` of 256 bytes beside it.
pub fn pickle(bytes: &[u8]) {
    let storages = (0..10).map(|key| (format!("a/data/{key}"), &[0x3f; 256][..]));
    let files: Vec<_> = std::iter::once(("a/data.pkl".to_owned(), bytes)).chain(storages).collect();
    torch(&archive(&files));
}

/// A zip archive of stored files.
fn archive(files: &[(String, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let (at, size) = (archive.len() as u32, (content.len() as u32).to_le_bytes());
        // Version, flags, method, time and date, sum; then the two sizes, and the length of the name.
        let mut about = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        about.extend([size, size].concat());
        about.extend([name.len() as u8, 0, 0, 0]);
        archive.extend([b"PK\x03\x04", about.as_slice(), name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\x14\0", about.as_slice(), &[0; 10]].concat());
        directory.extend([&at.to_le_bytes(), name.as_bytes()].concat());
    }
    let start = archive.len() as u32;
    let end = [[0; 4].as_slice(), &(files.len() as u16).to_le_bytes().repeat(2)].concat();
    archive.extend([directory.as_slice(), b"PK\x05\x06", &end].concat());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend([&start.to_le_bytes()[..], &[0, 0]].concat());
    archive
}
