//! Verification of all content against its digests.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::cache::store::{Kind, Verdict};
use crate::clock;
use crate::proto::Digest;

/// An event of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Verified {
    /// Progress.
    Progress {
        /// Bytes that have been read.
        done: u64,
        /// Bytes of all that there was at the beginning.
        total: u64,
    },
    /// Content does not have its digest, or cannot be read.
    Wrong {
        /// Its digest.
        digest: String,
        /// The reason.
        why: String,
    },
    /// Some of it could not be read.
    Unfinished {
        /// The reason.
        why: String,
    },
    /// Ends the verification of one of several places.
    Place {
        /// Its name.
        place: String,
        /// Files that were read there.
        contents: u64,
        /// Files that are wrong there.
        wrong: u64,
    },
    /// Nothing follows.
    Done {
        /// Files that were read.
        contents: u64,
        /// Files that are wrong.
        wrong: u64,
    },
}

/// Reads all content, and removes what is wrong. `tell` gets the events, and returns true to go on.
pub(crate) fn verify(cache: &Cache, tell: &mut dyn FnMut(Verified) -> bool) {
    let mut verification = Verification::of(cache, tell);
    let read = cache.store().verify(|kind, digest, verdict| verification.look(kind, digest, verdict));
    if let Err(error) = read {
        verification.wrong += 1;
        verification.say(Verified::Unfinished { why: error.to_string() });
    }
    let (contents, wrong) = (verification.contents, verification.wrong);
    verification.say(Verified::Done { contents, wrong });
}

struct Verification<'a> {
    cache: &'a Cache,
    tell: &'a mut dyn FnMut(Verified) -> bool,
    lengths: HashMap<(Kind, Digest), u64>,
    done: u64,
    total: u64,
    told: Instant,
    contents: u64,
    wrong: u64,
}

/// The time between two reports of progress.
const PACE: Duration = Duration::from_millis(250);

impl<'a> Verification<'a> {
    fn of(cache: &'a Cache, tell: &'a mut dyn FnMut(Verified) -> bool) -> Self {
        let mut lengths = HashMap::new();
        for kind in Kind::ALL {
            // A directory that can't be read is told of when its turn comes.
            let _ = cache.store().for_each(kind, |listed| {
                lengths.insert((kind, listed.digest), listed.bytes);
            });
        }
        let total = lengths.values().sum();
        Self { cache, tell, lengths, done: 0, total, told: clock::now(), contents: 0, wrong: 0 }
    }

    fn look(&mut self, kind: Kind, digest: &Digest, verdict: Verdict) -> bool {
        self.contents += 1;
        self.done += self.lengths.remove(&(kind, digest.clone())).unwrap_or_default();
        let why = match verdict {
            Verdict::Good => return self.go_on(),
            Verdict::Wrong => {
                self.cache.small.remove(digest);
                let removed = self.cache.store().access().is_writable();
                format!("it was not what its name says{}", if removed { ", and is removed" } else { "" })
            }
            Verdict::Unreadable(error) => format!("it can't be read: {error}"),
        };
        self.wrong += 1;
        self.say(Verified::Wrong { digest: digest.to_string(), why })
    }

    fn go_on(&mut self) -> bool {
        if clock::now().duration_since(self.told) < PACE {
            return true;
        }
        self.told = clock::now();
        self.say(Verified::Progress { done: self.done, total: self.total })
    }

    fn say(&mut self, event: Verified) -> bool {
        (self.tell)(event)
    }
}
