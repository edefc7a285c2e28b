//! The mistakes of a configuration and their places, collected so that an operator sees all at once.

use std::fmt;
use std::sync::Arc;

/// Every mistake of a configuration, in the order of the file's lines. `Display` prints one a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    mistakes: Vec<Mistake>,
}

impl ConfigErrors {
    /// Returns the mistakes one by one, each printing as one line.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.mistakes.iter()
    }

    /// Returns how many there are; never zero.
    pub fn count(&self) -> usize {
        self.mistakes.len()
    }

    /// Sorts in the order of the report: lines first, then variables, then missing keys.
    pub(super) fn sorted(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by(|a, b| a.place.cmp(&b.place));
        Self { mistakes }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.mistakes.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{mistake}")?;
        }
        Ok(())
    }
}

/// A mistake: the file and line, or the variable, the key, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub(super) place: Place,
    /// The path of the key; empty where the whole file is meant.
    pub(super) key: String,
    pub(super) text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        // A variable's name says the key already.
        if !self.key.is_empty() && !matches!(self.place, Place::Variable(_)) {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

/// The place of a value. The order is that of the report: lines first, then variables, then missing keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Line { line: usize, file: Arc<str> },
    Variable(Arc<str>),
    File(Arc<str>),
    Environment,
}

impl Place {
    pub(super) fn variable(name: &str) -> Self {
        Self::Variable(name.into())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{file}:{line}"),
            Self::Variable(name) => write!(f, "environment: {name}"),
            Self::File(file) => f.write_str(file),
            Self::Environment => f.write_str("environment"),
        }
    }
}
