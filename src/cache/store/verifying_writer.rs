//! Writing and hashing the bytes of a blob, behind its stream and off the workers' threads.
//!
//! Each frame is hashed from memory as it is written, so that nothing is read a second time. Three things are hashed from the
//! file: what an earlier fill left, what others have written [in between](VerifyingWriter::pass), and what has left memory since
//! hashing fell behind a source that does not wait. All is hashed in order, once, and by this writer alone. One for a part of a blob
//! hashes nothing: the writer of the whole does, behind it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use crate::cache::store::content::Content;
use crate::cache::store::disk_pool::DiskBusy;
use crate::cache::store::files;
use crate::cache::store::hash_pool::{HashPool, Urgency};
use crate::cache::store::partial::Partial;
use crate::clock;
use crate::config::limits;
use crate::proto::{Algorithm, Digest, Hasher};

/// The writer of one blob, which compares it with its digest at the end. Dropped before, it discards what is there.
pub(crate) struct VerifyingWriter {
    input: WriterInput,
}

/// The side of a writer that takes bytes in.
#[derive(Clone)]
pub(crate) struct WriterInput {
    pool: Arc<HashPool>,
    shared: Arc<Shared>,
}

/// The file of a writer.
pub(crate) enum Target {
    /// A partial to go on with; none where the blob is hashed alone.
    Begun(Option<Arc<Partial>>),
    /// A partial that is begun on the pool, since that waits for the disk. Without it the blob is given up.
    Later(Box<dyn FnOnce() -> Option<Partial> + Send>),
}

/// The source of the bytes, by what it does while the writer is behind.
pub(crate) enum Source {
    /// A source that waits while [`is_full`](VerifyingWriter::is_full), so that every frame is hashed from memory. If the disk fails,
    /// hashing goes on.
    Waits {
        /// The bytes that may wait.
        trail: usize,
        /// Bytes of the whole, where they are known: small blobs go ahead.
        total: Option<u64>,
    },
    /// A source that does not wait: writing goes before hashing, and if the disk fails or falls behind, the blob is given up. The bytes
    /// that wait of all such writers are counted here.
    Runs(Arc<AtomicUsize>),
}

/// An observer of a writer's progress, called on the pool's threads.
pub(crate) trait Observer: Send + Sync {
    /// Called when all bytes up to `at` are in the file.
    fn written(&self, _at: u64) {}
    /// Called when there is room for more frames.
    fn caught_up(&self) {}
    /// Called when the file can't be written any more.
    fn disk_failed(&self, _error: &io::Error) {}
    /// Called when the partial has been left for a later fill.
    fn left(&self) {}
    /// Called when the blob has been compared with its digest.
    fn verified(&self, result: Verified);
}

/// The result of comparing a blob with its digest.
pub(crate) enum Verified {
    /// The blob has the digest, and was kept if it could be.
    Right(Option<Content>),
    /// The blob does not have the digest.
    Wrong,
    /// The blob was given up, or cannot be read again.
    Unknown,
}

struct Shared {
    source: Source,
    observer: Arc<dyn Observer>,
    queue: Mutex<Queue>,
    /// Replaced where a turn waits for the disk too long: it goes on without a file.
    work: Mutex<Arc<Mutex<Work>>>,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    /// Memory of the frames, in bytes.
    weight: usize,
    /// Memory of the frames of this turn, which are being written.
    taken: usize,
    /// Bytes that have come.
    end: u64,
    /// A turn is given to the pool.
    busy: bool,
    given_up: bool,
    closed: bool,
    close: Option<Close>,
    /// Since when the turn waits for the disk.
    waits_since: Option<Instant>,
    /// The hash of the bytes before that, and their number.
    hashed: Option<(Hasher, u64)>,
    /// The last step of the turn, when nothing else is left to do.
    last: Option<Last>,
}

/// A piece of the stream.
enum Piece {
    /// Bytes that have come.
    Frame(Bytes),
    /// The bytes up to this offset are in the file already.
    There(u64),
}

/// The last that a writer does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The blob has its digest, and is put into its place.
    Places,
    /// The bytes that have come stay for a later fill.
    Leaves,
}

/// The end of the stream.
enum Close {
    /// With its last byte, as this.
    Whole(Digest),
    /// Before.
    Short,
}

