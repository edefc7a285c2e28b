//! What is there, in memory: how much, how much of it is in use, and what may go.
//!
//! It is built by a look at the disk, and the disk is right: another process may add and remove files, so what is not
//! known here may be there, and what is known may have vanished.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::cache::store::Kind;
use crate::cache::store::eviction::{Candidate, EvictionQueue, QueueEntry};
use crate::proto::Digest;

/// All that is there.
#[derive(Default)]
pub(crate) struct Index {
    blobs: Partition,
    manifests: Partition,
    prefixes: HashMap<String, Prefix>,
    /// Their names, by what the names of all prefixes of one blob from one upstream begin with.
    stems: HashMap<String, Vec<String>>,
    prefix_bytes: u64,
    /// Bytes promised to blobs on their way, those that are there already included.
    pub(crate) reserved: u64,
    /// Of those, the bytes that the file system has not set aside.
    pub(crate) unbacked: u64,
    /// What is never evicted, whether it is there or not.
    kept: HashSet<Digest>,
    /// What this process put in place and has not synced yet, and how often.
    pending: HashMap<(Kind, Digest), u32>,
    /// Everything has been counted.
    pub(crate) counted: bool,
    /// What was chosen to go and is not gone yet.
    pub(crate) leaving: usize,
    /// Bytes of records, which share the room of manifests.
    pub(crate) records: u64,
    /// How many are still finding out what must stay.
    pub(crate) sorting: usize,
    /// How often all has been counted.
    round: u64,
    /// The prefixes on the disk have been counted.
    pub(crate) knows_prefixes: bool,
    /// Of what is reserved, bytes for what has no name yet.
    pub(crate) nameless: u64,
}

/// What has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Victim {
    Prefix(String),
    Content(Kind, Digest, u64),
}

/// How much there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Amount {
    /// Files.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

struct Prefix {
    bytes: u64,
    last: u64,
}

impl Index {
    /// Content is used at `now` and must not go until [`unpin`](Self::unpin) with the number that is the answer. Second:
    /// whether the use has to be noted on disk, as it was last noted too long ago.
    pub(crate) fn pin(
        &mut self,
        kind: Kind,
        digest: &Digest,
        bytes: u64,
        now: u64,
        noted: u64,
    ) -> (u64, bool) {
        let round = self.round;
        let shelf = self.shelf(kind);
        let new = shelf.put(digest, bytes, now, noted);
        let Partition { entries, order, .. } = shelf;
        let Some(entry) = entries.get_mut(digest) else { return (0, false) };
        entry.seen = round;
        if !new {
            order.used(&mut entry.ticket, now);
        }
        entry.pins += 1;
        let due = now.saturating_sub(entry.noted) >= NOTE_EVERY;
        if due {
            entry.noted = now;
        }
        (entry.ticket.number, due)
    }

