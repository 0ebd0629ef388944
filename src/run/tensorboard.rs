//! TensorBoard event files, written by hand: the format is small and stable.
//!
//! A file is a run of TFRecords (`tensorflow/core/lib/io/record_writer.h`), each holding one
//! protobuf `Event` (`tensorflow/core/util/event.proto`):
//!
//! ```text
//! record = length u64 | masked_crc(length) u32 | data | masked_crc(data) u32      (little endian)
//! Event  = 1: wall_time double | 2: step int64
//!          | 3: file_version string | 5: Summary | 7: SessionLog
//! Summary = 1: repeated Value { 1: tag string, 2: simple_value float }
//! SessionLog = 1: status (START = 1)
//! ```

use super::file::create_folder;
use super::machine::{host, now};
use super::protobuf::{put_bytes, put_double, put_float, put_varint};
use super::record::Record;
use crate::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One event file, open for appending.
#[derive(Debug)]
pub(super) struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Opens a new file in `folder` and tells TensorBoard to forget what earlier files in it say
    /// about `next_step` and beyond.
    pub(super) fn create(folder: &Path, next_step: u64) -> Result<Self> {
        create_folder(folder)?;
        let (path, file) = new_file(folder)?;
        let mut writer = Self { path, file };
        let now = now().as_secs_f64();
        writer.write(&file_version_event(now))?;
        // START at a step: readers drop earlier events at that step or later ("purge_step").
        writer.write(&session_start_event(now, next_step))?;
        Ok(writer)
    }

    /// Appends a record's values as scalars.
    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        let charted = record.charted();
        let mut scalars: Vec<(String, f32)> =
            charted.map(|(name, value)| (name, value as f32)).collect();
        if record.get("loss").is_some() {
            scalars.push(("train/epoch".into(), record.epoch as f32));
            scalars.push(("train/stage".into(), record.stage as f32));
        }
        self.write(&scalars_event(now().as_secs_f64(), record.step, &scalars))
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        self.file.write_all(&framed(event)).map_err(Error::io("write", &self.path))
    }
}

/// Creates `events.out.tfevents.<seconds>.<host>`. TensorBoard reads a folder's files in the order of
/// their names, so the seconds are made larger than those of every file already there.
fn new_file(folder: &Path) -> Result<(PathBuf, File)> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let latest = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| {
            name.strip_prefix("events.out.tfevents.")?.split('.').next()?.parse::<u64>().ok()
        })
        .max();
    let seconds = (now().as_secs()).max(latest.map_or(0, |seconds| seconds + 1));
    let path = folder.join(format!("events.out.tfevents.{seconds:010}.{}", host()));
    let file = File::create_new(&path).map_err(Error::io("create", &path))?;
    Ok((path, file))
}

/// A TFRecord around `data`.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted so that the checksum of data that holds checksums stays useful.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn file_version_event(wall_time: f64) -> Vec<u8> {
    let mut event = event(wall_time, 0);
    put_bytes(&mut event, 3, b"brain.Event:2");
    event
}

fn session_start_event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut session = Vec::new();
    put_varint(&mut session, 1, 1);
    let mut event = event(wall_time, step);
    put_bytes(&mut event, 7, &session);
    event
}

fn scalars_event(wall_time: f64, step: u64, scalars: &[(String, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, tag.as_bytes());
        put_float(&mut entry, 2, *value);
        put_bytes(&mut summary, 1, &entry);
    }
    let mut event = event(wall_time, step);
    put_bytes(&mut event, 5, &summary);
    event
}

fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time);
    // Protobuf leaves out what is zero, and so does every other writer of these files.
    if step > 0 {
        put_varint(&mut event, 2, step);
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-32C, and its mask worked by hand: 0xe3069283 rotated right by 15 is
    /// 0x2507c60d (low 15 bits 0x1283 go to the top: 0x1283 << 17 = 0x25060000, | 0x1c60d), plus
    /// 0xa282ead8 is 0xc78ab0e5.
    #[test]
    fn checksum_of_the_known_vector() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    /// Every event file that TensorFlow or PyTorch writes starts with the record of
    /// `file_version: "brain.Event:2"`, 24 bytes long, whose length carries this checksum.
    #[test]
    fn header_has_the_bytes_of_every_event_file() {
        let record = framed(&file_version_event(1.0));
        assert_eq!(record[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(record.len(), 24 + 16);
    }

    #[test]
    fn scalar_event_by_hand() {
        let expected: Vec<u8> = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f][..], // wall_time 1.0
            &[0x10, 0xac, 0x02],                       // step 300 = 0b10_0101100
            &[0x2a, 0x0a],                             // summary, 10 bytes
            &[0x0a, 0x08],                             // value, 8 bytes
            &[0x0a, 0x01, b'x'],                       // tag
            &[0x15, 0, 0, 0x00, 0x3f],                 // simple_value 0.5
        ]
        .concat();
        assert_eq!(scalars_event(1.0, 300, &[("x".into(), 0.5)]), expected);
    }

    #[test]
    fn session_start_by_hand() {
        let expected = [0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x05, 0x3a, 0x02, 0x08, 0x01];
        assert_eq!(session_start_event(0.0, 5), expected);
    }
}
