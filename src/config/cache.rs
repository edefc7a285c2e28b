//! `[cache]` and `[upstream.cache]`: what is kept of upstreams, how much, and how long it is believed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::bucket_keys;
use crate::config::credentials::{CredentialSource, Credentials};
use crate::config::duration;
use crate::config::limits;
use crate::config::mistake::Place;
use crate::config::pattern::{PatternError, RepositoryPattern};
use crate::config::reader::Reader;
use crate::config::reference::Reference;
use crate::config::schema::{Key, Kind, key};
use crate::config::size;
use crate::config::value_error::ValueError;

/// The cache's directory and size, for all upstreams together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// The directory.
    pub path: PathBuf,
    /// The most that is kept, in bytes.
    pub max_size: u64,
    /// The part of the file system that is left free.
    pub min_free: MinFree,
    /// The length, in bytes, of the largest blob that is kept.
    pub max_object: u64,
    /// The time after which content is hashed again: when it is read next, or else by the scrub.
    pub verify_after: Duration,
    /// True if the layers of a pulled manifest are fetched ahead of the client.
    pub prefetch: bool,
    /// Repositories, by their canonical names, whose blobs are never evicted.
    pub keep: Vec<RepositoryPattern>,
}

/// The part of a file system that is left free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinFree {
    /// Bytes.
    Bytes(u64),
    /// Hundredths of its size.
    Percent(u8),
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, most) = (self.path.display(), size::render(self.max_size));
        write!(f, "{path} ({most} at most, {} left free)", self.min_free)
    }
}

impl Default for MinFree {
    fn default() -> Self {
        Self::Percent(limits::CACHE_FREE_PERCENT)
    }
}

impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&size::render(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// The cache options of one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamCacheOptions {
    /// The time for which a tag's digest is believed without asking.
    pub tag_ttl: Duration,
    /// The time for which a client waits for the upstream where something stale can serve.
    pub stale_after: Duration,
    /// The time after `tag_ttl` for which a tag's digest still serves when the upstream fails.
    pub stale_if_error: Duration,
    /// The time for which "no such manifest" is believed.
    pub not_found_ttl: Duration,
    /// True if the upstream is asked nothing.
    pub offline: bool,
    /// The clients whose right to read is asked at the upstream.
    pub pull_authorization: PullAuthorization,
    /// [`PullAuthorization::Each`]: how long a pass is believed while the upstream can't be reached.
    pub grant_stale: Duration,
}

/// The clients whose right to read cached content is asked at the upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullAuthorization {
    /// Content that one allowed client fetched serves every client that the rules allow.
    #[default]
    Shared,
    /// Each client's own credentials must pass at the upstream.
    Each,
}

pub(super) const KEYS: &[Key] = &[
    key("path", Kind::Text),
    key("max_size", Kind::Text),
    key("min_free", Kind::Text),
    key("max_object", Kind::Text),
    key("verify_after", Kind::Text),
    key("prefetch", Kind::Flag),
    key("keep", Kind::Texts),
    key("store", Kind::Table(bucket_keys::KEYS)),
];

pub(super) const UPSTREAM_KEYS: &[Key] = &[
    key("tag_ttl", Kind::Text),
    key("stale_after", Kind::Text),
    key("stale_if_error", Kind::Text),
    key("not_found_ttl", Kind::Text),
    key("offline", Kind::Flag),
    key("pull_authorization", Kind::Text),
    key("grant_stale", Kind::Text),
];

/// Reads `[cache]`, with `wanted` where an upstream has a cache. None where none has, whatever is written.
pub(super) fn read(root: &Reader<'_>, wanted: bool) -> Option<Cache> {
    let table = root.section("cache");
    let max_size = table.parsed("max_size", max_size).unwrap_or(limits::CACHE_BYTES);
    let cache = Cache {
        path: path(&table, wanted),
        max_size,
        max_object: max_object(&table, max_size),
        min_free: table.parsed("min_free", min_free).unwrap_or_default(),
        verify_after: table.parsed("verify_after", verify_after).unwrap_or(limits::VERIFY_AFTER),
        prefetch: table.flag("prefetch", true),
        keep: keep(&table),
    };
    if !wanted && root.has("cache") {
        warn_of_idleness(root);
    }
    wanted.then_some(cache)
}

