//! Writing and hashing what comes, behind the stream and off the workers' threads.
//!
//! Each frame is written and hashed once, from memory: nothing is read a second time from network or disk, but for the
//! prefix that an earlier fill left.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::cache::store::hash_pool::HashPool;
use crate::cache::store::{Content, Partial};
use crate::proto::{Algorithm, Digest};

/// What is to be proved of one stream.
pub(crate) struct Proof {
    desk: Arc<HashPool>,
    shared: Arc<Shared>,
}

/// Whoever follows a proof.
pub(crate) trait Follower: Send + Sync {
    /// All up to here is in the file.
    fn written(&self, at: u64);
    /// There is room for more frames.
    fn caught_up(&self);
    /// The file takes no more: the stream goes on without it.
    fn disk_failed(&self, error: &io::Error);
    /// What is there has been left for a later fill.
    fn left(&self);
    /// It is over.
    fn proved(&self, verdict: Verdict);
}

/// What came of a proof.
pub(crate) enum Verdict {
    /// The bytes are what the digest says, and were kept if they could be.
    Right(Option<Content>),
    /// They are not.
    Wrong,
    /// What an earlier fill left can't be read, so that nothing can be said of the whole.
    Lost,
}

struct Shared {
    follower: Arc<dyn Follower>,
    digest: Digest,
    queue: Mutex<Queue>,
    work: Mutex<Work>,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    busy: bool,
    closed: Option<Closed>,
}

/// How the stream ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// With its last byte.
    Whole,
    /// Before.
    Short,
}

/// What only the thread that is at it touches.
struct Work {
    context: Option<digest::Context>,
    partial: Option<Partial>,
    /// Bytes of an earlier fill's prefix that have to be hashed yet: from where to where.
    again: (u64, u64),
    at: u64,
}

/// Frames that wait, in bytes, before the stream has to.
const TRAIL_BYTES: usize = 8 * 1024 * 1024;
/// What is done at once, before another stream has its turn.
const TURN_BYTES: usize = 4 * 1024 * 1024;
/// What is read at once of a prefix.
const AGAIN_BYTES: usize = 256 * 1024;

impl Proof {
    /// For a stream that goes on behind what `partial` holds. `None` for a digest that can't be checked.
    pub(crate) fn new(
        desk: &Arc<HashPool>,
        digest: &Digest,
        partial: Option<Partial>,
        follower: Arc<dyn Follower>,
    ) -> Option<Self> {
        let algorithm = algorithm(digest)?;
        let prefix = partial.as_ref().map_or(0, Partial::resumed_at);
        let context = Some(digest::Context::new(algorithm));
        let work = Mutex::new(Work { context, partial, again: (0, prefix), at: prefix });
        let shared = Arc::new(Shared { follower, digest: digest.clone(), queue: Mutex::default(), work });
        Some(Self { desk: desk.clone(), shared })
    }

    /// Whether the stream has to wait until what came is dealt with.
    pub(crate) fn is_full(&self) -> bool {
        self.shared.queue().bytes >= TRAIL_BYTES
    }

    /// More of the stream.
    pub(crate) fn push(&self, frames: impl IntoIterator<Item = Bytes>) {
        let mut queue = self.shared.queue();
        for frame in frames {
            queue.bytes += frame.len();
            queue.frames.push_back(frame);
        }
        self.wake(queue);
    }

    /// That was all: the verdict comes to the follower.
    pub(crate) fn finish(self) {
        self.close(Closed::Whole);
    }

    /// It ended early: what is there is left for a later fill.
    pub(crate) fn leave(self) {
        self.close(Closed::Short);
    }

