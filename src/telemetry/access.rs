//! The access log: one line a request, written when its response has ended.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::RequestId;
use super::sink::Sink;
use crate::body::BodyError;
use crate::clock;

/// What is known of one request. Only what stands here is ever logged of it: no header that could hold a secret, and
/// no path, since an upload's is a capability.
#[derive(Debug)]
pub struct AccessRecord {
    log: AccessLog,
    started: Instant,
    /// The answer's `X-Request-Id`.
    pub request_id: RequestId,
    /// Who asked, after trusted proxies.
    pub client: IpAddr,
    /// The name that was logged in with, or `anonymous`; none when that was refused.
    pub user: Option<Arc<str>>,
    /// The operation's word, or the method where the request has no meaning here.
    pub operation: &'static str,
    /// The repository's canonical name.
    pub repository: Option<String>,
    /// The tag or digest.
    pub reference: Option<String>,
    /// The upstream's name.
    pub upstream: Option<Arc<str>>,
    /// The status of the answer.
    pub status: u16,
    /// What the client says it is.
    pub agent: Option<String>,
    bytes: u64,
    error: Option<String>,
}

/// Where the lines go.
#[derive(Clone, Copy, Debug)]
pub struct AccessLog {
    sink: &'static Sink,
    json: bool,
}

impl AccessLog {
    pub(super) fn new(sink: &'static Sink, json: bool) -> Self {
        Self { sink, json }
    }

    /// Begins the record of a request.
    pub fn record(self, request_id: RequestId, client: IpAddr) -> Box<AccessRecord> {
        Box::new(AccessRecord {
            log: self,
            started: clock::now(),
            request_id,
            client,
            user: None,
            operation: "",
            repository: None,
            reference: None,
            upstream: None,
            status: 0,
            agent: None,
            bytes: 0,
            error: None,
        })
    }
}

impl AccessRecord {
    /// `bytes` more of the response's body were handed to the connection.
    pub fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// The body broke on its way.
    pub fn broke(&mut self, error: &BodyError) {
        self.error = Some(error.to_string());
    }

    fn line(&self) -> String {
        let mut line = String::with_capacity(320);
        let time = super::timestamp(clock::wall());
        // Writing to a String can't fail.
        let _ =
            if self.log.json { self.write_json(&mut line, &time) } else { self.write_text(&mut line, &time) };
        line
    }

    fn write_text(&self, out: &mut String, time: &str) -> fmt::Result {
        write!(out, "{time}  INFO access: {} {}", self.operation, self.status)?;
        self.fields(|name, value| match value {
            Value::Text(text) if is_plain(text) => write!(out, " {name}={text}"),
            Value::Text(text) => write!(out, " {name}={text:?}"),
            Value::Number(number) => write!(out, " {name}={number}"),
        })?;
        out.write_char('\n')
    }

    fn write_json(&self, out: &mut String, time: &str) -> fmt::Result {
        write!(out, "{{\"timestamp\":\"{time}\",\"level\":\"INFO\",\"target\":\"access\",")?;
        write!(out, "\"operation\":\"{}\",\"status\":{}", self.operation, self.status)?;
        self.fields(|name, value| match value {
            Value::Text(text) => write!(out, ",\"{name}\":{}", json_string(text)),
            Value::Number(number) => write!(out, ",\"{name}\":{number}"),
        })?;
        out.write_str("}\n")
    }

    fn fields(&self, mut field: impl FnMut(&str, Value<'_>) -> fmt::Result) -> fmt::Result {
        let mut text =
            |name, value: Option<&str>| value.map_or(Ok(()), |value| field(name, Value::Text(value)));
        text("repository", self.repository.as_deref())?;
        text("reference", self.reference.as_deref())?;
        text("user", self.user.as_deref())?;
        text("client", Some(&self.client.to_string()))?;
        text("upstream", self.upstream.as_deref())?;
        text("agent", self.agent.as_deref())?;
        text("request_id", Some(self.request_id.as_str()))?;
        text("error", self.error.as_deref())?;
        field("bytes", Value::Number(self.bytes))?;
        let elapsed = clock::now().duration_since(self.started);
        field("micros", Value::Number(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        self.log.sink.write(self.line().as_bytes());
    }
}

enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

/// Text that needs no quotes to be one word of a line.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=')
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
