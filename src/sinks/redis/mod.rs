//! The board in Redis: a rolling window of scores, published by the worker that holds
//! the lease.

pub(crate) mod ahead;
mod apart;
pub(crate) mod audit;
pub(crate) mod client;
pub mod eligible;
pub(crate) mod inspect;
pub(crate) mod owned;
pub(crate) mod publish;
pub(crate) mod reader;
pub mod renew;
pub mod sink;
pub(crate) mod worker;

pub use client::BoardReader;
pub use publish::{BoardKeys, Publication, Published, Publisher};

pub use crate::sinks::inspect::{BoardView, Meta};
