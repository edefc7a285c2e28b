//! The amounts that each client has taken of a budget.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;

use crate::budget::client::Client;

/// The amounts that clients have. Split by client, so that two of them seldom meet at a lock.
#[derive(Debug)]
pub(super) struct Shares {
    parts: Box<[Mutex<HashMap<Client, u64>>]>,
    hasher: RandomState,
}

/// Parts of the table: some times the number of cores.
const PARTS: usize = 64;

impl Shares {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// Adds `amount` to what `client` has, if `admit` allows it, which is told what the client has then. `admit` runs under the
    /// lock: between its decision and the addition nothing else of the client happens.
    pub(super) fn add<E>(
        &self,
        client: Client,
        amount: u64,
        admit: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut part = self.part(client).lock();
        match part.entry(client) {
            Entry::Occupied(mut own) => {
                let sum = own.get().saturating_add(amount);
                admit(sum)?;
                own.insert(sum);
            }
            Entry::Vacant(own) => {
                admit(amount)?;
                own.insert(amount);
            }
        }
        Ok(())
    }

    /// Takes `amount` off what `client` has. `settle` runs under the lock.
    pub(super) fn remove(&self, client: Client, amount: u64, settle: impl FnOnce()) {
        let mut part = self.part(client).lock();
        if let Entry::Occupied(mut own) = part.entry(client) {
            let rest = own.get().saturating_sub(amount);
            if rest == 0 {
                own.remove();
            } else {
                own.insert(rest);
            }
        }
        settle();
    }

    /// Returns what `client` has.
    pub(super) fn of(&self, client: Client) -> u64 {
        self.part(client).lock().get(&client).copied().unwrap_or_default()
    }

    /// Returns the number of clients that have something.
    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }

    fn part(&self, client: Client) -> &Mutex<HashMap<Client, u64>> {
        let hash = self.hasher.hash_one(client);
        &self.parts[usize::try_from(hash % PARTS as u64).unwrap_or_default()]
    }
}
