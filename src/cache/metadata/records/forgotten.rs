//! Repositories whose lists do not count any more, until they are removed from the disk.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::config::limits;
use crate::proto::RepositoryName;

/// The repositories, by the ledger's number and their name.
#[derive(Default)]
pub(super) struct Forgotten(Mutex<HashMap<(u64, RepositoryName), usize>>);

impl Forgotten {
    /// Notes that the lists of a repository are to be removed.
    pub(super) fn add(&self, ledger: u64, repository: &RepositoryName) {
        let mut counts = self.0.lock();
        let key = (ledger, repository.clone());
        // So many wait only for a disk that does not answer, from which no lists are read either.
        if counts.len() < limits::DISK_LATER || counts.contains_key(&key) {
            *counts.entry(key).or_default() += 1;
        }
    }

    /// Notes that they were removed once.
    pub(super) fn remove(&self, ledger: u64, repository: &RepositoryName) {
        let mut counts = self.0.lock();
        let key = (ledger, repository.clone());
        if let Some(count) = counts.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }

    /// Returns true if the lists of a repository are still to be removed.
    pub(super) fn has(&self, ledger: u64, repository: &RepositoryName) -> bool {
        self.0.lock().contains_key(&(ledger, repository.clone()))
    }
}
