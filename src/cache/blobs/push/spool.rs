//! The copy of an upload: written and hashed behind it, off the workers' threads.
//!
//! Writing goes first, so that what waits in memory stays little: where hashing falls behind, it reads later from the file
//! what has left memory. The same way serves where only the last request says by which algorithm.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::body::Tap;
use crate::cache::store::hash_pool::HashPool;
use crate::cache::store::{Partial, Store};
use crate::config::limits;
use crate::proto::{Algorithm, Digest};

/// The copy of an upload. Dropped, it is given up.
pub(crate) struct Spool {
    desk: Arc<HashPool>,
    shared: Arc<Shared>,
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It is what the digest says, and in its place.
    Kept,
    /// It is not there as a whole, or could not be checked, or put in its place.
    NotKept,
    /// It is not what the digest says.
    Wrong,
}

struct Shared {
    store: Arc<Store>,
    /// Its name.
    upstream: Arc<str>,
    backlog: Arc<AtomicUsize>,
    queue: Mutex<Queue>,
    copy: Mutex<Copy>,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// What the frames weigh in memory, in bytes.
    weight: usize,
    /// Bytes that have come, since the upload began.
    end: u64,
    busy: bool,
    /// It has been given up.
    lost: bool,
    /// Its [`Spool`] has done its part.
    finished: bool,
    closing: Option<Closing>,
}

/// The upload has ended well.
struct Closing {
    digest: Digest,
    tell: Box<dyn FnOnce(End) + Send>,
}

/// What only the thread that is at it touches.
enum Copy {
    /// Nothing has come.
    Unborn,
    Open(Open),
    Lost,
}

struct Open {
    partial: Partial,
    algorithm: Algorithm,
    context: digest::Context,
    /// Bytes that have been written.
    written: u64,
    /// Of them, those that have been hashed.
    hashed: u64,
}

/// The body's side of it.
struct Copying {
    desk: Arc<HashPool>,
    shared: Arc<Shared>,
}

impl Spool {
    /// For an upload to `upstream`. Makes no file before something comes. `backlog` counts what waits of all of them.
    pub(crate) fn new(
        store: Arc<Store>,
        desk: Arc<HashPool>,
        upstream: Arc<str>,
        backlog: Arc<AtomicUsize>,
    ) -> Self {
        let (queue, copy) = (Mutex::default(), Mutex::new(Copy::Unborn));
        Self { desk, shared: Arc::new(Shared { store, upstream, backlog, queue, copy }) }
    }

    /// Bytes that have come.
    pub(crate) fn end(&self) -> u64 {
        self.shared.queue().end
    }

    /// Takes in what passes.
    pub(crate) fn tap(&self) -> Box<dyn Tap> {
        Box::new(Copying { desk: self.desk.clone(), shared: self.shared.clone() })
    }

    /// All has come, and the upstream has taken it for `digest`: `tell` is told what becomes of it here.
    pub(crate) fn finish(self, digest: Digest, tell: impl FnOnce(End) + Send + 'static) {
        let mut queue = self.shared.queue();
        queue.finished = true;
        queue.closing = Some(Closing { digest, tell: Box::new(tell) });
        Shared::wake(&self.shared, &self.desk, queue);
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        if !queue.finished && !queue.lost {
            self.shared.lose(&mut queue);
            Shared::wake(&self.shared, &self.desk, queue);
        }
    }
}

impl Tap for Copying {
    fn pass(&self, data: &Bytes) {
        let mut queue = self.shared.queue();
        if queue.lost || data.is_empty() {
            return;
        }
        if self.shared.has_room(&queue, data) {
            self.shared.enter(&mut queue, data.clone());
        } else {
            tracing::debug!(upstream = &*self.shared.upstream, "an upload is faster than the cache's disk");
            self.shared.lose(&mut queue);
        }
        Shared::wake(&self.shared, &self.desk, queue);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, queue: &Queue, data: &Bytes) -> bool {
        let weight = weight(data);
        let all = self.backlog.load(Ordering::Relaxed);
        queue.weight + weight <= limits::PUSH_BACKLOG_BYTES && all + weight <= limits::PUSH_BACKLOG_ALL_BYTES
    }

    fn enter(&self, queue: &mut Queue, data: Bytes) {
        let weight = weight(&data);
        queue.weight += weight;
        queue.end += data.len() as u64;
        queue.frames.push_back(data);
        self.backlog.fetch_add(weight, Ordering::Relaxed);
    }

    /// Takes out what is done in one turn. Second: whether little is left.
    fn leave(&self, queue: &mut Queue) -> (Vec<Bytes>, bool) {
        let (mut frames, mut weighed) = (Vec::new(), 0);
        while weighed < TURN_BYTES
            && let Some(frame) = queue.frames.pop_front()
        {
            weighed += weight(&frame);
            frames.push(frame);
        }
        queue.weight -= weighed;
        self.backlog.fetch_sub(weighed, Ordering::Relaxed);
        (frames, queue.weight <= limits::PUSH_BACKLOG_BYTES / 4)
    }

    /// Gives it up.
    fn lose(&self, queue: &mut Queue) {
        self.backlog.fetch_sub(std::mem::take(&mut queue.weight), Ordering::Relaxed);
        queue.frames.clear();
        queue.lost = true;
    }

