//! The markers of use: empty objects beside content, written anew when it is used, so that a sweep finds what is used still.
//!
//! Content itself keeps the time at which it was written: copying it onto itself rewrites all of it in some stores, and leaves the
//! time as it is in others (buildkite/agent#4050, minio#12777).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::path::Path;

use crate::bucket::client::BucketClient;
use crate::bucket::error::BucketError;
use crate::bucket::layout::ObjectNames;
use crate::clock;

/// The markers of one bucket.
pub(super) struct UseMarks {
    client: Arc<BucketClient>,
    names: ObjectNames,
    /// A marker is written anew once it is older than this.
    life: Duration,
    /// Content whose marker, or itself, was seen to be younger than that.
    fresh: moka::sync::Cache<Path, ()>,
}

impl UseMarks {
    /// Returns the markers in a bucket whose objects are kept for `keep_for` after their last use.
    pub(super) fn new(client: Arc<BucketClient>, names: ObjectNames, keep_for: Duration) -> Self {
        let life = keep_for / 4;
        let fresh = moka::sync::Cache::builder().max_capacity(FRESH).time_to_live(life).build();
        Self { client, names, life, fresh }
    }

    /// Returns true if content that was written at `written` is to be marked as used.
    pub(super) fn is_due(&self, content: &Path, written: i64) -> bool {
        !self.is_young(written) && !self.fresh.contains_key(content)
    }

    /// Notes that an object has been written anew.
    pub(super) fn note_written(&self, path: &Path) {
        self.fresh.insert(path.clone(), ());
    }

    /// Marks content as used, unless that was done lately, by whichever replica.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) async fn mark(&self, content: &Path) -> Result<(), BucketError> {
        if self.fresh.contains_key(content) {
            return Ok(());
        }
        let marker = self.names.marker_of(content);
        let is_marked = match self.client.head(&marker).await {
            Ok(head) => self.is_young(head.last_modified.timestamp()),
            Err(BucketError::Absent) => false,
            Err(error) => return Err(error),
        };
        if !is_marked {
            self.client.put(&marker, Bytes::new()).await?;
        }
        self.fresh.insert(content.clone(), ());
        Ok(())
    }

    /// Returns true if content that was used on this disk at `used` is to be marked.
    pub(super) fn counts(&self, used: SystemTime) -> bool {
        clock::wall().duration_since(used).is_ok_and(|age| age < self.life)
    }

    fn is_young(&self, written: i64) -> bool {
        let written = Duration::from_secs(u64::try_from(written).unwrap_or_default());
        clock::wall().duration_since(std::time::UNIX_EPOCH + written).is_ok_and(|age| age < self.life)
    }
}

/// The content that is remembered so. Of more it is asked again.
const FRESH: u64 = 256 * 1024;
