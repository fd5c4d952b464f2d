//! What tests of faults share, here and in crates: injuries to files, and how
//! `cargo xtask faults` is told what was tried.

use std::io::Write;

use metamask_random::Stream;

/// Whether everything is to be tried, not a sample: METAMASK_FAULTS=full.
pub(crate) fn tries_all() -> bool {
    std::env::var_os("METAMASK_FAULTS").is_some_and(|value| value == "full")
}

/// Tells `cargo xtask faults` what was tried and how often it was survived.
///
/// # Panics
/// If nothing was tried, or not all of it survived.
pub(crate) fn tried(what: &str, tried: usize, survived: usize) {
    if std::env::var_os("METAMASK_FAULTS").is_some() {
        // In one piece, and past libtest, which captures `eprintln!`.
        let line = format!("tried: {what} | {tried} | {survived}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    assert!(tried > 0 && tried == survived, "{what}: {survived} of {tried}");
}

/// The bytes with one to four injuries, at those places in particular where formats keep
/// lengths: headers are at the start, the footers of parquet and zip at the end.
pub(crate) fn mutated(bytes: &[u8], stream: &mut Stream) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=stream.below(3) {
        let n = bytes.len() as u32;
        let at = stream.below(n.max(1)) as usize;
        match stream.below(10) {
            _ if bytes.is_empty() => bytes.push(stream.next_u32() as u8),
            0 => bytes[at] ^= 1 << stream.below(8),
            1 => bytes.truncate(at),
            2 => {
                let piece: Vec<u8> = bytes[at..].iter().take(200).copied().collect();
                let to = stream.below(n) as usize;
                bytes.splice(to..to, piece);
            }
            3 => {
                let field = 4 * stream.below(4) as usize;
                let length = stream.next_u32() >> stream.below(32);
                overwrite(&mut bytes[field.min(n as usize)..], &length.to_be_bytes());
            }
            4 => {
                let length = stream.next_u64() >> stream.below(64);
                overwrite(&mut bytes, &length.to_le_bytes());
            }
            5 => {
                let digits = (stream.next_u64() >> stream.below(64)).to_string();
                overwrite(&mut bytes[at..], digits.as_bytes());
            }
            6 => bytes.extend((0..=stream.below(9)).map(|i| i as u8)),
            7 => {
                bytes[n as usize - 1 - stream.below(n.min(400)) as usize] = stream.next_u32() as u8
            }
            8 => bytes[at.min(20)] = stream.next_u32() as u8,
            _ => bytes[at] = b"{}[]\",:.-+eE\\\n\0=#"[stream.below(17) as usize],
        }
    }
    bytes
}

/// As many of the new bytes as fit.
fn overwrite(bytes: &mut [u8], new: &[u8]) {
    bytes.iter_mut().zip(new).for_each(|(byte, &new)| *byte = new);
}
