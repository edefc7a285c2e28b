//! Tags: hints with an age.

use std::time::{Duration, SystemTime};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::record::TagRecord;
use crate::config::limits;
use crate::proto::{Digest, MediaType, RepositoryName, Tag};

/// The tags of one upstream whose manifests are not here, by its answers to HEAD.
pub(crate) struct PendingTags {
    heads: Cache<(RepositoryName, Tag), TagHead>,
    /// The tag that was seen last to point to a manifest: clients ask for that by its digest then.
    targets: Cache<(RepositoryName, Digest), Tag>,
}

/// An upstream's answer to HEAD of a tag.
#[derive(Clone)]
pub(crate) struct TagHead {
    /// The manifest to which the tag points.
    pub(crate) digest: Digest,
    /// Its type.
    pub(crate) media_type: MediaType,
    /// Its bytes.
    pub(crate) length: u64,
    /// The time of the answer.
    pub(crate) confirmed: SystemTime,
    /// The repository's, when the upstream was asked.
    pub(crate) generation: Generation,
}

impl TagHead {
    /// Returns the record of the tag, once the manifest is here.
    pub(crate) fn record(&self) -> TagRecord {
        TagRecord { digest: self.digest.clone(), confirmed: self.confirmed }
    }
}

impl PendingTags {
    /// Returns none yet.
    pub(crate) fn new() -> Self {
        let heads = Cache::builder().max_capacity(limits::SEEN_TAGS).eviction_policy(EvictionPolicy::lru());
        let targets = Cache::builder().max_capacity(limits::SEEN_TAGS).eviction_policy(EvictionPolicy::lru());
        Self { heads: heads.build(), targets: targets.build() }
    }

    /// Returns the answer for a tag, however old.
    pub(crate) fn get(&self, repository: &RepositoryName, tag: &Tag) -> Option<TagHead> {
        self.heads.get(&(repository.clone(), tag.clone()))
    }

    /// Notes an answer.
    pub(crate) fn insert(&self, repository: &RepositoryName, tag: &Tag, head: TagHead) {
        self.targets.insert((repository.clone(), head.digest.clone()), tag.clone());
        self.heads.insert((repository.clone(), tag.clone()), head);
    }

    /// Drops the answer for a tag.
    pub(crate) fn remove(&self, repository: &RepositoryName, tag: &Tag) {
        self.heads.invalidate(&(repository.clone(), tag.clone()));
    }

    /// Takes the tag that was seen last to point to a manifest.
    pub(crate) fn take_target(&self, repository: &RepositoryName, digest: &Digest) -> Option<Tag> {
        self.targets.remove(&(repository.clone(), digest.clone()))
    }
}

/// Returns how long a tag may be believed where others are for `ttl`.
pub(crate) fn life(tag: &Tag, ttl: Duration) -> Duration {
    if is_signature(tag) { ttl.min(limits::SIGNATURE_TAG_LIFE) } else { ttl }
}

/// Returns true if a tag is about another manifest: `sha256-` and its digits, with or without `.sig`, `.att`, `.sbom`
/// (distribution-spec, "Referrers Tag Schema", and cosign).
fn is_signature(tag: &Tag) -> bool {
    const DIGITS: usize = 64;
    let about = ["sha256-", "sha512-"].into_iter().find_map(|prefix| tag.as_str().strip_prefix(prefix));
    let digits = about.and_then(|about| about.as_bytes().get(..DIGITS));
    digits.is_some_and(|digits| digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> Tag {
        Tag::parse(text).unwrap()
    }

    #[test]
    fn tags_of_signatures_are_believed_for_seconds() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        let hash = "0123456789abcdef".repeat(4);
        for text in ["", ".sig", ".att", ".sbom"].map(|end| format!("sha256-{hash}{end}")) {
            assert_eq!(life(&tag(&text), hour), limits::SIGNATURE_TAG_LIFE, "{text}");
            assert_eq!(life(&tag(&text), second), second, "{text}");
        }
        for text in
            ["latest", "sha256-abc", &format!("sha1-{hash}"), &format!("sha256-{}", hash.to_uppercase())]
        {
            assert_eq!(life(&tag(text), hour), hour, "{text}");
        }
    }
}
