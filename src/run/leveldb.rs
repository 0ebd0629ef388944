//! LevelDB's log format (`doc/log_format.md` there), as Weights & Biases uses it.
//!
//! ```text
//! file  = block*, 32 KiB each, the last one shorter
//! block = chunk*, and zeros where fewer than 7 bytes are left
//! chunk = crc u32 | length u16 | kind u8 | data          (little endian)
//! kind  = 1: a whole record | 2: its first, 3: a middle, 4: its last part
//! ```
//!
//! LevelDB's checksum is a masked CRC-32C. Here it is zlib's CRC-32, unmasked, of kind and data, and the file's header
//! stands within the first block.

const BLOCK: usize = 32768;
const HEAD: usize = 7;

/// The chunks of one record that is appended at a place of the file, in bytes from its beginning.
pub(super) fn chunks(record: &[u8], place: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(record.len() + 2 * HEAD);
    let (mut left, mut begun) = (record, false);
    loop {
        let mut room = BLOCK - ((place + bytes.len() as u64) % BLOCK as u64) as usize;
        if room < HEAD {
            bytes.resize(bytes.len() + room, 0);
            room = BLOCK;
        }
        let (data, rest) = left.split_at(left.len().min(room - HEAD));
        let kind = match (begun, rest.is_empty()) {
            (false, true) => 1,
            (false, false) => 2,
            (true, false) => 3,
            (true, true) => 4,
        };
        bytes.extend(checksum(kind, data).to_le_bytes());
        bytes.extend((data.len() as u16).to_le_bytes());
        bytes.push(kind);
        bytes.extend(data);
        if rest.is_empty() {
            return bytes;
        }
        (left, begun) = (rest, true);
    }
}

fn checksum(kind: u8, data: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(data);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(bytes: &[u8]) -> Vec<(u8, usize)> {
        let mut found = Vec::new();
        let mut rest = bytes;
        while rest.len() >= HEAD && rest[6] != 0 {
            let length = usize::from(u16::from_le_bytes([rest[4], rest[5]]));
            found.push((rest[6], length));
            rest = &rest[HEAD + length..];
        }
        found
    }

    /// The check value of CRC-32 is that of the text "123456789".
    #[test]
    fn checksum_of_the_known_vector() {
        assert_eq!(checksum(b'1', b"23456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_record_is_cut_at_the_ends_of_blocks() {
        assert_eq!(shape(&chunks(b"abc", 7)), [(1, 3)]);
        assert_eq!(shape(&chunks(&[], 7)), [(1, 0)]);
        // Seven bytes are left: a chunk without data fills them.
        assert_eq!(shape(&chunks(b"abc", 32761)), [(2, 0), (4, 3)]);
        // A record that just fits, and one that is a byte too long.
        assert_eq!(shape(&chunks(&[1; 32761], 0)), [(1, 32761)]);
        assert_eq!(shape(&chunks(&[1; 32762], 0)), [(2, 32761), (4, 1)]);
        assert_eq!(shape(&chunks(&[1; 70000], 0)), [(2, 32761), (3, 32761), (4, 4478)]);
    }

    #[test]
    fn where_no_head_fits_there_are_zeros() {
        let bytes = chunks(b"abc", 32768 - 6);
        assert_eq!(bytes[..6], [0; 6]);
        assert_eq!(shape(&bytes[6..]), [(1, 3)]);
    }
}
