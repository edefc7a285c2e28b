//! Counters of requests.
//!
//! Each worker adds to a part of its own, so that no two write to one cache line; a scrape adds the parts up.

use std::time::Duration;

use crate::telemetry::metrics::counter::{Counter, Level};
use crate::telemetry::metrics::histogram::{Distribution, Histogram};
use crate::worker_id;

/// The operations that are told apart: those of the API ([`Operation::label`](crate::proto::Operation::label)), those of
/// the token service, and all that is neither.
const OPERATIONS: [&str; 19] = [
    "get_blob",
    "get_manifest",
    "head_manifest",
    "version",
    "head_blob",
    "token",
    "list_tags",
    "referrers",
    "start_upload",
    "patch_upload",
    "finish_upload",
    "upload_status",
    "cancel_upload",
    "put_manifest",
    "delete_manifest",
    "delete_blob",
    "catalog",
    "token_keys",
    "other",
];

/// The classes of status codes; `none` where the client left before its answer.
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The results of the cache ([`CacheStatus::word`](crate::cache::CacheStatus::word)); `none` where it had no part.
const CACHE_RESULTS: [&str; 8] = ["none", "hit", "miss", "peer", "store", "fill", "stale", "revalidated"];

/// The requests since the start.
#[derive(Debug)]
pub(crate) struct RequestMetrics(Box<[Part]>);

/// The requests of one worker. Aligned to two cache lines, which processors fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part {
    requests: [[[Counter; CACHE_RESULTS.len()]; STATUSES.len()]; OPERATIONS.len()],
    durations: [Histogram; OPERATIONS.len()],
    first_bytes: [Histogram; OPERATIONS.len()],
    under_way: Level,
    received: Counter,
    sent: Counter,
}

/// A request whose response has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FinishedRequest {
    /// The operation's name.
    pub operation: &'static str,
    /// The status of the answer; 0 if the client left before it.
    pub status: u16,
    /// The cache's result.
    pub cache: Option<&'static str>,
    /// The time from the request's head to the end of its response.
    pub duration: Duration,
    /// The time from the request's head to the first byte of the response's body, if it has one.
    pub first_byte: Option<Duration>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
}

impl RequestMetrics {
    /// Returns the counters for `workers` workers and one part for all other threads.
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..=workers).map(|_| Part::default()).collect())
    }

    /// Counts a request that begins.
    pub(crate) fn begin(&self) {
        self.part().under_way.raise();
    }

    /// Counts a request that has ended.
    pub(crate) fn end(&self, request: &FinishedRequest) {
        let part = self.part();
        let operation = place(&OPERATIONS, request.operation).unwrap_or(OPERATIONS.len() - 1);
        let status = usize::from(request.status / 100).min(STATUSES.len() - 1);
        let cache = request.cache.and_then(|word| place(&CACHE_RESULTS, word)).unwrap_or_default();
        part.requests[operation][status][cache].increment();
        part.durations[operation].observe(request.duration);
        if let Some(first_byte) = request.first_byte {
            part.first_bytes[operation].observe(first_byte);
        }
        part.received.add(request.received);
        part.sent.add(request.sent);
        part.under_way.lower();
    }

    /// Returns the sums of all parts. Each number is read by itself: they may be a request apart.
    pub(crate) fn totals(&self) -> RequestTotals {
        let distribution = |of: fn(&Part) -> &[Histogram; OPERATIONS.len()], operation: usize| {
            let mut sum = Distribution::default();
            self.0.iter().for_each(|part| sum.add(&of(part)[operation]));
            sum
        };
        let by_operation = |of: fn(&Part) -> &[Histogram; OPERATIONS.len()]| {
            let all = OPERATIONS.iter().enumerate().map(|(place, name)| (*name, distribution(of, place)));
            all.filter(|(_, distribution)| distribution.count() > 0).collect()
        };
        RequestTotals {
            requests: self.requests(),
            durations: by_operation(|part| &part.durations),
            first_bytes: by_operation(|part| &part.first_bytes),
            under_way: self.under_way(),
            received: self.0.iter().map(|part| part.received.get()).sum(),
            sent: self.sent(),
        }
    }

    /// Returns the requests whose response has not ended.
    pub(crate) fn under_way(&self) -> u64 {
        Level::sum(self.0.iter().map(|part| &part.under_way))
    }

    /// Returns the bytes of all responses.
    pub(crate) fn sent(&self) -> u64 {
        self.0.iter().map(|part| part.sent.get()).sum()
    }

    /// Returns the number of requests by operation, status and cache result, without those that are 0.
    fn requests(&self) -> Vec<RequestCount> {
        let mut counts = Vec::new();
        for (at, operation) in OPERATIONS.into_iter().enumerate() {
            for (class, status) in STATUSES.into_iter().enumerate() {
                for (result, cache) in CACHE_RESULTS.into_iter().enumerate() {
                    let count = self.0.iter().map(|part| part.requests[at][class][result].get()).sum();
                    counts.push(RequestCount { operation, status, cache, count });
                }
            }
        }
        counts.retain(|count: &RequestCount| count.count > 0);
        counts
    }

    fn part(&self) -> &Part {
        &self.0[worker_id::place(self.0.len())]
    }
}

