//! Pretrained models by name: a folder, or `org/name` in the local Hugging Face cache. Nothing is fetched.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The local cache, as `huggingface_hub` lays it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubCache {
    /// The folder with `models--org--name` in it.
    pub root: PathBuf,
}

impl HubCache {
    /// `HF_HUB_CACHE` or `HUGGINGFACE_HUB_CACHE`, else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`,
    /// else `~/.cache/huggingface/hub`, as `huggingface_hub` looks for it.
    pub fn from_env() -> Self {
        let home = env::home_dir().unwrap_or_default();
        Self::of(&home, |name| env::var_os(name).map(PathBuf::from))
    }

    fn of(home: &Path, variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let set = |name: &str| {
            let path = variable(name).filter(|path| !path.as_os_str().is_empty())?;
            Some(path.strip_prefix("~").map_or(path.clone(), |rest| home.join(rest)))
        };
        let caches = || set("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let hub = || set("HF_HOME").unwrap_or_else(|| caches().join("huggingface")).join("hub");
        let root = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        Self { root: root.unwrap_or_else(hub) }
    }

    /// The folder of a model: `model` itself if it is a folder, else its snapshot in the cache.
    /// `model` is `name`, `org/name` or either with `@revision`; `revision` is a branch, a tag or a
    /// commit, `main` if neither gives one.
    ///
    /// # Errors
    /// What is wrong with the name, or the command that fetches the model.
    pub fn folder(&self, model: &str, revision: Option<&str>) -> Result<PathBuf, String> {
        if Path::new(model).is_dir() {
            return Ok(model.into());
        }
        let (name, revision) = match (model.split_once('@'), revision) {
            (Some((_, inner)), Some(outer)) if inner != outer => {
                return Err(format!(
                    "is `{model}`, but `revision` is `{outer}`; name one revision"
                ));
            }
            (Some((name, inner)), _) => (name, Some(inner)),
            (None, outer) => (model, outer),
        };
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_plain(part)) {
            return Err(format!(
                "is `{model}`, which is neither a folder that exists nor a name such as `org/name`"
            ));
        }
        let wanted = revision.unwrap_or("main");
        // A revision such as `refs/pr/1` is a path below `refs`; none may lead out of it.
        if !wanted.split('/').all(is_plain) {
            return Err(format!("is `{model}`; `{wanted}` is no revision"));
        }

        let repository = self.root.join(format!("models--{}", parts.join("--")));
        let commit = std::fs::read_to_string(repository.join("refs").join(wanted));
        let commit = commit.map_or_else(|_| wanted.to_owned(), |text| text.trim().to_owned());
        let snapshots = snapshots(&repository);
        if let Some(found) = snapshots.iter().find(|snapshot| **snapshot == commit) {
            return Ok(repository.join("snapshots").join(found));
        }
        // Fetched by its commit, a model has no `refs/main`. The only one there is the one that is meant.
        if let ([only], None, false) =
            (snapshots.as_slice(), revision, repository.join("refs/main").exists())
        {
            return Ok(repository.join("snapshots").join(only));
        }
        let option = revision.map_or(String::new(), |revision| format!(" --revision {revision}"));
        let others = match snapshots.as_slice() {
            [] => String::new(),
            some => format!(
                " The cache holds it at another commit, which `revision` can name: `{}`.",
                some.join("`, `")
            ),
        };
        Err(format!(
            "is `{model}`, which is neither a folder nor whole in the Hugging Face cache {}. Fetch it with `hf download {name}{option}`, or set HF_HOME or HF_HUB_CACHE to the cache that has it.{others}",
            self.root.display()
        ))
    }
}

/// The commits at which the cache holds a repository's model or adapters, in order.
fn snapshots(repository: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(repository.join("snapshots")).into_iter().flatten().flatten();
    let whole = entries.filter(|entry| {
        ["config.json", "adapter_config.json"].iter().any(|file| entry.path().join(file).is_file())
    });
    let mut commits: Vec<String> =
        whole.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    commits.retain(|commit| is_plain(commit));
    commits.sort();
    commits
}

/// What completes a model folder that lacks a file, as the beginning of a sentence without its full stop: the
/// command that fetches it if the folder is a snapshot in a cache, else to copy it.
pub fn completion(folder: &Path) -> String {
    command(folder).map_or("Copy the whole model folder".into(), |command| {
        format!("Fetch it with `{command}`")
    })
}

/// Whether a folder is a snapshot in a cache.
pub fn is_snapshot(folder: &Path) -> bool {
    command(folder).is_some()
}

