//! The inspection of the bucket: reads all content and all records, for operators.

use std::cell::RefCell;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
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
    pub(super) tell: RefCell<&'a mut dyn FnMut(Inspected) -> bool>,
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
    pub(super) async fn run(&self, wrong: &mut dyn FnMut(WrongObject)) -> Result<(), BucketError> {
        let total = self.total().await?;
        if !self.tell(Inspected::Total(total)) {
            return Ok(());
        }
        for kind in Kind::ALL {
            if !self.contents(kind, wrong).await? {
                return Ok(());
            }
        }
        self.records(wrong).await
    }

    fn tell(&self, seen: Inspected) -> bool {
        let mut tell = self.tell.borrow_mut();
        tell(seen)
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

    /// Reads all content of a kind, some at a time. Returns false if nothing more is wanted.
    async fn contents(&self, kind: Kind, wrong: &mut dyn FnMut(WrongObject)) -> Result<bool, BucketError> {
        let objects = self.client.list(&self.names.folders(kind).0);
        let read = objects.map(async |object| {
            let path = object?.location;
            let Some(digest) = self.names.digest_of(kind, &path) else { return Ok(None) };
            let found = self.hash(&path, &digest).await?;
            Ok::<_, BucketError>(found.map(|found| (path, found == digest, digest)))
        });
        let read = read.buffered(CONTENTS_AT_A_TIME);
        tokio::pin!(read);
        while let Some(read) = read.try_next().await? {
            let goes_on = match read {
                None => true,
                Some((_, true, _)) => self.tell(Inspected::Good),
                Some((path, false, digest)) => {
                    wrong(WrongObject::Content(kind, digest));
                    self.complain(&path, "it was not what its name says, and is removed")
                }
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the digest that an object has; none if it is gone.
    async fn hash(&self, path: &Path, named: &Digest) -> Result<Option<Digest>, BucketError> {
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
            self.tell(Inspected::Read(piece.len() as u64));
        }
        // An answer that ends early says nothing of the object, which is not to be removed for it.
        if left > 0 { Err(OTHER_LENGTH) } else { Ok(Some(hasher.finish())) }
    }

    /// Reads all records, some at a time.
    async fn records(&self, wrong: &mut dyn FnMut(WrongObject)) -> Result<(), BucketError> {
        let objects = self.client.list(&self.names.records());
        let read = objects.map(async |object| {
            let path = object?.location;
            let is_signed = self.is_signed(&path).await?;
            Ok::<_, BucketError>(is_signed.map(|is_signed| (path, is_signed)))
        });
        let read = read.buffered(RECORDS_AT_A_TIME);
        tokio::pin!(read);
        while let Some(read) = read.try_next().await? {
            let goes_on = match read {
                None => true,
                Some((_, true)) => self.tell(Inspected::Good),
                Some((path, false)) => {
                    let goes_on = self.complain(&path, "it has no signature of this gateway, and is removed");
                    wrong(WrongObject::Record(path));
                    goes_on
                }
            };
            if !goes_on {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns true if a replica of this gateway has written a record; none if it is gone.
    async fn is_signed(&self, path: &Path) -> Result<Option<bool>, BucketError> {
        match self.client.get_small(path, RECORD_BYTES).await {
            Ok((record, _)) => Ok(Some(self.seal.open(self.names.below_prefix(path), &record).is_some())),
            Err(BucketError::Absent) => Ok(None),
            Err(BucketError::Other(_)) => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }

    fn complain(&self, path: &Path, why: &str) -> bool {
        let name = self.names.below_prefix(path).to_owned();
        self.tell(Inspected::Wrong { name, why: why.to_owned() })
    }
}

/// Contents that are read at a time: one waits for the store while another is hashed.
const CONTENTS_AT_A_TIME: usize = 4;

/// Records that are read at a time, of some hundred bytes each.
const RECORDS_AT_A_TIME: usize = 16;

const OTHER_LENGTH: BucketError = BucketError::Other("sent another length than it said");
