//! The access log: one line a request, written when its response has ended.
//!
//! A small request takes some 25 µs of processor time here, so a line has to be put together in one or two: values are
//! kept as they are shared already, and written once, into a buffer that each thread uses again.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;

use crate::body::{BodyError, Observer};
use crate::clock;
use crate::proto::{Digest, Reference, RepositoryName};
use crate::telemetry::request_id::RequestId;
use crate::telemetry::sink::Sink;
use crate::telemetry::time::Timestamp;

/// The record of one request. Nothing else is logged of it: no header that could hold a secret, and no path, since an
/// upload's is a capability.
#[derive(Debug)]
pub struct AccessRecord {
    log: AccessLog,
    started: Instant,
    /// The `X-Request-Id` of the answer.
    pub request_id: RequestId,
    /// The client's address, as trusted proxies give it.
    pub client: IpAddr,
    /// The user name, or `anonymous`; none if authentication failed.
    pub user: Option<Arc<str>>,
    /// The name that was shown, if authentication failed.
    pub failed_login: Option<String>,
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

/// The subject of a request within its repository.
#[derive(Debug)]
pub enum Subject {
    /// A manifest.
    Manifest(Reference),
    /// A blob, or the subject of referrers.
    Digest(Digest),
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

    /// Returns the record of a request that begins now. Dropping it writes the line.
    pub fn record(self, request_id: RequestId, client: IpAddr) -> Box<AccessRecord> {
        Box::new(AccessRecord {
            log: self,
            started: clock::now(),
            request_id,
            client,
            user: None,
            failed_login: None,
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
}

impl Observer for AccessRecord {
    fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    fn broke(&mut self, error: &BodyError) {
        self.error = Some(error.to_string());
    }
}

impl AccessRecord {
    fn write(&self, out: &mut String) {
        let mut line = Line { out, json: self.log.json };
        line.begin(self.operation, self.status);
        line.text("repository", self.repository.as_ref().map(RepositoryName::as_str));
        line.text("reference", self.subject.as_ref().map(Subject::as_str));
        line.text("user", self.user.as_deref());
        line.text("failed_login", self.failed_login.as_deref().map(shortened));
        line.plain("client", self.client);
        line.text("upstream", self.upstream.as_deref());
        line.text("cache", self.cache);
        line.text("bypass", self.bypass);
        line.text("host", self.misdirected.as_deref().map(shortened));
        line.text("agent", self.agent.as_ref().and_then(|agent| agent.to_str().ok()).map(shortened));
        line.text("request_id", Some(self.request_id.as_str()));
        line.text("error", self.error.as_deref());
        line.number("bytes", self.bytes);
        let elapsed = clock::now().duration_since(self.started);
        line.number("micros", u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
        line.end();
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.write(line);
            self.log.sink.write(line.as_bytes());
        });
    }
}

impl Subject {
    fn as_str(&self) -> &str {
        match self {
            Self::Manifest(reference) => reference.as_str(),
            Self::Digest(digest) => digest.as_str(),
        }
    }
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

    fn line(json: bool, agent: &'static str) -> String {
        line_of(json, agent, |_| ())
    }

    fn line_of(json: bool, agent: &'static str, change: impl FnOnce(&mut AccessRecord)) -> String {
        let log = AccessLog::new(Sink::global(), json);
        let mut record = log.record(RequestId::next(), "192.0.2.1".parse().unwrap());
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
        record.write(&mut out);
        out
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
