//! The amounts that each client has taken of a budget.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::budget::client::Client;

/// The amounts that clients have. Split by client, so that two of them seldom meet at a lock.
#[derive(Debug)]
pub(super) struct Shares {
    parts: Box<[Mutex<HashMap<Client, u64>>]>,
}

/// Parts of the table: some times the number of cores. A power of two.
const PARTS: usize = 64;

/// The length up to which a part keeps a client that has nothing: mostly its next request is near.
const KEPT: usize = 64;

impl Shares {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect() }
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
        if let Some(own) = part.get_mut(&client) {
            let sum = own.saturating_add(amount);
            admit(sum)?;
            *own = sum;
        } else {
            admit(amount)?;
            part.insert(client, amount);
        }
        Ok(())
    }

    /// Takes `amount` off what `client` has. `settle` runs under the lock.
    pub(super) fn remove(&self, client: Client, amount: u64, settle: impl FnOnce()) {
        let mut part = self.part(client).lock();
        let is_long = part.len() > KEPT;
        if let Some(own) = part.get_mut(&client) {
            *own = own.saturating_sub(amount);
            if is_long && *own == 0 {
                part.remove(&client);
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
        self.parts.iter().map(|part| part.lock().values().filter(|own| **own > 0).count()).sum()
    }

    /// Returns the part of a client. A client that chooses its address can choose its part, and makes no other wait by that for
    /// longer than a look-up.
    fn part(&self, client: Client) -> &Mutex<HashMap<Client, u64>> {
        // Fibonacci hashing: the highest bits depend on all of the number's.
        let highest = client.number().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PARTS.ilog2());
        &self.parts[usize::try_from(highest).unwrap_or_default()]
    }
}
