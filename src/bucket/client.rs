//! The client of the bucket: reads, writes, deletes and lists objects, and asks nothing while the store does not answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::BoxStream;
use http::{StatusCode, Uri};
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer, Checksum};
use object_store::client::{HttpRequest, HttpRequestBody, HttpService};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    BackoffConfig, GetOptions, GetRange, GetResult, MultipartId, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutOptions, PutPayload, RetryConfig,
};

use crate::bucket::breaker::StoreBreaker;
use crate::bucket::connector::Connector;
use crate::bucket::error::BucketError;
use crate::cache::ByteSpan;
use crate::config::{self, BucketCredentials, limits};
use crate::proto::Authority;

/// The client of one bucket.
pub(super) struct BucketClient {
    /// Sends no checksums: stores that are no AWS refuse those of parts.
    plain: AmazonS3,
    /// Sends with each object its SHA-256, so that the store itself refuses what was damaged on the way.
    checked: AmazonS3,
    connector: Connector,
    breaker: Arc<StoreBreaker>,
    timeout: Duration,
    region: String,
    /// Where the bucket's own requests go.
    bucket_url: String,
}

/// A source of the bytes of an object that is to be written, in order.
pub(super) trait PartSource: Send {
    /// Reads the next `length` bytes.
    fn read(&mut self, length: usize) -> impl Future<Output = Result<Bytes, BucketError>> + Send;

    /// Returns an error if what was read is not what it should be. Called once, after the last byte and before the object is there.
    fn check(&self) -> Result<(), BucketError>;
}

impl BucketClient {
    /// Returns the client, for `workers` workers and the background. Asks nothing.
    ///
    /// # Errors
    /// [`BucketError::Settings`].
    pub(super) fn new(settings: &config::Bucket, workers: usize) -> Result<Self, BucketError> {
        let told = |error: &dyn std::fmt::Display| BucketError::Settings(error.to_string());
        let connector =
            Connector::new(&settings.endpoint, settings.timeout, workers).map_err(|error| told(&error))?;
        let plain = builder(settings, &connector);
        let checked = plain.clone().with_checksum_algorithm(Checksum::SHA256);
        Ok(Self {
            plain: plain.build().map_err(|error| told(&error))?,
            checked: checked.build().map_err(|error| told(&error))?,
            connector,
            breaker: StoreBreaker::new(&settings.to_string(), settings.hedge.max(PATIENCE_LEAST)),
            timeout: settings.timeout,
            region: settings.region.clone(),
            bucket_url: match settings.path_style {
                true => format!("{}/{}", endpoint(settings), settings.name),
                false => format!("{}/", endpoint(settings)),
            },
        })
    }

