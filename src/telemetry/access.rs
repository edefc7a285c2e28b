//! The access log: one line a request, written when its response has ended.
//!
//! A small request takes some 25 µs of processor time here, so a line has to be put together in one or two: values are
//! kept as they are shared already, and written once, into a buffer that each thread uses again.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::body::{BodyError, Observer};
use crate::clock;
use crate::proto::RepositoryName;
use crate::telemetry::metrics::FinishedRequest;
use crate::telemetry::recent_problems::RecentProblem;
use crate::telemetry::request_id::RequestId;
use crate::telemetry::sink::Sink;
use crate::telemetry::subject::Subject;
use crate::telemetry::time::Timestamp;
use crate::telemetry::trace_parent::TraceParent;
use crate::telemetry::traffic::Traffic;
use crate::telemetry::transfers::{LEAST_TRANSFER, Transfer, TransferGuard};

/// The record of one request, for the access log and for all that the operator sees of it. Nothing else is logged of it: no
/// header that could hold a secret, and no path, since an upload's is a capability.
#[derive(Debug)]
pub(crate) struct AccessRecord {
    log: Option<AccessLog>,
    traffic: Arc<Traffic>,
    started: Instant,
    first_byte: Option<Instant>,
    transfer: Option<TransferGuard>,
    /// The request's place in a trace, if a trusted proxy names it.
    pub trace_parent: Option<TraceParent>,
    /// The word for the cause of a refusal or failure.
    pub cause: Option<&'static str>,
    /// The rule that denies the request, as the operator knows it.
    pub rule: Option<String>,
    /// The cause in words, and the rule that denies it, if the operator is to be shown the request.
    pub shown: Option<(String, Option<String>)>,
    /// Bytes that came with the request.
    pub received: u64,
    /// The `X-Request-Id` of the answer.
    pub request_id: RequestId,
    /// The client's address, as trusted proxies give it.
    pub client: IpAddr,
    /// The user name, or `anonymous`; none if authentication failed.
    pub user: Option<Arc<str>>,
    /// The name that was shown, if authentication failed.
    pub failed_login: Option<String>,
    /// The word for the kind of credential, of a request that has some.
    pub login: Option<&'static str>,
    /// The operation's name, or the method of a request that is no operation.
    pub operation: &'static str,
    /// The repository's canonical name.
    pub repository: Option<RepositoryName>,
    /// The tag or digest.
    pub subject: Option<Subject>,
    /// The upstream's name.
    pub upstream: Option<Arc<str>>,
    /// The cache's result: the word of `X-Cache`, in lower case.
    pub cache: Option<&'static str>,
    /// The reason why the request bypassed the cache.
    pub bypass: Option<&'static str>,
    /// The status of the answer.
    pub status: u16,
    /// The host that the request was for, where it is not served here.
    pub misdirected: Option<String>,
    /// The client's `User-Agent`.
    pub agent: Option<HeaderValue>,
    bytes: u64,
    error: Option<String>,
}

/// The access log.
#[derive(Clone, Copy, Debug)]
pub struct AccessLog {
    sink: &'static Sink,
    json: bool,
}

impl AccessLog {
    pub(super) fn new(sink: &'static Sink, json: bool) -> Self {
        Self { sink, json }
    }
}

impl Observer for AccessRecord {
    fn sent(&mut self, bytes: u64) {
        if self.bytes == 0 {
            self.first_byte = Some(clock::now());
        }
        self.bytes += bytes;
        if let Some(transfer) = &self.transfer {
            transfer.sent(bytes);
        }
    }

    fn broke(&mut self, error: &BodyError) {
        let reason = error.to_string();
        self.cause = Some("broken_off");
        self.shown = Some((reason.clone(), None));
        self.error = Some(reason);
    }
}

impl AccessRecord {
    /// Returns the record of a request that begins now. Dropping it writes the line, if there is a log, and counts the
    /// request.
    pub(crate) fn begin(
        log: Option<AccessLog>,
        traffic: Arc<Traffic>,
        request_id: RequestId,
        client: IpAddr,
    ) -> Box<Self> {
        traffic.requests.begin();
        Box::new(Self {
            log,
            traffic,
            started: clock::now(),
            first_byte: None,
            transfer: None,
            trace_parent: None,
            cause: None,
            rule: None,
            shown: None,
            received: 0,
            request_id,
            client,
            user: None,
            failed_login: None,
            login: None,
            operation: "",
            repository: None,
            subject: None,
            upstream: None,
            cache: None,
            bypass: None,
            status: 0,
            misdirected: None,
            agent: None,
            bytes: 0,
            error: None,
        })
    }

