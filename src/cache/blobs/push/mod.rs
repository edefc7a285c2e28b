//! Uploads enter the cache as they pass through the gateway.
//!
//! A copy of the bytes goes into a [`spool`], in a file that no request can read yet. It is put in its place only when the
//! upstream has taken the blob, and the copy has the digest. An upload neither fails nor waits because of its copy, which is
//! given up whenever something about it is in doubt: the blob is then fetched when a client asks for it.

mod sessions;
mod spool;
mod uploads;

pub(crate) use uploads::{Push, PushSpools, Pushes};

#[cfg(test)]
mod tests;
