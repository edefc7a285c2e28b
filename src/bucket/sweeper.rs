//! The sweeper: deletes from the store what was not used for long, the least used of what is too much, and uploads that nothing
//! will complete.
//!
//! Runs once a day, at the replica to which the constant [`SWEEPER`] belongs; two that sweep at a time delete the same. Objects and
//! their markers are listed side by side, since stores list in the order of names. In memory is a page of each, and how many bytes were
//! used last in which hour. In a store that lists otherwise some markers are passed over, and more is deleted than need be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::ObjectMeta;

use crate::bucket::client::BucketClient;
use crate::bucket::error::BucketError;
use crate::bucket::layout::ObjectNames;
use crate::cache::store::Kind;
use crate::clock;
use crate::config;

/// The object whose owner among the replicas sweeps.
pub(crate) const SWEEPER: &str = "sweeper";

/// The sweeper of one bucket.
pub(super) struct Sweeper {
    pub(super) client: Arc<BucketClient>,
    pub(super) names: ObjectNames,
    pub(super) keep_for: Duration,
    pub(super) max_size: u64,
}

/// Sweeps a bucket once, whosever turn it is.
///
/// # Errors
/// [`BucketError`].
pub(crate) async fn sweep_bucket(settings: &config::Bucket) -> Result<SweepSum, BucketError> {
    let sweeper = Sweeper {
        client: Arc::new(BucketClient::new(settings, 0)?),
        names: ObjectNames::new(&settings.prefix),
        keep_for: settings.keep_for,
        max_size: settings.max_size,
    };
    sweeper.sweep().await
}

/// The results of a sweep.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SweepSum {
    /// Objects that are left, and their bytes.
    pub(crate) kept: u64,
    pub(crate) kept_bytes: u64,
    /// Objects that were deleted, and their bytes.
    pub(crate) deleted: u64,
    pub(crate) deleted_bytes: u64,
}

impl Sweeper {
    /// Sweeps once.
    ///
    /// # Errors
    /// [`BucketError`]: what was not reached is swept the next time.
    pub(super) async fn sweep(&self) -> Result<SweepSum, BucketError> {
        let oldest = seconds().saturating_sub(self.keep_for.as_secs());
        let mut by_hour = BTreeMap::<u64, u64>::new();
        let count = |used: u64, bytes: u64| *by_hour.entry(used / HOUR).or_default() += bytes;
        let first = self.pass(oldest, count).await?;
        let sum = match cut(&by_hour, self.max_size) {
            None => first,
            Some(before) => {
                let second = self.pass(before, |_, _| ()).await?;
                SweepSum {
                    deleted: first.deleted + second.deleted,
                    deleted_bytes: first.deleted_bytes + second.deleted_bytes,
                    ..second
                }
            }
        };
        self.drop_records(oldest).await?;
        self.give_up_uploads().await?;
        Ok(sum)
    }

    /// Deletes the records and notes that were last written before `oldest`: those records that are in use are written anew.
    async fn drop_records(&self, oldest: u64) -> Result<(), BucketError> {
        for folder in [self.names.records(), self.names.notes()] {
            let mut records = self.client.list(&folder);
            while let Some(record) = records.try_next().await? {
                self.drop_stray(&record, oldest).await?;
            }
        }
        Ok(())
    }

    /// Deletes what was used before `oldest`, and calls `kept` with the rest.
    async fn pass(&self, oldest: u64, mut kept: impl FnMut(u64, u64)) -> Result<SweepSum, BucketError> {
        let mut sum = SweepSum::default();
        for kind in Kind::ALL {
            let (contents, markers) = self.names.folders(kind);
            let (mut contents, mut markers) = (self.client.list(&contents), self.client.list(&markers));
            let mut marker = markers.try_next().await?;
            while let Some(object) = contents.try_next().await? {
                let own = self.names.marker_of(&object.location);
                while let Some(stray) = marker.take_if(|marker| marker.location < own) {
                    self.drop_stray(&stray, oldest).await?;
                    marker = markers.try_next().await?;
                }
                let marked = marker.as_ref().filter(|marker| marker.location == own);
                let used = written(&object).max(marked.map_or(0, written));
                if used >= oldest {
                    kept(used, object.size);
                    (sum.kept, sum.kept_bytes) = (sum.kept + 1, sum.kept_bytes + object.size);
                    continue;
                }
                self.client.delete(&object.location).await?;
                (sum.deleted, sum.deleted_bytes) = (sum.deleted + 1, sum.deleted_bytes + object.size);
                // Its marker, if there is one, is a stray from now on.
            }
            while let Some(stray) = marker {
                self.drop_stray(&stray, oldest).await?;
                marker = markers.try_next().await?;
            }
        }
        Ok(sum)
    }

    /// Deletes a record, or the marker of an object that is gone, if it is from before `oldest`: what it is about may be written in
    /// this moment.
    async fn drop_stray(&self, stray: &ObjectMeta, oldest: u64) -> Result<(), BucketError> {
        if written(stray) < oldest { self.client.delete(&stray.location).await } else { Ok(()) }
    }

    /// Gives up the uploads that were begun a day ago: their writer has ended.
    async fn give_up_uploads(&self) -> Result<(), BucketError> {
        let before = i64::try_from(seconds().saturating_sub(UPLOAD_LIFE.as_secs())).unwrap_or_default();
        let before = Timestamp::from_second(before).unwrap_or_default();
        for (path, id) in self.client.uploads(&self.names.all(), before).await? {
            self.client.abort(&path, &id).await?;
        }
        Ok(())
    }
}

/// Returns the time of last use before which objects are to go so that no more than `most` bytes are left; none if they are no more.
fn cut(by_hour: &BTreeMap<u64, u64>, most: u64) -> Option<u64> {
    let mut left: u64 = by_hour.values().sum();
    let mut before = None;
    for (hour, bytes) in by_hour {
        if left <= most {
            break;
        }
        left -= bytes;
        before = Some((hour + 1) * HOUR);
    }
    before
}

/// Returns when an object was written, in seconds since 1970.
fn written(object: &ObjectMeta) -> u64 {
    u64::try_from(object.last_modified.timestamp()).unwrap_or_default()
}

fn seconds() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

const HOUR: u64 = 3600;

/// The age at which an upload is given up: the longest takes hours on the slowest way.
const UPLOAD_LIFE: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_goes_until_the_rest_fits() {
        let by_hour = BTreeMap::from([(10, 5), (11, 7), (20, 4)]);
        assert_eq!(cut(&by_hour, 16), None);
        assert_eq!(cut(&by_hour, 15), Some(11 * HOUR));
        assert_eq!(cut(&by_hour, 11), Some(11 * HOUR));
        assert_eq!(cut(&by_hour, 10), Some(12 * HOUR));
        assert_eq!(cut(&by_hour, 0), Some(21 * HOUR));
        assert_eq!(cut(&BTreeMap::new(), 0), None);
    }
}
