//! One module for each server's client crate, and the only ones that name it:
//! what the rest of the library knows of a server is what these offer.

pub mod browser;
pub mod clickhouse;
pub mod docker;
pub mod kafka;
pub mod postgres;
pub mod redis;
pub mod web;
