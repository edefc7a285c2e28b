//! The budgets that a configuration amounts to: their sizes, and the keys that set them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::budget::Budget;
use crate::config::{Config, Server, Upstream, limits, size_text};

/// The size of one budget.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    name: &'static str,
    /// The upstream, of a budget that each upstream has.
    upstream: Option<String>,
    limit: u64,
    share: u64,
    /// A client may have less, the less is left.
    tapers: bool,
    wait: Duration,
    /// Shows an amount.
    shown: fn(u64) -> String,
    /// The key that sets the limit; what stands in for one where there is none.
    key: &'static str,
}

/// Returns all budgets of `config`.
pub(crate) fn all(config: &Config) -> Vec<Plan> {
    let upstreams = config.upstreams.iter().map(Plan::upstream_connections);
    let own = [Plan::connections(&config.server), Plan::held_bytes(&config.server)];
    let fixed = config
        .cache
        .iter()
        .flat_map(|_| [Plan::manifest_reads(), Plan::fill_bytes(), Plan::spools()])
        .chain([Plan::token_requests()]);
    let peers = config.peers.iter().map(|_| Plan::peer_connections());
    own.into_iter().chain(upstreams).chain(fixed).chain(peers).collect()
}

impl Plan {
    /// The name of the budget of bytes that are held whole.
    pub(crate) const HELD_BYTES: &str = "held_bytes";

    /// Returns the budget of the connections of clients.
    pub(crate) fn connections(server: &Server) -> Self {
        Self {
            name: "connections",
            upstream: None,
            limit: server.max_connections as u64,
            share: server.max_connections_per_client as u64,
            tapers: false,
            wait: limits::CONNECTION_WAIT,
            shown: number,
            key: "server.max_connections, server.max_connections_per_client",
        }
    }

    /// Returns the budget of the connections of other replicas, each of which asks one question at a time. One replica has a half:
    /// the others find room whatever it does.
    pub(crate) fn peer_connections() -> Self {
        Self {
            name: "peer_connections",
            upstream: None,
            limit: limits::PEER_CONNECTIONS,
            share: limits::PEER_CONNECTIONS / 2,
            tapers: false,
            wait: limits::CONNECTION_WAIT,
            shown: number,
            key: "fixed",
        }
    }

    /// Returns the budget of the bytes of bodies that are held whole, until they are sent. A client has a quarter, and no more
    /// than a third of what is left: a response does not wait for room, and a few addresses must not take it all.
    pub(crate) fn held_bytes(server: &Server) -> Self {
        Self {
            name: Self::HELD_BYTES,
            upstream: None,
            limit: server.max_held_bytes,
            share: server.max_held_bytes / 4,
            tapers: true,
            wait: limits::HELD_WAIT,
            shown: size_text,
            key: "server.max_held_bytes",
        }
    }

    /// Returns the budget of the large manifests that are read from the cache's disk, hashed and parsed at a time.
    pub(crate) fn manifest_reads() -> Self {
        Self {
            name: "manifest_reads",
            upstream: None,
            limit: limits::LARGE_MANIFEST_READS,
            share: limits::LARGE_MANIFEST_READS / 2,
            tapers: false,
            wait: limits::HELD_WAIT,
            shown: number,
            key: "fixed",
        }
    }

    /// Returns the budget of the bytes that downloads into the cache hold in memory. Nothing waits for it: a blob without its
    /// part passes by the cache.
    pub(crate) fn fill_bytes() -> Self {
        Self {
            name: "fill_bytes",
            upstream: None,
            limit: limits::FILLS_BYTES,
            share: limits::FILLS_BYTES / 4 * 3,
            tapers: false,
            wait: Duration::ZERO,
            shown: size_text,
            key: "fixed",
        }
    }

    /// Returns the budget of the copies of uploads that are on their way into the cache. Nothing waits for it: an upload
    /// without a copy is not cached.
    pub(crate) fn spools() -> Self {
        Self {
            name: "spools",
            upstream: None,
            limit: limits::PUSHES,
            share: limits::PUSHES / 4,
            tapers: false,
            wait: Duration::ZERO,
            shown: number,
            key: "fixed",
        }
    }

    /// Returns the budget of requests for tokens of one upstream. A token serves many requests.
    pub(crate) fn token_requests() -> Self {
        Self {
            name: "token_requests",
            upstream: None,
            limit: limits::TOKEN_REQUESTS,
            share: limits::TOKEN_REQUESTS / 2,
            tapers: false,
            wait: limits::UPSTREAM_WAIT,
            shown: number,
            key: "fixed, for each upstream",
        }
    }

    /// Returns the budget of what is asked of `upstream` at a time, each of which takes a connection at most. A client has a
    /// half: another finds room whatever the first does.
    pub(crate) fn upstream_connections(upstream: &Upstream) -> Self {
        let limit = u64::from(upstream.max_connections);
        Self {
            name: "upstream_connections",
            upstream: Some(upstream.name.clone()),
            limit,
            share: limit.div_ceil(2),
            tapers: false,
            wait: limits::UPSTREAM_WAIT.min(upstream.response_timeout),
            shown: number,
            key: "upstream.max_connections",
        }
    }

    /// Returns the budget.
    pub(crate) fn budget(&self) -> Arc<Budget> {
        if self.tapers {
            return Budget::tapering(self.name, self.limit, self.wait);
        }
        Budget::new(self.name, self.limit, self.share, self.wait)
    }
}

fn number(amount: u64) -> String {
    amount.to_string()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(upstream) = &self.upstream {
            write!(f, " of {upstream}")?;
        }
        write!(f, ": {}, {} a client", (self.shown)(self.limit), (self.shown)(self.share))?;
        if !self.wait.is_zero() {
            write!(f, ", waits {} s", self.wait.as_secs_f32())?;
        }
        write!(f, " ({})", self.key)
    }
}