fn place(words: &[&str], word: &str) -> Option<usize> {
    words.iter().position(|known| *known == word)
}

/// The sums of [`RequestMetrics`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestTotals {
    /// The requests by operation, status and cache result.
    pub requests: Vec<RequestCount>,
    /// The durations by operation.
    pub durations: Vec<(&'static str, Distribution)>,
    /// The times to the first byte by operation.
    pub first_bytes: Vec<(&'static str, Distribution)>,
    /// The requests whose response has not ended.
    pub under_way: u64,
    /// The bytes of all requests' bodies.
    pub received: u64,
    /// The bytes of all responses' bodies.
    pub sent: u64,
}

/// The number of requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestCount {
    /// The operation's name.
    pub operation: &'static str,
    /// The class of the status: `2xx`.
    pub status: &'static str,
    /// The cache's result, or `none`.
    pub cache: &'static str,
    /// The number.
    pub count: u64,
}

impl RequestTotals {
    /// Returns the number of requests for which `is_meant` is true.
    pub(crate) fn count(&self, is_meant: impl Fn(&RequestCount) -> bool) -> u64 {
        self.requests.iter().filter(|count| is_meant(count)).map(|count| count.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Target;

    fn finished(operation: &'static str, status: u16, cache: Option<&'static str>) -> FinishedRequest {
        let (duration, first_byte) = (Duration::from_millis(3), Some(Duration::from_millis(2)));
        FinishedRequest { operation, status, cache, duration, first_byte, received: 1, sent: 10 }
    }

    #[test]
    fn requests_of_all_workers_add_up() {
        let metrics = RequestMetrics::new(2);
        metrics.begin();
        metrics.begin();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                worker_id::enter(1);
                metrics.end(&finished("get_blob", 200, Some("hit")));
            });
        });
        metrics.end(&finished("get_blob", 206, Some("hit")));
        let totals = metrics.totals();
        let hits = RequestCount { operation: "get_blob", status: "2xx", cache: "hit", count: 2 };
        assert_eq!(totals.requests, [hits]);
        assert_eq!((totals.under_way, totals.received, totals.sent), (0, 2, 20));
        assert_eq!((totals.durations[0].0, totals.durations[0].1.count()), ("get_blob", 2));
        assert_eq!(totals.first_bytes[0].1.count(), 2);
    }

    #[test]
    fn unknown_words_are_counted_as_other() {
        let metrics = RequestMetrics::new(1);
        metrics.begin();
        metrics.end(&finished("PROPFIND", 999, Some("elsewhere")));
        let other = RequestCount { operation: "other", status: "5xx", cache: "none", count: 1 };
        assert_eq!(metrics.totals().requests, [other]);
        assert_eq!(metrics.totals().count(|count| count.status == "5xx"), 1);
    }

    #[test]
    fn a_client_that_left_has_no_status() {
        let metrics = RequestMetrics::new(1);
        metrics.begin();
        metrics.end(&finished("get_blob", 0, None));
        assert_eq!(metrics.totals().count(|count| count.status == "none"), 1);
    }

    #[test]
    fn operations_have_a_place_of_their_own() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let (blob, upload) = (format!("/v2/a/blobs/{digest}"), "/v2/a/blobs/uploads/x");
        let finish = format!("digest={digest}");
        for (method, path, query) in [
            ("GET", "/v2/", None),
            ("GET", "/v2/_catalog", None),
            ("GET", "/v2/a/manifests/x", None),
            ("HEAD", "/v2/a/manifests/x", None),
            ("PUT", "/v2/a/manifests/x", None),
            ("DELETE", "/v2/a/manifests/x", None),
            ("GET", &*blob, None),
            ("HEAD", &*blob, None),
            ("DELETE", &*blob, None),
            ("GET", "/v2/a/tags/list", None),
            ("GET", &*blob.replace("blobs", "referrers"), None),
            ("POST", "/v2/a/blobs/uploads/", None),
            ("GET", upload, None),
            ("PATCH", upload, None),
            ("PUT", upload, Some(&*finish)),
            ("DELETE", upload, None),
        ] {
            let label = Target::parse(method, path, query).unwrap().operation.label();
            assert!(place(&OPERATIONS, label).is_some(), "{label}");
        }
    }
}
