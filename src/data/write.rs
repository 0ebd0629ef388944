//! Writing examples, whole or not at all.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use super::Example;
use crate::{Error, Result};

/// Writes a JSON list with one example a line, atomically; [`read::load`](super::read::load) reads it back.
pub fn write_json(path: &Path, examples: &[Example]) -> Result<()> {
    let mut text = String::from("[");
    for (index, example) in examples.iter().enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        let line = serde_json::to_string(example).map_err(|error| {
            Error::input(path, format!("example {}", index + 1), error.to_string())
        })?;
        text.push_str(&line);
    }
    text.push_str("\n]\n");
    write_atomically(path, text.as_bytes())
}

/// Writes a temporary file beside `path` and renames it, so that a kill or a full disk leaves the old
/// content or the new, never half of it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    let beside = temporary_path(path);
    let written = write_through(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The first error is the one to report; a leftover that cannot be removed changes nothing.
        let _ = fs::remove_file(&beside);
    }
    written.map_err(Error::io("write", path))
}

fn write_through(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::read;

    #[test]
    fn written_examples_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/set.json");
        let examples =
            [Example::new("1+1", ["<<1+1=2>>"], "2"), Example::new("“q”\n", [""; 0], "a")];
        write_json(&path, &examples).unwrap();
        write_json(&path, &examples).unwrap();
        assert_eq!(read::load(&path, None).unwrap(), examples);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "a leftover stayed");
    }

    #[test]
    fn failed_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let occupied = folder.path().join("occupied");
        fs::create_dir(&occupied).unwrap();
        assert!(write_atomically(&occupied, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a leftover stayed");
    }
}
