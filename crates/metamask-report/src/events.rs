//! A log as TensorBoard reads it: a file of records, each an event with one number.
//!
//! ```text
//! record   length u64 | its masked CRC-32C u32 | event | its masked CRC-32C u32     little-endian
//! event    { wall_time: double = 1, step: int64 = 2, file_version: string = 3, summary = 5 }
//! summary  { repeated value = 1 { tag: string = 1, simple_value: float = 2 } }      protobuf
//! ```
//! Formats: TensorFlow's `record_writer.cc`, `event.proto`, `summary.proto`.

use crate::log::{Log, Logged};

/// The bytes of an event file, whose name must contain `tfevents`.
///
/// Every number of the kinds `step` and `epoch` of a `metrics.jsonl` becomes a scalar with the
/// tag KIND/NAME at its step. A log of results has no clock; an event's time is the seconds that
/// the epochs of `timings.jsonl` had taken before it, as far as they are there.
pub fn tensorboard_events(metrics: &Log, timings: &Log) -> Vec<u8> {
    let mut file = Vec::new();
    write_record(&mut file, &event(0.0, 0, &field(3, b"brain.Event:2")));
    let durations = timings.series("epoch", "epoch", "duration_s");
    let seconds_after = |epochs: u64| -> f64 {
        let done = durations.iter().take_while(|(epoch, _)| *epoch <= epochs as f64);
        done.map(|(_, seconds)| seconds).sum()
    };
    let mut now = (0, 0.0);
    for Logged { kind, step, epoch, name, value } in metrics.numbers() {
        let done = if kind == "epoch" { epoch } else { epoch.saturating_sub(1) };
        if done != now.0 {
            now = (done, seconds_after(done));
        }
        let mut scalar = field(1, format!("{kind}/{name}").as_bytes());
        scalar.push(2 << 3 | FIXED_32);
        scalar.extend((value as f32).to_le_bytes());
        write_record(&mut file, &event(now.1, step, &field(5, &field(1, &scalar))));
    }
    file
}

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

fn event(wall_time: f64, step: u64, what: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | FIXED_64];
    event.extend(wall_time.to_le_bytes());
    event.push(2 << 3 | VARINT);
    event.extend(varint(step));
    event.extend(what);
    event
}

/// A field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | BYTES];
    field.extend(varint(bytes.len() as u64));
    field.extend(bytes);
    field
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn write_record(file: &mut Vec<u8>, event: &[u8]) {
    let length = (event.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked_crc32c(&length).to_le_bytes());
    file.extend(event);
    file.extend(masked_crc32c(event).to_le_bytes());
}

fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected, a bit at a time: the files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        // Its appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
    }

    #[test]
    fn a_record_is_laid_out_as_the_format_says() {
        let metrics = Log::of("{\"kind\":\"epoch\",\"step\":300,\"epoch\":1,\"loss\":1.5}");
        let timings = Log::of("{\"kind\":\"epoch\",\"epoch\":1,\"duration_s\":2.0}");
        let file = tensorboard_events(&metrics, &timings);
        // The first record: 8 + 4 bytes, an event of 9 + 2 + 15, 4 bytes.
        let second = &file[8 + 4 + 26 + 4..];
        let event = [
            &[0x09][..],
            &2f64.to_le_bytes(),
            &[0x10, 0xac, 0x02],
            &[0x2a, 19, 0x0a, 17, 0x0a, 10],
            b"epoch/loss",
            &[0x15],
            &1.5f32.to_le_bytes(),
        ]
        .concat();
        assert_eq!(second[..8], (event.len() as u64).to_le_bytes());
        assert_eq!(second[12..12 + event.len()], event);
        assert_eq!(second.len(), 12 + event.len() + 4);
    }
}
