//! Blobs: from memory, from disk, from a fill under way, or from a new one.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::body::Body;
use crate::cache::blobs::file_body::FileBody;
use crate::cache::blobs::fill::{Head, Key, Reader, Subscription};
use crate::cache::error::{BypassReason, CacheError};
use crate::cache::metadata::record::Membership;
use crate::cache::origin::ByteSpan as Part;
use crate::cache::origin::gate::Priority;
use crate::cache::outcome::CacheStatus;
use crate::cache::requester::Requester;
use crate::cache::store::{Content, Kind};
use crate::config::limits;
use crate::proto::range::Resolved;
use crate::proto::{Algorithm, ByteRange, Digest, Span};

/// A blob, or a part of it, for the client.
#[derive(Debug)]
pub(crate) struct Blob {
    /// Bytes of the whole, where they are known.
    pub total: Option<u64>,
    /// Which of them the body has, where it has not all.
    pub span: Option<Span>,
    /// Its type, by the upstream's word.
    pub content_type: Option<HeaderValue>,
    /// The bytes; none for HEAD.
    pub body: Body,
    /// What the cache did for it.
    pub outcome: CacheStatus,
}

/// SmallBlobs blobs, in memory.
pub(crate) struct SmallBlobs(Cache<Digest, Bytes>);

impl SmallBlobs {
    pub(crate) fn new() -> Self {
        let weigh = |_: &Digest, bytes: &Bytes| u32::try_from(bytes.len() + 256).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(limits::SMALL_BLOBS_BYTES).weigher(weigh);
        Self(cache.eviction_policy(EvictionPolicy::lru()).build())
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.0.get(digest)
    }

    pub(crate) fn keep(&self, digest: &Digest, bytes: &Bytes) {
        self.0.insert(digest.clone(), bytes.clone());
    }

    pub(crate) fn remove(&self, digest: &Digest) {
        self.0.invalidate(digest);
    }
}

/// Bytes that are here.
enum Here {
    Memory(Bytes),
    Disk(Arc<Content>),
}

impl Here {
    fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Disk(content) => content.length,
        }
    }

    fn body(self, first: u64, end: u64) -> Body {
        match self {
            Self::Memory(bytes) => {
                let place = |at: u64| usize::try_from(at).unwrap_or(bytes.len());
                Body::full(bytes.slice(place(first)..place(end)))
            }
            Self::Disk(content) => Body::stream(FileBody::new(content, first, end)),
        }
    }
}

/// What of a blob is asked for, once its length is known.
enum Asked {
    Whole,
    Part(Span),
}

