//! A trial of the store, for `dockgate check`: whether it takes what is written there, lists it, sends parts of it and deletes it.

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;

use crate::bucket::client::BucketClient;
use crate::bucket::error::BucketError;
use crate::bucket::layout::ObjectNames;
use crate::cache::ByteSpan;
use crate::config;

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
