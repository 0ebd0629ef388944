//! The direction of the arrows: which folders of `src/` may use which, and no cycle between files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// From the ground up: each may use those of the lines above it, and not its neighbours in a line.
const ORDER: [&[&str]; 13] = [
    &["error", "linalg", "quiet", "rng", "memory"],
    &["device", "hub", "stats"],
    &["data", "model"],
    &["optim", "latent"],
    &["objective"],
    &["eval"],
    &["config"],
    &["run"],
    &["audit"],
    &["checkpoint", "report"],
    &["import", "train", "sweep"],
    &["lib"],
    &[],
];

/// A module's path below the crate, such as `latent::feedback::parse`; the crate itself is empty.
type Module = Vec<String>;

/// The modules of the library with what each names: every path below `crate`, re-exports followed.
fn modules() -> BTreeMap<Module, BTreeSet<Module>> {
    let source = Path::new(crate::ROOT).join("src");
    let texts: BTreeMap<Module, String> = files(&source)
        .into_iter()
        .map(|path| (module_of(&path, &source), code(&fs::read_to_string(&path).unwrap())))
        .collect();
    let exports = exports(&texts);
    let named = |(module, text): (&Module, &String)| {
        let paths = paths(text).into_iter().filter_map(|path| absolute(module, &path));
        let used = paths.map(|path| home(path, &exports, &texts)).filter(|used| used != module);
        (module.clone(), used.collect())
    };
    texts.iter().map(named).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
    found
}

fn module_of(path: &Path, source: &Path) -> Module {
    let path = path.strip_prefix(source).unwrap().with_extension("");
    let mut parts: Module = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// The text without comments and without its tests, which may use anything.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    let without = |line: &str| line.split("//").next().unwrap_or("").to_owned();
    text.lines().map(without).collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `crate` or `super`, trees of `use` expanded.
fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        let mut rest = text;
        while let Some(at) = rest.find(root) {
            let before = rest[..at].chars().next_back();
            let here = &rest[at..];
            let inside = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
            if !inside && !rest[..at].ends_with("pub(in ") {
                found.extend(expand(here));
            }
            rest = &rest[at + root.len()..];
        }
    }
    found
}

/// `a::{b, c::{d}}…` → `a::b`, `a::c::d`; what follows the path is left.
fn expand(text: &str) -> Vec<String> {
    let name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !name(c)).unwrap_or(text.len());
    let (prefix, rest) = text.split_at(end);
    if !(prefix.ends_with("::") && rest.starts_with('{')) {
        return vec![prefix.trim_end_matches(':').to_owned()];
    }
    let (mut depth, mut start, mut parts) = (0, 1, Vec::new());
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || depth == 0 {
            parts.push(rest[start..at].trim());
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.flat_map(expand).map(|part| format!("{prefix}{part}")).collect()
}

/// `super::x` in a module → its path below the crate.
fn absolute(module: &Module, path: &str) -> Option<Module> {
    let mut parts: Vec<&str> = path.split("::").filter(|part| *part != "self").collect();
    let mut base = Module::new();
    if parts.first() == Some(&"super") {
        base = module.clone();
        while parts.first() == Some(&"super") {
            base.pop();
            parts.remove(0);
        }
    } else {
        parts.remove(0);
    }
    base.extend(parts.into_iter().map(str::to_owned));
    (!base.is_empty()).then_some(base)
}

/// (module, name) → the path that `pub use` gives the name.
fn exports(texts: &BTreeMap<Module, String>) -> BTreeMap<(Module, String), Module> {
    let mut found = BTreeMap::new();
    for (module, text) in texts {
        for statement in text.split("pub use ").skip(1).chain(text.split("pub(crate) use ").skip(1))
        {
            for path in expand(statement) {
                let path = path.trim_start_matches("crate::");
                let below = statement.starts_with("crate::");
                let mut full = if below { Module::new() } else { module.clone() };
                full.extend(path.split("::").map(str::to_owned));
                let Some(name) = full.last().cloned() else { continue };
                found.insert((module.clone(), name), full);
            }
        }
    }
    found
}

/// The module that defines what a path names.
fn home(
    mut path: Module,
    exports: &BTreeMap<(Module, String), Module>,
    texts: &BTreeMap<Module, String>,
) -> Module {
    for _ in 0..8 {
        let depth = (0..=path.len()).rev().find(|&n| texts.contains_key(&path[..n])).unwrap_or(0);
        let module = path[..depth].to_vec();
        let Some(name) = path.get(depth) else { return module };
        match exports.get(&(module.clone(), name.clone())) {
            Some(full) if *full != path => path = full.clone(),
            _ => return module,
        }
    }
    path
}

#[test]
fn folders_use_only_what_lies_below_them() {
    let rank = |folder: &str| ORDER.iter().position(|line| line.contains(&folder));
    let mut problems = Vec::new();
    for (module, used) in modules() {
        let Some(from) = module.first() else { continue };
        let Some(above) = rank(from) else {
            problems.push(format!("`{from}` has no place in ORDER"));
            continue;
        };
        for other in used {
            let Some(to) = other.first().filter(|to| *to != from) else { continue };
            if rank(to).is_none_or(|below| below >= above) {
                problems.push(format!("{} uses {}", module.join("::"), other.join("::")));
            }
        }
    }
    assert!(problems.is_empty(), "arrows that point up:\n{}", problems.join("\n"));
}

#[test]
fn no_cycle_between_files() {
    let modules = modules();
    // A folder's own file lists its children and they name it: that is no cycle.
    let related = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let edges: BTreeMap<&Module, Vec<&Module>> = modules
        .iter()
        .map(|(from, used)| (from, used.iter().filter(|to| !related(from, to)).collect()))
        .collect();
    let mut cycles = Vec::new();
    for start in edges.keys() {
        let mut stack: Vec<Vec<&Module>> = vec![vec![start]];
        let mut seen = BTreeSet::new();
        while let Some(way) = stack.pop() {
            for next in edges.get(way[way.len() - 1]).into_iter().flatten() {
                if next == start {
                    let names: Vec<String> = way.iter().map(|m| m.join("::")).collect();
                    cycles.push(format!("{} → {}", names.join(" → "), start.join("::")));
                } else if seen.insert(*next) {
                    stack.push([way.as_slice(), &[*next]].concat());
                }
            }
        }
    }
    assert!(cycles.is_empty(), "cycles between files:\n{}", cycles.join("\n"));
}

/// What is uploaded or read past [`coconut_kernels::host`] is not counted.
#[test]
fn every_crossing_between_host_and_device_is_counted() {
    let source = Path::new(crate::ROOT).join("src");
    let mut problems = Vec::new();
    for path in files(&source) {
        let text = code(&fs::read_to_string(&path).unwrap());
        let crossings = [
            "::from_data(",
            "::from_ints(",
            "::from_floats(",
            "into_data(",
            ".to_data(",
            "into_scalar",
            "try_into_vec_as",
        ];
        let found = crossings.iter().filter(|crossing| text.contains(**crossing));
        problems.extend(found.map(|crossing| format!("{}: {crossing}", path.display())));
    }
    assert!(problems.is_empty(), "not by `host`:\n{}", problems.join("\n"));
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let text = "use crate::{a::{self, B}, c};\nuse super::d::E; fn f() { crate::g::h(1) }";
    assert_eq!(
        paths(text),
        ["crate::a::self", "crate::a::B", "crate::c", "crate::g::h", "super::d::E"]
    );
    let module = ["x".to_owned(), "y".to_owned()].to_vec();
    assert_eq!(absolute(&module, "super::d::E").unwrap(), ["x", "d", "E"]);
}
