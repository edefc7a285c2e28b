//! Upstreams, as the cache asks them.

pub(crate) mod breaker;
pub(crate) mod exchange;
pub(crate) mod fleet;
pub(crate) mod gate;
pub(crate) mod rate_limit;
pub(crate) mod remote_store;
mod stored_answer;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use exchange::{
    Asking, ByteSpan, Origin, OriginRequest, OriginResponse, Origins, Provenance, Resource,
};
pub(crate) use fleet::{
    Disobedience, Fleet, FleetAsking, FleetObeying, FleetOrder, FleetQuestion, FleetWrite, MemberReport,
};
pub(crate) use remote_store::{
    Inspected, Inspecting, LocalInspecting, MeantRecords, MeantRepositories, ProvedContent, Reading,
    RecordSubject, RemoteStore, StoreCounts, StoreFailure, StoreStats, StoredContent, StoredImage,
};
