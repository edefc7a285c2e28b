//! The audit log: a file with a JSON object on each line, for who must know later who did what.
//!
//! Lines are written by a thread of their own. A request never waits for the disk: where the lines that wait are too many,
//! further ones are dropped, and a line says how many were.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::fs::OFlags;
use rustix::process::geteuid;
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
    /// An access token that was issued, or a robot's token that was printed.
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

/// A robot's token that a command has printed. No request and no client is behind it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PrintedToken<'a> {
    /// The kind.
    pub(crate) event: AuditKind,
    /// The robot.
    pub(crate) user: &'a str,
    /// The id of the token.
    pub(crate) token: &'a str,
    /// The grants of the token.
    pub(crate) scope: &'a str,
    /// When it dies, in RFC 3339.
    pub(crate) expires: &'a str,
    /// The system's user who has run the command.
    pub(crate) uid: u32,
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

/// Appends an event of a command to the log at `path`, where a gateway may be writing at the same time: one write to a file
/// that is open for appending lands whole behind all others. Returns false if `path` is no file, but a pipe or the output of
/// the process that opens it: only the gateway's own process can write to that log.
///
/// # Errors
/// [`AuditError`] if the event can't be written.
pub(crate) fn append_to_audit_log(path: &Path, event: &PrintedToken<'_>) -> Result<bool, AuditError> {
    let failed = |source| AuditError { path: path.to_owned(), source };
    if !is_for_all(path).map_err(failed)? {
        return Ok(false);
    }
    let line = rendered(event).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    open_beside(path, geteuid().is_root()).and_then(|mut file| file.write_all(&line)).map_err(failed)?;
    Ok(true)
}

/// Returns true if a log is a file that every process finds at its path, or is not there yet.
fn is_for_all(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.is_file() && !is_own_output(&found)?),
        Err(_) => Ok(true),
    }
}

/// Returns true if a file is this process's standard output or error, as `/dev/stdout` is.
fn is_own_output(found: &Metadata) -> io::Result<bool> {
    let same = |own: BorrowedFd<'_>| {
        let own = File::from(own.try_clone_to_owned()?).metadata()?;
        Ok::<_, io::Error>((own.dev(), own.ino()) == (found.dev(), found.ino()))
    };
    Ok(same(io::stdout().as_fd())? || same(io::stderr().as_fd())?)
}

/// Opens the log beside the gateway. Where root makes the file, it belongs to the owner of its folder: the gateway, which is
/// another user, must be able to open it. Root follows no link there: that user could have it write to any file.
fn open_beside(path: &Path, by_root: bool) -> io::Result<File> {
    let made = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
    let file = match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let links = if by_root { OFlags::NOFOLLOW } else { OFlags::empty() };
            return OpenOptions::new().append(true).custom_flags(links.bits().cast_signed()).open(path);
        }
        made => made?,
    };
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if by_root {
        let owner = fs::metadata(folder)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(file)
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
        log.write(&event(&name));
        while !log.0.queue.waiting.lock().lines.is_empty() {
            std::thread::yield_now();
        }
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

    fn printed(id: &str) -> PrintedToken<'_> {
        let (scope, expires) = ("repository:a:pull", "2030-01-01T00:00:00Z");
        PrintedToken { event: AuditKind::TokenMinted, user: "robot:ci", token: id, scope, expires, uid: 7 }
    }

    #[test]
    fn a_command_appends_beside_the_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        assert!(append_to_audit_log(&path, &printed("first")).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let log = AuditLog::open(&path, false).unwrap();
        let name = "n".repeat(1000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..100).for_each(|_| assert!(append_to_audit_log(&path, &printed(&name)).unwrap()))
            });
            for _ in 0..100 {
                log.write(&event(&name));
                log.flush(LIMIT);
            }
        });
        // Each line parses: none is inside another.
        let lines = lines(&path);
        assert_eq!((lines.len(), &lines[0]["token"]), (201, &"first".into()));
        assert_eq!(lines.iter().filter(|line| line["event"] == "token_minted").count(), 101);
    }

    #[test]
    fn a_command_makes_the_file_for_the_folders_owner() {
        let dir = tempfile::tempdir().unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(65532), Some(65533)).unwrap();
        }
        let path = dir.path().join("audit.log");
        assert!(append_to_audit_log(&path, &printed("x")).unwrap());
        let (made, folder) = (fs::metadata(&path).unwrap(), fs::metadata(dir.path()).unwrap());
        assert_eq!(made.uid(), folder.uid());
        assert!(!geteuid().is_root() || made.gid() == 65533);
    }

    #[test]
    fn root_writes_to_no_file_that_a_link_names() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("audit.log"), dir.path().join("other"));
        fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(open_beside(&path, true).is_err());
        assert!(open_beside(&path, false).is_ok(), "a user may have the log elsewhere");
        fs::remove_file(&other).unwrap();
        assert!(open_beside(&path, true).is_err() && !other.exists());
    }

    #[test]
    fn a_log_that_is_no_file_is_the_gateways_alone() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        // Opening it would wait for a reader.
        assert!(!append_to_audit_log(&pipe, &printed("x")).unwrap());
        assert!(!append_to_audit_log(Path::new("/dev/null"), &printed("x")).unwrap());
        assert!(
            !append_to_audit_log(Path::new("/dev/stdout"), &printed("x")).unwrap(),
            "whatever that is here"
        );
        assert!(append_to_audit_log(&dir.path().join("none/audit.log"), &printed("x")).is_err());
    }

    #[test]
    fn pulls_are_logged_where_asked() {
        let dir = tempfile::tempdir().unwrap();
        let open = |pulls| AuditLog::open(&dir.path().join("audit.log"), pulls).unwrap();
        assert!(open(true).wants(AuditKind::Pull) && !open(false).wants(AuditKind::Pull));
        assert!(open(false).wants(AuditKind::Push));
    }
}
