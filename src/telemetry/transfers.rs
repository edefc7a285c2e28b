//! The transfers that are under way, for the operator to look at.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use slab::Slab;

use crate::proto::RepositoryName;
use crate::telemetry::subject::Subject;

/// A response that takes a while to send.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// The repository's canonical name.
    pub repository: RepositoryName,
    /// The digest.
    pub subject: Option<Subject>,
    /// The client's name.
    pub user: Option<Arc<str>>,
    /// The client's address.
    pub client: IpAddr,
    /// The upstream's name.
    pub upstream: Option<Arc<str>>,
    /// The cache's result.
    pub cache: Option<&'static str>,
    /// Bytes of the whole response, if known.
    pub length: Option<u64>,
    /// The time at which the request arrived.
    pub began: Instant,
    /// Bytes that were handed to the connection.
    pub sent: AtomicU64,
}

/// The transfers under way. A short response is not listed: it would cost a lock, and end before an operator could see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transfers(Arc<Mutex<Slab<Arc<Transfer>>>>);

/// The least length of a response that counts as a transfer, in bytes.
pub(crate) const LEAST_TRANSFER: u64 = 1024 * 1024;

impl Transfers {
    /// Adds a transfer, which lasts until the guard is dropped.
    pub(crate) fn begin(&self, transfer: Transfer) -> TransferGuard {
        let transfer = Arc::new(transfer);
        let place = self.0.lock().insert(transfer.clone());
        TransferGuard { transfers: self.clone(), place, transfer }
    }

    /// Returns the number of transfers.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Returns the transfers, the longest under way first.
    pub(crate) fn all(&self) -> Vec<Arc<Transfer>> {
        let mut all: Vec<_> = self.0.lock().iter().map(|(_, transfer)| transfer.clone()).collect();
        all.sort_by_key(|transfer| transfer.began);
        all
    }
}

/// A transfer that is under way.
#[derive(Debug)]
pub(crate) struct TransferGuard {
    transfers: Transfers,
    place: usize,
    transfer: Arc<Transfer>,
}

impl TransferGuard {
    /// Notes that `bytes` more were handed to the connection.
    pub(crate) fn sent(&self, bytes: u64) {
        self.transfer.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        self.transfers.0.lock().try_remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn transfer(name: &str) -> Transfer {
        Transfer {
            repository: RepositoryName::parse(name).unwrap(),
            subject: None,
            user: Some("alice".into()),
            client: [192, 0, 2, 1].into(),
            upstream: None,
            cache: Some("hit"),
            length: Some(LEAST_TRANSFER),
            began: clock::now(),
            sent: AtomicU64::new(0),
        }
    }

    #[test]
    fn a_transfer_is_there_until_it_ends() {
        let transfers = Transfers::default();
        let (first, second) = (transfers.begin(transfer("a")), transfers.begin(transfer("b")));
        first.sent(5);
        first.sent(7);
        let all = transfers.all();
        assert_eq!((all.len(), all[0].sent.load(Ordering::Relaxed)), (2, 12));
        drop(first);
        assert_eq!(transfers.all()[0].repository.as_str(), "b");
        drop(second);
        assert_eq!(transfers.count(), 0);
    }
}
