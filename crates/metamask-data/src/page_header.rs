//! What the pages of a parquet file claim, looked at before the parquet crate believes it.
//!
//! The crate allocates a page's unpacked size and room for the values of a dictionary
//! whatever the header says, gigabytes for a file of a kilobyte. Here a claim is held against
//! the bytes that are there. Headers are structs in thrift's compact protocol
//! (<https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>,
//! `PageHeader`).

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};

/// No codec unpacks encoded pictures, or the labels beside them, to more than this many
/// times their size; a page of equal labels has this much besides.
const MOST_UNPACKED: i64 = 32;
const ALWAYS_ALLOWED: i64 = 4 << 20;
/// Statistics may hold a picture.
const MOST_HEADER: u64 = 1 << 20;
/// The footer: its length and a magic word. It is read like a header.
const FOOTER: u64 = 8;

/// A parquet file whose page headers are checked when they are read.
pub(crate) struct BoundedPages {
    file: File,
    /// Whether the footer has been read: it comes first, once.
    has_footer: AtomicBool,
}

impl BoundedPages {
    pub(crate) fn new(file: File) -> Self {
        Self { file, has_footer: AtomicBool::new(false) }
    }
}

impl Length for BoundedPages {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl ChunkReader for BoundedPages {
    type T = HeaderReader;

    fn get_read(&self, start: u64) -> ParquetResult<HeaderReader> {
        let is_first = !self.has_footer.swap(true, Ordering::Relaxed);
        let is_footer = is_first && start.checked_add(FOOTER) == Some(self.file.len());
        Ok(HeaderReader { inner: self.file.get_read(start)?, is_checked: is_footer })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        self.file.get_bytes(start, length)
    }
}

/// Reads on from a page's header, if the header may be believed. A page whose header is
/// known already is fetched by [`ChunkReader::get_bytes`], after a reader that nobody reads.
pub(crate) struct HeaderReader {
    inner: BufReader<File>,
    is_checked: bool,
}

impl Read for HeaderReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_checked {
            let start = self.inner.stream_position()?;
            Compact((&mut self.inner).take(MOST_HEADER)).check_page_header()?;
            // What was read lies in the buffer still, as a rule.
            let end = self.inner.stream_position()?;
            self.inner.seek_relative(start as i64 - end as i64)?;
            self.is_checked = true;
        }
        self.inner.read(buffer)
    }
}

/// Thrift's compact protocol, as much of it as page headers use.
struct Compact<R>(R);

/// Kinds of fields.
const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I32: u8 = 5;
const STRUCT: u8 = 12;

