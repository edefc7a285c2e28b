//! How much of a body is read at once.

use std::time::{Duration, Instant};

use crate::clock;
use crate::config::limits;

/// The size of the next read, which follows how fast its reader is.
///
/// A reader that keeps up for long is given larger and larger pieces, since each costs two system calls and a wake-up
/// or two. A slow one holds one small piece: it may be one of many, and what the sockets' buffers swallow at first says
/// nothing of its speed.
#[derive(Debug)]
pub(crate) struct ReadSize {
    size: usize,
    taken: Option<Instant>,
    /// Bytes that were taken in quick succession up to now.
    run: usize,
    /// The least and the most that are read at once.
    least: usize,
    most: usize,
    /// Bytes that may be taken before the reader is known to keep up.
    swallowed: usize,
}

impl Default for ReadSize {
    fn default() -> Self {
        Self::new()
    }
}

impl ReadSize {
    /// Returns the size for a reader of a socket, of which nothing is known yet.
    pub(crate) fn new() -> Self {
        let (least, most) = (limits::COPY_BUFFER_BYTES, limits::COPY_BUFFER_MOST);
        Self { size: least, taken: None, run: 0, least, most, swallowed: SWALLOWED }
    }

    /// Returns the size for a reader of a file. There is always more to read there, and each piece is only ever copied: one that
    /// was too large is held once, until the reader turns out to be slow.
    pub(crate) fn of_file() -> Self {
        let (least, most) = (limits::FILE_PIECE_LEAST, limits::FILE_PIECE_MOST);
        Self { size: least, taken: None, run: 0, least, most, swallowed: 4 * least }
    }

    /// Returns the bytes to be read next.
    pub(crate) fn get(&self) -> usize {
        self.size
    }

    /// Adapts the size as a piece of `length` bytes is handed over, by how soon after the last one that is.
    pub(crate) fn adapt(&mut self, length: usize) {
        let now = clock::now();
        let quick = self.taken.is_some_and(|last| now.duration_since(last) < QUICK);
        self.run = if quick { self.run + length } else { 0 };
        self.size = match self.run {
            0 => self.least,
            run if run < self.swallowed => self.size,
            _ => (self.size * 2).min(self.most),
        };
        self.taken = Some(now);
    }
}

/// The time within which a reader that keeps up comes back for the next piece: some 640 KiB/s, which on a busy machine
/// leaves room for the turns of others.
const QUICK: Duration = Duration::from_millis(100);

/// Bytes that the buffers of two sockets may take, even if the reader reads nothing.
const SWALLOWED: usize = 8 * 1024 * 1024;
