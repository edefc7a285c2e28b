//! Colours, for terminals alone.

use std::fmt::{self, Display};
use std::io::IsTerminal;

use clap::builder::styling::{AnsiColor, Style};

use crate::config::Environment;

/// True if there is any colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Palette {
    /// No colours: a file, a pipe, or `NO_COLOR`.
    Plain,
    /// A terminal's.
    Coloured,
}

impl Palette {
    /// Colours where `output` is a terminal, unless `NO_COLOR` (no-color.org) or `TERM=dumb` say otherwise.
    pub(crate) fn of(output: &impl IsTerminal, environment: &Environment) -> Self {
        let unwanted = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty())
            || environment.get("TERM") == Some("dumb");
        if output.is_terminal() && !unwanted { Self::Coloured } else { Self::Plain }
    }

    /// Formats a question.
    pub(super) fn strong<T: Display>(self, text: T) -> Inked<T> {
        self.inked(Style::new().bold(), text)
    }

    /// Formats a detail.
    pub(super) fn faint<T: Display>(self, text: T) -> Inked<T> {
        self.inked(Style::new().dimmed(), text)
    }

    /// Returns a name of something.
    pub(super) fn name<T: Display>(self, text: T) -> Inked<T> {
        self.inked(AnsiColor::Cyan.on_default(), text)
    }

    /// Formats a success.
    pub(super) fn good<T: Display>(self, text: T) -> Inked<T> {
        self.inked(AnsiColor::Green.on_default().bold(), text)
    }

    /// Formats a warning.
    pub(super) fn warning<T: Display>(self, text: T) -> Inked<T> {
        self.inked(AnsiColor::Yellow.on_default().bold(), text)
    }

    /// Formats an error.
    pub(super) fn bad<T: Display>(self, text: T) -> Inked<T> {
        self.inked(AnsiColor::Red.on_default().bold(), text)
    }

    fn inked<T: Display>(self, style: Style, text: T) -> Inked<T> {
        let style = if self == Self::Coloured { style } else { Style::new() };
        Inked { style, text }
    }
}

/// A text in its colour.
pub(super) struct Inked<T> {
    style: Style,
    text: T,
}

impl<T: Display> Display for Inked<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.style)?;
        self.text.fmt(f)?;
        write!(f, "{:#}", self.style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paper_has_no_colour() {
        assert_eq!(Palette::Plain.bad("no").to_string(), "no");
        let coloured = Palette::Coloured.bad("no").to_string();
        assert!(coloured.starts_with("\u{1b}[") && coloured.ends_with("\u{1b}[0m"), "{coloured:?}");
    }

    #[test]
    fn a_file_is_not_coloured() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Palette::of(&file, &Environment::default()), Palette::Plain);
    }
}
