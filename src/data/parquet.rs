//! Parquet tables, as the Hugging Face Hub serves data sets: each row as a JSON object.

use std::path::Path;

use bytes::Bytes;
use parquet::{
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
};
use serde_json::value::{RawValue, to_raw_value};

use crate::{Error, Result, quiet::caught};

/// What a Parquet file begins and ends with.
const MAGIC: &[u8] = b"PAR1";

/// Whether a file's content is a whole Parquet table.
pub(super) fn is_table(bytes: &[u8]) -> bool {
    bytes.len() > 2 * MAGIC.len() && bytes.starts_with(MAGIC) && bytes.ends_with(MAGIC)
}

/// The first `limit` rows of a table, `bytes` the content of the file `path`.
///
/// # Errors
/// A table that is damaged or packed in a way that is not known here.
pub(super) fn rows(path: &Path, bytes: Vec<u8>, limit: usize) -> Result<Vec<Box<RawValue>>> {
    // The library panics at some damaged tables.
    caught(|| read(path, bytes.into(), limit)).unwrap_or_else(|| {
        Err(Error::input(path, "", "is a damaged Parquet table. Fetch it again."))
    })
}

fn read(path: &Path, bytes: Bytes, limit: usize) -> Result<Vec<Box<RawValue>>> {
    let refused = |error: ParquetError| {
        let problem = format!(
            "cannot be read as a Parquet table: {error}. Fetch it again, or write it as JSON lines."
        );
        Error::input(path, "", problem)
    };
    let table = SerializedFileReader::new(bytes).map_err(refused)?;
    let rows = table.get_row_iter(None).map_err(refused)?;
    rows.take(limit)
        .map(|row| {
            let row = row.map_err(refused)?.to_json_value();
            to_raw_value(&row).map_err(|error| Error::Internal(format!("a row as JSON: {error}")))
        })
        .collect()
}
