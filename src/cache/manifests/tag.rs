//! Tags: hints with an age.
//!
//! A tag is asked for with HEAD, and its manifest by the digest that the answer gave. The record of a tag moves on only when
//! the manifest is here: should that fail, the old one is still what serves.

use std::time::{Duration, SystemTime};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::cache::manifests::pull::{Manifest, age, is_about_the_form, need, stale};
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::record::TagRecord;
use crate::cache::outcome::CacheStatus;
use crate::cache::requester::{CacheError, Priority, Requester};
use crate::cache::store::Kind;
use crate::clock;
use crate::config::limits;
use crate::meaning::Meaning;
use crate::proto::{Digest, Reference, RepositoryName, Tag};

/// Where tags point whose manifests are not here, by the upstream's answers to HEAD.
pub(crate) struct PendingTags {
    tags: Cache<(RepositoryName, Tag), TagHead>,
    /// The tag that was seen last to point to a manifest: clients ask for that by its digest then.
    targets: Cache<(RepositoryName, Digest), Tag>,
}

/// An upstream's answer to HEAD.
#[derive(Clone)]
struct TagHead {
    manifest: Manifest,
    confirmed: SystemTime,
    /// The repository's, when that was asked.
    generation: Generation,
}

impl PendingTags {
    /// None yet.
    pub(crate) fn new() -> Self {
        let tags = Cache::builder().max_capacity(limits::SEEN_TAGS).eviction_policy(EvictionPolicy::lru());
        let targets = Cache::builder().max_capacity(limits::SEEN_TAGS).eviction_policy(EvictionPolicy::lru());
        Self { tags: tags.build(), targets: targets.build() }
    }
}

impl Requester {
    /// The manifest that `tag` points to.
    pub(crate) async fn by_tag(&self, tag: &Tag, head: bool) -> Result<Manifest, CacheError> {
        let pointer = self.site.ledger.tag(&self.name, tag);
        let age = pointer.as_ref().map_or(Duration::MAX, |pointer| age(pointer.confirmed));
        let ttl = life(tag, self.site.settings.tag_ttl);
        let known = |outcome| self.follow_pointer(pointer.as_ref()?, head, outcome);
        if (age < ttl || self.site.settings.offline)
            && let Some(manifest) = known(CacheStatus::Hit)
        {
            return Ok(manifest);
        }
        self.may_be_there(&Reference::Tag(tag.clone()), || known(CacheStatus::Stale))?;
        let may_fetch = self.permit.may_fetch();
        if let Some(sight) = self.seen_tag(tag) {
            if head && may_fetch {
                return Ok(Manifest { outcome: CacheStatus::Hit, ..sight.manifest });
            }
            // It may have come since, by its digest: docker asks for tags with HEAD.
            if let Some(manifest) = self.believed(&sight.manifest.digest) {
                self.tag_arrived(tag, &manifest.digest);
                return Ok(manifest);
            }
        }
        let old = self.may_serve_stale(age, ttl).then(|| known(CacheStatus::Stale)).flatten();
        let need = need(old.as_ref());
        let asked = match head || !may_fetch {
            true => self.tag_resolved(tag, need).await,
            false => self.tag_pulled(tag, need).await,
        };
        let found = stale(asked, old)?;
        // It has moved on to what is not here.
        if may_fetch || found.bytes.is_some() { Ok(found) } else { Err(CacheError::FetchForbidden) }
    }

    /// What a tag points to, if that is here.
    fn follow_pointer(&self, pointer: &TagRecord, head: bool, outcome: CacheStatus) -> Option<Manifest> {
        let held = self.site.ledger.held(&self.name, Kind::Manifest, &pointer.digest)?;
        self.serve_manifest(&pointer.digest, &held, head, outcome)
    }

    /// Where a tag points, asked by HEAD, once for all who ask. Its manifest comes with it only where it is here already, or
    /// where HEAD does not say enough.
    async fn tag_resolved(&self, tag: &Tag, need: Priority) -> Result<Manifest, CacheError> {
        let ask = move |me: Self, reference| async move { me.resolve_tag(&reference, need).await };
        self.manifest_asked(Reference::Tag(tag.clone()), true, ask).await
    }

    async fn resolve_tag(&self, reference: &Reference, need: Priority) -> Result<Manifest, CacheError> {
        let mut first = true;
        loop {
            let generation = self.generation();
            let found = self.look_at_tag(reference, need).await?;
            if self.note_tag(reference, &found, generation) || !std::mem::take(&mut first) {
                return Ok(found);
            }
        }
    }

    async fn look_at_tag(&self, reference: &Reference, need: Priority) -> Result<Manifest, CacheError> {
        let found = match self.ask_head(reference, need).await {
            Ok(mut said) => said.digest.take().and_then(|digest| self.confirm_manifest(&digest, said)),
            Err(refusal) if is_about_the_form(&refusal) => None,
            Err(refusal) => return Err(refusal),
        };
        match found {
            Some(found) => Ok(found),
            None => self.ask_whole(reference, need).await,
        }
    }

