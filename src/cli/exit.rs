//! The end of a command that failed: one line on standard error, and an exit code.

use std::fmt::Display;
use std::io::{self, Write};

use crate::cli::plain_output::PlainOutput;

/// Reports `error` and returns the exit code `code`.
pub(super) fn fail(error: &dyn Display, code: u8) -> u8 {
    // A standard error that is closed leaves no other place to report to.
    let _ = writeln!(PlainOutput::new(io::stderr()), "dockgate: {error}");
    code
}
