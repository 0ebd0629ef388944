//! What the repository's texts point to is there: files, links between documents, sections of docs/method.md.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folders at the root whose mention in a text is taken for a path.
const FOLDERS: [&str; 12] = [
    ".ci", ".vscode", "cli", "configs", "dev", "docs", "examples", "fuzz", "kernels", "python",
    "src", "tests",
];
/// What the repository's own scripts make.
const MADE: [&str; 1] = ["fuzz/corpus"];
const TEXTS: [&str; 6] = ["md", "py", "rs", "sh", "toml", "yaml"];

fn root() -> &'static Path {
    Path::new(crate::ROOT)
}

/// Every text of the repository below `folder`.
fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let skipped = ["target", "runs", "fixtures"].contains(&name)
            && path.is_dir()
            && !path.ends_with("python/fixtures");
        if path.is_dir() && !skipped && (!name.starts_with('.') || FOLDERS.contains(&name)) {
            texts(&path, found);
        } else if path.extension().is_some_and(|e| TEXTS.iter().any(|text| e == *text)) {
            found.push(path);
        }
    }
}

/// The paths that a text mentions, and the documents that it names or links to.
fn mentioned(text: &str) -> BTreeSet<String> {
    let ends = |c: char| c.is_whitespace() || "\"'`()[],;:|=#".contains(c);
    let words = text.split(ends).map(|word| word.trim_end_matches(['.', '?', '!']));
    let patterns = |word: &&str| !word.contains(['*', '{', '<', '$', '…', '@', '\\']);
    let is_path = |word: &&str| {
        let folder = word.split_once('/').map(|(folder, _)| folder);
        // Other names are of files that the program writes, such as a sweep's table.
        let document = word.ends_with(".md") && word.starts_with(|c: char| c.is_ascii_uppercase());
        document || folder.is_some_and(|folder| FOLDERS.contains(&folder))
    };
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let links =
        links.filter(|link| !link.is_empty() && !link.contains("::") && !link.contains("//"));
    words
        .filter(patterns)
        .filter(is_path)
        .chain(links.filter(|link| link.contains('.')))
        .map(str::to_owned)
        .collect()
}

/// The numbers of a document's headings: `4.2` of `### 4.2 Passes`.
fn sections(document: &str) -> BTreeSet<&str> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings.filter_map(|line| Some(line.split(' ').nth(1)?.trim_end_matches('.'))).collect()
}

#[test]
fn mentions_are_found() {
    let text = "see `src/lib.rs:3`, (docs/method.md 4.2), [x](findings.md#a), METHOD.md. Not src/*.rs, /dev/null, data/a.json";
    let found = mentioned(text);
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        ["METHOD.md", "docs/method.md", "findings.md", "src/lib.rs"]
    );
}

#[test]
fn what_is_mentioned_is_there() {
    let mut files = Vec::new();
    texts(root(), &mut files);
    assert!(files.len() > 100, "the texts were not found");
    let method = fs::read_to_string(root().join("docs/method.md")).unwrap();
    let sections = sections(&method);
    let mut missing = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with("tests/it/paths.rs")) {
        let text = fs::read_to_string(file).unwrap();
        let name = file.strip_prefix(root()).unwrap();
        // From the root, from the folder that the text is in, and from its crate.
        let above =
            name.ancestors().skip(1).map(|folder| root().join(folder)).chain([root().join("docs")]);
        let above: Vec<PathBuf> = above.collect();
        for path in mentioned(&text) {
            let made = MADE.contains(&path.as_str());
            if !made && !above.iter().any(|folder| folder.join(&path).exists()) {
                missing.push(format!("{}: {path}", name.display()));
            }
        }
        for cited in text.split("docs/method.md ").skip(1) {
            let number: String =
                cited.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let number = number.trim_end_matches('.');
            if !number.is_empty() && !sections.contains(number) {
                missing.push(format!("{}: section {number} of docs/method.md", name.display()));
            }
        }
    }
    assert!(missing.is_empty(), "these texts point to what is not there:\n{}", missing.join("\n"));
}
