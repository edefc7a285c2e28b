//! The sink of log lines: a buffer that a thread of its own writes to standard error.
//!
//! A system call for each line would cost a small request a tenth of its time. Lines of warnings and errors, and the
//! last ones before the process ends, are written at once.

use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long a line may wait for others.
const DELAY: Duration = Duration::from_millis(50);

/// The bytes that may wait. Beyond this, the thread that adds a line writes all of them.
const WAITING: usize = 1024 * 1024;

/// The bytes that wake the writer before [`DELAY`] has passed.
const BATCH: usize = 64 * 1024;

/// A buffer in front of standard error.
#[derive(Debug, Default)]
pub(super) struct Sink {
    buffer: Mutex<Vec<u8>>,
    /// Held while writing, so that lines keep their order.
    out: Mutex<()>,
    filled: Condvar,
}

impl Sink {
    /// Returns the one sink of the process. Its thread starts with the first call.
    pub(super) fn global() -> &'static Self {
        static SINK: OnceLock<&'static Sink> = OnceLock::new();
        SINK.get_or_init(|| {
            let sink: &'static Self = Box::leak(Box::default());
            let thread = std::thread::Builder::new().name("log".into());
            // Without a thread the lines are written when the buffer is full, and at the end.
            let _ = thread.spawn(move || sink.run());
            sink
        })
    }

    /// Adds a whole line.
    pub(super) fn write(&self, line: &[u8]) {
        let mut buffer = self.buffer.lock();
        let before = buffer.len();
        buffer.extend_from_slice(line);
        let after = buffer.len();
        drop(buffer);
        if before == 0 || (before < BATCH && after >= BATCH) {
            self.filled.notify_one();
        } else if after > WAITING {
            self.flush();
        }
    }

    /// Writes all lines that wait.
    pub(super) fn flush(&self) {
        let _turn = self.out.lock();
        let lines = std::mem::take(&mut *self.buffer.lock());
        // A closed standard error leaves no other place to report to.
        let _ = io::stderr().write_all(&lines);
    }

    fn run(&self) {
        loop {
            let mut buffer = self.buffer.lock();
            while buffer.is_empty() {
                self.filled.wait(&mut buffer);
            }
            if buffer.len() < BATCH {
                self.filled.wait_for(&mut buffer, DELAY);
            }
            drop(buffer);
            self.flush();
        }
    }
}
