//! The pull-through cache: one download, many readers, nothing wrong ever kept.
//!
//! Content is kept once, by its digest; what a repository holds is a record of (upstream, repository, digest). A
//! [`Requester`] is one request's view of it: it needs the request's permit, and a [`Origin`] to ask the upstream by.

pub(crate) mod blobs;
pub(crate) mod contents;
pub(crate) mod counters;
pub(crate) mod error;
pub(crate) mod maintenance;
pub(crate) mod manifests;
pub(crate) mod metadata;
pub(crate) mod origin;
pub(crate) mod outcome;
pub(crate) mod pull_authorization;
pub(crate) mod requester;
#[cfg(test)]
pub(crate) mod scripted_origin;
pub(crate) mod store;
pub(crate) mod upstream_cache;
#[cfg(test)]
pub(crate) mod view;

pub(crate) use crate::cache::blobs::blob::Blob;
pub(crate) use crate::cache::blobs::push::Push;
pub(crate) use crate::cache::contents::Cache;
pub(crate) use crate::cache::error::{BypassReason, CacheError};
pub(crate) use crate::cache::manifests::listing::{KeptList, ListHead, Listed};
pub(crate) use crate::cache::manifests::manifest::Manifest;
pub(crate) use crate::cache::origin::breaker::BreakerState;
pub(crate) use crate::cache::origin::{
    Asking, ByteSpan, Disobedience, Fleet, FleetAsking, FleetObeying, FleetOrder, FleetQuestion, FleetWrite,
    Inspected, Inspecting, LocalInspecting, MeantRecords, MeantRepositories, MemberReport, Origin,
    OriginRequest, OriginResponse, Origins, ProvedContent, Provenance, Reading, RecordSubject, RemoteStore,
    Resource, StoreCounts, StoreFailure, StoreStats, StoredContent, StoredImage,
};
pub(crate) use crate::cache::requester::{Requester, RequesterReach};
pub(crate) use crate::cache::upstream_cache::UpstreamCache;
pub(crate) use counters::{Cause, Counted, Counters, Damage};
pub(crate) use outcome::CacheStatus;
pub(crate) use store::Amount;
