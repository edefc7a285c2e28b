//! `[cache.store]`: an S3-compatible store behind the disks of all replicas.

use std::fmt;
use std::time::Duration;

use crate::config::context::Context;
use crate::config::duration;
use crate::config::environment::Environment;
use crate::config::host::Url;
use crate::config::limits;
use crate::config::proxy::Proxy;
use crate::config::reader::Reader;
use crate::config::reference::Reference;
use crate::config::server::Server;
use crate::config::size;
use crate::config::upstream;
use crate::config::upstream::Upstream;
use crate::config::value_error::ValueError;
use crate::proto::Secret;
use crate::proto::authority::is_loopback;

/// A bucket in which the replicas keep what they have proved.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    /// Its name.
    pub(crate) name: String,
    /// The beginning of all keys in it: "", or components with slashes between them.
    pub(crate) prefix: String,
    /// The server, as the client of upstreams knows one: its URL, its authorities, and the proxy on the way.
    pub(crate) endpoint: Box<Upstream>,
    /// The region that requests are signed for.
    pub(crate) region: String,
    /// True if the bucket's name is in the path of a URL, false if it is in the host.
    pub(crate) path_style: bool,
    /// The credentials.
    pub(crate) credentials: BucketCredentials,
    /// The time after the last use for which something is kept.
    pub(crate) keep_for: Duration,
    /// The most that is kept, in bytes.
    pub(crate) max_size: u64,
    /// The lengths of the blobs that are kept, in bytes.
    pub(crate) min_object: u64,
    /// The longest of them.
    pub(crate) max_object: u64,
    /// The time after which the upstream is asked too for a blob that the store has not begun to send.
    pub(crate) hedge: Duration,
    /// The time for connecting, for the head of an answer, and for all that a request is tried again.
    pub(crate) timeout: Duration,
    /// `server.secret`, from which the key is derived by which records are signed.
    pub(crate) secret: Secret,
}

/// The source of the credentials for a bucket.
#[derive(Debug, Clone)]
pub(crate) enum BucketCredentials {
    /// The environment, web identity, ECS or IMDS: what there is.
    Auto,
    /// The configuration.
    Keys {
        /// The key's public name.
        access_key: String,
        /// The key.
        secret_key: Secret,
    },
}

impl PartialEq for BucketCredentials {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Auto, Self::Auto) => true,
            (
                Self::Keys { access_key, secret_key },
                Self::Keys { access_key: other_access, secret_key: other_secret },
            ) => access_key == other_access && secret_key.ct_eq(other_secret),
            _ => false,
        }
    }
}

/// Two are the same if they are written alike, whatever the secret: that is compared with `[server]`.
impl PartialEq for Bucket {
    fn eq(&self, other: &Self) -> bool {
        let Self { name, prefix, endpoint, region, path_style, credentials, .. } = self;
        let Self { keep_for, max_size, min_object, max_object, hedge, timeout, secret: _, .. } = self;
        *name == other.name
            && *prefix == other.prefix
            && *endpoint == other.endpoint
            && *region == other.region
            && *path_style == other.path_style
            && *credentials == other.credentials
            && *keep_for == other.keep_for
            && *max_size == other.max_size
            && *min_object == other.min_object
            && *max_object == other.max_object
            && *hedge == other.hedge
            && *timeout == other.timeout
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "s3://{}{slash}{} at {}", self.name, self.prefix, self.endpoint.url)
    }
}

/// Has the store asked by way of the proxy that the variables name.
pub(super) fn take_proxy(bucket: Option<&mut Bucket>, environment: &Environment, context: &Context) {
    if let Some(bucket) = bucket {
        upstream::take_proxy(std::slice::from_mut(&mut bucket.endpoint), environment, context);
    }
}

/// Reads the table `store` of `cache`, where it is written. `secret_is_written` is true if `server.secret` is, right or wrong.
pub(super) fn read(root: &Reader<'_>, server: &Server, secret_is_written: bool) -> Option<Bucket> {
    let table = root.optional("cache")?.optional("store")?;
    if !secret_is_written {
        let text = "needs server.secret, the same on every replica: by a key that is derived from it the records are signed \
                    that say which digest a tag has; make one with `dockgate secret`";
        table.wrong_itself(text);
    }
    let timeout = table.duration("timeout", limits::BUCKET_TIMEOUT);
    let place = place(&table);
    let region = table.parsed("region", region).unwrap_or_else(|| limits::BUCKET_REGION.to_owned());
    let endpoint = endpoint(&table, &region, timeout);
    let path_style = table.flag("path_style", table.text("endpoint").is_some());
    if let Some((name, _)) = &place {
        check_style(&table, name, path_style);
    }
    let max_size = table.parsed("max_size", max_size).unwrap_or(limits::BUCKET_BYTES);
    let (min_object, max_object) = lengths(&table);
    let keep_for = table.parsed("keep_for", keep_for).unwrap_or(limits::BUCKET_KEEP_FOR);
    let hedge = table.parsed("hedge", duration::parse).unwrap_or(limits::BUCKET_HEDGE);
    let credentials = credentials(&table);
    let ((name, prefix), endpoint, credentials) = (place?, endpoint?, credentials?);
    Some(Bucket {
        name,
        prefix,
        endpoint,
        region,
        path_style,
        credentials,
        keep_for,
        max_size,
        min_object,
        max_object,
        hedge,
        timeout,
        secret: server.secret.clone()?,
    })
}

/// Returns the bucket's name and the prefix of all keys.
fn place(table: &Reader<'_>) -> Option<(String, String)> {
    if table.text("url").is_none() && !table.is_broken("url") {
        let advice = table.advice("url = \"s3://bucket/dockgate\"");
        table.wrong("url", format!("no bucket is named; {advice}"));
    }
    table.parsed("url", bucket)
}

