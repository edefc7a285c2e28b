//! The cache's part in an answer.

/// The word of `X-Cache`, of the log and of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CacheStatus {
    /// It was here.
    Hit,
    /// It was not, and came from the upstream for this request.
    Miss,
    /// This request joined a download under way.
    Fill,
    /// It was here, and too old; but the upstream failed.
    Stale,
    /// It was here, and the upstream said that it still holds.
    Revalidated,
}

impl CacheStatus {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Hit, Self::Miss, Self::Fill, Self::Stale, Self::Revalidated];

    /// As it stands in `X-Cache`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Fill => "FILL",
            Self::Stale => "STALE",
            Self::Revalidated => "REVALIDATED",
        }
    }

    /// As it stands in logs, metrics and JSON.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Fill => "fill",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
        }
    }
}
