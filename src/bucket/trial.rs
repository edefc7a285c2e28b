//! A trial of the store, for `dockgate check`: whether it takes what is written there, lists it, sends parts of it and deletes it.

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;

use crate::bucket::client::BucketClient;
use crate::bucket::error::BucketError;
use crate::bucket::layout::ObjectNames;
use crate::cache::ByteSpan;
use crate::cache::store::Kind;
use crate::config;
use crate::proto::{Digest, Hasher};

/// Tries the store with a small object, which is deleted again. Returns true if it keeps versions.
///
/// # Errors
/// The first reason why the store cannot be used.
pub(crate) async fn try_bucket(settings: &config::Bucket) -> Result<bool, BucketError> {
    let client = BucketClient::new(settings, 0)?;
    let names = ObjectNames::new(&settings.prefix);
    let mut number = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut number);
    let path = names.trial(u64::from_le_bytes(number));
    let is_versioned = client.put(&path, Bytes::from_static(TRIAL)).await?;
    let tried = look(&client, &names, &path).await;
    client.delete(&path).await?;
    tried.map(|()| is_versioned)
}

/// Reads a blob whole and drops its bytes, hashed if `proves`. Returns how many there were.
///
/// # Errors
/// The reason why it was not read, or is not what its digest says.
pub(crate) async fn read_blob(
    settings: &config::Bucket,
    digest: &Digest,
    proves: bool,
) -> Result<u64, BucketError> {
    let client = BucketClient::new(settings, 0)?;
    let path = ObjectNames::new(&settings.prefix).content(Kind::Blob, digest);
    let mut stream = client.get(&path, None, None).await?.into_stream();
    let mut hasher = Hasher::new(digest.algorithm()).filter(|_| proves);
    let mut bytes = 0;
    while let Some(piece) = stream.try_next().await? {
        bytes += piece.len() as u64;
        if let Some(hasher) = &mut hasher {
            hasher.update(&piece);
        }
    }
    match hasher.map(Hasher::finish) {
        Some(found) if found != *digest => Err(BucketError::Other("other bytes than its digest says")),
        _ => Ok(bytes),
    }
}

/// Looks for the object that has been written.
async fn look(client: &BucketClient, names: &ObjectNames, path: &Path) -> Result<(), BucketError> {
    let (first, last) = (4, 9);
    let part = client.get(path, Some(ByteSpan { first, last: Some(last) }), None).await?;
    let whole = part.bytes().await.map_err(BucketError::from)?;
    if *whole != TRIAL[4..10] {
        return Err(BucketError::Other("other bytes than were written there"));
    }
    let mut listed = client.list(&names.trials());
    while let Some(object) = listed.try_next().await? {
        if object.location == *path {
            return Ok(());
        }
    }
    Err(BucketError::Other("no entry in its list for what was written there"))
}

/// The bytes that are written.
const TRIAL: &[u8] = b"dockgate check";
