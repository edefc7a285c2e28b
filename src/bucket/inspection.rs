//! The inspection of the bucket: reads all content and all records, for operators.

use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::path::Path;

use crate::bucket::client::BucketClient;
use crate::bucket::error::BucketError;
use crate::bucket::layout::ObjectNames;
use crate::bucket::seal::RecordSeal;
use crate::bucket::writer::RECORD_BYTES;
use crate::cache::Inspected;
use crate::cache::store::Kind;
use crate::proto::{Digest, Hasher};

/// An inspection of a bucket.
pub(super) struct Inspection<'a> {
    pub(super) client: Arc<BucketClient>,
    pub(super) names: ObjectNames,
    pub(super) seal: Arc<RecordSeal>,
    /// Gets what is seen, and returns true to go on.
    pub(super) tell: &'a mut dyn FnMut(Inspected) -> bool,
}

/// An object that is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WrongObject {
    /// Content that does not have its digest.
    Content(Kind, Digest),
    /// A record without a signature of this gateway.
    Record(Path),
}

impl Inspection<'_> {
    /// Reads all that there is, and calls `wrong` with what is not as it should be. Objects that come or go meanwhile count or do not.
    ///
    /// # Errors
    /// [`BucketError`]: what follows has not been read.
    pub(super) async fn run(&mut self, wrong: &mut dyn FnMut(WrongObject)) -> Result<(), BucketError> {
        let total = self.total().await?;
        if !(self.tell)(Inspected::Total(total)) {
            return Ok(());
        }
        for kind in Kind::ALL {
            let mut objects = self.client.list(&self.names.folders(kind).0);
            while let Some(object) = objects.try_next().await? {
                let Some(digest) = self.names.digest_of(kind, &object.location) else { continue };
                let Some(found) = self.hash(&object.location, &digest).await? else { continue };
                let goes_on = if found == digest {
                    (self.tell)(Inspected::Good)
                } else {
                    wrong(WrongObject::Content(kind, digest));
                    self.complain(&object.location, "it was not what its name says, and is removed")
                };
                if !goes_on {
                    return Ok(());
                }
            }
        }
        self.records(wrong).await
    }

    /// Returns the bytes of all content.
    async fn total(&self) -> Result<u64, BucketError> {
        let mut total = 0;
        for kind in Kind::ALL {
            let mut objects = self.client.list(&self.names.folders(kind).0);
            while let Some(object) = objects.try_next().await? {
                total += object.size;
            }
        }
        Ok(total)
    }

    /// Returns the digest that an object has; none if it is gone.
    async fn hash(&mut self, path: &Path, named: &Digest) -> Result<Option<Digest>, BucketError> {
        let object = match self.client.get(path, None, None).await {
            Ok(object) => object,
            Err(BucketError::Absent) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(mut hasher) = Hasher::new(named.algorithm()) else { return Ok(None) };
        let mut left = object.meta.size;
        let mut pieces = object.into_stream();
        while let Some(piece) = pieces.try_next().await? {
            hasher.update(&piece);
            left = left.checked_sub(piece.len() as u64).ok_or(OTHER_LENGTH)?;
            (self.tell)(Inspected::Read(piece.len() as u64));
        }
        // An answer that ends early says nothing of the object, which is not to be removed for it.
        if left > 0 { Err(OTHER_LENGTH) } else { Ok(Some(hasher.finish())) }
    }

    async fn records(&mut self, wrong: &mut dyn FnMut(WrongObject)) -> Result<(), BucketError> {
        let mut objects = self.client.list(&self.names.records());
        while let Some(object) = objects.try_next().await? {
            let is_signed = match self.client.get_small(&object.location, RECORD_BYTES).await {
                Ok((record, _)) => {
                    self.seal.open(self.names.below_prefix(&object.location), &record).is_some()
                }
                Err(BucketError::Absent) => continue,
                Err(BucketError::Other(_)) => false,
                Err(error) => return Err(error),
            };
            let goes_on = if is_signed {
                (self.tell)(Inspected::Good)
            } else {
                wrong(WrongObject::Record(object.location.clone()));
                self.complain(&object.location, "it has no signature of this gateway, and is removed")
            };
            if !goes_on {
                return Ok(());
            }
        }
        Ok(())
    }

    fn complain(&mut self, path: &Path, why: &str) -> bool {
        let name = self.names.below_prefix(path).to_owned();
        (self.tell)(Inspected::Wrong { name, why: why.to_owned() })
    }
}

const OTHER_LENGTH: BucketError = BucketError::Other("sent another length than it said");