fn bucket(written: &str) -> Result<(String, String), ValueError> {
    let rest = written.strip_prefix("s3://").ok_or(NO_BUCKET)?;
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let is_name = (3..=63).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !is_name || !plain(name) {
        return Err(NO_BUCKET.into());
    }
    let is_component = |part: &str| !part.is_empty() && part != "." && part != ".." && plain(part);
    if !prefix.is_empty() && (prefix.len() > PREFIX || !prefix.split('/').all(is_component)) {
        return Err(ValueError::value(
            "has a prefix with unusual characters, or a long one; write plain components, for example \"s3://bucket/dockgate\"",
        ));
    }
    Ok((name.to_owned(), prefix.to_owned()))
}

const NO_BUCKET: &str = "names no bucket; write for example \"s3://bucket/dockgate\"";

/// The longest prefix: a key has 1024 bytes, and a record's has the names of an upstream, a repository and a tag.
const PREFIX: usize = 128;

fn region(written: &str) -> Result<String, ValueError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    if written.is_empty() || written.len() > 64 || !written.bytes().all(plain) {
        return Err(ValueError::value("is no region; write for example \"eu-central-1\""));
    }
    Ok(written.to_owned())
}

/// Returns the server: AWS's own for the region, where none is written.
fn endpoint(table: &Reader<'_>, region: &str, timeout: Duration) -> Option<Box<Upstream>> {
    let url = match table.text("endpoint") {
        Some(item) => item.parsed(server)?,
        None if table.is_broken("endpoint") => return None,
        None => Url::parse(&amazon(region)).ok()?,
    };
    if !url.https && !is_loopback(&url.host) {
        let text = "what the cache holds travels unencrypted to this store, since its URL says http";
        table.context.warn(format!("{}: {text}", table.place_of("endpoint")));
    }
    let ca = table.file("ca").map(|file| {
        let path = file.path.clone();
        table.context.refer(Reference::Ca(file));
        path
    });
    let server = Upstream::of_endpoint(url, table.context);
    Some(Box::new(Upstream {
        ca,
        proxy: table.text("proxy").and_then(|item| item.parsed(Proxy::parse)),
        connect_timeout: timeout,
        response_timeout: timeout,
        ..server
    }))
}

/// Returns the URL of AWS's server for a region.
fn amazon(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://s3.{region}.{domain}")
}

fn server(written: &str) -> Result<Url, ValueError> {
    let url = Url::parse(written)?;
    if !url.path.is_empty() {
        return Err(ValueError::value(
            "has a path; write scheme, host and port alone: the bucket stands in url",
        ));
    }
    Ok(url)
}

/// Refuses a name that cannot be part of a host.
fn check_style(table: &Reader<'_>, name: &str, path_style: bool) {
    let is_label = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if path_style || (is_label && !name.ends_with('-')) {
        return;
    }
    table.wrong(
        "path_style",
        format!(
            "the bucket \"{name}\" cannot be part of a host's name that a certificate covers; write path_style = true"
        ),
    );
}

fn credentials(table: &Reader<'_>) -> Option<BucketCredentials> {
    let Some(keys) = table.optional("credentials") else {
        let auto = |written: &str| match written {
            "auto" | "" => Ok(()),
            _ => Err(ValueError::hidden(
                "this is unknown; write \"auto\", or a table with access_key and secret_key",
            )),
        };
        if table.is_broken("credentials") {
            return None;
        }
        let is_auto = !table.has("credentials") || table.parsed("credentials", auto).is_some();
        return is_auto.then_some(BucketCredentials::Auto);
    };
    let required = |name: &str| {
        let item = keys.text(name);
        if item.is_none() && !keys.is_broken(name) {
            let example = format!("{name} = \"${{file:/run/secrets/{name}}}\"");
            keys.wrong(name, format!("both access_key and secret_key are needed; {}", keys.advice(&example)));
        }
        item.map(|item| item.value().trim().to_owned())
    };
    let (access_key, secret_key) = (required("access_key"), required("secret_key"));
    Some(BucketCredentials::Keys { access_key: access_key?, secret_key: Secret::new(secret_key?) })
}

fn max_size(written: &str) -> Result<u64, ValueError> {
    match size::parse(written)? {
        0 => Err(ValueError::value("leaves no room at all; write for example \"2TiB\"")),
        bytes => Ok(bytes),
    }
}

/// Reads the least and the largest length of a blob that is stored.
fn lengths(table: &Reader<'_>) -> (u64, u64) {
    let least = table.parsed("min_object", size::parse).unwrap_or_default();
    let most = |written: &str| match size::parse(written)? {
        0 => Err(ValueError::value("leaves no blob at all; write for example \"20GiB\"")),
        bytes if bytes > limits::BUCKET_OBJECT_MOST => Err(ValueError::Value(format!(
            "is more than an object of 10,000 parts; write at most \"{}\"",
            size::render(limits::BUCKET_OBJECT_MOST)
        ))),
        bytes if bytes < least => {
            Err(ValueError::value("is less than min_object; write more, or lower that"))
        }
        bytes => Ok(bytes),
    };
    (least, table.parsed("max_object", most).unwrap_or(limits::BUCKET_OBJECT))
}

fn keep_for(written: &str) -> Result<Duration, ValueError> {
    match duration::parse(written)? {
        length if length < limits::BUCKET_KEEP_FOR_LEAST => {
            Err(ValueError::value("is too short for a store that is swept once a day; write at least \"2d\""))
        }
        length => Ok(length),
    }
}
