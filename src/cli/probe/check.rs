//! The table of an audit: one row for each part of an upstream.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::probe::diagnosis::{Diagnosis, Kind};
use crate::cli::probe::format::plain;
use crate::cli::probe::style::Palette;

/// The result of an audit.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    /// The upstream's name.
    pub(super) upstream: String,
    pub(super) url: String,
    /// The user name at the upstream; `anonymous` without one.
    pub(super) identity: String,
    pub(super) checks: Vec<Check>,
    /// The diagnosis of the first bad row.
    #[serde(rename = "fault")]
    pub(super) diagnosis: Option<Diagnosis>,
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) what: &'static str,
    pub(super) result: Outcome,
    /// The observation.
    pub(super) found: String,
    /// The consequence, or the remedy.
    pub(super) advice: Option<String>,
    #[serde(skip)]
    kind: Kind,
}

/// The result of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    /// Clients can do without.
    Minor,
    /// Something important will not work.
    Bad,
    /// Not checked.
    Skipped,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Minor => "partly",
            Self::Bad => "NO",
            Self::Skipped => "-",
        }
    }
}

impl Check {
    pub(super) fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self::of(what, Outcome::Ok, found)
    }

    pub(super) fn minor(what: &'static str, found: impl Into<String>) -> Self {
        Self::of(what, Outcome::Minor, found)
    }

    pub(super) fn bad(what: &'static str, found: impl Into<String>) -> Self {
        Self::of(what, Outcome::Bad, found)
    }

    pub(super) fn skipped(what: &'static str, found: impl Into<String>) -> Self {
        Self::of(what, Outcome::Skipped, found)
    }

    pub(super) fn diagnosed(what: &'static str, diagnosis: Diagnosis) -> Self {
        Self { kind: diagnosis.kind, advice: diagnosis.advice, ..Self::bad(what, diagnosis.message) }
    }

    pub(super) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    /// Prepends the subject of the row.
    pub(super) fn about(self, what: impl std::fmt::Display) -> Self {
        Self { found: format!("{what}: {}", self.found), ..self }
    }

    /// Returns it with every text in it changed.
    pub(super) fn with_texts(self, change: impl Fn(String) -> String) -> Self {
        Self { found: change(self.found), advice: self.advice.map(change), ..self }
    }

    fn of(what: &'static str, result: Outcome, found: impl Into<String>) -> Self {
        Self { what, result, found: found.into(), advice: None, kind: Kind::Answer }
    }

    fn diagnosis(&self) -> Diagnosis {
        let message = match self.kind {
            Kind::Answer => format!("{}: {}", self.what, self.found),
            _ => self.found.clone(),
        };
        Diagnosis { kind: self.kind, message, advice: self.advice.clone() }
    }
}

impl Table {
    /// Sets the diagnosis to the first row that is bad.
    pub(super) fn judged(self) -> Self {
        let diagnosis = self.checks.iter().find(|check| check.result == Outcome::Bad).map(Check::diagnosis);
        Self { diagnosis, ..self }
    }

    /// Returns true if nothing important is missing.
    pub(super) fn is_good(&self) -> bool {
        self.diagnosis.is_none()
    }

    pub(super) fn print(&self, palette: Palette, out: &mut dyn Write) -> io::Result<()> {
        let title = format!("{} at {}, asked as {}", self.upstream, self.url, self.identity);
        writeln!(out, "{}\n", palette.strong(plain(&title)))?;
        let width = self.checks.iter().map(|check| check.what.len()).max().unwrap_or_default();
        for check in &self.checks {
            row(check, width, palette, out)?;
        }
        writeln!(out)?;
        let minor = self.checks.iter().filter(|check| check.result == Outcome::Minor).count();
        match &self.diagnosis {
            Some(diagnosis) => writeln!(out, "{}", palette.bad(diagnosis)),
            None if minor > 0 => {
                writeln!(out, "{} nothing important is missing; {minor} partly", palette.good("ok:"))
            }
            None => writeln!(out, "{} everything works through this gateway", palette.good("ok:")),
        }
    }
}

fn row(check: &Check, width: usize, palette: Palette, out: &mut dyn Write) -> io::Result<()> {
    let word = format!("{:<6}", check.result.word());
    let word = match check.result {
        Outcome::Ok => palette.good(word),
        Outcome::Minor => palette.warning(word),
        Outcome::Bad => palette.bad(word),
        Outcome::Skipped => palette.faint(word),
    };
    let what = format!("{:<width$}", check.what);
    let advice = check.advice.as_ref().map(|advice| format!("; {}", plain(advice))).unwrap_or_default();
    writeln!(out, "  {}  {word}  {}{advice}", palette.name(what), plain(&check.found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(checks: Vec<Check>) -> Table {
        let (upstream, url) = ("a.example".to_owned(), "https://a.example".to_owned());
        Table { upstream, url, identity: "anonymous".to_owned(), checks, diagnosis: None }.judged()
    }

    fn printed(table: &Table) -> String {
        let mut out = Vec::new();
        table.print(Palette::Plain, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_bad_row_is_what_the_last_line_says() {
        let table = table(vec![
            Check::ok("TLS", "good"),
            Check::minor("Range", "answers 200").advise("no resuming"),
            Check::bad("manifest", "404\u{1b}[0m"),
            Check::bad("blob", "404"),
        ]);
        assert!(!table.is_good());
        assert_eq!(
            printed(&table),
            "a.example at https://a.example, asked as anonymous\n\n\
             \x20 TLS       ok      good\n\
             \x20 Range     partly  answers 200; no resuming\n\
             \x20 manifest  NO      404\\u{1b}[0m\n\
             \x20 blob      NO      404\n\n\
             unexpected answer: manifest: 404\\u{1b}[0m\n"
        );
    }

    #[test]
    fn what_clients_can_do_without_is_no_fault() {
        let table = table(vec![Check::minor("Range", "answers 200"), Check::skipped("blob", "none")]);
        assert!(table.is_good());
        assert!(printed(&table).ends_with("ok: nothing important is missing; 1 partly\n"));
    }
}
