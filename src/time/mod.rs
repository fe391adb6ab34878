//! Points in time, ages, and how long to wait.

pub mod backoff;
pub mod clock;
pub mod instant;
pub mod timestamp;