    /// Returns why the store is not asked now, if it is not.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.breaker.failure()
    }

    /// Returns the breaker, which is told how the streams of objects end.
    pub(super) fn breaker(&self) -> &Arc<StoreBreaker> {
        &self.breaker
    }

    /// Closes the connections that have been idle for too long.
    pub(super) fn sweep(&self) {
        self.connector.sweep();
    }

    /// Returns an object, or the bytes of `span`, as soon as the store begins to send it. With `etag` only if it is still the same
    /// object.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) async fn get(
        &self,
        path: &Path,
        span: Option<ByteSpan>,
        etag: Option<String>,
    ) -> Result<GetResult, BucketError> {
        let range = span.map(|ByteSpan { first, last }| match last {
            Some(last) => GetRange::Bounded(first..last.saturating_add(1)),
            None => GetRange::Offset(first),
        });
        let options = GetOptions { range, if_match: etag, ..GetOptions::default() };
        self.attempt(self.timeout, self.plain.get_opts(path, options)).await
    }

    /// Returns a small object whole, and when it was written, in seconds since 1970.
    ///
    /// # Errors
    /// [`BucketError`], also for an object of more than `most` bytes.
    pub(super) async fn get_small(&self, path: &Path, most: u64) -> Result<(Bytes, i64), BucketError> {
        let object = self.get(path, None, None).await?;
        if object.meta.size > most {
            return Err(BucketError::Other("a longer object there than there should be"));
        }
        let written = object.meta.last_modified.timestamp();
        Ok((self.attempt(self.timeout, object.bytes()).await?, written))
    }

    /// Returns what the store says of an object: its length, and when it was written.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) async fn head(&self, path: &Path) -> Result<ObjectMeta, BucketError> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let head = self.attempt(self.timeout, self.plain.get_opts(path, options)).await?;
        Ok(head.meta)
    }

    /// Writes an object whole. The store proves its SHA-256. Returns true if it keeps versions.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) async fn put(&self, path: &Path, bytes: Bytes) -> Result<bool, BucketError> {
        let limit = self.timeout + patience_for(bytes.len() as u64);
        let put = self.checked.put_opts(path, PutPayload::from(bytes), PutOptions::default());
        // "null" is the version of what is written while versioning is suspended.
        let version = self.attempt(limit, put).await?.version;
        Ok(version.is_some_and(|version| version != "null"))
    }

    /// Writes an object of `length` bytes from `source`: below [`limits::BUCKET_PART`] at once, and else in parts of that length,
    /// two at a time. Nothing is there before all of it is.
    ///
    /// # Errors
    /// [`BucketError`]. Parts that are there already are given up.
    pub(super) async fn put_from(
        &self,
        path: &Path,
        length: u64,
        mut source: impl PartSource,
    ) -> Result<(), BucketError> {
        if length < limits::BUCKET_PART {
            let bytes = source.read(usize::try_from(length).unwrap_or(usize::MAX)).await?;
            source.check()?;
            return self.put(path, bytes).await.map(drop);
        }
        let id = self.attempt(self.timeout, self.plain.create_multipart(path)).await?;
        let sent = async {
            let parts = self.put_parts(path, &id, length, &mut source).await?;
            source.check()?;
            // The store puts the parts together, which takes some of them long.
            let limit = self.timeout + patience_for(length);
            self.attempt(limit, self.plain.complete_multipart(path, &id, parts)).await
        };
        match sent.await {
            Ok(_) => Ok(()),
            Err(error) => {
                // Parts that stay although they were given up are swept after a day.
                let _ = self.abort(path, &id).await;
                Err(error)
            }
        }
    }

    async fn put_parts(
        &self,
        path: &Path,
        id: &MultipartId,
        length: u64,
        source: &mut impl PartSource,
    ) -> Result<Vec<PartId>, BucketError> {
        let lengths = part_lengths(length);
        let mut parts = Vec::with_capacity(lengths.len());
        for (round, pair) in lengths.chunks(PARTS_AT_ONCE).enumerate() {
            let mut puts = Vec::with_capacity(PARTS_AT_ONCE);
            for (offset, length) in pair.iter().enumerate() {
                let bytes = source.read(*length).await?;
                let number = round * PARTS_AT_ONCE + offset;
                let limit = self.timeout + patience_for(bytes.len() as u64);
                let put = self.plain.put_part(path, id, number, PutPayload::from(bytes));
                puts.push(self.attempt(limit, put));
            }
            parts.extend(try_join_all(puts).await?);
        }
        Ok(parts)
    }

    /// Deletes an object. One that is not there is as good as deleted.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) async fn delete(&self, path: &Path) -> Result<(), BucketError> {
        match self.attempt(self.timeout, self.plain.delete(path)).await {
            Err(BucketError::Absent) => Ok(()),
            deleted => deleted,
        }
    }

    /// Lists the objects below a prefix, a page of a thousand at a time.
    pub(super) fn list(&self, below: &Path) -> BoxStream<'static, Result<ObjectMeta, BucketError>> {
        Box::pin(self.plain.list(Some(below)).map_err(BucketError::from))
    }

    /// Returns the folders that are in a folder.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) async fn folders(&self, folder: &Path) -> Result<Vec<Path>, BucketError> {
        Ok(self.plain.list_with_delimiter(Some(folder)).await?.common_prefixes)
    }

    /// Returns the uploads below `prefix` that were begun before `before` and are not complete, up to a thousand. `object_store` has
    /// no such request, but signs one.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) async fn uploads(
        &self,
        prefix: &str,
        before: Timestamp,
    ) -> Result<Vec<(Path, MultipartId)>, BucketError> {
        // All of the prefix is plain but for its slashes, which a query may have as they are (RFC 3986 section 3.4).
        let uri = format!("{}?prefix={prefix}&uploads=", self.bucket_url);
        let uri = Uri::try_from(uri).map_err(|error| BucketError::Settings(error.to_string()))?;
        let asked = async {
            let credential = self.plain.credentials().get_credential().await?;
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.uri_mut() = uri;
            AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None)?;
            let answer = self.connector.call(request).await.map_err(generic)?;
            let status = answer.status();
            let text = answer.into_body().bytes().await.map_err(generic)?;
            match status {
                StatusCode::OK => Ok(String::from_utf8_lossy(&text).into_owned()),
                _ => Err(generic(std::io::Error::other(format!("the list of uploads: {status}")))),
            }
        };
        let list = self.attempt(self.timeout, asked).await?;
        let begun = |upload: &str| element(upload, "Initiated")?.parse::<Timestamp>().ok();
        let left = elements(&list, "Upload").filter(|upload| begun(upload).is_some_and(|at| at < before));
        let named = left.filter_map(|upload| {
            Some((Path::from(element(upload, "Key")?), element(upload, "UploadId")?.to_owned()))
        });
        Ok(named.collect())
    }

    /// Gives up an upload.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) async fn abort(&self, path: &Path, id: &MultipartId) -> Result<(), BucketError> {
        match self.attempt(self.timeout, self.plain.abort_multipart(path, id)).await {
            Err(BucketError::Absent) => Ok(()),
            aborted => aborted,
        }
    }

    /// Does `work`, if the store may be asked, and learns of it whether the store answers.
    async fn attempt<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, BucketError> {
        let attempt = self.breaker.admit().ok_or(BucketError::Resting)?;
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(done)) => {
                attempt.answered();
                Ok(done)
            }
            Ok(Err(error)) => {
                let error = BucketError::from(error);
                if is_answer(&error) {
                    attempt.answered()
                } else {
                    attempt.failed(&error)
                }
                Err(error)
            }
            Err(_) => {
                let error = BucketError::Late(limit);
                attempt.failed(&error);
                Err(error)
            }
        }
    }
}

