//! Fills: downloads of blobs, each shared by all its readers.
//!
//! The first miss starts a fill in a task of its own. Every other requester that may read the blob follows it: at the head from
//! a [`ring`] of the last frames, behind it from the growing file, each at its own pace. The upstream sees one request. No reader
//! has the last bytes before the digest holds: with a Content-Length, a client that has those has a complete answer.

pub(crate) mod answer;
pub(crate) mod download;
pub(crate) mod fills;
pub(crate) mod memory;
pub(crate) mod opening;
pub(crate) mod reader;
pub(crate) mod ring;
pub(crate) mod state;
pub(crate) mod subscription;

pub(crate) use download::Downloads;
pub(crate) use fills::Fills;
pub(crate) use opening::Ranges;
pub(crate) use reader::{Reader, rest};
pub(crate) use state::{Demand, Head, Key};
pub(crate) use subscription::Subscription;

#[cfg(test)]
mod tests;