impl Requester {
    /// The blob `digest`, or what `range` asks for of it; of HEAD, which has `head`, never more than what is known of it.
    ///
    /// # Errors
    /// [`CacheError`]. Whether the blob is here shows in none of them to one who may not have it.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        range: Option<&ByteRange>,
        head: bool,
    ) -> Result<Blob, CacheError> {
        if digest.algorithm() == Algorithm::Other {
            return Err(self.passed_on(BypassReason::UnknownAlgorithm));
        }
        self.entitled_to_blob(digest).await?;
        // A fill can end between a look and the next; one more finds what it has left.
        for _ in 0..3 {
            match self.look(digest, range, head).await {
                Err(CacheError::Retry) => {}
                Err(CacheError::Bypass(reason)) => return Err(self.passed_on(reason)),
                result => return result,
            }
        }
        Err(self.passed_on(BypassReason::Unsettled))
    }

    /// It is not for the cache: for the upstream, if that may be asked.
    fn passed_on(&self, reason: BypassReason) -> CacheError {
        self.held_only().or_else(|| self.refrains()).unwrap_or(CacheError::Bypass(reason))
    }

    async fn look(&self, digest: &Digest, range: Option<&ByteRange>, head: bool) -> Result<Blob, CacheError> {
        let key = self.key(digest);
        let mut known = self.known(digest);
        let mut asked = false;
        if known.is_none()
            && (head || self.is_held_only() || self.is_here(digest) || self.has_foreign_fill(&key))
        {
            known = Some(self.holds(digest).await?);
            asked = true;
        }
        if let Some(held) = &known {
            if let Some(here) = self.here(digest) {
                if !self.agree(&here, digest, held) {
                    return Err(CacheError::Bypass(BypassReason::OtherLength));
                }
                let outcome = if asked { CacheStatus::Revalidated } else { CacheStatus::Hit };
                return self.serve(here, held, range, head, outcome);
            }
            if head {
                let outcome = if asked { CacheStatus::Miss } else { CacheStatus::Hit };
                return head_of(held, range, outcome);
            }
        }
        if self.is_held_only() && !(known.is_some() && self.site.cache.fills.has(&key)) {
            return Err(self.not_held());
        }
        match range {
            Some(range) => self.part(key, range, known.as_ref()).await,
            None => self.whole(key).await,
        }
    }

    fn key(&self, digest: &Digest) -> Key {
        Key { upstream: self.site.name.clone(), digest: digest.clone(), part: None }
    }

    /// Whether the blob is here, by this upstream: what another one has served says nothing of what this one would, and its
    /// word for having it is not enough.
    fn is_here(&self, digest: &Digest) -> bool {
        let cache = &self.site.cache;
        self.site.ledger.served(digest)
            && (cache.small.get(digest).is_some() || cache.store.has(Kind::Blob, digest))
    }

    /// Whether the blob is on its way for another repository alone: that says nothing of this one.
    fn has_foreign_fill(&self, key: &Key) -> bool {
        self.site.cache.fills.is_foreign(key, self)
    }

    fn here(&self, digest: &Digest) -> Option<Here> {
        let cache = &self.site.cache;
        if !self.site.ledger.served(digest) {
            return None;
        }
        if let Some(bytes) = cache.small.get(digest) {
            return Some(Here::Memory(bytes));
        }
        let content = cache.store.content(Kind::Blob, digest)?;
        if content.length <= limits::SMALL_BLOB_BYTES
            && let Some(bytes) = content.bytes()
        {
            cache.small.keep(digest, &bytes);
            return Some(Here::Memory(bytes));
        }
        Some(Here::Disk(Arc::new(content)))
    }

    /// Content is proved before it is kept. Where it is not as long as a record says, one of them is wrong: neither serves.
    fn agree(&self, here: &Here, digest: &Digest, held: &Membership) -> bool {
        let agree = held.size.is_none_or(|size| size == here.length());
        if !agree {
            tracing::warn!(%digest, "a blob in the cache is not as long as the upstream says");
            self.site.cache.small.remove(digest);
            self.site.cache.store.schedule_verify(Kind::Blob, digest);
            self.site.ledger.release(&self.name, Kind::Blob, digest);
        }
        agree
    }

    fn serve(
        &self,
        here: Here,
        held: &Membership,
        range: Option<&ByteRange>,
        head: bool,
        outcome: CacheStatus,
    ) -> Result<Blob, CacheError> {
        let total = here.length();
        let (first, end, span) = match resolve(range, total)? {
            Asked::Whole => (0, total, None),
            Asked::Part(span) => (span.first, span.last + 1, Some(span)),
        };
        let content_type = held.content_type();
        let body = if head {
            Body::empty()
        } else {
            self.site.cache.counters.saved(end - first);
            here.body(first, end)
        };
        Ok(Blob { total: Some(total), span, content_type, body, outcome })
    }

    /// The whole blob, by a fill.
    async fn whole(&self, key: Key) -> Result<Blob, CacheError> {
        let digest = key.digest.clone();
        let (mut want, joined) = self.site.cache.fills.join(key, self, Priority::Required);
        let head = want.head().await?;
        self.is_member(&digest, joined).await?;
        self.count(joined, head.total);
        let reader = Reader::new(want, self.clone(), 0, head.total);
        Ok(blob(&head, None, Body::stream(reader), joined))
    }

    /// A part of a blob that is not here whole: from a fill that will soon have it, else passed through.
    async fn part(
        &self,
        key: Key,
        range: &ByteRange,
        known: Option<&Membership>,
    ) -> Result<Blob, CacheError> {
        let digest = key.digest.clone();
        if let Some(mut want) = self.site.cache.fills.follow(&key, self) {
            let head = want.head().await?;
            self.is_member(&digest, true).await?;
            return self.part_of(want, &head, range, true).await;
        }
        let Some(part) = simple(range) else {
            // Where its end is has to be known first.
            return match known.and_then(|held| held.size) {
                Some(total) => self.passed(key, range, total).await,
                None => self.part_of_new(key, range).await,
            };
        };
        if part == (Part { first: 0, last: None }) {
            return self.part_of_new(key, range).await;
        }
        self.pass(key, part).await
    }

    async fn part_of_new(&self, key: Key, range: &ByteRange) -> Result<Blob, CacheError> {
        let digest = key.digest.clone();
        let (mut want, joined) = self.site.cache.fills.join(key, self, Priority::Required);
        let head = want.head().await?;
        self.is_member(&digest, joined).await?;
        self.part_of(want, &head, range, joined).await
    }

    async fn part_of(
        &self,
        want: Subscription,
        head: &Head,
        range: &ByteRange,
        joined: bool,
    ) -> Result<Blob, CacheError> {
        let Some(total) = head.total else {
            self.count(joined, None);
            let reader = Reader::new(want, self.clone(), 0, None);
            return Ok(blob(head, None, Body::stream(reader), joined));
        };
        let span = match resolve(Some(range), total)? {
            Asked::Whole => {
                self.count(joined, Some(total));
                let reader = Reader::new(want, self.clone(), 0, Some(total));
                return Ok(blob(head, None, Body::stream(reader), joined));
            }
            Asked::Part(span) => span,
        };
        if !want.is_near(span.first) {
            let key = self.key(want.digest());
            let part = Part { first: span.first, last: Some(span.last) };
            let passed = self.pass(key, part).await;
            drop(want);
            return passed;
        }
        self.count(joined, Some(span.length()));
        let reader = Reader::new(want, self.clone(), span.first, Some(span.last + 1));
        Ok(blob(head, Some(span), Body::stream(reader), joined))
    }

    async fn passed(&self, key: Key, range: &ByteRange, total: u64) -> Result<Blob, CacheError> {
        match resolve(Some(range), total)? {
            Asked::Whole => self.whole(key).await,
            Asked::Part(span) => self.pass(key, Part { first: span.first, last: Some(span.last) }).await,
        }
    }

    /// Some bytes, passed through to all who ask for the same. A small blob begins to fill besides.
    async fn pass(&self, key: Key, part: Part) -> Result<Blob, CacheError> {
        let whole = key.clone();
        let key = Key { part: Some(part), ..key };
        let (mut want, joined) = self.site.cache.fills.join(key, self, Priority::Required);
        let head = want.head().await?;
        self.is_member(&whole.digest, joined).await?;
        if let Some(total) = head.total
            && total <= limits::FILLED_BESIDES_BYTES
        {
            self.fill_behind(whole);
        }
        let span = head.end.and_then(|end| Span::new(head.first, end.saturating_sub(1)));
        self.count(joined, span.map(Span::length));
        let reader = Reader::new(want, self.clone(), head.first, head.end);
        Ok(blob(&head, span, Body::stream(reader), joined))
    }

    /// Fills a blob that no client waits for.
    fn fill_behind(&self, key: Key) {
        let (want, _) = self.site.cache.fills.join(key, self, Priority::Background);
        tokio::spawn(async move { want.done().await });
    }

    /// The fill was for somebody; whether it is for this repository has to be known as well.
    async fn is_member(&self, digest: &Digest, joined: bool) -> Result<(), CacheError> {
        if joined && self.known(digest).is_none() {
            self.holds(digest).await?;
        }
        Ok(())
    }

    fn count(&self, joined: bool, bytes: Option<u64>) {
        if joined {
            self.site.cache.counters.saved(bytes.unwrap_or_default());
        }
    }

    /// What whoever may not have it fetched is told.
    pub(crate) fn not_held(&self) -> CacheError {
        if self.permit.may_fetch() { CacheError::Offline } else { CacheError::FetchForbidden }
    }

    /// Fetches a blob that no client waits for, until it is here: whether it is.
    pub(crate) async fn fetch_ahead(&self, digest: &Digest) -> Result<(), CacheError> {
        if digest.algorithm() == Algorithm::Other {
            return Err(CacheError::Bypass(BypassReason::UnknownAlgorithm));
        }
        if self.known(digest).is_some() && self.is_here(digest) {
            return Ok(());
        }
        if self.is_here(digest) {
            return self.holds(digest).await.map(|_| ());
        }
        let (mut want, joined) = self.site.cache.fills.join(self.key(digest), self, Priority::Background);
        want.head().await?;
        self.is_member(digest, joined).await?;
        if want.done().await { Ok(()) } else { Err(CacheError::unusable("a blob that did not come whole")) }
    }
}