/// Returns the texts of all elements of a name in a document. The names of elements are S3's, and their texts have no markup: keys
/// are this gateway's own.
fn elements<'a>(document: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = document;
    std::iter::from_fn(move || {
        let (_, behind) = rest.split_once(&open)?;
        let (text, after) = behind.split_once(&close)?;
        rest = after;
        Some(text)
    })
}

fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    elements(document, name).next()
}

fn generic(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: Box::new(error) }
}

/// Returns true for what a store says that works.
fn is_answer(error: &BucketError) -> bool {
    use object_store::Error as Store;
    match error {
        BucketError::Absent => true,
        BucketError::Refused(error) => matches!(
            error,
            Store::Precondition { .. } | Store::NotModified { .. } | Store::AlreadyExists { .. }
        ),
        _ => false,
    }
}

/// Returns the time that is given for `bytes` on the slowest way: a connection that moves no byte ends before.
fn patience_for(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

/// Returns the lengths of the parts of an object: all but the last are equally long.
fn part_lengths(length: u64) -> Vec<usize> {
    let starts = (0..length.div_ceil(limits::BUCKET_PART)).map(|number| number * limits::BUCKET_PART);
    starts.map(|start| usize::try_from((length - start).min(limits::BUCKET_PART)).unwrap_or(0)).collect()
}

/// Returns the URL of the server, with the bucket in its host if it is not in the path.
fn endpoint(settings: &config::Bucket) -> String {
    let url = &settings.endpoint.url;
    let host = match settings.path_style {
        true => url.host.clone(),
        false => format!("{}.{}", settings.name, url.host),
    };
    let scheme = if url.https { "https" } else { "http" };
    format!("{scheme}://{}", Authority::render(&host, url.port, url.https))
}

/// Returns the settings as `object_store` has them.
fn builder(settings: &config::Bucket, connector: &Connector) -> AmazonS3Builder {
    let builder = match &settings.credentials {
        BucketCredentials::Auto => AmazonS3Builder::from_env(),
        BucketCredentials::Keys { access_key, secret_key } => {
            AmazonS3Builder::new().with_access_key_id(access_key).with_secret_access_key(secret_key.expose())
        }
    };
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    builder
        .with_bucket_name(&settings.name)
        .with_region(&settings.region)
        .with_endpoint(endpoint(settings))
        .with_virtual_hosted_style_request(!settings.path_style)
        .with_allow_http(!settings.endpoint.url.https)
        .with_retry(RetryConfig { backoff, max_retries: RETRIES, retry_timeout: settings.timeout })
        .with_http_connector(connector.clone())
        // Some stores have no DeleteObjects, and the client deletes one object at a time.
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true")
}

/// Parts of one object that are sent at a time: each is in memory.
const PARTS_AT_ONCE: usize = 2;

/// How often a request is tried again, within `timeout`: beyond that the breaker decides.
const RETRIES: usize = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A request that is given up before is none that the store was too slow for, whatever `hedge` is.
const PATIENCE_LEAST: Duration = Duration::from_millis(250);

/// The slowest way on which objects are stored.
const SLOWEST_BYTES_PER_SECOND: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_a_document_are_found() {
        let list =
            "<L><Upload><Key>a</Key><UploadId>1</UploadId></Upload><Upload><Key>b</Key></Upload><Upload></L>";
        let keys: Vec<_> = elements(list, "Upload").map(|upload| element(upload, "Key")).collect();
        assert_eq!(keys, [Some("a"), Some("b")]);
        assert_eq!((element(list, "UploadId"), element(list, "Initiated")), (Some("1"), None));
    }

    #[test]
    fn all_parts_but_the_last_are_equally_long() {
        let part = limits::BUCKET_PART;
        assert_eq!(part_lengths(part), [part as usize]);
        assert_eq!(part_lengths(2 * part + 1), [part as usize, part as usize, 1]);
        assert_eq!(part_lengths(limits::BUCKET_OBJECT_MOST).len(), 10_000);
    }
}
