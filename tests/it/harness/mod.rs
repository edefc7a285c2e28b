//! The harness of the tests.

use std::future::Future;
use std::time::Duration;

mod acme;
mod bucket;
mod client;
mod gateway;
mod guarded;
mod http2;
mod issuer_key;
mod message;
mod origin;
mod process;
mod request;
mod script;
mod secret;
mod upstream;

pub(crate) use acme::{AcmeServer, Life, greet};
pub(crate) use bucket::{Bucket, Mood};
pub(crate) use client::{Client, Ending};
pub(crate) use gateway::{Builder, Gateway, LOGGING, demo_registry, htpasswd, write_certificate};
pub(crate) use guarded::{Guarded, account, asking, gift, refusal};
pub(crate) use http2::{Frames, Http2, frame, frame_bytes, header_block};
pub(crate) use issuer_key::IssuerKey;
pub(crate) use message::{Answer, BodyEnd, Headers, read_head};
pub(crate) use origin::{
    DOCKER_IMAGE, EMPTY_INDEX, Image, OCI_IMAGE, OCI_INDEX, Origin, blob_at, index_of, manifest_at,
};
pub(crate) use process::Process;
pub(crate) use request::Request;
pub(crate) use script::{Gate, Reply};
pub(crate) use secret::{KEY, MARK, PAIRS, PASSWORD, ROBOT, basic, is_told, token};
pub(crate) use upstream::{Exchange, Heard, Upstream};

/// How long anything may take that a test waits for. A busy machine needs some of it, a good run none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The output of `future`, which must come within [`PATIENCE`].
#[track_caller]
pub(crate) fn soon<F: Future>(what: &'static str, future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        tokio::time::timeout(PATIENCE, future)
            .await
            .unwrap_or_else(|_| panic!("{place}: waited in vain for {what}"))
    }
}

/// The digest of `bytes`, as the API writes it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    dockgate::internals::registry::sha256(bytes).to_string()
}

/// Bytes that repeat nowhere within a piece of a body, so that a shifted or doubled piece is seen.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(length);
    bytes
}