    fn close(&self, how: Closed) {
        let mut queue = self.shared.queue();
        queue.closed = Some(how);
        self.wake(queue);
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        if !std::mem::replace(&mut queue.busy, true) {
            drop(queue);
            Shared::give(&self.shared, &self.desk);
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(this: &Arc<Self>, desk: &Arc<HashPool>) {
        let (this, again) = (this.clone(), Arc::downgrade(desk));
        desk.give(move || {
            // A turn that breaks leaves the last verdict unsaid; its follower would wait for ever.
            let turn = std::panic::AssertUnwindSafe(|| this.turn());
            match std::panic::catch_unwind(turn) {
                Ok(true) => {
                    if let Some(desk) = again.upgrade() {
                        Self::give(&this, &desk);
                    }
                }
                Ok(false) => {}
                Err(_) => {
                    this.follower.left();
                    this.follower.proved(Verdict::Lost);
                }
            }
        });
    }

    /// Does what waits. The answer is whether there is more.
    fn turn(&self) -> bool {
        let mut work = self.work();
        if work.again.0 < work.again.1 {
            self.hash_again(&mut work);
            return true;
        }
        let (frames, bytes, closed) = self.take();
        if !frames.is_empty() {
            self.write(&mut work, &frames);
            frames.iter().for_each(|frame| work.hash(frame));
        }
        drop(frames);
        let mut queue = self.queue();
        let was_full = queue.bytes >= TRAIL_BYTES;
        queue.bytes -= bytes;
        let more = !queue.frames.is_empty() || (closed.is_none() && queue.closed.is_some());
        queue.busy = more;
        drop(queue);
        if was_full {
            self.follower.caught_up();
        }
        match closed {
            Some(Closed::Whole) => self.conclude(&mut work),
            Some(Closed::Short) => {
                let at = work.at;
                if let Some(partial) = work.partial.take() {
                    partial.leave(at);
                }
                self.follower.left();
            }
            None => {}
        }
        more
    }

    /// Frames for one turn; how it ended comes with the last of them.
    fn take(&self) -> (Vec<Bytes>, usize, Option<Closed>) {
        let mut queue = self.queue();
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while bytes < TURN_BYTES
            && let Some(frame) = queue.frames.pop_front()
        {
            bytes += frame.len();
            frames.push(frame);
        }
        let closed = queue.closed.filter(|_| queue.frames.is_empty());
        (frames, bytes, closed)
    }

    fn write(&self, work: &mut Work, frames: &[Bytes]) {
        for frame in frames {
            let Some(partial) = &work.partial else { break };
            if let Err(error) = partial.write(work.at, frame) {
                if let Some(partial) = work.partial.take() {
                    partial.discard();
                }
                self.follower.disk_failed(&error);
                break;
            }
            work.at += frame.len() as u64;
        }
        if let Some(partial) = &mut work.partial {
            partial.reached(work.at);
            self.follower.written(work.at);
        }
    }

    fn hash_again(&self, work: &mut Work) {
        let (from, to) = work.again;
        let file = work.partial.as_ref().map(|partial| partial.file().clone());
        let read = file.map(|file| work.hash_file(&file, from, to.min(from + TURN_BYTES as u64)));
        match read {
            Some(Ok(at)) => work.again.0 = at,
            // What is there can't be proved any more.
            _ => work.again = (0, 0),
        }
        if !matches!(read, Some(Ok(_))) {
            work.context = None;
        }
    }

    fn conclude(&self, work: &mut Work) {
        let lost = work.context.is_none();
        let right = work.context.take().is_some_and(|context| {
            let sum = context.finish();
            self.digest.encoded().as_bytes() == hexadecimal(sum.as_ref()).as_bytes()
        });
        let partial = work.partial.take();
        if !right {
            if let Some(partial) = partial {
                partial.discard();
            }
            self.follower.proved(if lost { Verdict::Lost } else { Verdict::Wrong });
            return;
        }
        let kept = partial.map(|partial| partial.commit(work.at)).transpose();
        let kept = kept.unwrap_or_else(|error| {
            self.follower.disk_failed(&error);
            None
        });
        self.follower.proved(Verdict::Right(kept));
    }
}

impl Work {
    fn hash(&mut self, bytes: &[u8]) {
        if let Some(context) = &mut self.context {
            context.update(bytes);
        }
    }

    fn hash_file(&mut self, file: &File, mut from: u64, to: u64) -> io::Result<u64> {
        let mut buffer = vec![0; AGAIN_BYTES];
        while from < to {
            let most = usize::try_from(to - from).unwrap_or(AGAIN_BYTES).min(AGAIN_BYTES);
            let length = file.read_at(&mut buffer[..most], from)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.hash(&buffer[..length]);
            from += length as u64;
        }
        Ok(from)
    }
}

fn algorithm(digest: &Digest) -> Option<&'static digest::Algorithm> {
    match digest.algorithm() {
        Algorithm::Sha256 => Some(&digest::SHA256),
        Algorithm::Sha512 => Some(&digest::SHA512),
        Algorithm::Other => None,
    }
}

/// What `bytes` come to by the algorithm of `like`, as it stands in a digest.
pub(crate) fn sum(like: &Digest, bytes: &[u8]) -> Option<String> {
    algorithm(like).map(|algorithm| hexadecimal(digest::digest(algorithm, bytes).as_ref()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
