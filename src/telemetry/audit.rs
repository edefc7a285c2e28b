//! The audit log: a file with a JSON object on each line, for who must know later who did what.
//!
//! Lines are written by a thread of their own. A request never waits for the disk: where the lines that wait are too many,
//! further ones are dropped, and a line says how many were.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::mem;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use crate::clock;
use crate::telemetry::time::Timestamp;

/// An audit log that can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("log.audit: cannot write to {}: {source}", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// The audit log. Cheap to clone; its thread ends with the last clone, behind the last line.
#[derive(Debug, Clone)]
pub(crate) struct AuditLog(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
    /// Pulls are logged too.
    pulls: bool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Lines that found no room since the last batch.
    dropped: u64,
    reopen: bool,
    closing: bool,
    /// The thread is writing a batch.
    writing: bool,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AuditKind {
    /// Credentials that are not right.
    LoginFailed,
    /// A login that was not looked at, after too many that failed.
    LoginThrottled,
    /// A request that the rules do not allow.
    Denied,
    /// A manifest or blob that the upstream has taken.
    Push,
    /// A manifest, tag or blob that the upstream has removed.
    Delete,
    /// A manifest that was sent to a client.
    Pull,
    /// An access token that was issued.
    TokenMinted,
}

/// An event, as its line has it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct AuditEvent<'a> {
    /// The kind.
    pub(crate) event: AuditKind,
    /// The `X-Request-Id` of the answer.
    pub(crate) request_id: &'a str,
    /// The client's address, as trusted proxies give it.
    pub(crate) client: IpAddr,
    /// The identity; none if authentication failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<&'a str>,
    /// The name that was shown, if authentication failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed_login: Option<&'a str>,
    /// The operation's name; none for a request that is no operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operation: Option<&'static str>,
    /// The repository's canonical name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repository: Option<&'a str>,
    /// The tag, or the digest by which a manifest was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<&'a str>,
    /// The digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<&'a str>,
    /// The size of the content in bytes, where it came with this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// The upstream's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<&'a str>,
    /// The cache's result: the word of `X-Cache`, in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<&'static str>,
    /// The id of the token that was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<&'a str>,
    /// The grants of that token, in the client's own names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<&'a str>,
    /// The reason of a denial, as the client was told, or of the refusal of a token, which it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
    /// The status of the answer.
    pub(crate) status: u16,
}

/// A line: the time, and an event.
#[derive(Serialize)]
struct Line<T> {
    timestamp: String,
    #[serde(flatten)]
    event: T,
}

/// The line that stands for those that were dropped.
#[derive(Serialize)]
struct Dropped {
    event: &'static str,
    lines: u64,
}

