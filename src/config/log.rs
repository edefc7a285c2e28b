//! `[log]`: the level and the format of log lines.

use std::path::PathBuf;

use tracing_subscriber::filter::Targets;

use crate::config::reader::Reader;
use crate::config::schema::{Key, Kind, key, nearest};
use crate::config::value_error::ValueError;

/// The options of logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// True for a JSON object per line instead of text.
    pub json: bool,
    /// Levels by module, as in `RUST_LOG`: `info,hyper=debug`. Known to be valid.
    pub level: String,
    /// True for a line per request.
    pub access: bool,
    /// The file of the audit log.
    pub audit: Option<PathBuf>,
    /// True if the audit log has pulls too.
    pub audit_pulls: bool,
}

pub(super) const KEYS: &[Key] = &[
    key("format", Kind::Text),
    key("level", Kind::Text),
    key("access", Kind::Flag),
    key("audit", Kind::Text),
    key("audit_pulls", Kind::Flag),
];

pub(super) fn read(log: &Reader<'_>) -> Log {
    Log {
        json: log.choice("format", &["text", "json"]) == Some("json"),
        level: log.parsed("level", level).unwrap_or_else(|| "info".to_owned()),
        access: log.flag("access", true),
        audit: audit(log),
        audit_pulls: log.flag("audit_pulls", false),
    }
}

fn audit(log: &Reader<'_>) -> Option<PathBuf> {
    let file = log.text("audit").map(|item| item.path());
    if file.is_none() && log.flag("audit_pulls", false) {
        log.wrong("audit_pulls", "needs log.audit, the file to write them to");
    }
    file
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

fn level(written: &str) -> Result<String, ValueError> {
    let misspelt = |word: &&str| {
        let bare = !word.contains(['=', ':', '[']);
        bare && !LEVELS.contains(&word.to_ascii_lowercase().as_str())
    };
    // `Targets` would take a bare word for a module's name, and "inof" would silence all logs.
    if let Some(word) = written.split(',').map(str::trim).find(misspelt) {
        let known = nearest(word, LEVELS.into_iter()).unwrap_or("info");
        return Err(ValueError::Value(format!(
            "is not a log level; write for example \"{known}\" or \"info,hyper=debug\""
        )));
    }
    let valid = written.parse::<Targets>().map(|_| written.to_owned());
    valid.map_err(|_| {
        ValueError::value("is not a log level; write for example \"info\" or \"info,hyper=debug\"")
    })
}
