//! The sinks, one folder each. A folder has the sink itself, the objects it owns on
//! its server, the audit that holds its contents against the log and the source, and
//! the inspector that shows its contents to an operator.

pub mod clickhouse;
pub mod http;
pub mod inspect;
pub(crate) mod inspector;
pub mod redis;
pub mod replay;
