//! Logs and the access log, both to standard error.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

mod access;
mod sink;
mod time;

pub(crate) use access::{AccessLog, AccessRecord, Subject};
use sink::Sink;
pub(crate) use time::date_and_time;

use crate::config::Log;

/// `[log] level` can't be read.
#[derive(Debug, thiserror::Error)]
#[error("log.level: {0}")]
pub struct LevelError(#[from] tracing_subscriber::filter::ParseError);

/// Starts logging as the configuration says. Returns the access log, where it is wanted: its lines have the level
/// INFO and the target `access`, so `level = "warn"` silences them too.
///
/// # Errors
/// [`LevelError`] for a level that is not in RUST_LOG's syntax.
pub fn start(log: &Log) -> Result<Option<AccessLog>, LevelError> {
    let filter: Targets = log.level.parse()?;
    let lines = tracing_subscriber::fmt().with_writer(Lines).with_timer(Wall);
    let lines = lines.with_max_level(LevelFilter::TRACE);
    // A second start in one process (the tests) keeps the first.
    let _ = if log.json {
        lines.json().flatten_event(true).finish().with(filter).try_init()
    } else {
        lines.with_ansi(false).finish().with(filter).try_init()
    };
    let wanted = log.access && tracing::enabled!(target: "access", tracing::Level::INFO);
    Ok(wanted.then(|| AccessLog::new(Sink::global(), log.json)))
}

/// Writes out what the logs still hold. To be called before the process ends.
pub fn flush() {
    Sink::global().flush();
}

/// What names a request in the logs and in its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// An id that no other request of this process has, and very likely none of another.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(start_number());
        // An odd multiplier is a bijection: ids do not repeat, and neighbours look nothing alike.
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut text = [0u8; 16];
        for (place, digit) in text.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(mixed >> (60 - 4 * place) & 15) as usize];
        }
        Self(text)
    }

    /// 16 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn start_number() -> u64 {
    static START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *START.get_or_init(|| {
        let mut bytes = [0u8; 8];
        // Without randomness the ids of two processes may meet, which confuses nobody but a reader of both logs.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    })
}

struct Wall;

impl FormatTime for Wall {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let mut now = String::with_capacity(27);
        time::Stamped::push_now(&mut now);
        w.write_str(&now)
    }
}

/// Hands tracing's lines to the sink.
struct Lines;

struct Line {
    urgent: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { urgent: false }
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Line {
        Line { urgent: *meta.level() <= tracing::Level::WARN }
    }
}

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Sink::global().write(bytes);
        if self.urgent {
            Sink::global().flush();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_do_not_repeat() {
        let ids: std::collections::HashSet<_> =
            (0..1000).map(|_| RequestId::next().as_str().to_owned()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 16));
    }
}
