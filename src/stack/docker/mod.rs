//! Services as containers: finding the engine, the spec of a container, the
//! labels that mark the project's resources, pulling images, and starting,
//! following and removing containers.

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