/// The state that only the turn touches.
struct Work {
    target: Target,
    /// None if bytes are missing, so that the whole cannot be hashed any more, or if this is a part.
    hasher: Option<Hasher>,
    /// The offset up to which all has been written, or passed where there is no file.
    written: u64,
    /// Of those, the offset up to which that has been noted.
    noted: u64,
    /// Of them, those that have been hashed.
    hashed: u64,
}

impl VerifyingWriter {
    /// Returns a writer of what comes from `first` on. `hasher` has seen nothing; what comes before `first` is in the file of
    /// `target`. Without one nothing is hashed.
    pub(crate) fn new(
        pool: &Arc<HashPool>,
        hasher: Option<Hasher>,
        first: u64,
        target: Target,
        source: Source,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let hashed = if hasher.is_some() { 0 } else { first };
        let work = Work { target, hasher, written: first, noted: first, hashed };
        let work = Mutex::new(Arc::new(Mutex::new(work)));
        let queue = Mutex::new(Queue { end: first, ..Queue::default() });
        let shared = Arc::new(Shared { source, observer, queue, work });
        Self { input: WriterInput { pool: pool.clone(), shared } }
    }

    /// Returns true if the source has to wait until what came is written.
    pub(crate) fn is_full(&self) -> bool {
        self.input.shared.is_full(&self.input.shared.queue())
    }

    /// Takes more of a stream that waits.
    pub(crate) fn push(&self, frames: impl IntoIterator<Item = Bytes>) {
        let mut queue = self.input.shared.queue();
        frames.into_iter().for_each(|frame| queue.push(frame));
        self.input.wake(queue);
    }

    /// Passes over bytes of a stream that waits, up to `end`: they are in the file already, written by another.
    pub(crate) fn pass(&self, end: u64) {
        let mut queue = self.input.shared.queue();
        queue.pieces.push_back(Piece::There(end));
        queue.end = end;
        self.input.wake(queue);
    }

    /// Returns the side that takes bytes in.
    pub(crate) fn input(&self) -> WriterInput {
        self.input.clone()
    }

    /// Returns the bytes that have come.
    pub(crate) fn end(&self) -> u64 {
        self.input.shared.queue().end
    }

    /// Compares the blob with `digest` once all is written; the result goes to the observer.
    pub(crate) fn finish(self, digest: Digest) {
        self.close(Close::Whole(digest));
    }

    /// Leaves what has come for a later fill.
    pub(crate) fn leave(self) {
        self.close(Close::Short);
    }

    fn close(&self, how: Close) {
        let mut queue = self.input.shared.queue();
        queue.closed = true;
        queue.close = Some(how);
        self.input.wake(queue);
    }
}

impl Drop for VerifyingWriter {
    fn drop(&mut self) {
        let mut queue = self.input.shared.queue();
        if !queue.closed && !queue.given_up {
            self.input.shared.give_up(&mut queue);
            self.input.wake(queue);
        }
    }
}

impl WriterInput {
    /// Takes more of a stream that does not wait. Returns false if the blob is given up with this, as too much waits.
    pub(crate) fn offer(&self, frame: &Bytes) -> bool {
        let Source::Runs(backlog) = &self.shared.source else { return false };
        let mut queue = self.shared.queue();
        if queue.given_up || frame.is_empty() {
            return true;
        }
        let weight = weight(frame);
        let has_room = queue.weight + weight <= limits::PUSH_BACKLOG_BYTES
            && backlog.load(Ordering::Relaxed) + weight <= limits::PUSH_BACKLOG_ALL_BYTES;
        if has_room {
            queue.push(frame.clone());
            backlog.fetch_add(weight, Ordering::Relaxed);
        } else {
            self.shared.give_up(&mut queue);
        }
        self.wake(queue);
        has_room
    }

