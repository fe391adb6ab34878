//! One event in a file: a line `<received, microseconds since the epoch>
//! <sha-256 of the body> <bytes> <key>`, and the body with a line feed.

use std::io::{self, BufRead as _, Read as _};

use sha2::{Digest as _, Sha256};

/// The first line of a file of such records.
pub const MAGIC: &[u8] = b"fanout-stub 1\n";

/// The longest line before a body: key and numbers.
const MAX_LINE: u64 = 1024;

/// The longest key.
pub const MAX_KEY: usize = 255;

/// Half of a SHA-256: enough that two texts never share one.
pub type Fingerprint = [u8; 16];

/// An event on its way in, hashed and laid out before anything is locked.
#[derive(Debug)]
pub struct Posted {
    pub key: Fingerprint,
    pub body: Fingerprint,
    pub record: Vec<u8>,
    pub received_us: i64,
}

/// An event as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the order of acceptance, from 1.
    pub seq: u64,
    /// Microseconds since the epoch.
    pub received_us: i64,
    /// Of the body, in hexadecimal.
    pub sha256: String,
    pub key: String,
    pub body: String,
}

impl Posted {
    /// Hashes and lays out an event. The key has at most [`MAX_KEY`] bytes and
    /// no line feed.
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

/// One record as it is read; its buffers are used again.
#[derive(Debug, Default)]
pub struct Record {
    line: Vec<u8>,
    body: Vec<u8>,
    pub received_us: i64,
    sha256: [u8; 32],
    key: String,
    pub size: u64,
}

/// What was found where a record may begin.
pub enum Reading {
    Whole,
    /// Nothing more, or a torn record.
    End,
    Damaged(&'static str),
}

impl Record {
    /// Reads the next one.
    ///
    /// # Errors
    /// When the file cannot be read.
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
            return Ok(Reading::Damaged("a line is not of this format"));
        };
        self.body.clear();
        let whole = length + 1;
        if reader.take(whole).read_to_end(&mut self.body)? as u64 != whole {
            return Ok(Reading::End);
        }
        if self.body.pop() != Some(b'\n') {
            return Ok(Reading::Damaged("a body is longer than its line says"));
        }
        let digest: [u8; 32] = Sha256::digest(&self.body).into();
        if digest != self.sha256 {
            return Ok(Reading::Damaged("a body has changed"));
        }
        self.size = self.line.len() as u64 + 1 + whole;
        Ok(Reading::Whole)
    }

    /// Reads the line; gives the body's length.
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

    /// Of its key and of its body.
    pub fn fingerprints(&self) -> (Fingerprint, Fingerprint) {
        (
            fingerprint(&Sha256::digest(&self.key)),
            fingerprint(&self.sha256),
        )
    }

    /// The event, as number `seq`.
    ///
    /// # Errors
    /// When its body is no text.
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

/// The fingerprint of a text, from its digest.
pub fn fingerprint(digest: &[u8]) -> Fingerprint {
    let mut half = Fingerprint::default();
    half.iter_mut()
        .zip(digest)
        .for_each(|(to, from)| *to = *from);
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
