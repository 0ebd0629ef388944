//! Protobuf messages, written by hand: the few kinds of fields that trackers' files have.

/// Appends a whole number: an `int64`, `bool` or enum.
pub(super) fn put_varint(message: &mut Vec<u8>, field: u32, value: u64) {
    key(message, field, 0);
    varint(message, value);
}

/// Appends a `double`.
pub(super) fn put_double(message: &mut Vec<u8>, field: u32, value: f64) {
    key(message, field, 1);
    message.extend(value.to_le_bytes());
}

/// Appends a text, bytes, or a message within this one.
pub(super) fn put_bytes(message: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    key(message, field, 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Appends a `float`.
pub(super) fn put_float(message: &mut Vec<u8>, field: u32, value: f32) {
    key(message, field, 5);
    message.extend(value.to_le_bytes());
}

fn key(message: &mut Vec<u8>, field: u32, wire_type: u32) {
    varint(message, u64::from(field << 3 | wire_type));
}

/// Seven bits a byte, low first; the top bit says that more follow.
fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}
