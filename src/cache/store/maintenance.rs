//! The thread that counts what is there, makes room ahead of need, and looks whether a disk in trouble works again.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::store::index::Victim;
use crate::cache::store::integrity;
use crate::cache::store::integrity::Verdict;
use crate::cache::store::layout::{LayoutError, WriteSmall, create_new_for};
use crate::cache::store::sync::Job;
use crate::cache::store::{Inner, Kind, space};
use crate::clock;
use crate::config::limits;
use crate::proto::Digest;

/// Wakes the thread, and ends it.
#[derive(Default)]
pub(crate) struct Keeper {
    state: Mutex<MaintenanceState>,
    changed: Condvar,
    closed: AtomicBool,
}

#[derive(Default)]
struct MaintenanceState {
    rung: bool,
    busy: bool,
    look: bool,
    victims: Vec<Victim>,
    /// What is to be hashed again.
    doubts: Vec<(Kind, Digest)>,
    /// What was last hashed for such a doubt, and when.
    looked: HashMap<(Kind, Digest), Instant>,
}

impl Keeper {
    /// There is more than there was.
    pub(crate) fn ring(&self) {
        self.state().rung = true;
        self.changed.notify_all();
    }

    /// The directory is not what it was.
    pub(crate) fn look_again(&self) {
        self.state().look = true;
        self.ring();
    }

    /// Has removed what is out of the index: large files take long.
    pub(crate) fn remove(&self, victims: Vec<Victim>) {
        if !victims.is_empty() {
            self.state().victims.extend(victims);
            self.ring();
        }
    }

    /// What is to be removed and has not been begun with: the caller does it.
    pub(crate) fn take(&self) -> Vec<Victim> {
        std::mem::take(&mut self.state().victims)
    }

    /// Has content hashed again, unless that was done a short while ago: whoever says that something is damaged must not keep
    /// the disk busy by saying it again and again.
    pub(crate) fn doubt(&self, kind: Kind, digest: &Digest) {
        let (now, doubt) = (clock::now(), (kind, digest.clone()));
        let mut state = self.state();
        state.looked.retain(|_, looked| now.duration_since(*looked) < limits::CACHE_DOUBT_PAUSE);
        if state.looked.len() < DOUBTS && !state.looked.contains_key(&doubt) {
            state.looked.insert(doubt.clone(), now);
            state.doubts.push(doubt);
            state.rung = true;
            drop(state);
            self.changed.notify_all();
        }
    }

    fn doubts(&self) -> Vec<(Kind, Digest)> {
        std::mem::take(&mut self.state().doubts)
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring();
    }

