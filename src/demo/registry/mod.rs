//! A small, whole registry in memory, without authentication: the demo's upstream, and that of the tests.
//!
//! Obeys the OCI distribution specification 1.1.1 in all four categories (pull, push, content discovery, content
//! management), and where the specification is silent does as distribution does: delete by tag, `_catalog`, `ETag`,
//! `Docker-Upload-UUID`. One file per resource; `store` holds content, `upload` the uploads under way.

mod answer;
mod blobs;
mod digester;
mod document;
mod handle;
mod listings;
mod manifests;
mod pushes;
mod refusal;
mod serve;
mod space;
mod state;
mod store;
mod upload;

pub use digester::canonical as sha256;
pub(crate) use refusal::Refusal;
pub use state::Registry;

#[cfg(test)]
mod tests;
