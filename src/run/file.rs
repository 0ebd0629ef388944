//! Writing a whole file so that a reader, or a killed process, never meets half of it.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Replaces `path` by `content` in one go: written beside, synced, then renamed over it.
///
/// # Errors
/// [`Error::Io`]; what stood at `path` is then untouched.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let beside = path.with_file_name(name);
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&beside, path)).map_err(|source| {
        // The half-written copy is of no use to anyone; if even this fails there is nothing to add.
        let _ = fs::remove_file(&beside);
        Error::io("write", path)(source)
    })
}

/// Reads a file of JSON lines with `parse`, which gives `None` for a line that is not `what`. A last line
/// that was cut short by a killed process is dropped; so are blank lines.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Input`] with the line's number.
pub(crate) fn read_lines<T>(
    path: &Path,
    what: &str,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>> {
    let content = fs::read(path).map_err(Error::io("read", path))?;
    let mut items = Vec::new();
    for (index, line) in content.split_inclusive(|&byte| byte == b'\n').enumerate() {
        match parse(line) {
            Some(item) => items.push(item),
            // Only the last line can lack its newline.
            None if !line.ends_with(b"\n") || line.trim_ascii().is_empty() => {}
            None => {
                let problem = format!("not {what}. Remove this line, or the file as a whole.");
                return Err(Error::input(path, format!("line {}", index + 1), problem));
            }
        }
    }
    Ok(items)
}

/// Creates a folder and its parents; it may be there already.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create", path))
}
