//! The format of an event in a file: a line `<time of receipt, microseconds since the epoch>
//! <SHA-256 of the body> <length of the body> <key>`, then the body and a line feed.

use std::io::{self, BufRead as _, Read as _};

use sha2::{Digest as _, Sha256};

/// The first line of a file.
pub const MAGIC: &[u8] = b"fanout-stub 1\n";

/// Maximum length of the line before a body.
const MAX_LINE: u64 = 1024;

/// Maximum length of a key.
pub const MAX_KEY: usize = 255;

/// Half of a SHA-256 digest, which is long enough to identify a text.
pub type Fingerprint = [u8; 16];

/// A posted event, hashed and formatted before the journal is locked.
#[derive(Debug)]
pub struct Posted {
    pub key: Fingerprint,
    pub body: Fingerprint,
    pub record: Vec<u8>,
    pub received_us: i64,
}

/// An accepted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Position in the order of acceptance, starting at 1.
    pub seq: u64,
    /// Microseconds since the epoch.
    pub received_us: i64,
    /// SHA-256 of the body, in hexadecimal.
    pub sha256: String,
    pub key: String,
    pub body: String,
}

impl Posted {
    /// Hashes and formats an event. The key must have at most [`MAX_KEY`] bytes and no line
    /// feed.
    #[must_use]
    pub fn new(key: &str, body: &[u8], received_us: i64) -> Self {
        let digest = Sha256::digest(body);
        let mut record = Vec::with_capacity(body.len() + key.len() + 100);
        let line = format!("{received_us} {} {} {key}\n", hex(&digest), body.len());
        record.extend_from_slice(line.as_bytes());
        record.extend_from_slice(body);
        record.push(b'\n');
        Self {
            key: fingerprint(&Sha256::digest(key)),
            body: fingerprint(&digest),
            record,
            received_us,
        }
    }
}

/// A record that is read from a file. Its buffers are reused.
#[derive(Debug, Default)]
pub struct Record {
    line: Vec<u8>,
    body: Vec<u8>,
    pub received_us: i64,
    sha256: [u8; 32],
    key: String,
    pub size: u64,
}

/// Result of reading a record.
pub enum Reading {
    Whole,
    /// The end of the file, or a partially written record.
    End,
    Damaged(&'static str),
}

impl Record {
    /// Reads the next record.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&mut self, reader: &mut impl io::BufRead) -> io::Result<Reading> {
        self.line.clear();
        reader.take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        if self.line.pop() != Some(b'\n') {
            return Ok(if (self.line.len() as u64) < MAX_LINE - 1 {
                Reading::End
            } else {
                Reading::Damaged("a line is too long")
            });
        }
        let Some(length) = self.parse_line() else {
            return Ok(Reading::Damaged("a line is malformed"));
        };
        self.body.clear();
        let size = length + 1;
        if reader.take(size).read_to_end(&mut self.body)? as u64 != size {
            return Ok(Reading::End);
        }
        if self.body.pop() != Some(b'\n') {
            return Ok(Reading::Damaged("a body is longer than declared"));
        }
        let digest: [u8; 32] = Sha256::digest(&self.body).into();
        if digest != self.sha256 {
            return Ok(Reading::Damaged("a body has changed"));
        }
        self.size = self.line.len() as u64 + 1 + size;
        Ok(Reading::Whole)
    }

    /// Parses the line and returns the body's length.
    fn parse_line(&mut self) -> Option<u64> {
        let line = std::str::from_utf8(&self.line).ok()?;
        let mut words = line.splitn(4, ' ');
        self.received_us = words.next()?.parse().ok()?;
        let digest = words.next()?;
        for (byte, at) in self.sha256.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(digest.get(at..at + 2)?, 16).ok()?;
        }
        let length = words.next()?.parse().ok()?;
        words.next()?.clone_into(&mut self.key);
        Some(length)
    }

    /// Returns the fingerprints of the key and of the body.
    pub fn fingerprints(&self) -> (Fingerprint, Fingerprint) {
        (
            fingerprint(&Sha256::digest(&self.key)),
            fingerprint(&self.sha256),
        )
    }

    /// Returns the event, with the number `seq`.
    ///
    /// # Errors
    /// If the body is not UTF-8.
    pub fn stored(self, seq: u64) -> io::Result<Stored> {
        Ok(Stored {
            seq,
            received_us: self.received_us,
            sha256: hex(&self.sha256),
            key: self.key,
            body: String::from_utf8(self.body).map_err(io::Error::other)?,
        })
    }
}

/// Returns the fingerprint of a text from its digest.
pub fn fingerprint(digest: &[u8]) -> Fingerprint {
    let mut half = Fingerprint::default();
    half.iter_mut()
        .zip(digest)
        .for_each(|(target, byte)| *target = *byte);
    half
}

fn hex(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    digest
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}
