//! The worker of a farm: an agent that holds the link and the caches, and slot processes that run one task at a time.

pub mod agent;
pub mod artefact;
pub mod module;
pub mod program;
pub mod sandbox;
pub mod secrets;
mod signals;
pub mod slot;
