//! The files of a partial, as the sync thread needs them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FlockOperation;

use crate::cache::store::head::{Head, Scattered};
use crate::cache::store::integrity::LostWrites;
use crate::cache::store::layout::{Layout, NOTE};
use crate::cache::store::segments::Segments;
use crate::cache::store::{files, integrity};

/// The locked file of a partial, with its name and its head.
pub(crate) struct PartialFile {
    pub(crate) name: String,
    pub(crate) file: Arc<File>,
    pub(crate) head: Head,
    parts: Mutex<Parts>,
    pub(crate) lost: LostWrites,
    /// True while the file waits to be synced.
    pub(crate) queued: AtomicBool,
    /// True once the files are removed: a head that is written afterwards would stay for ever. Held while a head is written.
    gone: Mutex<bool>,
}

/// The parts of a blob that are in its file.
#[derive(Default)]
struct Parts {
    /// Their bytes were written.
    written: Segments,
    synced: Segments,
    /// True once the blob does not come in order.
    scattered: bool,
    /// The bytes that were written when that was noted last.
    noted: u64,
    /// How often the partial was left.
    lefts: u64,
}

impl PartialFile {
    /// Returns the partial called `name` whose bytes are in `file`, which has `written` of them.
    pub(crate) fn new(name: String, file: File, head: Head, written: Segments) -> Arc<Self> {
        let scattered = head.scattered.is_some();
        let synced = head.scattered.as_ref().map(|parts| parts.synced.clone());
        let mut synced = synced.unwrap_or_else(|| Segments::prefix_of(head.reached));
        synced.truncate(written.end());
        let noted = written.bytes();
        let parts = Parts { written, synced, scattered, noted, lefts: 0 };
        Arc::new(Self {
            name,
            file: Arc::new(file),
            head,
            parts: Mutex::new(parts),
            lost: LostWrites::default(),
            queued: AtomicBool::new(false),
            gone: Mutex::new(false),
        })
    }

    /// Returns the parts whose bytes were written.
    pub(crate) fn written(&self) -> Segments {
        self.parts().written.clone()
    }

    /// Looks at the parts whose bytes were written.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Segments) -> T) -> T {
        look(&self.parts().written)
    }

    /// Notes that the bytes from `first` up to `end` were written. Returns how many are there.
    pub(crate) fn note_written(&self, first: u64, end: u64) -> u64 {
        let mut parts = self.parts();
        parts.written.insert(first, end);
        parts.written.bytes()
    }

    /// Notes that it is left. Returns how often it has been.
    pub(crate) fn note_leaving(&self) -> u64 {
        let mut parts = self.parts();
        parts.lefts += 1;
        parts.lefts
    }

    /// Returns how often it was left.
    pub(crate) fn lefts(&self) -> u64 {
        self.parts().lefts
    }

    /// Returns true if the blob does not come in order.
    pub(crate) fn is_scattered(&self) -> bool {
        self.parts().scattered
    }

    /// Notes, also in the head, that the blob does not come in order from now on: what is written is noted part by part.
    pub(crate) fn scatter(&self, layout: &Layout) -> io::Result<()> {
        let gone = self.gone.lock();
        if std::mem::replace(&mut self.parts().scattered, true) {
            return Ok(());
        }
        self.write_head(&gone, layout, false).inspect_err(|_| self.parts().scattered = false)
    }

    /// Notes in the head what was written since the last time, if the blob does not come in order, and it is `least` bytes. A
    /// kill of the process costs what is not noted; a power failure what is not synced.
    pub(crate) fn note(&self, layout: &Layout, least: u64) -> io::Result<()> {
        let is_due = {
            let parts = self.parts();
            parts.scattered && parts.written.bytes() >= parts.noted.saturating_add(least)
        };
        // While another head is being written, this is done with the next bytes.
        match self.gone.try_lock().filter(|_| is_due) {
            Some(gone) => self.write_head(&gone, layout, false),
            None => Ok(()),
        }
    }

    /// Removes its files. A file that has been renamed to its place is not among them any more.
    pub(crate) fn remove(&self, layout: &Layout) -> io::Result<()> {
        let mut gone = self.gone.lock();
        if std::mem::replace(&mut *gone, true) { Ok(()) } else { layout.remove_partial(&self.name) }
    }

    /// Syncs it as far as it has been written, then notes in its head how far that is.
    pub(crate) fn sync(&self, layout: &Layout) -> io::Result<()> {
        let written = self.written();
        self.lost.check()?;
        files::sync_data(&self.file).inspect_err(|_| self.lost.note())?;
        let gone = self.gone.lock();
        self.parts().synced = written;
        self.write_head(&gone, layout, true)
    }

    /// Writes the head, unless the files are gone. `gone` shows that no other does meanwhile.
    fn write_head(&self, gone: &MutexGuard<'_, bool>, layout: &Layout, synced: bool) -> io::Result<()> {
        if **gone {
            return Ok(());
        }
        let (head, noted) = {
            let parts = self.parts();
            let head = Head { reached: parts.synced.prefix(), ..self.head.clone() };
            let scattered = Scattered { written: parts.written.clone(), synced: parts.synced.clone() };
            let head = if parts.scattered {
                // All that is there was synced before, or written since the machine has booted.
                Head { boot: integrity::boot(), scattered: Some(scattered), ..head }
            } else {
                head
            };
            (head, parts.written.bytes())
        };
        head.write(&layout.partial(&self.name, "new"), synced)?;
        Head::put(layout, &self.name)?;
        self.parts().noted = noted;
        Ok(())
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock()
    }

    /// Notes its name for other processes, as it was left.
    pub(crate) fn note_left(&self, layout: &Layout) -> io::Result<()> {
        // Heads are written to the same file.
        let _turn = self.gone.lock();
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
