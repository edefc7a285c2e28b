//! The copies of uploads between two requests: each is found again by a random id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::budget::{Budget, Client, Lease};
use crate::cache::blobs::push::spool::Spool;
use crate::clock;
use crate::config::limits;

/// The copies that are not finished.
pub(crate) struct Sessions {
    budget: Arc<Budget>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: HashMap<String, Session>,
    /// A task looks now and then for idle ones.
    tended: bool,
}

struct Session {
    /// None while a request is sending to it.
    spool: Option<Spool>,
    touched: Instant,
    /// The client whose upload it is a copy of.
    client: Client,
    _lease: Lease,
}

impl Sessions {
    /// Returns an empty list of copies, which are taken from `budget`.
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, table: Mutex::default() }
    }

    /// Returns the budget of copies.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Enters a copy of an upload of `client`, and returns its id. Where there are too many, the one that has been idle the
    /// longest has to go: of the same client if that has its share, else of all. None if none is idle.
    pub(crate) fn open(self: &Arc<Self>, client: Client, spool: Spool) -> Option<String> {
        let id = random_id()?;
        let mut table = self.table();
        table.expire(clock::now());
        let own = self.budget.is_over_share(client, 1);
        if own || self.budget.is_full(1) {
            let oldest = table.oldest(own.then_some(client));
            oldest.and_then(|oldest| table.open.remove(&oldest));
        }
        let lease = self.budget.try_take(client, 1)?;
        table
            .open
            .insert(id.clone(), Session { spool: Some(spool), touched: clock::now(), client, _lease: lease });
        if !std::mem::replace(&mut table.tended, true) {
            tokio::spawn(tend(Arc::downgrade(self)));
        }
        Some(id)
    }

    /// Takes the copy out for one request. If another request has it, it ends: the order of their bytes is unknown.
    pub(crate) fn take(&self, id: &str) -> Option<Spool> {
        let mut table = self.table();
        let spool = table.open.get_mut(id)?.spool.take();
        if spool.is_none() {
            table.open.remove(id);
        }
        spool
    }

    /// Gives a copy back after a request that succeeded.
    pub(crate) fn give_back(&self, id: &str, spool: Spool) {
        if let Some(session) = self.table().open.get_mut(id) {
            (session.spool, session.touched) = (Some(spool), clock::now());
        }
    }

    /// Ends a copy.
    pub(crate) fn close(&self, id: &str) {
        self.table().open.remove(id);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }
}

impl Table {
    fn expire(&mut self, now: Instant) {
        let life = limits::PUSH_IDLE;
        self.open.retain(|_, session| !session.is_idle() || now.duration_since(session.touched) < life);
    }

    /// Returns the copy that has been idle the longest, of `client` or of all.
    fn oldest(&self, client: Option<Client>) -> Option<String> {
        let idle = self
            .open
            .iter()
            .filter(|(_, session)| session.is_idle() && client.is_none_or(|client| session.client == client));
        idle.min_by_key(|(_, session)| session.touched).map(|(id, _)| id.clone())
    }
}

impl Session {
    fn is_idle(&self) -> bool {
        self.spool.is_some()
    }
}

/// Ends copies that have been idle for too long, as long as there is any.
async fn tend(sessions: std::sync::Weak<Sessions>) {
    loop {
        tokio::time::sleep(limits::PUSH_IDLE / 60).await;
        let Some(sessions) = sessions.upgrade() else { return };
        let mut table = sessions.table();
        table.expire(clock::now());
        if table.open.is_empty() {
            table.tended = false;
            return;
        }
    }
}

/// Returns a random id; none if the machine has no randomness.
fn random_id() -> Option<String> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).ok()?;
    Some(format!("{:032x}", u128::from_ne_bytes(random)))
}