    /// Waits until the thread has nothing to do.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        while state.busy || state.rung {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits for a ring, at most `patience`; `None`: there is more to do anyway. What is to be removed, and whether the
    /// directory is to be looked at again.
    fn wait(&self, patience: Option<Duration>) -> (Vec<Victim>, bool) {
        let mut state = self.state();
        if let Some(patience) = patience {
            state.busy = false;
            self.changed.notify_all();
            let waited = self.changed.wait_timeout_while(state, patience, |state| !state.rung);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.rung = false;
        state.busy = true;
        (std::mem::take(&mut state.victims), std::mem::take(&mut state.look))
    }

    fn state(&self) -> MutexGuard<'_, MaintenanceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread: works until the store is closed.
pub(crate) fn work(store: &Arc<Inner>) {
    crate::cache::store::lower_priority();
    let mut counted = 0;
    let mut tended = (crate::cache::store::now() + TEND_AFTER).saturating_sub(COUNT_EVERY);
    let mut doubtful = Vec::new();
    let mut patience = Some(Duration::ZERO);
    loop {
        let (victims, look) = store.keeper.wait(patience);
        store.remove_victims(victims);
        if store.keeper.is_closed() {
            return;
        }
        if look || store.trouble.is() {
            store.test();
        }
        if store.layout.is_readable() && crate::cache::store::now() >= counted + COUNT_EVERY {
            doubtful = store.count();
            counted = crate::cache::store::now();
        }
        if store.layout.is_readable() && crate::cache::store::now() >= tended + COUNT_EVERY {
            store.tend();
            tended = crate::cache::store::now();
        }
        store.make_room();
        for (kind, digest) in store.keeper.doubts() {
            doubtful.extend(store.layout.content(kind, &digest).map(|path| (kind, digest, path)));
        }
        // One at a time, as room may have to be made meanwhile.
        if let Some((kind, digest, path)) = doubtful.pop() {
            store.settle_doubt(kind, &digest, &path);
        }
        let idle = if store.trouble.is() { TEST_EVERY } else { LOOK_EVERY };
        patience = doubtful.is_empty().then_some(idle);
    }
}

/// Content that may be damaged, and where it is.
type Doubtful = (Kind, Digest, PathBuf);

impl Inner {
    /// Makes the directory what it should be; says so where that can't be done. Whether it can be used.
    pub(crate) fn prepare(&self) -> bool {
        match self.layout.prepare() {
            Ok(()) => true,
            Err(error @ LayoutError::Version(_)) => {
                self.trouble.enter(format!("the cache's directory can't be used: {error}"));
                false
            }
            Err(LayoutError::Io(error)) => {
                self.trouble.met(&error);
                if !self.trouble.is() {
                    self.trouble.enter(format!("the cache's directory can't be used: {error}"));
                }
                false
            }
        }
    }

    /// Whether something can be kept again.
    fn test(&self) {
        if !self.prepare() {
            return;
        }
        let lack = self.lack(0);
        if lack > 0 {
            let victims = self.evict_for_disk(lack);
            self.remove_victims(victims);
        }
        if self.lack(0) > 0 {
            self.trouble.enter(space::FULL.to_owned());
            return;
        }
        match self.try_writing() {
            Ok(()) => self.trouble.end(),
            Err(error) => self.trouble.met(&error),
        }
    }

    fn try_writing(&self) -> io::Result<()> {
        let name = crate::cache::store::random_name("test");
        create_new_for(&self.layout, &name, |file, _| file.write_all_and_sync(&[0; 4096]))?;
        self.layout.remove_partial(&name)
    }

    /// Counts all that is there, and sorts out what earlier processes left. What is known already stays as it is known.
    /// Gives what has to be hashed before it can be trusted.
    fn count(&self) -> Vec<Doubtful> {
        let mut names = self.layout.partial_names().unwrap_or_default();
        names.sort();
        names.dedup();
        for name in names {
            if let Err(error) = self.tidy_partial(&name) {
                tracing::debug!(name, %error, "a leftover of the cache can't be tidied up");
            }
        }
        self.tidy_notes();
        self.index().knows_prefixes = true;
        self.index().begin_round();
        let mut doubtful = Vec::new();
        for kind in Kind::ALL {
            match self.layout.each(kind, |digest, path| self.count_one(kind, digest, path, &mut doubtful)) {
                Ok(()) => self.forget_what_vanished(kind),
                Err(error) => self.trouble.met(&error),
            }
        }
        self.index().counted = true;
        doubtful
    }

    /// What another process removed is not there any more.
    pub(crate) fn forget_what_vanished(&self, kind: Kind) {
        if self.keeper.is_closed() {
            return;
        }
        let unseen = self.index().unseen(kind);
        for digest in unseen {
            let path = self.layout.content(kind, &digest);
            let gone = |path: PathBuf| {
                std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            };
            if path.is_some_and(gone) {
                self.index().gone(kind, &digest);
            }
        }
    }

    /// Counts all that is there, and changes nothing.
    pub(crate) fn count_quietly(&self) {
        if !self.prepare() {
            return;
        }
        for name in self.layout.partial_names().unwrap_or_default() {
            if let Ok(part) = std::fs::symlink_metadata(self.layout.partial(&name, "part")) {
                self.index().found_prefix(&name, part.len(), 0);
            }
        }
        for kind in Kind::ALL {
            let counted = self.layout.each(kind, |digest, path| {
                if let Ok(known) = std::fs::symlink_metadata(path) {
                    self.index().found(kind, &digest, known.len(), 0);
                }
                true
            });
            if let Err(error) = counted {
                self.trouble.met(&error);
            }
        }
        self.index().counted = true;
        if self.lack(0) > 0 {
            self.trouble.enter(space::FULL.to_owned());
        }
    }

    /// Whether to go on.
    fn count_one(&self, kind: Kind, digest: Digest, path: &Path, doubtful: &mut Vec<Doubtful>) -> bool {
        if self.index().saw(kind, &digest) {
            return !self.keeper.is_closed();
        }
        let Ok(known) = std::fs::symlink_metadata(path) else { return true };
        let pending = self.index().is_pending(kind, &digest);
        if integrity::is_doubtful(&known) && !pending {
            doubtful.push((kind, digest, path.to_owned()));
        } else if known.is_file() {
            if integrity::is_marked(&known) && !pending {
                // Whoever put it there was killed before it was synced.
                let directories = path.parent().map(Path::to_owned).into_iter().collect();
                self.sync.push(Job::Placed { kind, digest: digest.clone(), directories });
            }
            self.index().found(kind, &digest, known.len(), u64::try_from(known.atime()).unwrap_or_default());
        }
        !self.keeper.is_closed()
    }

    /// Content that was put in place and perhaps never reached the disk, before a power loss or by another process.
    fn settle_doubt(&self, kind: Kind, digest: &Digest, path: &Path) {
        let stop = || self.keeper.is_closed() || self.index().is_pending(kind, digest);
        match integrity::prove(path, digest, true, stop) {
            Some(Verdict::Good) => {
                let length = std::fs::metadata(path).map_or(0, |known| known.len());
                self.index().found(kind, digest, length, crate::cache::store::now());
            }
            Some(Verdict::Wrong) => {
                self.index().gone(kind, digest);
                tracing::info!(%digest, "content that was damaged was removed from the cache");
            }
            Some(Verdict::Unreadable(error)) => self.trouble.met(&error),
            None => {}
        }
    }

    /// Evicts down to a mark somewhat below what is allowed, so that nobody has to wait for it.
    fn make_room(&self) {
        let limit = self.space.blobs();
        let lack = if self.layout.is_readable() { self.lack(0) } else { 0 };
        let victims = {
            let mut index = self.index();
            if !index.may_evict() {
                return;
            }
            let over =
                if index.used() > limit - limit / 100 { index.used() - (limit - limit / 100 * 3) } else { 0 };
            let over = over.max(lack);
            let mut victims = index.evict_manifests(self.space.manifests());
            victims.extend(index.evict_prefixes(limits::CACHE_PREFIXES));
            if over > 0 {
                victims
                    .extend(index.evict(over, limit, crate::cache::store::now(), false).unwrap_or_default());
            }
            victims
        };
        self.remove_victims(victims);
    }

    fn evict_for_disk(&self, lack: u64) -> Vec<Victim> {
        let mut index = self.index();
        if !index.may_evict() {
            return Vec::new();
        }
        index.evict(lack, self.space.blobs(), crate::cache::store::now(), false).unwrap_or_default()
    }
}

/// Different contents of which it is said within that pause that they are damaged: with more, a verification is due.
const DOUBTS: usize = 1024;

/// How often a disk in trouble is tried.
const TEST_EVERY: Duration = Duration::from_secs(5);

/// How often it is looked whether others have filled the disk, and whether there is trouble.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long after the start what belongs to the store and is not in it is looked after, in seconds: by then it is known what
/// of it must stay.
const TEND_AFTER: u64 = 60;

/// How often all is counted anew, in seconds: another process may have put something there.
const COUNT_EVERY: u64 = 60 * 60;
