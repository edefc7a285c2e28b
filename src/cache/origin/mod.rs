//! Upstreams, as the cache asks them.

pub(crate) mod breaker;
pub(crate) mod exchange;
pub(crate) mod gate;
pub(crate) mod rate_limit;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use exchange::{Asking, ByteSpan, Origin, OriginRequest, OriginResponse, Origins, Resource};