    /// Goes on without the disk, if it has kept a writer whose source waits from going on for [`limits::DISK_DEADLINE`]: the blob
    /// is not kept. Returns true if that is so now.
    pub(crate) fn pass_by(&self) -> bool {
        let shared = &self.shared;
        let mut queue = shared.queue();
        let since = queue.waits_since.filter(|_| shared.waits());
        if since.is_none_or(|since| clock::now().duration_since(since) < limits::DISK_DEADLINE) {
            return false;
        }
        let (hasher, at) = queue.hashed.take().map_or((None, 0), |(hasher, at)| (Some(hasher), at));
        // The turn keeps its bytes until the disk answers.
        *shared.work.lock() = Arc::new(Mutex::new(Work {
            target: Target::Begun(None),
            hasher,
            written: at,
            noted: at,
            hashed: at,
        }));
        (queue.taken, queue.waits_since) = (0, None);
        let last = queue.last.take();
        drop(queue);
        shared.observer.disk_failed(&DiskBusy.into());
        match last {
            Some(Last::Places) => shared.observer.verified(Verified::Right(None)),
            Some(Last::Leaves) => shared.observer.left(),
            None => Shared::give(shared, &self.pool),
        }
        true
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        if !std::mem::replace(&mut queue.busy, true) {
            drop(queue);
            Shared::give(&self.shared, &self.pool);
        }
    }
}

impl Queue {
    fn push(&mut self, frame: Bytes) {
        self.weight += weight(&frame);
        self.end += frame.len() as u64;
        self.pieces.push_back(Piece::Frame(frame));
    }
}

/// Frames for one turn.
struct Turn {
    frames: Vec<Bytes>,
    /// The bytes behind them that are in the file already, up to this offset.
    there: Option<u64>,
    given_up: bool,
    /// Little is left, so that there is time to hash.
    light: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    fn waits(&self) -> bool {
        matches!(self.source, Source::Waits { .. })
    }

    fn is_full(&self, queue: &Queue) -> bool {
        match self.source {
            Source::Waits { trail, .. } => queue.weight + queue.taken >= trail,
            Source::Runs(_) => false,
        }
    }

    fn turn_bytes(&self) -> usize {
        match self.source {
            Source::Waits { trail, .. } => TURN_BYTES.min(trail / 2).max(1),
            Source::Runs(_) => TURN_BYTES_UNPACED,
        }
    }

    fn urgency(&self) -> Urgency {
        let bytes = match self.source {
            Source::Waits { total, .. } => total.unwrap_or_else(|| self.queue().end),
            // No client waits for it.
            Source::Runs(_) => return Urgency::Usual,
        };
        if bytes <= limits::CACHE_SMALL_BYTES { Urgency::Small } else { Urgency::Usual }
    }

    fn give(this: &Arc<Self>, pool: &Arc<HashPool>) {
        let (this, again, urgency) = (this.clone(), Arc::downgrade(pool), this.urgency());
        pool.give(urgency, move || {
            // A turn that panics would leave the result unsaid, and its observer would wait for ever.
            let turn = std::panic::AssertUnwindSafe(|| this.turn());
            match std::panic::catch_unwind(turn) {
                Ok(true) => {
                    if let Some(pool) = again.upgrade() {
                        Self::give(&this, &pool);
                    }
                }
                Ok(false) => {}
                Err(_) => {
                    this.observer.left();
                    this.observer.verified(Verified::Unknown);
                }
            }
        });
    }

    /// Does what waits. Returns true if there is more.
    fn turn(&self) -> bool {
        let own = self.work.lock().clone();
        let mut work = own.lock();
        if self.waits() && work.is_behind() {
            self.begin_waiting(None);
            self.catch_up(&mut work);
            return self.ends_waiting(&own, &mut work);
        }
        let turn = self.take();
        if turn.given_up {
            work.give_up();
        } else {
            self.write_and_hash(&own, &mut work, &turn);
        }
        drop(turn);
        if !self.ends_waiting(&own, &mut work) {
            return false;
        }
        let mut queue = self.queue();
        let was_full = self.is_full(&queue);
        queue.taken = 0;
        let more = !queue.pieces.is_empty() || work.is_behind();
        let close = if more { None } else { queue.close.take() };
        let again = matches!(&close, Some(Close::Whole(digest)) if work.begin_again(digest.algorithm()));
        if again {
            queue.close = close;
            return true;
        }
        queue.busy = more;
        drop(queue);
        if was_full {
            self.observer.caught_up();
        }
        match close {
            Some(Close::Whole(digest)) => {
                let result = self.conclude(&mut work, &digest);
                if self.ends_waiting(&own, &mut work) {
                    self.observer.verified(result);
                }
            }
            Some(Close::Short) => {
                self.begin_waiting(Some(Last::Leaves));
                if let Target::Begun(Some(partial)) = work.take_target() {
                    partial.keep();
                }
                if self.ends_waiting(&own, &mut work) {
                    self.observer.left();
                }
            }
            None => {}
        }
        more
    }

