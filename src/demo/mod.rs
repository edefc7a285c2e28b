//! The demo: an in-memory registry and everything around it.

pub(crate) mod image;
pub(crate) mod registry;
