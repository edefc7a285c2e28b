//! The log of what happens, by `tracing`.

use std::fmt;
use std::io;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Log;
use crate::telemetry::access::AccessLog;
use crate::telemetry::sink::Sink;
use crate::telemetry::time::Timestamp;

/// A `[log] level` that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("log.level: {0}")]
pub struct LevelError(#[from] tracing_subscriber::filter::ParseError);

/// Starts logging as the configuration says. Returns the access log, where it is wanted: its lines have the level
/// INFO and the target `access`, so `level = "warn"` silences them too.
///
/// # Errors
/// [`LevelError`] for anything else than levels by module, as RUST_LOG has them.
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

/// Writes out the lines that still wait. To be called before the process ends.
pub fn flush() {
    Sink::global().flush();
}

/// The clock of log lines.
struct Wall;

impl FormatTime for Wall {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let mut now = String::with_capacity(27);
        Timestamp::push_now(&mut now);
        w.write_str(&now)
    }
}

/// The sink, as tracing's writer.
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
