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
pub(crate) use fleet::{Fleet, FleetAsking, FleetQuestion, FleetWrite};
pub(crate) use remote_store::{
    MeantRecords, ProvedContent, Reading, RecordSubject, RemoteStore, StoreCounts, StoreStats, StoredContent,
};
