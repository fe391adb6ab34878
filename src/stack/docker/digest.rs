//! Digests as docker and compose write them.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of the bytes, in lowercase hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
