//! The copies of uploads between two requests: each is found again by a name that nobody can guess.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::cache::blobs::push::spool::Spool;
use crate::clock;
use crate::config::limits;

/// All of them.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<Table>);

#[derive(Default)]
struct Table {
    open: HashMap<String, Session>,
    /// Somebody looks now and then for those that nobody goes on with.
    tended: bool,
}

struct Session {
    /// None while a request is sending to it.
    spool: Option<Spool>,
    touched: Instant,
}

impl Sessions {
    /// Enters a copy; the answer is its name. Where there are too many, the one that has been left alone the longest has to
    /// go; `None` if there is none such.
    pub(crate) fn open(self: &Arc<Self>, spool: Spool) -> Option<String> {
        let id = random_id()?;
        let mut table = self.table();
        table.expire(clock::now());
        if table.open.len() >= limits::PUSHES {
            let oldest = table.oldest()?;
            table.open.remove(&oldest);
        }
        table.open.insert(id.clone(), Session { spool: Some(spool), touched: clock::now() });
        if !std::mem::replace(&mut table.tended, true) {
            tokio::spawn(tend(Arc::downgrade(self)));
        }
        Some(id)
    }

    /// The copy, for one request. If another has it, it ends: nobody can tell whose bytes come first.
    pub(crate) fn take(&self, id: &str) -> Option<Spool> {
        let mut table = self.table();
        let spool = table.open.get_mut(id)?.spool.take();
        if spool.is_none() {
            table.open.remove(id);
        }
        spool
    }

    /// The request has ended well.
    pub(crate) fn give_back(&self, id: &str, spool: Spool) {
        if let Some(session) = self.table().open.get_mut(id) {
            *session = Session { spool: Some(spool), touched: clock::now() };
        }
    }

    /// It is over.
    pub(crate) fn close(&self, id: &str) {
        self.table().open.remove(id);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock()
    }
}

impl Table {
    fn expire(&mut self, now: Instant) {
        let life = limits::PUSH_IDLE;
        self.open.retain(|_, session| !session.is_idle() || now.duration_since(session.touched) < life);
    }

    fn oldest(&self) -> Option<String> {
        let idle = self.open.iter().filter(|(_, session)| session.is_idle());
        idle.min_by_key(|(_, session)| session.touched).map(|(id, _)| id.clone())
    }
}

impl Session {
    fn is_idle(&self) -> bool {
        self.spool.is_some()
    }
}

/// Lets go of what nobody goes on with, as long as there is anything.
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

/// `None`: the machine has no randomness.
fn random_id() -> Option<String> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).ok()?;
    Some(format!("{:032x}", u128::from_ne_bytes(random)))
}