fn blob(head: &Head, span: Option<Span>, body: Body, joined: bool) -> Blob {
    let outcome = if joined { CacheStatus::Fill } else { CacheStatus::Miss };
    Blob { total: head.total, span, content_type: head.content_type.clone(), body, outcome }
}

fn head_of(held: &Membership, range: Option<&ByteRange>, outcome: CacheStatus) -> Result<Blob, CacheError> {
    // Without a length the answer is not what clients need.
    let total = held.size.ok_or(CacheError::Bypass(BypassReason::UnknownLength))?;
    let span = match resolve(range, total)? {
        Asked::Whole => None,
        Asked::Part(span) => Some(span),
    };
    Ok(Blob { total: Some(total), span, content_type: held.content_type(), body: Body::empty(), outcome })
}

/// Several ranges are answered with one that covers them (RFC 9110 section 15.3.7.2 lets a server coalesce).
fn resolve(range: Option<&ByteRange>, total: u64) -> Result<Asked, CacheError> {
    let Some(range) = range else { return Ok(Asked::Whole) };
    match range.resolve(total) {
        Resolved::Ignore => Ok(Asked::Whole),
        Resolved::Unsatisfiable => Err(CacheError::Unsatisfiable(total)),
        Resolved::Spans(spans) => {
            let first = spans.iter().map(|span| span.first).min();
            let last = spans.iter().map(|span| span.last).max();
            let span = first.zip(last).and_then(|(first, last)| Span::new(first, last));
            Ok(span.map_or(Asked::Whole, Asked::Part))
        }
    }
}

/// One range that does not count from the end.
fn simple(range: &ByteRange) -> Option<Part> {
    range.as_plain().map(|(first, last)| Part { first, last })
}
