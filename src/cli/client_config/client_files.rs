//! The files of a client, and what must be known besides.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::cli::client_config::error::ClientConfigError;

/// Files to put on a machine, in the order in which they are shown, and notes for the person who does it.
#[derive(Debug, Default)]
pub(super) struct ClientFiles {
    files: Vec<ClientFile>,
    notes: Vec<String>,
}

/// A file of a client.
#[derive(Debug)]
struct ClientFile {
    /// The absolute path on the client's machine.
    path: String,
    text: String,
    /// 0600 for a file with a password.
    mode: u32,
}

impl ClientFiles {
    pub(super) fn add(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.files.push(ClientFile { path: path.into(), text: text.into(), mode: 0o644 });
    }

    /// Adds a file that may hold a password.
    pub(super) fn add_secret(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.files.push(ClientFile { path: path.into(), text: text.into(), mode: 0o600 });
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints each file below its path, as `head` does, and the notes.
    ///
    /// # Errors
    /// When the output is closed.
    pub(super) fn print(&self, output: &mut dyn Write) -> io::Result<()> {
        for file in &self.files {
            writeln!(output, "==> {} <==\n{}", file.path, file.text)?;
        }
        self.print_notes(output)
    }

    /// Writes the files below `directory` and prints their paths and the notes. Nothing is written if one of them is there
    /// with other content: `daemon.json` and its like hold settings of other things too.
    ///
    /// # Errors
    /// [`ClientConfigError`].
    pub(super) fn write(&self, directory: &Path, output: &mut dyn Write) -> Result<(), ClientConfigError> {
        for file in &self.files {
            file.refuse_to_overwrite(directory)?;
        }
        for file in &self.files {
            file.write(directory)?;
            writeln!(output, "{}", file.below(directory).display())?;
        }
        writeln!(output)?;
        Ok(self.print_notes(output)?)
    }

    fn print_notes(&self, output: &mut dyn Write) -> io::Result<()> {
        self.notes.iter().try_for_each(|note| writeln!(output, "- {note}"))
    }
}

impl ClientFile {
    fn below(&self, directory: &Path) -> std::path::PathBuf {
        directory.join(self.path.trim_start_matches('/'))
    }

    fn refuse_to_overwrite(&self, directory: &Path) -> Result<(), ClientConfigError> {
        let file = self.below(directory);
        match std::fs::read(&file) {
            Ok(there) if there == self.text.as_bytes() => Ok(()),
            Ok(_) => Err(ClientConfigError::Exists(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ClientConfigError::File { file, error }),
        }
    }

    fn write(&self, directory: &Path) -> Result<(), ClientConfigError> {
        let file = self.below(directory);
        let write = || {
            file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            let mut options = OpenOptions::new();
            let opened = options.write(true).create_new(true).mode(self.mode).open(&file);
            match opened {
                Ok(mut opened) => opened.write_all(self.text.as_bytes()),
                // Written before, with this content.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
            }
        };
        write().map_err(|error| ClientConfigError::File { file: file.clone(), error })
    }
}