impl<R: Read> Compact<R> {
    fn check_page_header(&mut self) -> io::Result<()> {
        let (mut unpacked, mut packed, mut dictionary) = (None, None, None);
        let mut last = 0;
        while let Some((field, kind)) = self.field(&mut last)? {
            match (field, kind) {
                (2, I32) => unpacked = Some(self.integer()?),
                (3, I32) => packed = Some(self.integer()?),
                (1 | 4, I32) => drop(self.integer()?),
                (5, STRUCT) => drop(self.first_integer(4, 0, 5)?),
                (6, STRUCT) => drop(self.first_integer(0, 0, 0)?),
                (7, STRUCT) => dictionary = self.first_integer(2, 3, 0)?,
                (8, STRUCT) => drop(self.first_integer(6, 7, 8)?),
                (9.., _) => self.skip(kind, 0)?,
                _ => return Err(invalid(OTHER_KIND)),
            }
        }
        let (Some(unpacked), Some(packed)) = (unpacked, packed) else {
            return Err(invalid("a page without a size"));
        };
        let allowed = MOST_UNPACKED.saturating_mul(packed).saturating_add(ALWAYS_ALLOWED);
        if unpacked > allowed {
            return Err(invalid(&format!("a page of {packed} bytes, unpacked {unpacked}")));
        }
        // A value has a byte at least.
        match dictionary {
            Some(n) if n > unpacked => {
                Err(invalid(&format!("a dictionary of {n} values in {unpacked} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// The next field's number and kind. Numbers go up, as writers write them: nothing that
    /// was checked is said again, differently.
    fn field(&mut self, last: &mut i64) -> io::Result<Option<(i64, u8)>> {
        let byte = self.byte()?;
        let kind = byte & 15;
        if kind == STOP {
            return Ok(None);
        }
        let field = match byte >> 4 {
            0 => self.integer()?,
            step => *last + i64::from(step),
        };
        if field <= *last {
            return Err(invalid("a page header whose fields are not in order"));
        }
        *last = field;
        Ok(Some((field, kind)))
    }

    /// Reads the header of a kind of page, whose first fields are `integers`, one a boolean
    /// and one statistics (0: none); returns field 1. The crate reads a field that it knows
    /// as what it knows, whatever kind is written beside it.
    fn first_integer(
        &mut self,
        integers: i64,
        boolean: i64,
        statistics: i64,
    ) -> io::Result<Option<i64>> {
        let (mut first, mut last) = (None, 0);
        let known = integers.max(boolean).max(statistics);
        while let Some((field, kind)) = self.field(&mut last)? {
            match kind {
                I32 if field <= integers => {
                    let value = self.integer()?;
                    first = first.or((field == 1).then_some(value));
                }
                TRUE | FALSE if field == boolean => {}
                STRUCT if field == statistics => self.skip(kind, 1)?,
                _ if field > known => self.skip(kind, 1)?,
                _ => return Err(invalid(OTHER_KIND)),
            }
        }
        Ok(first)
    }

    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        match kind {
            // A boolean is its kind.
            TRUE | FALSE => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.integer().map(drop),
            7 => self.pass(8),
            8 => self.varint().and_then(|n| self.pass(n)),
            STRUCT if depth < 4 => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(invalid("a page header with a field that page headers do not have")),
        }
    }

    fn pass(&mut self, n: u64) -> io::Result<()> {
        match io::copy(&mut self.0.by_ref().take(n), &mut io::sink())? == n {
            true => Ok(()),
            false => Err(invalid("a page header that is cut short")),
        }
    }

    /// Zigzag: 0, −1, 1, −2, …
    fn integer(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(invalid("a page header with a number of more than 64 bits"))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte).map_err(|_| invalid("a page header that is cut short"))?;
        Ok(byte[0])
    }
}

const OTHER_KIND: &str = "a page header whose fields are of other kinds";

fn invalid(found: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, found)
}

#[cfg(test)]
mod tests {
    use super::Compact;

    fn check(header: &[u8]) -> Result<(), String> {
        Compact(header).check_page_header().map_err(|error| error.to_string())
    }

    /// An i32 field one after the last.
    fn next(value: i64) -> Vec<u8> {
        let mut bytes = vec![0x15];
        let mut zigzag = (value << 1) as u64;
        while zigzag > 127 {
            bytes.push(zigzag as u8 | 128);
            zigzag >>= 7;
        }
        bytes.push(zigzag as u8);
        bytes
    }

    fn header(kind: i64, unpacked: i64, packed: i64, rest: &[u8]) -> Vec<u8> {
        [next(kind), next(unpacked), next(packed), rest.to_vec()].concat()
    }

    #[test]
    fn a_page_may_claim_what_its_bytes_can_hold() {
        let data_page = |unpacked, packed| {
            // Field 5, a struct: values, three encodings, statistics of two strings.
            let mut rest = vec![0x2c, 0x15, 20, 0x15, 0, 0x15, 6, 0x15, 6, 0x1c, 0x18, 2];
            rest.extend(b"ab\x18\x01c\0\0\0");
            header(0, unpacked, packed, &rest)
        };
        assert_eq!(check(&data_page(100, 50)), Ok(()));
        assert_eq!(check(&data_page(4 << 20, 3)), Ok(()));
        let told = check(&data_page(1 << 31, 3)).unwrap_err();
        assert_eq!(told, "a page of 3 bytes, unpacked 2147483648");
        for n in 0..data_page(100, 50).len() {
            assert!(check(&data_page(100, 50)[..n]).is_err(), "cut after {n} bytes");
        }
    }

    #[test]
    fn a_dictionary_has_no_more_values_than_bytes() {
        let dictionary = |n: i64| {
            let rest = [&[0x4c][..], &next(n), &[0x15, 0, 0, 0]].concat();
            header(2, 100, 100, &rest)
        };
        assert_eq!(check(&dictionary(25)), Ok(()));
        let told = check(&dictionary(1 << 30)).unwrap_err();
        assert_eq!(told, "a dictionary of 1073741824 values in 100 bytes");
    }

    #[test]
    fn nothing_is_said_twice() {
        // Field 2 once more, its number spelled out.
        let again = [header(0, 100, 100, &[0x05, 4]), vec![0xfe, 0xff, 0xff, 0xff, 15, 0]].concat();
        assert!(check(&again).unwrap_err().contains("not in order"));
        assert!(check(&[0]).unwrap_err().contains("without a size"));
        // Field 5 as a string.
        assert!(check(&header(0, 1, 1, &[0x28, 1, 0, 0])).unwrap_err().contains("other kinds"));
        // Structs in structs in structs.
        assert!(check(&header(0, 1, 1, &[0x1c; 100])).is_err());
    }
}
