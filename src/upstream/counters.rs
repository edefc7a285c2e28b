//! Counters of the exchanges with one upstream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;

use crate::telemetry::metrics::{Counter, Distribution, Histogram};
use crate::upstream::error::{Error, Unauthorized};
use crate::upstream::transport::connect::DialError;
use crate::worker_id;

/// The classes of status codes.
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The exchanges with one upstream since the start: with the registry, its storage and its token endpoint.
#[derive(Debug)]
pub(crate) struct UpstreamCounters {
    /// Those of each worker.
    answers: Box<[Answers]>,
    errors: [Counter; ErrorCause::ALL.len()],
    retries: Counter,
    resumes: [Counter; ResumeResult::ALL.len()],
    tokens: [Counter; TokenEvent::ALL.len()],
}

/// The answers that one worker had. Aligned to two cache lines, which processors fetch together: each request counts here.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Answers {
    by_status: [Counter; STATUSES.len()],
    durations: Histogram,
    /// The mean of the last times to an answer's head, in microseconds; 0 before the first.
    latency: AtomicU64,
}

/// The cause of a request's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorCause {
    /// The host's name has no address.
    Resolve,
    /// No connection.
    Connect,
    /// No connection within `connect_timeout`.
    ConnectTimeout,
    /// The proxy on the way makes no tunnel.
    Proxy,
    /// The TLS handshake failed.
    Tls,
    /// No answer within `response_timeout`.
    Timeout,
    /// The connection broke, or the answer was not HTTP.
    Broken,
    /// The request may not go where it leads.
    Egress,
    /// A redirect that can't be followed.
    Redirect,
    /// Storage gave nothing.
    Storage,
    /// No credentials, or ones that the upstream does not take.
    Credentials,
    /// No token.
    Token,
    /// 429.
    RateLimited,
    /// The upstream leads back to the gateway.
    Loop,
    /// The client broke off, or the gateway asks too much already.
    NotAsked,
}

impl ErrorCause {
    /// All causes.
    pub(crate) const ALL: [Self; 15] = [
        Self::Resolve,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Proxy,
        Self::Tls,
        Self::Timeout,
        Self::Broken,
        Self::Egress,
        Self::Redirect,
        Self::Storage,
        Self::Credentials,
        Self::Token,
        Self::RateLimited,
        Self::Loop,
        Self::NotAsked,
    ];

    /// Returns the word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Egress => "egress",
            Self::Redirect => "redirect",
            Self::Storage => "storage",
            Self::Credentials => "credentials",
            Self::Token => "token",
            Self::RateLimited => "rate_limited",
            Self::Loop => "loop",
            Self::NotAsked => "not_asked",
        }
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::Dial(error) => Self::of_dial(error),
            Error::Timeout => Self::Timeout,
            Error::Broken(_) => Self::Broken,
            Error::Client(_) | Error::Spent(_) => Self::NotAsked,
            Error::EgressPolicy(_) => Self::Egress,
            Error::Redirect(_) | Error::WriteRedirected { .. } => Self::Redirect,
            Error::Storage { .. } => Self::Storage,
            Error::Credentials(_)
            | Error::AnonymousUpstream
            | Error::UsernameIgnored
            | Error::Unauthorized(_) => Self::Credentials,
            Error::Limited { .. } => Self::RateLimited,
            Error::Loop => Self::Loop,
            Error::Token(_) => Self::Token,
        }
    }

    fn of_dial(error: &DialError) -> Self {
        match error {
            DialError::Resolve { .. } => Self::Resolve,
            DialError::Private { .. } => Self::Egress,
            DialError::Connect { .. } => Self::Connect,
            DialError::Proxy { .. } => Self::Proxy,
            DialError::Tls { .. } => Self::Tls,
            DialError::Timeout { .. } => Self::ConnectTimeout,
        }
    }
}

/// An event in the life of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenEvent {
    /// A request waited for a new token.
    Fetched,
    /// A request was sent with a token that was there, or that another request waited for.
    Reused,
    /// A token was renewed ahead of its end.
    Renewed,
    /// The token endpoint gave none.
    Failed,
}

impl TokenEvent {
    /// All events.
    pub(crate) const ALL: [Self; 4] = [Self::Fetched, Self::Reused, Self::Renewed, Self::Failed];

    /// Returns the word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Reused => "reused",
            Self::Renewed => "renewed",
            Self::Failed => "failed",
        }
    }
}

/// The result of the attempts to resume a broken stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResumeResult {
    /// The rest came.
    Resumed,
    /// The rest did not come.
    Failed,
}

impl ResumeResult {
    /// All results.
    pub(crate) const ALL: [Self; 2] = [Self::Resumed, Self::Failed];

    /// Returns the word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Failed => "failed",
        }
    }
}

