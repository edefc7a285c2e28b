//! The cache's part in an answer.

/// The part of the cache in an answer, as `X-Cache`, logs and counters say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CacheStatus {
    /// The answer was here.
    Hit,
    /// The content was not here, and came from the upstream for this request.
    Miss,
    /// The content was not here, and came from another replica of this gateway.
    Peer,
    /// The content was on no disk, and came from the object store.
    Store,
    /// This request joined a download under way.
    Fill,
    /// The content was here, and too old; but the upstream failed.
    Stale,
    /// The content was here, and the upstream said that it still holds.
    Revalidated,
}

impl CacheStatus {
    /// All statuses.
    pub(crate) const ALL: [Self; 7] =
        [Self::Hit, Self::Miss, Self::Peer, Self::Store, Self::Fill, Self::Stale, Self::Revalidated];

    /// Returns true if the content was not here, and came for this request.
    pub(crate) fn is_fetched(self) -> bool {
        match self {
            Self::Miss | Self::Peer | Self::Store => true,
            Self::Hit | Self::Fill | Self::Stale | Self::Revalidated => false,
        }
    }

    /// Returns the word in `X-Cache`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Peer => "PEER",
            Self::Store => "STORE",
            Self::Fill => "FILL",
            Self::Stale => "STALE",
            Self::Revalidated => "REVALIDATED",
        }
    }

    /// Returns the word in logs, metrics and JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Peer => "peer",
            Self::Store => "store",
            Self::Fill => "fill",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
        }
    }
}
