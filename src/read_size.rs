//! How fast a reader is.

use std::time::{Duration, Instant};

use crate::clock;
use crate::config::limits;

/// How much of a body is read at once.
///
/// A reader that keeps up for long is given larger and larger pieces, since each costs two system calls and a wake-up
/// or two. A slow one holds one small piece: it may be one of many, and what the sockets' buffers swallow at first says
/// nothing of its pace.
#[derive(Debug)]
pub(crate) struct Pace {
    size: usize,
    taken: Option<Instant>,
    /// Bytes that were taken in quick succession up to now.
    run: usize,
    /// The least and the most that are read at once.
    least: usize,
    most: usize,
    /// What may be taken before the reader is known to keep up.
    swallowed: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    /// Of a reader of whom nothing is known yet, of what comes from a socket.
    pub(crate) fn new() -> Self {
        let (least, most) = (limits::COPY_BUFFER_BYTES, limits::COPY_BUFFER_MOST);
        Self { size: least, taken: None, run: 0, least, most, swallowed: SWALLOWED }
    }

    /// The same, of what comes from a file: there is always more of it, and each piece is only ever copied. One that was too
    /// large is held for once, until the reader has shown that he is slow.
    pub(crate) fn of_file() -> Self {
        let (least, most) = (limits::FILE_PIECE_LEAST, limits::FILE_PIECE_MOST);
        Self { size: least, taken: None, run: 0, least, most, swallowed: 4 * least }
    }

    /// Bytes to be read next.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// A piece is handed over. Whether the last ones were quickly used up decides on the size of the next.
    pub(crate) fn hand_over(&mut self, length: usize) {
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

/// How soon a reader that keeps up comes back for the next piece: some 640 KiB/s, which on a busy machine leaves room
/// for everybody else's turn.
const QUICK: Duration = Duration::from_millis(100);

/// What the buffers of two sockets may swallow, in bytes, whatever the reader does.
const SWALLOWED: usize = 8 * 1024 * 1024;
