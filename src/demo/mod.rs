//! The demo: an in-memory registry and everything around it.

pub mod image;
pub mod registry;
