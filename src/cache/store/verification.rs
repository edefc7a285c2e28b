//! The verification thread: hashes content again, what waits for that at once, and the rest slowly.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::store::content::Contents;
use crate::cache::store::integrity::{self, Verdict};
use crate::cache::store::layout::{Kind, Shard};
use crate::cache::store::{files, pace};
use crate::config::limits;
use crate::proto::Digest;

/// The work of the thread.
pub(crate) struct Verification {
    contents: Arc<Contents>,
}

/// A round of the scrub through all content.
#[derive(Default)]
pub(crate) struct Round {
    shards: VecDeque<(Kind, Shard)>,
    /// Content of the shard that was listed last, which is due.
    due: Vec<(Kind, Digest)>,
    begun: bool,
}

impl Verification {
    /// Returns the verification of a store's contents.
    pub(crate) fn new(contents: Arc<Contents>) -> Self {
        Self { contents }
    }

    /// Works until the queue is closed.
    pub(crate) fn run(&self) {
        let queue = &self.contents.verification;
        let mut round = Round::default();
        let mut pause = limits::SCRUB_PAUSE;
        while !queue.is_closed() {
            if let Some((kind, digest)) = queue.next(pause) {
                self.verify(kind, &digest, Duration::ZERO);
                pause = Duration::ZERO;
            } else {
                pause = self.scrub(&mut round);
            }
        }
    }

    /// Hashes one file that is due, or lists the next directory. Returns the pause before the next step.
    pub(crate) fn scrub(&self, round: &mut Round) -> Duration {
        if let Some((kind, digest)) = round.due.pop() {
            self.verify(kind, &digest, SCRUB_PACE);
            return Duration::ZERO;
        }
        if let Some((kind, shard)) = round.shards.pop_front() {
            round.due = self.due(kind, &shard).unwrap_or_default();
            return SHARD_PAUSE;
        }
        if std::mem::take(&mut round.begun) {
            return limits::SCRUB_PAUSE;
        }
        let layout = &self.contents.layout;
        round.begun = true;
        if layout.access().is_writable() {
            let shards = |kind| {
                let shards = layout.shards(kind).unwrap_or_default();
                shards.into_iter().map(move |shard| (kind, shard))
            };
            round.shards = Kind::ALL.into_iter().flat_map(shards).collect();
        }
        SHARD_PAUSE
    }

    /// Returns the content of a directory that was last hashed too long ago.
    fn due(&self, kind: Kind, shard: &Shard) -> io::Result<Vec<(Kind, Digest)>> {
        let (layout, now) = (&self.contents.layout, files::now());
        let mut due = Vec::new();
        layout.each_in_shard(shard, |digest, path| {
            if files::metadata(path).is_ok_and(|metadata| self.contents.is_due(&metadata, now)) {
                due.push((kind, digest));
            }
            pace::rest();
            !self.contents.verification.is_closed()
        })?;
        Ok(due)
    }

    /// Hashes content, and waits for `pace` after each piece of it. What is damaged is taken out of use.
    fn verify(&self, kind: Kind, digest: &Digest, pace: Duration) {
        let contents = &self.contents;
        let Some(path) = contents.layout.content(kind, digest) else { return };
        let stop = || {
            if !pace.is_zero() {
                contents.verification.pause(pace);
            }
            contents.verification.is_closed() || contents.index.is_pending(kind, digest)
        };
        match integrity::verify(&path, digest, true, stop) {
            Some(Verdict::Good) => {
                contents.quarantine.admit(kind, digest);
                let length = files::metadata(&path).map_or(0, |metadata| metadata.len());
                contents.index.found(kind, digest, length, files::now());
            }
            Some(Verdict::Wrong) => {
                contents.quarantine.admit(kind, digest);
                contents.note_damaged(kind, digest);
            }
            Some(Verdict::Unreadable(error)) => contents.set_aside(kind, digest, &error),
            None => contents.quarantine.admit(kind, digest),
        }
    }
}

/// The pause of the scrub after each piece that is hashed.
const SCRUB_PACE: Duration =
    Duration::from_millis(1000 * integrity::PIECE_BYTES as u64 / limits::SCRUB_BYTES_PER_SECOND);

/// The pause of the scrub after a directory was listed.
const SHARD_PAUSE: Duration = Duration::from_millis(100);