    /// One reader less. What was removed and has come back since has other readers.
    pub(crate) fn unpin(&mut self, kind: Kind, digest: &Digest, number: u64) {
        if let Some(entry) = self.shelf(kind).entries.get_mut(digest)
            && entry.ticket.number == number
        {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    /// Content is there that was last used at `last`. What is known already is left as it is.
    pub(crate) fn found(&mut self, kind: Kind, digest: &Digest, bytes: u64, last: u64) {
        self.shelf(kind).put(digest, bytes, last, last);
        self.saw(kind, digest);
    }

    /// All is about to be counted anew.
    pub(crate) fn begin_round(&mut self) {
        self.round += 1;
    }

    /// Content has been seen on the disk: whether it was known.
    pub(crate) fn saw(&mut self, kind: Kind, digest: &Digest) -> bool {
        let round = self.round;
        let entry = self.shelf(kind).entries.get_mut(digest);
        entry.map(|entry| entry.seen = round).is_some()
    }

    /// Content that was not seen since the round began.
    pub(crate) fn unseen(&mut self, kind: Kind) -> Vec<Digest> {
        let round = self.round;
        let entries = self.shelf(kind).entries.iter();
        entries.filter(|(_, entry)| entry.seen != round).map(|(digest, _)| digest.clone()).collect()
    }

    /// Content is not there any more: whether it was known.
    pub(crate) fn gone(&mut self, kind: Kind, digest: &Digest) -> bool {
        self.shelf(kind).take(digest)
    }

    /// Whether content is known to be there.
    pub(crate) fn knows(&mut self, kind: Kind, digest: &Digest) -> bool {
        self.shelf(kind).entries.contains_key(digest)
    }

    /// Whether it has come back since it was chosen.
    pub(crate) fn is_back(&mut self, victim: &Victim) -> bool {
        match victim {
            Victim::Prefix(name) => self.prefixes.contains_key(name),
            Victim::Content(kind, digest, _) => self.knows(*kind, digest),
        }
    }

    /// A prefix is there that nobody writes.
    pub(crate) fn found_prefix(&mut self, name: &str, bytes: u64, last: u64) {
        self.prefix_gone(name);
        self.prefixes.insert(name.to_owned(), Prefix { bytes, last });
        self.stems.entry(stem_of(name).to_owned()).or_default().push(name.to_owned());
        self.prefix_bytes += bytes;
    }

    /// The names of a blob's prefixes that nobody here writes, the longest first.
    pub(crate) fn prefixes_of(&self, stem: &str) -> Vec<String> {
        let mut names = self.stems.get(stem).cloned().unwrap_or_default();
        names.sort_by_key(|name| Reverse(self.prefixes.get(name).map_or(0, |prefix| prefix.bytes)));
        names
    }

    /// The prefixes that have to go as there are more than `most`: those that nobody has wanted for the longest.
    pub(crate) fn evict_prefixes(&mut self, most: usize) -> Vec<Victim> {
        let over = self.prefixes.len().saturating_sub(most);
        if over == 0 {
            return Vec::new();
        }
        let mut oldest: Vec<_> =
            self.prefixes.iter().map(|(name, prefix)| (prefix.last, name.clone())).collect();
        oldest.sort_unstable();
        oldest.truncate(over);
        oldest.iter().for_each(|(_, name)| self.prefix_gone(name));
        self.leaving += oldest.len();
        oldest.into_iter().map(|(_, name)| Victim::Prefix(name)).collect()
    }

    /// It is not there any more, or is being written again.
    pub(crate) fn prefix_gone(&mut self, name: &str) {
        if let Some(prefix) = self.prefixes.remove(name) {
            self.prefix_bytes -= prefix.bytes;
            let stem = stem_of(name);
            if let Some(names) = self.stems.get_mut(stem) {
                names.retain(|known| known != name);
                if names.is_empty() {
                    self.stems.remove(stem);
                }
            }
        }
    }

    /// `digest` is never to be evicted.
    pub(crate) fn keep(&mut self, digest: &Digest) {
        self.kept.insert(digest.clone());
    }

    /// It has been put in place and is to be synced.
    pub(crate) fn expect_sync(&mut self, kind: Kind, digest: &Digest) {
        *self.pending.entry((kind, digest.clone())).or_default() += 1;
    }

    /// It has been synced, or never will be.
    pub(crate) fn synced(&mut self, kind: Kind, digest: &Digest) {
        let key = (kind, digest.clone());
        if let Some(count) = self.pending.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.pending.remove(&key);
            }
        }
    }

    /// Whether this process put it in place, and has not synced it yet.
    pub(crate) fn is_pending(&self, kind: Kind, digest: &Digest) -> bool {
        !self.pending.is_empty() && self.pending.contains_key(&(kind, digest.clone()))
    }

    /// While not everything has been counted, nothing is evicted: what is least used is not known yet, nor what must stay.
    pub(crate) fn may_evict(&self) -> bool {
        self.counted && self.sorting == 0
    }

    /// Reserves `bytes` within `limit`. What has to go for that is out of the index then; `None`: it can't be had.
    ///
    /// Nothing is evicted before [`may_evict`](Self::may_evict), nor unless `evicts`.
    pub(crate) fn reserve(&mut self, bytes: u64, limit: u64, now: u64, evicts: bool) -> Option<Vec<Victim>> {
        let taken = self.reserved.checked_add(bytes).filter(|taken| *taken <= limit)?;
        let over = (taken + self.prefix_bytes + self.blobs.bytes).saturating_sub(limit);
        let victims = match over {
            0 => Vec::new(),
            _ if !evicts || !self.may_evict() => return None,
            over => self.evict(over, limit, now, true)?,
        };
        self.reserved += bytes;
        Some(victims)
    }

    /// What has to go so that `bytes` of content and prefixes are freed. `all`: nothing goes if that is not enough
    /// (`None`).
    pub(crate) fn evict(&mut self, bytes: u64, limit: u64, now: u64, all: bool) -> Option<Vec<Victim>> {
        let prefixes = self.expendable_prefixes(bytes, limit, now);
        let freed: u64 = prefixes.iter().filter_map(|name| self.prefixes.get(name)).map(|p| p.bytes).sum();
        let kept = &self.kept;
        let blobs = self.blobs.evict(bytes.saturating_sub(freed), all, |digest| kept.contains(digest))?;
        for name in &prefixes {
            self.prefix_gone(name);
        }
        let contents = blobs.into_iter().map(|(digest, bytes)| Victim::Content(Kind::Blob, digest, bytes));
        let victims: Vec<_> = prefixes.into_iter().map(Victim::Prefix).chain(contents).collect();
        self.leaving += victims.len();
        Some(victims)
    }

