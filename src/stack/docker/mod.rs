//! Services as containers: the engine that runs them, what a container is
//! made of, whose it is, how its image comes, and how it is started, followed
//! and removed.

pub mod credentials;
pub mod daemon;
mod digest;
pub mod logs;
pub mod owner;
pub mod pull;
pub mod recipe;
pub mod run;
pub mod surroundings;
pub mod sweep;
pub mod world;