/// `hf download org/name`, with the revision if it is not `main`, for a snapshot in a cache.
fn command(folder: &Path) -> Option<String> {
    let commit = folder.file_name()?.to_str()?;
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let repository = snapshots.parent()?;
    let name = repository.file_name()?.to_str()?.strip_prefix("models--")?.replace("--", "/");
    let main = std::fs::read_to_string(repository.join("refs/main"));
    let revision = match main.is_ok_and(|main| main.trim() == commit) {
        true => String::new(),
        false => format!(" --revision {commit}"),
    };
    Some(format!("hf download {name}{revision}"))
}

/// Letters, digits, `-`, `_` and `.`, not beginning with a point.
fn is_plain(part: &str) -> bool {
    let known = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";

    fn cache() -> (tempfile::TempDir, HubCache) {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("models--org--name");
        let snapshot = repository.join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repository.join("refs/refs/pr")).unwrap();
        fs::write(repository.join("refs/main"), COMMIT).unwrap();
        fs::write(repository.join("refs/refs/pr/1"), format!("{COMMIT}\n")).unwrap();
        fs::write(repository.join("refs/half"), "abc").unwrap();
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        let cache = HubCache { root: folder.path().to_owned() };
        (folder, cache)
    }

    #[test]
    fn variables_say_where_it_is() {
        let found = |set: &[(&str, &str)]| {
            let variable = |name: &str| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            };
            HubCache::of(Path::new("/home/u"), variable).root.display().to_string()
        };
        assert_eq!(found(&[]), "/home/u/.cache/huggingface/hub");
        assert_eq!(found(&[("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(found(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")]), "/home/u/hf/hub");
        assert_eq!(found(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/h")]), "/h/hub");
        assert_eq!(found(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/h")]), "/old");
        assert_eq!(found(&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/new");
    }

    #[test]
    fn names_and_revisions_are_found() {
        let (_folder, cache) = cache();
        let expected = cache.root.join("models--org--name/snapshots").join(COMMIT);
        let at = format!("org/name@{COMMIT}");
        for (model, revision) in [
            ("org/name", None),
            ("org/name", Some("main")),
            ("org/name@main", None),
            ("org/name@main", Some("main")),
            ("org/name", Some("refs/pr/1")),
            (at.as_str(), None),
        ] {
            assert_eq!(
                cache.folder(model, revision).as_ref(),
                Ok(&expected),
                "{model} {revision:?}"
            );
        }
        let folder = cache.root.display().to_string();
        assert_eq!(cache.folder(&folder, None), Ok(cache.root.clone()));
    }

    /// `hf download org/name --revision COMMIT` leaves no `refs/main`.
    #[test]
    fn a_model_that_was_fetched_by_its_commit_is_found() {
        let (_folder, cache) = cache();
        let repository = cache.root.join("models--org--name");
        fs::remove_file(repository.join("refs/main")).unwrap();
        let snapshots = repository.join("snapshots");
        assert_eq!(cache.folder("org/name", None), Ok(snapshots.join(COMMIT)));
        assert_eq!(
            completion(&snapshots.join(COMMIT)),
            format!("Fetch it with `hf download org/name --revision {COMMIT}`")
        );
        // Asked for by name, `main` is not guessed.
        let problem = cache.folder("org/name", Some("main")).unwrap_err();
        assert!(problem.contains(COMMIT) && problem.contains("--revision main"), "{problem}");

        // Of two, neither is meant more than the other; an empty one is none.
        let other = "0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7a8b9c";
        fs::create_dir(snapshots.join(other)).unwrap();
        assert_eq!(cache.folder("org/name", None), Ok(snapshots.join(COMMIT)));
        fs::write(snapshots.join(other).join("adapter_config.json"), "{}").unwrap();
        let problem = cache.folder("org/name", None).unwrap_err();
        assert!(problem.contains(&format!("`{other}`, `{COMMIT}`")), "{problem}");
        assert_eq!(cache.folder("org/name", Some(other)), Ok(snapshots.join(other)));
    }

    #[test]
    fn what_is_not_there_is_told_how_to_fetch() {
        let (_folder, cache) = cache();
        for (model, revision, words) in [
            ("org/other", None, "`hf download org/other`"),
            ("gpt2", None, "`hf download gpt2`"),
            ("org/name", Some("v2"), "`hf download org/name --revision v2`"),
            ("org/name@half", None, "`hf download org/name --revision half`"),
            ("org/name@a", Some("b"), "name one revision"),
            ("org/name@../../x", None, "no revision"),
            ("a/b/c", None, "neither a folder"),
            ("../x", None, "neither a folder"),
            ("", None, "neither a folder"),
        ] {
            let problem = cache.folder(model, revision).unwrap_err();
            assert!(problem.contains(words), "{problem:?} lacks {words:?}");
        }
    }
}
