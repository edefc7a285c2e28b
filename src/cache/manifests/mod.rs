//! Manifests, by tag and by digest.

pub(crate) mod document;
pub(crate) mod listing;
pub(crate) mod memory;
pub(crate) mod pull;
pub(crate) mod tag;