    /// The manifest that a tag points to, asked for once for all who ask.
    async fn tag_pulled(&self, tag: &Tag, need: Priority) -> Result<Manifest, CacheError> {
        let ask = move |me: Self, reference| async move { me.pull_tag(&reference, need).await };
        self.manifest_asked(Reference::Tag(tag.clone()), false, ask).await
    }

    async fn pull_tag(&self, reference: &Reference, need: Priority) -> Result<Manifest, CacheError> {
        let Reference::Tag(tag) = reference else { return Err(CacheError::Bypass) };
        let mut first = true;
        loop {
            let generation = self.generation();
            let found = self.fetch_tag(tag, need).await?;
            if self.generation() == generation || !std::mem::take(&mut first) {
                return Ok(found);
            }
        }
    }

    async fn fetch_tag(&self, tag: &Tag, need: Priority) -> Result<Manifest, CacheError> {
        let seen = match self.seen_tag(tag) {
            Some(sight) => sight.manifest,
            None => self.tag_resolved(tag, need).await?,
        };
        if seen.bytes.is_some() {
            return Ok(seen);
        }
        match self.digest_asked(&seen.digest, false, need).await {
            Ok(found) => {
                self.tag_arrived(tag, &found.digest);
                Ok(found)
            }
            // It has moved on meanwhile, or HEAD tells of another form than GET.
            Err(refusal) if refusal.meaning() == Some(Meaning::NotFound) => self.take_tag(tag, need).await,
            Err(refusal) => Err(refusal),
        }
    }

    async fn take_tag(&self, tag: &Tag, need: Priority) -> Result<Manifest, CacheError> {
        let reference = Reference::Tag(tag.clone());
        let generation = self.generation();
        let found = self.ask_whole(&reference, need).await?;
        self.note_tag(&reference, &found, generation);
        Ok(found)
    }

    /// A tag's manifest is known. The record moves on if that is here, and if nothing was written since the upstream was
    /// asked; the answer is the latter.
    fn note_tag(&self, reference: &Reference, found: &Manifest, generation: Generation) -> bool {
        let Reference::Tag(tag) = reference else { return true };
        let sight = TagHead { manifest: found.clone(), confirmed: clock::wall(), generation };
        if found.bytes.is_some() {
            return self.point_tag(tag, &sight);
        }
        let unchanged = self.generation() == generation;
        if unchanged {
            self.see_tag(tag, &sight);
        }
        unchanged
    }

    /// The manifest is here to which a tag was seen to point.
    fn tag_arrived(&self, tag: &Tag, digest: &Digest) {
        if let Some(sight) = self.site.seen.tags.get(&self.tag_key(tag))
            && sight.manifest.digest == *digest
        {
            self.point_tag(tag, &sight);
        }
    }

    /// The manifest is here for which somebody has asked by its digest: perhaps after he had looked where a tag points.
    pub(crate) fn target_arrived(&self, digest: &Digest) {
        if let Some(tag) = self.site.seen.targets.remove(&(self.name.clone(), digest.clone())) {
            self.tag_arrived(&tag, digest);
        }
    }

    fn see_tag(&self, tag: &Tag, sight: &TagHead) {
        self.site.seen.targets.insert((self.name.clone(), sight.manifest.digest.clone()), tag.clone());
        self.site.seen.tags.insert(self.tag_key(tag), sight.clone());
    }

    /// Whether that still counts.
    fn point_tag(&self, tag: &Tag, sight: &TagHead) -> bool {
        let pointer = TagRecord { digest: sight.manifest.digest.clone(), confirmed: sight.confirmed };
        let pointed = self.site.point_since(sight.generation, &self.name, tag, &pointer);
        if pointed {
            self.site.seen.tags.invalidate(&self.tag_key(tag));
        }
        pointed
    }

    fn seen_tag(&self, tag: &Tag) -> Option<TagHead> {
        let sight = self.site.seen.tags.get(&self.tag_key(tag))?;
        let young = age(sight.confirmed) < life(tag, self.site.settings.tag_ttl);
        (young && sight.generation == self.generation()).then_some(sight)
    }

    /// The registry has said no.
    pub(crate) fn forget_tag(&self, tag: &Tag) {
        self.site.ledger.forget_tag(&self.name, tag);
        self.site.seen.tags.invalidate(&self.tag_key(tag));
    }

    fn tag_key(&self, tag: &Tag) -> (RepositoryName, Tag) {
        (self.name.clone(), tag.clone())
    }

    /// Whether it may be remembered for `not_found_ttl` that `reference` is not there.
    pub(crate) fn not_found_is_believed(&self, reference: &Reference) -> bool {
        match reference {
            Reference::Tag(tag) => {
                let ttl = self.site.settings.not_found_ttl;
                life(tag, ttl) == ttl
            }
            Reference::Digest(_) => true,
        }
    }
}

/// How long a tag may be believed where others are for `ttl`.
fn life(tag: &Tag, ttl: Duration) -> Duration {
    if is_signature(tag) { ttl.min(limits::SIGNATURE_TAG_LIFE) } else { ttl }
}

/// Whether a tag is about another manifest: `sha256-` and its digits, with or without `.sig`, `.att`, `.sbom`
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