    /// Notes that this turn waits for the disk from now on.
    fn begin_waiting(&self, last: Option<Last>) {
        let mut queue = self.queue();
        (queue.waits_since, queue.last) = (Some(clock::now()), last);
    }

    /// Notes that this turn waits for the disk no more. Returns false if it has been passed by: then its file is not wanted.
    fn ends_waiting(&self, own: &Arc<Mutex<Work>>, work: &mut Work) -> bool {
        let mut queue = self.queue();
        let is_wanted = self.is_wanted(own);
        if is_wanted {
            (queue.waits_since, queue.hashed, queue.last) = (None, None, None);
        } else {
            drop(queue);
            work.give_up();
        }
        is_wanted
    }

    fn take(&self) -> Turn {
        let mut queue = self.queue();
        let (mut frames, mut taken, mut there) = (Vec::new(), 0, None);
        while taken < self.turn_bytes()
            && there.is_none()
            && let Some(piece) = queue.pieces.pop_front()
        {
            match piece {
                Piece::Frame(frame) => {
                    taken += weight(&frame);
                    frames.push(frame);
                }
                Piece::There(end) => there = Some(end),
            }
        }
        queue.weight -= taken;
        queue.taken = taken;
        if let Source::Runs(backlog) = &self.source {
            backlog.fetch_sub(taken, Ordering::Relaxed);
        }
        Turn {
            frames,
            there,
            given_up: queue.given_up,
            light: queue.weight <= limits::PUSH_BACKLOG_BYTES / 4,
        }
    }

    fn write_and_hash(&self, own: &Arc<Mutex<Work>>, work: &mut Work, turn: &Turn) {
        if turn.frames.is_empty() && self.waits() {
            return self.pass_there(work, turn);
        }
        let follows = self.waits() || (turn.light && !work.is_behind());
        let end = work.written + turn.frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        // Hashed first: if the disk hangs, what is hashed is enough to go on.
        if follows {
            if let Some(hasher) = &mut work.hasher {
                turn.frames.iter().for_each(|frame| hasher.update(frame));
            }
            work.hashed = end;
        }
        if self.waits() {
            self.queue().hashed = work.hasher.clone().map(|hasher| (hasher, end));
        }
        let written = work.write(&turn.frames, || self.begin_waiting(None));
        work.written = end;
        if !self.is_wanted(own) {
            return;
        }
        match (written, &self.source) {
            (Ok(()), _) => self.note_written(work),
            (Err(error), Source::Waits { .. }) => {
                work.target = Target::Begun(None);
                self.observer.disk_failed(&error);
            }
            (Err(error), Source::Runs(_)) => {
                self.observer.disk_failed(&error);
                return self.abandon(work);
            }
        }
        self.pass_there(work, turn);
        if !follows && turn.frames.is_empty() {
            self.catch_up(work);
        }
    }

    /// Passes over what is in the file already; it is hashed in the next turn.
    fn pass_there(&self, work: &mut Work, turn: &Turn) {
        let Some(end) = turn.there else { return };
        if let Target::Begun(Some(_)) = &work.target {
            (work.written, work.noted) = (end, end);
            self.observer.written(end);
        } else {
            // Where the file is, is lost.
            (work.hasher, work.hashed, work.written) = (None, end, end);
        }
    }

    fn is_wanted(&self, own: &Arc<Mutex<Work>>) -> bool {
        Arc::ptr_eq(own, &self.work.lock())
    }

    fn note_written(&self, work: &mut Work) {
        let Target::Begun(Some(partial)) = &mut work.target else { return };
        if self.waits() {
            partial.reached(work.noted, work.written);
            work.noted = work.written;
            self.observer.written(work.written);
        } else {
            partial.written(work.written);
        }
    }

    /// Hashes some of what has left memory.
    fn catch_up(&self, work: &mut Work) {
        if work.hash_from_file(self.turn_bytes() as u64).is_ok() {
            return;
        }
        if self.waits() {
            (work.hasher, work.hashed) = (None, work.written);
        } else {
            self.abandon(work);
        }
    }