impl UpstreamCounters {
    /// Returns the counters for `workers` workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            answers: (0..workers).map(|_| Answers::default()).collect(),
            errors: Default::default(),
            retries: Counter::default(),
            resumes: Default::default(),
            tokens: Default::default(),
        }
    }

    /// Counts an answer, whose head came after `duration`.
    pub(crate) fn answered(&self, status: StatusCode, duration: Duration) {
        if let Some(own) = self.answers.get(worker_id::place(self.answers.len())) {
            own.add(status, duration);
        }
    }

    /// Counts a request that has failed in the end. That something is not there is no failure: Docker Hub says so by a 401.
    pub(crate) fn failed(&self, error: &Error) {
        if matches!(error, Error::Unauthorized(Unauthorized::Insufficient)) {
            return;
        }
        self.errors[ErrorCause::of(error) as usize].increment();
    }

    /// Counts a further attempt.
    pub(crate) fn retried(&self) {
        self.retries.increment();
    }

    /// Counts a stream that broke.
    pub(crate) fn resumed(&self, result: ResumeResult) {
        self.resumes[result as usize].increment();
    }

    /// Counts an event of a token.
    pub(crate) fn token(&self, event: TokenEvent) {
        self.tokens[event as usize].increment();
    }

    /// Returns the answers by the class of their status.
    pub(crate) fn answers(&self) -> [(&'static str, u64); STATUSES.len()] {
        let count = |class: usize| self.answers.iter().map(|own| own.by_status[class].get()).sum();
        std::array::from_fn(|class| (STATUSES[class], count(class)))
    }

    /// Returns the times to the head of an answer.
    pub(crate) fn durations(&self) -> Distribution {
        let mut sum = Distribution::default();
        self.answers.iter().for_each(|own| sum.add(&own.durations));
        sum
    }

    /// Returns the requests that failed, by cause.
    pub(crate) fn errors(&self) -> [(&'static str, u64); ErrorCause::ALL.len()] {
        ErrorCause::ALL.map(|cause| (cause.as_str(), self.errors[cause as usize].get()))
    }

    /// Returns the number of further attempts.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.get()
    }

    /// Returns the streams that broke, by what came of them.
    pub(crate) fn resumes(&self) -> [(&'static str, u64); ResumeResult::ALL.len()] {
        ResumeResult::ALL.map(|result| (result.as_str(), self.resumes[result as usize].get()))
    }

    /// Returns the events of tokens.
    pub(crate) fn tokens(&self) -> [(&'static str, u64); TokenEvent::ALL.len()] {
        TokenEvent::ALL.map(|event| (event.as_str(), self.tokens[event as usize].get()))
    }

    /// Returns the mean time of the last answers, if there was one.
    pub(crate) fn latency(&self) -> Option<Duration> {
        let own = self.answers.iter().map(|own| own.latency.load(Ordering::Relaxed)).filter(|own| *own > 0);
        let (count, sum) = own.fold((0, 0), |(count, sum), own| (count + 1, sum + own));
        (count > 0).then(|| Duration::from_micros(sum / count))
    }
}

impl Answers {
    /// Adds an answer.
    fn add(&self, status: StatusCode, duration: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, STATUSES.len()) - 1;
        self.by_status[class].increment();
        self.durations.observe(duration);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let before = self.latency.load(Ordering::Relaxed);
        let mean = if before == 0 { micros } else { before - before / 8 + micros / 8 };
        self.latency.store(mean.max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_their_status() {
        let counters = UpstreamCounters::new(2);
        assert_eq!(counters.latency(), None);
        counters.answered(StatusCode::OK, Duration::from_millis(80));
        counters.answered(StatusCode::BAD_GATEWAY, Duration::from_millis(160));
        assert_eq!(counters.answers(), [("1xx", 0), ("2xx", 1), ("3xx", 0), ("4xx", 0), ("5xx", 1)]);
        assert_eq!(counters.latency(), Some(Duration::from_millis(90)));
        assert_eq!(counters.durations().count(), 2);
    }

    #[test]
    fn errors_are_counted_by_their_cause() {
        let counters = UpstreamCounters::new(2);
        counters.failed(&Error::Timeout);
        counters.failed(&Error::Loop);
        counters.failed(&Error::Unauthorized(Unauthorized::Insufficient));
        let counted: Vec<_> = counters.errors().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("timeout", 1), ("loop", 1)]);
    }

    #[test]
    fn places_of_causes_are_their_numbers() {
        assert!(ErrorCause::ALL.iter().enumerate().all(|(place, cause)| *cause as usize == place));
        assert!(TokenEvent::ALL.iter().enumerate().all(|(place, event)| *event as usize == place));
        assert!(ResumeResult::ALL.iter().enumerate().all(|(place, result)| *result as usize == place));
    }
}
