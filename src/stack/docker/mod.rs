//! Services as containers: finding the engine, the spec of a container, the
//! labels that mark the project's resources, pulling images, and starting,
//! following and removing containers.

pub mod container_spec;
pub mod credentials;
pub mod daemon;
mod digest;
pub mod discovery;
pub mod engine;
pub mod engine_state;
pub mod labels;
pub mod logs;
pub mod pull;
pub mod resources;
pub mod run;
