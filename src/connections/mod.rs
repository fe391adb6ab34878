//! One module for each server's client crate, and the only ones that name it:
//! what the rest of the library knows of a server is what these offer.
//!
//! A [`Connection`] says where a server is. [`Connections`] makes the clients,
//! once, from the settings; nothing else opens a connection.

pub mod browser;
pub mod clickhouse;
pub mod postgres;
pub mod redis;
mod set;
pub mod web;

pub use crate::config::connection::{Auth, Connection, Tls};
pub use set::Connections;