    /// Manifests that have to go, as there are more than `limit` bytes of them.
    pub(crate) fn evict_manifests(&mut self, limit: u64) -> Vec<Victim> {
        // Records go by their age, see `Records::count`.
        let over = (self.manifests.bytes + self.records.min(limit / 2)).saturating_sub(limit);
        let kept = &self.kept;
        let gone = self.manifests.evict(over, false, |digest| kept.contains(digest)).unwrap_or_default();
        self.leaving += gone.len();
        gone.into_iter().map(|(digest, bytes)| Victim::Content(Kind::Manifest, digest, bytes)).collect()
    }

    /// Bytes of blobs: in place, left, and on their way.
    pub(crate) fn used(&self) -> u64 {
        self.blobs.bytes + self.prefix_bytes + self.reserved
    }

    /// Content of a kind that is in place.
    pub(crate) fn amount(&self, kind: Kind) -> Amount {
        let shelf = match kind {
            Kind::Blob => &self.blobs,
            Kind::Manifest => &self.manifests,
        };
        Amount { count: shelf.entries.len() as u64, bytes: shelf.bytes }
    }

    /// Prefixes that nobody writes.
    pub(crate) fn prefixes(&self) -> Amount {
        Amount { count: self.prefixes.len() as u64, bytes: self.prefix_bytes }
    }

    /// Prefixes go before blobs once nobody has wanted them for a day, or while they take more than a quarter: else
    /// clients that leave early could turn out all that is whole.
    fn expendable_prefixes(&self, bytes: u64, limit: u64, now: u64) -> Vec<String> {
        let mut oldest: Vec<_> = self.prefixes.iter().collect();
        oldest.sort_by_key(|(_, prefix)| prefix.last);
        let mut freed = 0;
        let expendable = oldest.into_iter().take_while(|(_, prefix)| {
            let old = now.saturating_sub(prefix.last) >= PREFIX_LIFE;
            let goes = freed < bytes && (old || self.prefix_bytes - freed > limit / 4);
            freed += prefix.bytes;
            goes
        });
        expendable.map(|(name, _)| name.clone()).collect()
    }

    fn shelf(&mut self, kind: Kind) -> &mut Partition {
        match kind {
            Kind::Blob => &mut self.blobs,
            Kind::Manifest => &mut self.manifests,
        }
    }
}

/// What is before the last hyphen of a prefix's name: after it is what was drawn by lot.
fn stem_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(stem, _)| stem)
}

/// Content of one kind.
#[derive(Default)]
struct Partition {
    entries: HashMap<Digest, Entry>,
    order: EvictionQueue,
    bytes: u64,
}

struct Entry {
    bytes: u64,
    ticket: QueueEntry,
    /// How many read it.
    pins: u32,
    /// When its use was last noted on disk.
    noted: u64,
    /// The round in which its file was last seen.
    seen: u64,
}

impl Partition {
    /// Whether it is new.
    fn put(&mut self, digest: &Digest, bytes: u64, last: u64, noted: u64) -> bool {
        if self.entries.contains_key(digest) {
            return false;
        }
        let ticket = self.order.enter(digest, last);
        self.entries.insert(digest.clone(), Entry { bytes, ticket, pins: 0, noted, seen: 0 });
        self.bytes += bytes;
        true
    }

    fn take(&mut self, digest: &Digest) -> bool {
        let entry = self.entries.remove(digest);
        self.bytes -= entry.as_ref().map_or(0, |entry| entry.bytes);
        entry.is_some()
    }

    fn evict(&mut self, bytes: u64, all: bool, kept: impl Fn(&Digest) -> bool) -> Option<Vec<(Digest, u64)>> {
        let mut victims = HashMap::new();
        let mut freed = 0;
        while freed < bytes {
            let next = self.order.next(|digest| match self.entries.get(digest) {
                // What is kept is kept for good: it need not be looked at ever again.
                Some(_) if kept(digest) => Candidate::Out,
                Some(entry) if entry.pins == 0 => Candidate::Free(entry.ticket),
                Some(entry) => Candidate::Pinned(entry.ticket),
                None => Candidate::Out,
            });
            let Some(digest) = next else { break };
            let size = self.entries.get(&digest).map_or(0, |entry| entry.bytes);
            freed += size;
            victims.insert(digest, size);
        }
        if all && freed < bytes {
            victims.clear();
        }
        self.order.settle(|digest| victims.contains_key(digest));
        for digest in victims.keys() {
            self.take(digest);
        }
        (!all || freed >= bytes).then(|| victims.into_iter().collect())
    }
}

/// A prefix that was not wanted for so long is not worth more than what is whole: a day, in seconds.
const PREFIX_LIFE: u64 = 24 * 60 * 60;

/// The last use is written to disk no more often than this, in seconds: it orders what goes first after a restart, by
/// days rather than by minutes.
const NOTE_EVERY: u64 = 60 * 60;
