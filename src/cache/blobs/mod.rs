//! Blobs: reads, fills, prefetch and the copies of uploads.

pub(crate) mod blob;
pub(crate) mod credit;
pub(crate) mod file_body;
pub(crate) mod fill;
pub(crate) mod multipart;
pub(crate) mod pieces;
pub(crate) mod places;
pub(crate) mod prefetch;
pub(crate) mod push;
