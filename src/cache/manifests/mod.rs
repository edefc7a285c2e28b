//! Manifests, by tag and by digest.

pub(crate) mod document;
pub(crate) mod fetch;
pub(crate) mod listing;
pub(crate) mod manifest;
pub(crate) mod memory;
pub(crate) mod pull;
pub(crate) mod variants;
