//! The files of a partial, as the sync thread needs them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FlockOperation;

use crate::cache::store::files;
use crate::cache::store::head::Head;
use crate::cache::store::integrity::LostWrites;
use crate::cache::store::layout::{Layout, NOTE};

/// The locked file of a partial, with its name and its head.
pub(crate) struct PartialFile {
    pub(crate) name: String,
    pub(crate) file: Arc<File>,
    pub(crate) head: Head,
    /// The offset up to which all bytes have been written.
    pub(crate) reached: AtomicU64,
    pub(crate) lost: LostWrites,
    /// True while the file waits to be synced.
    pub(crate) queued: AtomicBool,
    /// True once the files are removed: a head that is written afterwards would stay for ever.
    gone: Mutex<bool>,
}

impl PartialFile {
    /// Returns the partial called `name` whose bytes are in `file`.
    pub(crate) fn new(name: String, file: File, head: Head) -> Arc<Self> {
        Arc::new(Self {
            name,
            file: Arc::new(file),
            reached: AtomicU64::new(head.reached),
            head,
            lost: LostWrites::default(),
            queued: AtomicBool::new(false),
            gone: Mutex::new(false),
        })
    }

    /// Removes its files. A file that has been renamed to its place is not among them any more.
    pub(crate) fn remove(&self, layout: &Layout) -> io::Result<()> {
        *self.gone.lock() = true;
        layout.remove_partial(&self.name)
    }

    /// Syncs it as far as it has been written, then notes in its head how far that is.
    pub(crate) fn sync(&self, layout: &Layout) -> io::Result<()> {
        let reached = self.reached.load(Ordering::Acquire);
        self.lost.check()?;
        files::sync_data(&self.file).inspect_err(|_| self.lost.note())?;
        let head = Head { reached, ..self.head.clone() };
        let new = layout.partial(&self.name, "new");
        head.write(&new, true)?;
        let gone = self.gone.lock();
        if *gone { files::remove(&new) } else { Head::put(layout, &self.name) }
    }

    /// Notes its name for other processes, as it was left.
    pub(crate) fn note_left(&self, layout: &Layout) -> io::Result<()> {
        let new = layout.partial(&self.name, "new");
        files::write_all(&files::create(&new)?, self.name.as_bytes())?;
        files::rename(&new, &layout.partial(&self.head.stem(), NOTE))
    }
}

/// The partials that this process left and has not synced yet: they are still locked, but can be resumed here.
#[derive(Default)]
pub(crate) struct LeftPartials(Mutex<HashMap<String, Arc<PartialFile>>>);

impl LeftPartials {
    /// Adds a partial.
    pub(crate) fn insert(&self, file: Arc<PartialFile>) {
        self.lock().insert(file.name.clone(), file);
    }

    /// Takes out a partial whose name begins with `stem`.
    pub(crate) fn take(&self, stem: &str) -> Option<Arc<PartialFile>> {
        let mut left = self.lock();
        let name = left.keys().find(|name| name.starts_with(stem))?.clone();
        left.remove(&name)
    }

    /// Unlocks a partial for other processes, unless this process has resumed it. Readers may still have it open, so that
    /// closing it would not unlock it.
    pub(crate) fn unlock(&self, file: &Arc<PartialFile>) {
        let mut left = self.lock();
        if left.get(&file.name).is_some_and(|there| Arc::ptr_eq(there, file)) {
            left.remove(&file.name);
            let _ = rustix::fs::flock(&file.file, FlockOperation::Unlock);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<PartialFile>>> {
        self.0.lock()
    }
}
