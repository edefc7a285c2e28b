//! The partials in use: the fills of one blob share one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::MutexGuard;

use crate::cache::blobs::fill::state::Key;
use crate::cache::store::Partial;
use crate::config::limits;

/// The partials in use, by the key of the whole blob.
#[derive(Default)]
pub(crate) struct OpenPartials {
    places: Mutex<HashMap<Key, Arc<Place>>>,
    /// How many are kept open that no fill and no reader uses.
    idle: Arc<AtomicUsize>,
}

/// A partial that is kept open.
struct Idle {
    partial: Option<Arc<Partial>>,
    count: Arc<AtomicUsize>,
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.partial = None;
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of the partial of one blob.
#[derive(Default)]
pub(crate) struct Place(tokio::sync::Mutex<Weak<Partial>>);

/// A place that no other looks at meanwhile: who finds it empty opens a partial, or begins one.
pub(crate) struct Turn<'a>(MutexGuard<'a, Weak<Partial>>);

impl OpenPartials {
    /// Returns the place of the partial of a blob.
    pub(crate) fn place(&self, whole: &Key) -> Arc<Place> {
        let mut places = self.places.lock();
        if let Some(place) = places.get(whole) {
            return place.clone();
        }
        places.retain(|_, place| Arc::strong_count(place) > 1 || !place.is_empty());
        places.entry(whole.clone()).or_default().clone()
    }

    /// Returns the partial of a blob, if it is in use and no other is opening it.
    pub(crate) fn get(&self, whole: &Key) -> Option<Arc<Partial>> {
        let place = self.places.lock().get(whole).cloned()?;
        let partial = place.0.try_lock().ok()?.upgrade();
        partial.filter(|partial| partial.is_usable())
    }

    /// Keeps a partial open for a while, if not too many are: the next part of it is asked for soon, and to open it anew costs more
    /// than all of that.
    pub(crate) fn linger(&self, partial: Arc<Partial>) {
        let count = self.idle.clone();
        if count.fetch_add(1, Ordering::Relaxed) >= limits::PARTIALS_LINGERING {
            count.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let idle = Idle { partial: Some(partial), count };
        tokio::spawn(async move {
            tokio::time::sleep(limits::PARTIAL_LINGERS).await;
            drop(idle);
        });
    }
}

impl Place {
    /// Waits for the turn to look.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        Turn(self.0.lock().await)
    }

    fn is_empty(&self) -> bool {
        self.0.try_lock().is_ok_and(|partial| partial.strong_count() == 0)
    }
}

impl Turn<'_> {
    /// Returns the partial, if it is in use.
    pub(crate) fn get(&self) -> Option<Arc<Partial>> {
        self.0.upgrade().filter(|partial| partial.is_usable())
    }

    /// Puts a partial into the place.
    pub(crate) fn put(&mut self, partial: Partial) -> Arc<Partial> {
        let partial = Arc::new(partial);
        *self.0 = Arc::downgrade(&partial);
        partial
    }
}
