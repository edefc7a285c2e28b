//! Content on disk, by its digest, whatever repository or upstream it came through.
//!
//! ```text
//! PATH/version                      the layout's number
//! PATH/owner                        locked by the one process that stores and evicts
//! PATH/blobs/sha256/ab/abcd...      content: only what has been checked against its digest
//! PATH/manifests/sha256/ab/abcd...  likewise
//! PATH/partial/NAME.part            parts of blobs on their way, with holes, each file locked by its writer
//! PATH/partial/NAME.head            what is known of such a blob, and which of its parts are there
//! PATH/partial/STEM.left            the name of a blob's partial that was left last
//! PATH/records/...                  what repositories hold, see [`crate::cache::metadata::records`]
//! PATH/quarantine/...               content that could not be read
//! PATH/removals                     the removals of other replicas that were done here, see [`crate::bucket`]
//! ```
//!
//! The modification time of a file is a mark (see [`integrity`]) until it has been synced: after a power loss such a file is not
//! trusted before it has been hashed again. After that it says when the content was last known to be right: content is hashed
//! again once that is `verify_after` ago. A file's access time is its last use, within an hour.
//!
//! Each part owns its state: [`index`] what is there, [`space`] the room, [`content`] the files in place, [`partial`] those on
//! their way, [`health`] whether the disk works, [`quarantine`] what cannot be read. [`sync`], [`maintenance`] and
//! [`verification`] are the threads, [`disk_pool`] has those on which requests wait for the disk, and [`store`] composes them.
//! All access to files is in [`files`]. What no request waits for goes at a gentle [`pace`].
//! A [`verifying_writer`] writes and hashes what comes, on the [`hash_pool`].

pub(crate) mod content;
pub(crate) mod disk_pool;
pub(crate) mod eviction;
pub(crate) mod faults;
pub(crate) mod files;
pub(crate) mod hash_pool;
pub(crate) mod head;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod integrity;
pub(crate) mod layout;
pub(crate) mod maintenance;
pub(crate) mod maintenance_queue;
pub(crate) mod pace;
pub(crate) mod partial;
pub(crate) mod partial_file;
pub(crate) mod quarantine;
pub(crate) mod segments;
pub(crate) mod space;
#[expect(clippy::module_inception, reason = "its main type; this file only declares and re-exports")]
pub(crate) mod store;
pub(crate) mod sync;
pub(crate) mod verification;
pub(crate) mod verification_queue;
pub(crate) mod verifying_writer;

pub(crate) use content::Content;
pub(crate) use index::Amount;
pub(crate) use integrity::Verdict;
pub(crate) use layout::{Access, Kind};
pub(crate) use maintenance::Tending;
pub(crate) use partial::Partial;
pub(crate) use store::Store;

#[cfg(test)]
mod tests;
