//! The partials that are not being written.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

/// The partials by name, by blob, and by age.
#[derive(Default)]
pub(super) struct PartialIndex {
    entries: HashMap<String, PartialEntry>,
    /// Their names, by what the names of all partials of one blob from one upstream begin with.
    stems: HashMap<String, Vec<String>>,
    by_age: BTreeSet<(u64, String)>,
}

struct PartialEntry {
    bytes: u64,
    last: u64,
}

impl PartialIndex {
    /// Adds a partial, which must not be there.
    pub(super) fn add(&mut self, name: &str, bytes: u64, last: u64) {
        self.entries.insert(name.to_owned(), PartialEntry { bytes, last });
        self.stems.entry(stem_of(name).to_owned()).or_default().push(name.to_owned());
        self.by_age.insert((last, name.to_owned()));
    }

    /// Takes out a partial, and returns its bytes.
    pub(super) fn take(&mut self, name: &str) -> Option<u64> {
        let PartialEntry { bytes, last } = self.entries.remove(name)?;
        self.by_age.remove(&(last, name.to_owned()));
        let stem = stem_of(name);
        if let Some(names) = self.stems.get_mut(stem) {
            names.retain(|known| known != name);
            if names.is_empty() {
                self.stems.remove(stem);
            }
        }
        Some(bytes)
    }

    /// Returns true if there is a partial of this name.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Returns the number of partials.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the names of a blob's partials, the longest first.
    pub(super) fn of(&self, stem: &str) -> Vec<String> {
        let mut names = self.stems.get(stem).cloned().unwrap_or_default();
        names.sort_by_key(|name| Reverse(self.entries.get(name).map_or(0, |partial| partial.bytes)));
        names
    }

    /// Returns the names of the partials that were left longest ago.
    pub(super) fn oldest(&self, most: usize) -> Vec<String> {
        self.by_age.iter().take(most).map(|(_, name)| name.clone()).collect()
    }

    /// Returns the partials, whose bytes are `all`, that go before blobs so that `bytes` are freed, and their size: those that
    /// were left a day ago, and the oldest while all take more than a quarter of `limit`: else clients that leave early could
    /// evict all that is whole.
    pub(super) fn expendable(&self, all: u64, bytes: u64, limit: u64, now: u64) -> (Vec<String>, u64) {
        let (mut names, mut freed) = (Vec::new(), 0);
        for (last, name) in &self.by_age {
            let is_old = now.saturating_sub(*last) >= PARTIAL_LIFE;
            if freed >= bytes || !(is_old || all - freed > limit / 4) {
                break;
            }
            freed += self.entries.get(name).map_or(0, |partial| partial.bytes);
            names.push(name.clone());
        }
        (names, freed)
    }
}

/// Returns what is before the last hyphen of a partial's name: behind it is its random part.
fn stem_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(stem, _)| stem)
}

/// After this time, in seconds, a partial is worth less than a whole blob.
const PARTIAL_LIFE: u64 = 24 * 60 * 60;