    fn abandon(&self, work: &mut Work) {
        work.give_up();
        self.give_up(&mut self.queue());
    }

    fn conclude(&self, work: &mut Work, digest: &Digest) -> Verified {
        let hasher = work.hasher.take().filter(|hasher| hasher.algorithm() == digest.algorithm());
        let Some(hasher) = hasher else {
            work.give_up();
            return Verified::Unknown;
        };
        let Target::Begun(partial) = work.take_target() else { return Verified::Unknown };
        if hasher.finish() != *digest {
            if let Some(partial) = partial {
                partial.discard();
            }
            return Verified::Wrong;
        }
        self.begin_waiting(Some(Last::Places));
        let kept = partial.map(|partial| partial.commit(digest, work.written)).transpose();
        Verified::Right(kept.unwrap_or_else(|error| {
            self.observer.disk_failed(&error);
            None
        }))
    }

    fn give_up(&self, queue: &mut Queue) {
        let weight = std::mem::take(&mut queue.weight);
        if let Source::Runs(backlog) = &self.source {
            backlog.fetch_sub(weight, Ordering::Relaxed);
        }
        queue.pieces.clear();
        queue.given_up = true;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let weight = self.queue.get_mut().weight;
        if let Source::Runs(backlog) = &self.source {
            backlog.fetch_sub(weight, Ordering::Relaxed);
        }
    }
}

impl Work {
    fn is_behind(&self) -> bool {
        self.hashed < self.written
    }

    fn take_target(&mut self) -> Target {
        std::mem::replace(&mut self.target, Target::Begun(None))
    }

    fn give_up(&mut self) {
        self.target = Target::Begun(None);
        (self.hasher, self.hashed) = (None, self.written);
    }

    /// Writes frames behind what is written, if there is a file.
    fn write(&mut self, frames: &[Bytes], begin_waiting: impl Fn()) -> io::Result<()> {
        self.target = match self.take_target() {
            Target::Later(begin) => Target::Begun(Some(Arc::new(begin().ok_or(io::ErrorKind::StorageFull)?))),
            begun @ Target::Begun(_) => begun,
        };
        let Target::Begun(Some(partial)) = &self.target else { return Ok(()) };
        let mut at = self.written;
        for frame in frames {
            // Each write has the deadline for itself: a slow disk does not hang.
            begin_waiting();
            partial.write(at, frame)?;
            at += frame.len() as u64;
        }
        Ok(())
    }

    /// Hashes at most `most` bytes that are written and not hashed.
    fn hash_from_file(&mut self, most: u64) -> io::Result<()> {
        let (Target::Begun(Some(partial)), Some(hasher)) = (&self.target, &mut self.hasher) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut buffer = vec![0; READ_BYTES];
        let end = self.written.min(self.hashed + most);
        while self.hashed < end {
            let most = usize::try_from(end - self.hashed).unwrap_or(READ_BYTES).min(READ_BYTES);
            let length = files::read_at(partial.file(), &mut buffer[..most], self.hashed)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&buffer[..length]);
            self.hashed += length as u64;
        }
        Ok(())
    }

    /// Begins to hash with another algorithm, if the digest turns out to be of that. Returns true if what is written has to be
    /// hashed again.
    fn begin_again(&mut self, algorithm: Algorithm) -> bool {
        if self.hasher.as_ref().is_none_or(|hasher| hasher.algorithm() == algorithm) {
            return false;
        }
        let Some(hasher) = Hasher::new(algorithm) else { return false };
        (self.hasher, self.hashed) = (Some(hasher), 0);
        self.written > 0
    }
}

/// Returns what a frame takes in memory, with what holds it: of many small ones that is the most.
fn weight(frame: &Bytes) -> usize {
    frame.len() + FRAME_BYTES
}

/// Bytes of one turn, before another stream has its own.
const TURN_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of one turn of a source that does not wait: its memory must become free soon.
const TURN_BYTES_UNPACED: usize = 1024 * 1024;
/// Bytes that are read from the file at once.
const READ_BYTES: usize = 256 * 1024;
/// Memory of a frame besides its bytes.
const FRAME_BYTES: usize = 128;