    /// Returns the counters that the request counts in.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Notes that the response begins, which has `length` bytes, if that is known. A blob that takes a while to send is a
    /// transfer from now on.
    pub(crate) fn begin_response(&mut self, length: Option<u64>) {
        let takes_a_while = length.is_none_or(|length| length >= LEAST_TRANSFER);
        if self.operation != "get_blob" || !takes_a_while {
            return;
        }
        let Some(repository) = self.repository.clone() else { return };
        self.transfer = Some(self.traffic.transfers.begin(Transfer {
            repository,
            subject: self.subject.clone(),
            user: self.user.clone(),
            client: self.client,
            upstream: self.upstream.clone(),
            cache: self.cache,
            length,
            began: self.started,
            sent: AtomicU64::new(0),
        }));
    }

    /// Counts the request, which has ended.
    fn count(&mut self, duration: Duration, first_byte: Option<Duration>) {
        self.traffic.requests.end(&FinishedRequest {
            operation: self.operation,
            status: self.status,
            cache: self.cache,
            duration,
            first_byte,
            received: self.received,
            sent: self.bytes,
        });
        self.note_pull();
        self.note_problem();
    }

    /// Remembers who pulled an image. Clients ask for a tag by HEAD, and for its manifest by digest.
    fn note_pull(&self) {
        let is_pull = matches!(self.operation, "get_manifest" | "head_manifest") && self.status == 200;
        if let (true, Some(repository), Some(Subject::Manifest(reference)), Some(user)) =
            (is_pull, &self.repository, &self.subject, &self.user)
        {
            self.traffic.pulls.note(repository, reference, user, clock::wall());
        }
    }

    fn note_problem(&mut self) {
        let Some((reason, rule)) = self.shown.take() else { return };
        let failed = || self.failed_login.as_deref().map(|name| Arc::from(shortened(name)));
        let repository = self.repository.as_ref().map(RepositoryName::as_str);
        let subject = repository.map(|name| match &self.subject {
            Some(subject) => format!("{name} {}", subject.as_str()),
            None => name.to_owned(),
        });
        self.traffic.problems.note(RecentProblem {
            at: clock::wall(),
            request_id: self.request_id,
            client: self.client,
            user: self.user.clone().or_else(failed),
            operation: self.operation,
            subject,
            upstream: self.upstream.clone(),
            status: self.status,
            cause: self.cause.unwrap_or("unknown"),
            reason: shortened(&reason).to_owned(),
            rule,
        });
    }

