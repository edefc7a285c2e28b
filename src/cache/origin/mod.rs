//! Upstreams, as the cache asks them.

pub(crate) mod breaker;
pub(crate) mod exchange;
pub(crate) mod fleet;
pub(crate) mod gate;
mod priority;
pub(crate) mod rate_limit;
pub(crate) mod remote_store;
pub(crate) mod store_access;
mod store_question;
mod stored_answer;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod upstream_gate;

pub(crate) use exchange::{
    Asking, ByteSpan, Origin, OriginRequest, OriginResponse, Origins, Provenance, Resource,
};
pub(crate) use fleet::{
    Disobedience, Fleet, FleetAsking, FleetObeying, FleetOrder, FleetQuestion, FleetWrite, MemberReport,
};
pub(crate) use priority::Priority;
pub(crate) use remote_store::{
    Inspected, Inspecting, LocalInspecting, MeantRecords, MeantRepositories, ProvedContent, Reading,
    RecordSubject, RemoteStore, StoreCounts, StoreFailure, StoreStats, StoredContent, StoredImage,
};