    fn wake(this: &Arc<Self>, desk: &Arc<HashPool>, mut queue: MutexGuard<'_, Queue>) {
        if !std::mem::replace(&mut queue.busy, true) {
            drop(queue);
            Self::give(this, desk);
        }
    }

    fn give(this: &Arc<Self>, desk: &Arc<HashPool>) {
        let (this, again) = (this.clone(), Arc::downgrade(desk));
        desk.give(move || {
            if this.turn()
                && let Some(desk) = again.upgrade()
            {
                Self::give(&this, &desk);
            }
        });
    }

    /// Does what waits. The answer is whether there is more.
    fn turn(&self) -> bool {
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        let (lost, (frames, light)) = {
            let mut queue = self.queue();
            (queue.lost, self.leave(&mut queue))
        };
        if lost || self.work(&mut copy, &frames, light).is_err() {
            *copy = Copy::Lost;
            self.lose(&mut self.queue());
        }
        drop(frames);
        let mut queue = self.queue();
        if !queue.frames.is_empty() || copy.is_behind() {
            return true;
        }
        let Some(closing) = queue.closing.take() else {
            queue.busy = false;
            return false;
        };
        if copy.begin_again(closing.digest.algorithm()) {
            queue.closing = Some(closing);
            return true;
        }
        drop(queue);
        (closing.tell)(copy.conclude(&closing.digest));
        false
    }

    /// Writes the frames. Where there are none, or hashing keeps up, hashes besides.
    fn work(&self, copy: &mut Copy, frames: &[Bytes], light: bool) -> io::Result<()> {
        let Some(open) = self.opened(copy) else { return Err(io::ErrorKind::StorageFull.into()) };
        let follows = light && open.hashed == open.written;
        for frame in frames {
            open.partial.write(open.written, frame)?;
            open.written += frame.len() as u64;
            if follows {
                open.context.update(frame);
                open.hashed = open.written;
            }
        }
        open.partial.written(open.written);
        if frames.is_empty() { open.hash_on() } else { Ok(()) }
    }

    /// `None`: nothing can be kept now.
    fn opened<'a>(&self, copy: &'a mut Copy) -> Option<&'a mut Open> {
        if matches!(copy, Copy::Unborn) {
            let partial = self.store.begin_unknown_digest(&self.upstream)?;
            let context = digest::Context::new(&digest::SHA256);
            *copy =
                Copy::Open(Open { partial, algorithm: Algorithm::Sha256, context, written: 0, hashed: 0 });
        }
        match copy {
            Copy::Open(open) => Some(open),
            Copy::Unborn | Copy::Lost => None,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let weight = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner).weight;
        self.backlog.fetch_sub(weight, Ordering::Relaxed);
    }
}

impl Copy {
    fn is_behind(&self) -> bool {
        matches!(self, Self::Open(open) if open.hashed < open.written)
    }

    /// Whether all has to be hashed once more, by another algorithm.
    fn begin_again(&mut self, algorithm: Algorithm) -> bool {
        let Self::Open(open) = self else { return false };
        let context = match algorithm {
            _ if algorithm == open.algorithm => return false,
            Algorithm::Sha256 => digest::Context::new(&digest::SHA256),
            Algorithm::Sha512 => digest::Context::new(&digest::SHA512),
            Algorithm::Other => return false,
        };
        (open.algorithm, open.context, open.hashed) = (algorithm, context, 0);
        open.written > 0
    }

    fn conclude(&mut self, digest: &Digest) -> End {
        let Self::Open(open) = std::mem::replace(self, Self::Lost) else { return End::NotKept };
        if open.algorithm != digest.algorithm() {
            return End::NotKept;
        }
        if name(open.algorithm, open.context.finish().as_ref()).as_ref() != Some(digest) {
            return End::Wrong;
        }
        match open.partial.commit_as(digest, open.written) {
            Ok(_) => End::Kept,
            Err(error) => {
                tracing::debug!(%digest, %error, "what was pushed can't be kept");
                End::NotKept
            }
        }
    }
}

impl Open {
    /// Hashes some of what has left memory.
    fn hash_on(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let end = self.written.min(self.hashed + TURN_BYTES as u64);
        while self.hashed < end {
            let most = usize::try_from(end - self.hashed).unwrap_or(READ_BYTES).min(READ_BYTES);
            let length = self.partial.file().read_at(&mut buffer[..most], self.hashed)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.context.update(&buffer[..length]);
            self.hashed += length as u64;
        }
        Ok(())
    }
}

/// What a frame takes of memory, with what holds it: of many small ones that is the most.
fn weight(frame: &Bytes) -> usize {
    frame.len() + FRAME_BYTES
}

fn name(algorithm: Algorithm, sum: &[u8]) -> Option<Digest> {
    match algorithm {
        Algorithm::Sha256 => sum.try_into().ok().map(Digest::sha256),
        Algorithm::Sha512 => sum.try_into().ok().map(Digest::sha512),
        Algorithm::Other => None,
    }
}

/// What is done at once, before something else has its turn, in bytes.
const TURN_BYTES: usize = 1024 * 1024;
/// What is read at once.
const READ_BYTES: usize = 256 * 1024;
/// What a frame takes besides its bytes.
const FRAME_BYTES: usize = 128;

#[cfg(test)]
mod tests;
