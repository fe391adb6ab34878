//! The sinks, one folder each. A folder has the sink itself, the objects it owns on
//! its server, and the audit that holds its contents against the log and the source.

pub mod clickhouse;
pub mod http;
pub mod redis;
pub mod replay;
