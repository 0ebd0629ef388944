//! The zip archive that `torch.save` writes: a directory at its end, and files that are stored as they are, so that a
//! tensor can be read where it lies.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Where the bytes of a file in the archive lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first byte, from the archive's beginning.
    pub start: u64,
    /// The number of bytes.
    pub length: u64,
}

/// An open archive whose directory fits it.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    /// The open file, in which [`Entry`] names places.
    pub file: File,
    entries: BTreeMap<String, Entry>,
}

/// How each record of the format begins.
const FILE: [u8; 4] = *b"PK\x03\x04";
const LISTED: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";
const WIDE_END: [u8; 4] = *b"PK\x06\x06";
const WIDE_LOCATOR: [u8; 4] = *b"PK\x06\x07";
/// The longest end: 22 bytes, and a comment.
const LONGEST_END: u64 = 22 + 0xffff;

/// Whether a file begins as an archive does.
pub fn is_archive(beginning: &[u8]) -> bool {
    beginning.starts_with(&FILE)
}

impl Archive {
    /// Opens an archive and reads its directory.
    ///
    /// # Errors
    /// An archive that is cut short or damaged, and files in it that are compressed or encrypted.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let mut archive = Self { path: path.to_owned(), file, entries: BTreeMap::new() };
        let (start, size) = archive.directory(length)?;
        let listing = archive.slice(start, size)?;
        let mut rest = listing.as_slice();
        while !rest.is_empty() {
            let (name, entry, after) = archive.listed(rest, start)?;
            if archive.entries.insert(name.clone(), entry).is_some() {
                return Err(archive.broken(format!("it lists `{name}` twice")));
            }
            rest = after;
        }
        Ok(archive)
    }

    /// The files' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// A file's place.
    pub fn entry(&self, name: &str) -> Option<Entry> {
        self.entries.get(name).copied()
    }

    /// All bytes of a file.
    ///
    /// # Errors
    /// If the system refuses to read.
    pub fn bytes(&self, entry: Entry) -> Result<Vec<u8>> {
        self.slice(entry.start, entry.length)
    }

    /// Where the directory begins, and its length.
    fn directory(&self, length: u64) -> Result<(u64, u64)> {
        let tail_start = length.saturating_sub(LONGEST_END);
        let tail = self.slice(tail_start, length - tail_start)?;
        let ends_there = |&at: &usize| {
            let comment = number::<2>(&tail[at..], 20);
            tail[at..].starts_with(&END) && comment == Some((tail.len() - at - 22) as u64)
        };
        let last = tail.len().checked_sub(22);
        let Some(at) = last.and_then(|last| (0..=last).rev().find(ends_there)) else {
            return Err(self.broken("it does not end with a directory".into()));
        };
        let end = &tail[at..];
        let (mut size, mut start) = (field::<4>(end, 12), field::<4>(end, 16));
        let mut before = tail_start + at as u64;
        // Large archives have a second end before this one, and its place just before.
        if let Some(locator) = before.checked_sub(20) {
            let locator = self.slice(locator, 20)?;
            if locator.starts_with(&WIDE_LOCATOR) {
                before = field::<8>(&locator, 8);
                let wide = match before.checked_add(56).is_some_and(|end| end <= length) {
                    true => self.slice(before, 56)?,
                    false => Vec::new(),
                };
                if !wide.starts_with(&WIDE_END) {
                    return Err(self.broken("its second end is not where it should be".into()));
                }
                (size, start) = (field::<8>(&wide, 40), field::<8>(&wide, 48));
            }
        }
        if start.checked_add(size) != Some(before) {
            return Err(self.broken("its directory is not where it should be".into()));
        }
        Ok((start, size))
    }

    /// The first file of a listing: its name, its place, which lies before the `directory`, and the rest.
    fn listed<'a>(&self, listing: &'a [u8], directory: u64) -> Result<(String, Entry, &'a [u8])> {
        let damaged = || self.broken("its directory is damaged".into());
        let sizes = [28, 30, 32].map(|at| number::<2>(listing, at).unwrap_or(0) as usize);
        let [name_length, extra_length, comment_length] = sizes;
        let [name_end, extra_end] = [46 + name_length, 46 + name_length + extra_length];
        let after = listing.get(extra_end + comment_length..).ok_or_else(damaged)?;
        if !listing.starts_with(&LISTED) {
            return Err(damaged());
        }
        let name = String::from_utf8_lossy(&listing[46..name_end]).into_owned();
        let refused = |what: &str| {
            let problem = format!(
                "{what}, which torch never writes. Load the file with `torch.load` and save it again with `torch.save`."
            );
            Err(Error::input(&self.path, format!("`{name}`"), problem))
        };
        if field::<2>(listing, 8) & 1 != 0 {
            return refused("it is encrypted");
        }
        if field::<2>(listing, 10) != 0 {
            return refused("it is compressed");
        }
        let stored = [field::<4>(listing, 20), field::<4>(listing, 24), field::<4>(listing, 42)];
        let [length, plain_length, header] = wide(stored, &listing[name_end..extra_end]);
        let start = self.start(header, directory);
        let fits =
            start.and_then(|start| start.checked_add(length)).is_some_and(|e| e <= directory);
        match start {
            Some(start) if fits && length == plain_length => {
                Ok((name, Entry { start, length }, after))
            }
            _ => Err(self.broken(format!("`{name}` would reach beyond it"))),
        }
    }

    /// Where the bytes of a file begin whose header stands at `header`.
    fn start(&self, header: u64, directory: u64) -> Option<u64> {
        let after = header.checked_add(30).filter(|&after| after <= directory)?;
        let bytes = self.slice(header, 30).ok().filter(|bytes| bytes.starts_with(&FILE))?;
        Some(after + field::<2>(&bytes, 26) + field::<2>(&bytes, 28))
    }

    /// Bytes that lie within the archive.
    fn slice(&self, start: u64, length: u64) -> Result<Vec<u8>> {
        let (mut file, mut bytes) = (&self.file, vec![0; length as usize]);
        file.seek(SeekFrom::Start(start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(Error::io("read", &self.path))?;
        Ok(bytes)
    }

    fn broken(&self, why: String) -> Error {
        let problem = format!(
            "not a whole archive of `torch.save` ({why}). It may have been cut short: copy or write it again."
        );
        Error::input(&self.path, "", problem)
    }
}

/// A number of `WIDTH` bytes, the lowest first, if there are so many.
fn number<const WIDTH: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + WIDTH)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// A number in a record whose length is known.
fn field<const WIDTH: usize>(record: &[u8], at: usize) -> u64 {
    number::<WIDTH>(record, at).unwrap_or(0)
}

/// The two sizes and the place of a file: those that do not fit in 4 bytes stand in the extra field 1, in order.
fn wide([length, plain_length, header]: [u64; 3], mut extra: &[u8]) -> [u64; 3] {
    const ELSEWHERE: u64 = 0xffff_ffff;
    let mut values = [plain_length, length, header];
    while let (Some(id), Some(size)) = (number::<2>(extra, 0), number::<2>(extra, 2)) {
        let end = (4 + size as usize).min(extra.len());
        if id == 1 {
            let mut numbers = extra[4..end].chunks_exact(8).map(|chunk| field::<8>(chunk, 0));
            for value in values.iter_mut().filter(|value| **value == ELSEWHERE) {
                *value = numbers.next().unwrap_or(u64::MAX);
            }
        }
        extra = &extra[end..];
    }
    let [plain_length, length, header] = values;
    [length, plain_length, header]
}
