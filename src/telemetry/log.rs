//! The log of what happens, by `tracing`.

use std::fmt;
use std::io;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
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
    let filter = filter(&log.level)?;
    let lines = tracing_subscriber::fmt().with_writer(Lines).with_timer(Wall);
    let lines = lines.with_max_level(LevelFilter::TRACE);
    // A second start in one process (the tests) keeps the first.
    let _ = if log.json {
        lines.json().flatten_event(true).finish().with(filter).try_init()
    } else {
        lines.with_ansi(false).fmt_fields(Fields).finish().with(filter).try_init()
    };
    let wanted = log.access && tracing::enabled!(target: "access", tracing::Level::INFO);
    Ok(wanted.then(|| AccessLog::new(Sink::global(), log.json)))
}

/// Returns what is logged. Where the level does not name h2, that logs errors alone: its warnings are about clients that break
/// the protocol, who would write as many lines as they like.
fn filter(level: &str) -> Result<Targets, LevelError> {
    let filter: Targets = level.parse()?;
    let names_h2 = filter.iter().any(|(target, _)| target.starts_with("h2"));
    let most = filter.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::ERROR);
    Ok(if names_h2 { filter } else { filter.with_target("h2", most) })
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

/// The fields of a line of text: `NAME=VALUE`, quoted where the value is not one plain word. An upstream's text can then
/// forge no further field, and no further line.
struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut written = Written { writer, between: "", result: Ok(()) };
        fields.record(&mut written);
        written.result
    }
}

struct Written<'writer> {
    writer: Writer<'writer>,
    between: &'static str,
    result: fmt::Result,
}

impl Written<'_> {
    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let between = std::mem::replace(&mut self.between, " ");
        let written = match field.name() {
            "message" => write!(self.writer, "{between}{value}"),
            name => write!(self.writer, "{between}{name}={value}"),
        };
        self.result = self.result.and(written);
    }
}

impl Visit for Written<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.field(field, format_args!("{value:?}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.field(field, format_args!("{}", escaped(&text)));
        } else if is_word(&text) || is_quoted(&text) {
            self.field(field, format_args!("{text}"));
        } else {
            self.field(field, format_args!("{text:?}"));
        }
    }
}

/// Returns true for a text that no reader of `NAME=VALUE` takes for more than one value.
fn is_word(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    !text.is_empty() && text.bytes().all(is_plain)
}

/// Returns true for a text in quotes: what stands between them, `Debug` has escaped.
fn is_quoted(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else { return false };
    let mut escaped = false;
    let plain = inner.chars().all(|character| {
        let plain = !character.is_control() && (escaped || character != '"');
        escaped = character == '\\' && !escaped;
        plain
    });
    plain && !escaped
}

fn escaped(text: &str) -> String {
    let escape = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns what `log` writes, without time and target.
    fn logged(log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
        let lines = lines.without_time().with_target(false).fmt_fields(Fields).finish();
        tracing::subscriber::with_default(lines, log);
        let bytes = kept.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_upstreams_text_forges_neither_line_nor_field() {
        for evil in [
            "refused user=root",
            "a\n 2026 ERROR all is lost",
            "\u{1b}[2J",
            "x=y",
            "\"a\" user=root \"b\"",
            "",
        ] {
            let text = logged(|| tracing::warn!(upstream = "hub", error = %evil, "no answer"));
            assert_eq!(text, format!(" WARN no answer upstream=\"hub\" error={evil:?}\n"));
        }
        let text = logged(|| tracing::warn!("told: {}", "a\nERROR b\u{1b}"));
        assert_eq!(text, " WARN told: a\\nERROR b\\u{1b}\n");
    }

    #[test]
    fn clients_that_break_http_2_write_no_lines() {
        use tracing::Level;
        let enabled = |level: &str, target, at| filter(level).unwrap().would_enable(target, &at);
        assert!(!enabled("info", "h2::proto", Level::WARN));
        assert!(enabled("info", "h2::proto", Level::ERROR));
        assert!(enabled("info", "dockgate", Level::INFO));
        assert!(!enabled("info,hyper=debug", "h2::proto", Level::WARN));
        assert!(enabled("info,h2=warn", "h2::proto", Level::WARN));
        assert!(!enabled("off", "h2::proto", Level::ERROR));
    }

    #[test]
    fn plain_values_stand_without_quotes() {
        let address: std::net::SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let text = logged(|| tracing::info!(%address, count = 3, path = ?"/a b", "listening"));
        assert_eq!(text.trim_start(), "INFO listening address=127.0.0.1:5000 count=3 path=\"/a b\"\n");
    }
}