impl AuditLog {
    /// Opens the log at `path`, readable by its owner alone where it is new, and starts its thread. `pulls`: pulls are
    /// logged too.
    ///
    /// # Errors
    /// [`AuditError`] if the file can't be opened for writing, or there is no thread.
    pub(crate) fn open(path: &Path, pulls: bool) -> Result<Self, AuditError> {
        let failed = |source| AuditError { path: path.to_owned(), source };
        let file = open(path).map_err(failed)?;
        let queue = Arc::<Queue>::default();
        let (own, writer) = (queue.clone(), Writer::new(path, file));
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&own)).map_err(failed)?;
        Ok(Self(Arc::new(Handle { queue, pulls })))
    }

    /// Returns true if events of this kind are logged.
    pub(crate) fn wants(&self, kind: AuditKind) -> bool {
        kind != AuditKind::Pull || self.0.pulls
    }

    /// Adds an event. Never waits for the disk: the event is dropped, and counted, where too many wait.
    pub(crate) fn write(&self, event: &AuditEvent<'_>) {
        let Some(line) = rendered(event) else { return };
        let mut waiting = self.0.queue.waiting.lock();
        if waiting.lines.len() + line.len() > WAITING_BYTES {
            waiting.dropped += 1;
            return;
        }
        waiting.lines.extend_from_slice(&line);
        drop(waiting);
        self.0.queue.changed.notify_all();
    }

    /// Opens the file anew before the next line: it was moved away to be rotated.
    pub(crate) fn reopen(&self) {
        self.0.queue.waiting.lock().reopen = true;
        self.0.queue.changed.notify_all();
    }

    /// Waits until all lines are written, or `limit` has passed.
    pub(crate) fn flush(&self, limit: Duration) {
        let end = clock::now() + limit;
        let mut waiting = self.0.queue.waiting.lock();
        while waiting.writing || waiting.has_work() {
            if self.0.queue.changed.wait_until(&mut waiting, end).timed_out() {
                return;
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.waiting.lock().closing = true;
        self.queue.changed.notify_all();
    }
}

impl Waiting {
    fn has_work(&self) -> bool {
        !self.lines.is_empty() || self.dropped > 0
    }
}

/// The lines that may wait, in bytes.
const WAITING_BYTES: usize = 4 * 1024 * 1024;

/// How long the thread waits before it tries again to write what it could not.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two lines in the log that say that the audit log can't be written.
const REMINDER: Duration = Duration::from_secs(60);

/// The thread's side.
struct Writer {
    path: PathBuf,
    file: Option<File>,
    /// Lines of batches that could not be written.
    lost: u64,
    told: Option<Instant>,
}

impl Writer {
    fn new(path: &Path, file: File) -> Self {
        Self { path: path.to_owned(), file: Some(file), lost: 0, told: None }
    }

    fn run(mut self, queue: &Queue) {
        loop {
            let mut waiting = queue.waiting.lock();
            while !waiting.has_work() && !waiting.closing {
                queue.changed.wait(&mut waiting);
            }
            if !waiting.has_work() {
                return;
            }
            let lines = mem::take(&mut waiting.lines);
            self.lost += mem::take(&mut waiting.dropped);
            if mem::take(&mut waiting.reopen) {
                self.file = None;
            }
            waiting.writing = true;
            drop(waiting);
            self.write(&lines);
            queue.waiting.lock().writing = false;
            queue.changed.notify_all();
        }
    }

    fn write(&mut self, lines: &[u8]) {
        let Err(error) = self.try_write(lines) else { return };
        self.file = None;
        self.lost += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        let now = clock::now();
        if self.told.is_none_or(|told| now.duration_since(told) >= REMINDER) {
            self.told = Some(now);
            let (path, lost) = (self.path.display().to_string(), self.lost);
            tracing::error!(path, %error, lost, "cannot write the audit log");
        }
        std::thread::sleep(PAUSE);
    }

    fn try_write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        file.write_all(lines)?;
        if self.lost > 0 {
            let line = rendered(&Dropped { event: "dropped", lines: self.lost });
            file.write_all(&line.unwrap_or_default())?;
            self.lost = 0;
        }
        self.file = Some(file);
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn rendered(event: &impl Serialize) -> Option<Vec<u8>> {
    let mut timestamp = String::with_capacity(27);
    Timestamp::push_now(&mut timestamp);
    let mut line = serde_json::to_vec(&Line { timestamp, event }).ok()?;
    line.push(b'\n');
    Some(line)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn event(user: &str) -> AuditEvent<'_> {
        AuditEvent {
            event: AuditKind::Push,
            request_id: "0123456789abcdef",
            client: "192.0.2.1".parse().unwrap(),
            user: Some(user),
            failed_login: None,
            operation: Some("put_manifest"),
            repository: Some("team/app"),
            reference: Some("1.0"),
            digest: None,
            size: Some(7),
            upstream: None,
            cache: None,
            token: None,
            scope: None,
            reason: None,
            status: 201,
        }
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn each_event_is_one_line_that_its_owner_alone_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = AuditLog::open(&path, false).unwrap();
        log.write(&event("alice"));
        log.write(&event("a\"\n{\"event\":\"pull\"}"));
        log.flush(LIMIT);
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["event"], &lines[0]["user"]), (&"push".into(), &"alice".into()));
        assert_eq!((&lines[0]["size"], &lines[0]["status"]), (&7.into(), &201.into()));
        assert!(lines[0]["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
        assert_eq!(lines[0].get("digest"), None, "fields without a value are left out");
        assert_eq!(lines[1]["user"], "a\"\n{\"event\":\"pull\"}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("audit.log"), dir.path().join("audit.log.1"));
        let log = AuditLog::open(&path, false).unwrap();
        log.write(&event("before"));
        log.flush(LIMIT);
        fs::rename(&path, &moved).unwrap();
        log.reopen();
        log.write(&event("after"));
        log.flush(LIMIT);
        assert_eq!((lines(&moved)[0]["user"].clone(), lines(&moved).len()), ("before".into(), 1));
        assert_eq!((lines(&path)[0]["user"].clone(), lines(&path).len()), ("after".into(), 1));
    }

    #[test]
    fn dropped_lines_are_counted_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        // Nothing reads the pipe: the thread hangs in its first batch, as on a disk that hangs.
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let log = AuditLog::open(&path, false).unwrap();
        let name = "n".repeat(64 * 1024);
        for _ in 0..200 {
            log.write(&event(&name));
        }
        let dropped = log.0.queue.waiting.lock().dropped;
        assert!(dropped > 0, "the memory for lines has an end");
        let read = std::thread::spawn(move || {
            let mut reader = io::BufReader::new(reader);
            let mut line = String::new();
            loop {
                line.clear();
                io::BufRead::read_line(&mut reader, &mut line).unwrap();
                let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                if value["event"] == "dropped" {
                    return value["lines"].as_u64().unwrap();
                }
            }
        });
        assert!(read.join().unwrap() >= dropped);
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = AuditLog::open(&dir.path().join("none/audit.log"), false).unwrap_err().to_string();
        assert!(
            error.starts_with("log.audit: cannot write to ") && error.contains("none/audit.log"),
            "{error}"
        );
    }

    #[test]
    fn pulls_are_logged_where_asked() {
        let dir = tempfile::tempdir().unwrap();
        let open = |pulls| AuditLog::open(&dir.path().join("audit.log"), pulls).unwrap();
        assert!(open(true).wants(AuditKind::Pull) && !open(false).wants(AuditKind::Pull));
        assert!(open(false).wants(AuditKind::Push));
    }
}
