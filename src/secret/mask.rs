//! The replacement for secrets in output.

/// Text that is shown in place of a secret.
pub const MASK: &str = "****";