/// Reads `[upstream.cache]`, if it is there. An upstream that may be written to is asked for each tag, unless it is
/// said otherwise: a client that pushes by another way expects to pull what it has pushed.
pub(super) fn read_upstream(upstream: &Reader<'_>, read_only: bool) -> Option<UpstreamCacheOptions> {
    let table = upstream.optional("cache")?;
    let length = |name, default| table.parsed(name, duration::parse).unwrap_or(default);
    Some(UpstreamCacheOptions {
        tag_ttl: length("tag_ttl", if read_only { limits::TAG_TTL } else { Duration::ZERO }),
        stale_after: length("stale_after", limits::STALE_AFTER),
        stale_if_error: length("stale_if_error", limits::STALE_IF_ERROR),
        not_found_ttl: length("not_found_ttl", limits::NOT_FOUND_TTL),
        offline: table.flag("offline", false),
        pull_authorization: pull_authorization(&table),
        grant_stale: length("grant_stale", limits::GRANT_STALE),
    })
}

/// Warns where clients have different identities at the upstream: sharing what they fetched must be decided.
pub(super) fn warn_of_sharing(upstream: &Reader<'_>, credentials: &Credentials) {
    let Some(table) = upstream.optional("cache") else { return };
    let alike = credentials.source != CredentialSource::Forward && credentials.users.is_empty();
    if !alike && !table.has("pull_authorization") {
        let text = "clients come to this upstream as different users, and what one of them fetched serves every \
                    client that [[access]] allows; write `pull_authorization = \"each\"`, or \"shared\" if that is meant";
        table.context.warn(format!("{}: {text}", upstream.place_of("cache")));
    }
}

/// Returns the directory. Where it is `used`, no other user may put content there: what has a digest for its name is served.
fn path(table: &Reader<'_>, used: bool) -> PathBuf {
    let Some(folder) = table.file("path") else {
        if table.has("path") && !table.is_broken("path") {
            table.wrong("path", format!("this names no folder; write for example \"{PATH}\""));
        }
        return PATH.into();
    };
    let path = folder.path.clone();
    let reference = if used { Reference::PrivateFolder(folder) } else { Reference::Folder(folder) };
    table.context.refer(reference);
    path
}

fn max_size(written: &str) -> Result<u64, ValueError> {
    match size::parse(written)? {
        0 => Err(ValueError::value("leaves no room at all; write for example \"100GiB\"")),
        bytes => Ok(bytes),
    }
}

/// Reads the length of the largest blob that is kept. 0 is a quarter of `max_size`: then a few of that length do not evict all
/// that is there.
fn max_object(table: &Reader<'_>, max_size: u64) -> u64 {
    let parse = |written: &str| match size::parse(written)? {
        bytes if bytes > max_size => {
            Err(ValueError::value("is more than max_size; write less, or raise that"))
        }
        bytes => Ok(bytes),
    };
    match table.parsed("max_object", parse) {
        None | Some(0) => max_size / 4,
        Some(bytes) => bytes,
    }
}

fn min_free(written: &str) -> Result<MinFree, ValueError> {
    let Some(digits) = written.strip_suffix('%') else {
        return size::parse(written).map(MinFree::Bytes).map_err(|_| FREE.into());
    };
    let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let percent = digits.parse().ok().filter(|_| plain);
    percent.map(MinFree::Percent).ok_or_else(|| FREE.into())
}

fn verify_after(written: &str) -> Result<Duration, ValueError> {
    match duration::parse(written)? {
        length if length < limits::VERIFY_AFTER_LEAST => {
            Err(ValueError::value("would read the disk all the time; write at least \"1h\""))
        }
        length => Ok(length),
    }
}

fn keep(table: &Reader<'_>) -> Vec<RepositoryPattern> {
    let pattern = |written: &str| RepositoryPattern::parse(written).map_err(PatternError::wrong);
    table.texts("keep").iter().filter_map(|item| item.parsed(pattern)).collect()
}

fn pull_authorization(table: &Reader<'_>) -> PullAuthorization {
    match table.choice("pull_authorization", &["shared", "each"]) {
        Some("each") => PullAuthorization::Each,
        _ => PullAuthorization::Shared,
    }
}

/// Warns of a cache that no upstream uses. The image sets the registry's variable for the folder, so it is no mistake.
fn warn_of_idleness(root: &Reader<'_>) {
    root.context.warn(match root.place_of("cache") {
        Place::Variable(name) if name.starts_with("REGISTRY_") => {
            format!("{name} has no meaning without a cache")
        }
        place => {
            format!("{place}: nothing is kept, since no upstream has a cache; add [upstream.cache] to one")
        }
    });
}

const PATH: &str = "/var/lib/dockgate";

const FREE: &str = "is neither a share of the disk nor a size; write for example \"5%\" or \"10GiB\"";
