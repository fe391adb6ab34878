//! What is shown in place of a secret.

/// Shown in place of a secret.
pub const MASK: &str = "****";