    fn write(&self, out: &mut String, json: bool, duration: Duration, first_byte: Option<Duration>) {
        let mut line = Line { out, json };
        line.begin(self.operation, self.status);
        line.text("repository", self.repository.as_ref().map(RepositoryName::as_str));
        line.text("reference", self.subject.as_ref().map(Subject::as_str));
        line.text("user", self.user.as_deref());
        line.text("failed_login", self.failed_login.as_deref().map(shortened));
        line.plain("client", self.client);
        line.text("login", self.login);
        line.text("upstream", self.upstream.as_deref());
        line.text("cache", self.cache);
        line.text("bypass", self.bypass);
        line.text("host", self.misdirected.as_deref().map(shortened));
        line.text("agent", self.agent.as_ref().and_then(|agent| agent.to_str().ok()).map(shortened));
        line.text("request_id", Some(self.request_id.as_str()));
        line.text("traceparent", self.trace_parent.as_ref().map(TraceParent::as_str));
        line.text("cause", self.cause);
        line.text("error", self.error.as_deref());
        line.some("received", self.received);
        line.number("bytes", self.bytes);
        line.number("micros", micros(duration));
        if let Some(first_byte) = first_byte {
            line.number("first_byte_micros", micros(first_byte));
        }
        line.end();
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        let duration = clock::now().saturating_duration_since(self.started);
        let first_byte = self.first_byte.map(|at| at.saturating_duration_since(self.started));
        if let Some(log) = self.log {
            LINE.with_borrow_mut(|line| {
                line.clear();
                self.write(line, log.json, duration, first_byte);
                log.sink.write(line.as_bytes());
            });
        }
        self.count(duration, first_byte);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Cuts what a client says off at 200 bytes, or up to three before.
pub(crate) fn shortened(text: &str) -> &str {
    let mut end = text.len().min(200);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A line that is being written. Writing to a String can't fail.
struct Line<'a> {
    out: &'a mut String,
    json: bool,
}

impl Line<'_> {
    fn begin(&mut self, operation: &str, status: u16) {
        let (before, between) = if self.json {
            ("{\"timestamp\":\"", "\",\"level\":\"INFO\",\"target\":\"access\",\"operation\":\"")
        } else {
            ("", "  INFO access: ")
        };
        self.out.push_str(before);
        Timestamp::push_now(self.out);
        self.out.push_str(between);
        self.out.push_str(operation);
        self.out.push_str(if self.json { "\",\"status\":" } else { " " });
        self.digits(u64::from(status));
    }

    fn name(&mut self, name: &str) {
        if self.json {
            self.out.push_str(",\"");
            self.out.push_str(name);
            self.out.push_str("\":");
        } else {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push('=');
        }
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.name(name);
        match (is_plain(value), self.json) {
            (true, false) => self.out.push_str(value),
            (true, true) => {
                self.out.push('"');
                self.out.push_str(value);
                self.out.push('"');
            }
            (false, false) => {
                let _ = write!(self.out, "{value:?}");
            }
            (false, true) => self.out.push_str(&serde_json::Value::from(value).to_string()),
        }
    }

    /// Writes a value that needs no escapes.
    fn plain(&mut self, name: &str, value: impl std::fmt::Display) {
        let quote = if self.json { "\"" } else { "" };
        self.name(name);
        let _ = write!(self.out, "{quote}{value}{quote}");
    }

    /// Writes a number that is not 0.
    fn some(&mut self, name: &str, value: u64) {
        if value > 0 {
            self.number(name, value);
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.digits(value);
    }

    fn digits(&mut self, value: u64) {
        let _ = write!(self.out, "{value}");
    }

    fn end(&mut self) {
        self.out.push_str(if self.json { "}\n" } else { "\n" });
    }
}

/// Returns true if text needs neither quotes nor escapes.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Reference;

    fn line(json: bool, agent: &'static str) -> String {
        line_of(json, agent, |_| ())
    }

    fn line_of(json: bool, agent: &'static str, change: impl FnOnce(&mut AccessRecord)) -> String {
        let traffic = Arc::new(Traffic::new(1));
        let mut record = AccessRecord::begin(None, traffic, RequestId::next(), "192.0.2.1".parse().unwrap());
        record.operation = "get_blob";
        record.status = 200;
        record.user = Some("alice".into());
        record.repository = Some(RepositoryName::parse("team/app").unwrap());
        record.upstream = Some("docker.io".into());
        record.cache = Some("hit");
        record.agent = Some(HeaderValue::from_static(agent));
        record.sent(42);
        change(&mut record);
        let mut out = String::new();
        record.write(&mut out, json, Duration::from_micros(25), Some(Duration::from_micros(9)));
        out
    }

    /// Returns the traffic after one request.
    fn traffic_of(change: impl FnOnce(&mut AccessRecord)) -> Arc<Traffic> {
        let traffic = Arc::new(Traffic::new(1));
        let address = "192.0.2.1".parse().unwrap();
        let mut record = AccessRecord::begin(None, traffic.clone(), RequestId::next(), address);
        record.repository = Some(RepositoryName::parse("team/app").unwrap());
        record.user = Some("alice".into());
        change(&mut record);
        traffic
    }

    #[test]
    fn a_request_is_counted_when_its_response_ends() {
        let traffic = traffic_of(|record| {
            (record.operation, record.status, record.received) = ("get_blob", 200, 3);
            record.begin_response(Some(LEAST_TRANSFER));
            assert_eq!((record.traffic.requests.under_way(), record.traffic.transfers.count()), (1, 1));
            record.sent(40);
            record.sent(2);
            let transfer = &record.traffic.transfers.all()[0];
            assert_eq!(transfer.sent.load(std::sync::atomic::Ordering::Relaxed), 42);
        });
        let totals = traffic.requests.totals();
        assert_eq!((totals.under_way, totals.received, totals.sent), (0, 3, 42));
        assert_eq!((totals.first_bytes.len(), traffic.transfers.count()), (1, 0));
    }

    #[test]
    fn small_responses_and_manifests_are_no_transfers() {
        for (operation, length) in [("get_blob", LEAST_TRANSFER - 1), ("get_manifest", LEAST_TRANSFER)] {
            traffic_of(|record| {
                record.operation = operation;
                record.begin_response(Some(length));
                assert_eq!(record.traffic.transfers.count(), 0, "{operation}");
            });
        }
    }

    #[test]
    fn a_pull_is_remembered_and_a_refused_one_is_not() {
        let tag = || Reference::parse("latest").unwrap();
        let pulled = |status: u16| {
            let traffic = traffic_of(|record| {
                (record.operation, record.status) = ("head_manifest", status);
                record.subject = Some(Subject::Manifest(tag()));
            });
            traffic.pulls.get(&RepositoryName::parse("team/app").unwrap(), &tag())
        };
        assert_eq!(&*pulled(200).unwrap().user, "alice");
        assert_eq!(pulled(404), None);
    }

    #[test]
    fn a_shown_problem_is_remembered_with_its_rule() {
        let traffic = traffic_of(|record| {
            (record.status, record.cause) = (403, Some("denied"));
            record.shown = Some(("alice may not push team/app".to_owned(), Some("rule 1".to_owned())));
        });
        let problem = &traffic.problems.last(1)[0];
        assert_eq!((problem.cause, problem.rule.as_deref()), ("denied", Some("rule 1")));
        assert_eq!((problem.subject.as_deref(), problem.status), (Some("team/app"), 403));
        assert!(traffic_of(|record| record.cause = Some("not_found")).problems.last(1).is_empty());
    }

    #[test]
    fn a_failure_is_logged_with_its_cause_and_trace() {
        const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let text = line_of(false, "docker/28", |record| {
            (record.cause, record.trace_parent) = (Some("denied"), TraceParent::parse(TRACE.as_bytes()));
            (record.received, record.login) = (7, Some("token"));
        });
        assert!(text.contains(" client=192.0.2.1 login=token upstream="), "{text}");
        let end =
            format!(" traceparent={TRACE} cause=denied received=7 bytes=42 micros=25 first_byte_micros=9");
        assert!(text.trim_end().ends_with(&end), "{text}");
        assert!(!line(false, "docker/28").contains("received"));
    }

    #[test]
    fn a_line_has_every_field_in_order() {
        let line = line(false, "docker/28");
        let (time, rest) = line.split_at(27);
        assert!(time.ends_with('Z') && time.starts_with("20"), "{time}");
        assert!(
            rest.starts_with("  INFO access: get_blob 200 repository=team/app user=alice client=192.0.2.1"),
            "{rest}"
        );
        assert!(
            rest.contains(" upstream=docker.io cache=hit agent=docker/28 request_id=")
                && rest.contains(" bytes=42 micros="),
            "{rest}"
        );
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn a_bypass_is_logged_with_its_reason() {
        let bypass = |record: &mut AccessRecord| {
            (record.cache, record.bypass) = (Some("miss"), Some("unknown_length"));
        };
        let text = line_of(false, "docker/28", bypass);
        assert!(text.contains(" cache=miss bypass=unknown_length agent="), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line_of(true, "docker/28", bypass)).unwrap();
        assert_eq!(json["bypass"], "unknown_length");
        assert!(!line(false, "docker/28").contains("bypass"), "a line without one has no such field");
    }

    #[test]
    fn a_misdirected_host_is_logged_escaped_and_cut() {
        let host = |name: &str| {
            let name = name.to_owned();
            line_of(false, "docker/28", |record| record.misdirected = Some(name))
        };
        assert!(host("10.1.2.3").contains(" host=10.1.2.3 agent="));
        assert!(host("a user=root\n").contains(" host=\"a user=root\\n\" "));
        assert!(host(&"a".repeat(300)).contains(&format!(" host={} ", "a".repeat(200))));
        assert!(!line(false, "docker/28").contains("host="));
    }

    #[test]
    fn a_failed_login_is_logged_with_its_name() {
        let login = |json: bool, name: String| {
            line_of(json, "docker/28", move |record| {
                (record.user, record.failed_login) = (None, Some(name));
            })
        };
        assert!(login(false, "mallory".into()).contains(" failed_login=mallory client=192.0.2.1 "));
        let evil = "x user=root\n\u{1b}[2J\u{202e}".to_owned();
        let line = login(false, evil.clone());
        assert!(line.contains(r#" failed_login="x user=root\n\u{1b}[2J\u{202e}" client="#), "{line}");
        let json: serde_json::Value = serde_json::from_str(&login(true, evil.clone())).unwrap();
        assert_eq!((&json["failed_login"], &json["user"]), (&evil.into(), &serde_json::Value::Null));
        let long = login(false, "é".repeat(5000));
        assert!(long.contains(&format!("failed_login=\"{}\" ", "é".repeat(100))), "{long}");
    }

    #[test]
    fn a_client_can_forge_neither_line_nor_field() {
        assert!(line(false, "x user=root").contains(" agent=\"x user=root\" "));
        let json: serde_json::Value = serde_json::from_str(&line(true, "a\",\"user\":\"root\\")).unwrap();
        assert_eq!(json["agent"], "a\",\"user\":\"root\\");
        assert_eq!((&json["user"], &json["status"]), (&"alice".into(), &200.into()));
        assert_eq!(json["cache"], "hit");
    }
}
