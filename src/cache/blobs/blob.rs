//! Blobs: from memory, from disk, from a fill under way, or from a new one.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::body::Body;
use crate::cache::blobs::credit::{Credit, Credited, Credits};
use crate::cache::blobs::file_body::RestRequest;
use crate::cache::blobs::fill::{
    Demand, Downloads, Fills, Head, Key, Next, Reader, Subscription, Wanted, rest,
};
use crate::cache::blobs::multipart::{Multipart, Opening};
use crate::cache::blobs::pieces;
use crate::cache::blobs::pieces::{KeptBody, Piece, PiecesBody};
use crate::cache::blobs::places::{Here, Places, SmallBlobs};
use crate::cache::counters::Counters;
use crate::cache::error::{BypassReason, CacheError};
use crate::cache::metadata::membership::BlobMembership;
use crate::cache::metadata::record::Membership;
use crate::cache::metadata::records::Ledger;
use crate::cache::origin::gate::Gate;
use crate::cache::origin::{ByteSpan, Provenance};
use crate::cache::outcome::CacheStatus;
use crate::cache::pull_authorization::PullAuthorizer;
use crate::cache::requester::{Requester, RequesterReach};
use crate::cache::store::disk_pool::Use;
use crate::cache::store::{Kind, Partial, Store, disk_pool};
use crate::clock;
use crate::config::limits;
use crate::meaning::Meaning;
use crate::proto::range::Resolved;
use crate::proto::{Algorithm, ByteRange, Digest, Span};

/// A blob, or a part of it, for the client.
#[derive(Debug)]
pub(crate) struct Blob {
    /// Bytes of the whole, where they are known.
    pub total: Option<u64>,
    /// The bytes that the body has, where it has not all.
    pub span: Option<Span>,
    /// The type of a body that has several parts.
    pub multipart: Option<HeaderValue>,
    /// Its type, by the upstream's word.
    pub content_type: Option<HeaderValue>,
    /// The bytes; none for HEAD.
    pub body: Body,
    /// The way in which the cache served it.
    pub outcome: CacheStatus,
    /// Why it is not kept.
    pub bypass: Option<BypassReason>,
    /// The object store sends it, and nothing has proved it yet.
    pub is_unproved: bool,
}

impl Blob {
    /// Returns the whole of a blob that the repository holds by the record `held`.
    fn held(held: &Membership, total: u64, body: Body, outcome: CacheStatus) -> Self {
        Self {
            total: Some(total),
            span: None,
            multipart: None,
            content_type: held.content_type(),
            body,
            outcome,
            bypass: None,
            is_unproved: false,
        }
    }
}

/// The knowledge of a blob with which a piece of it is looked for.
#[derive(Clone, Copy)]
struct Looked {
    /// No piece of the part has been served yet; later the blob may be here whole.
    is_first: bool,
    /// The requester's repository is known to hold it.
    is_proved: bool,
    /// The bytes that it is said to have.
    size: Option<u64>,
}

/// The part of a blob that a range asks for, once the length is known.
enum Asked {
    Whole,
    Part(Span),
}

/// The blobs of one upstream.
pub(crate) struct Blobs {
    upstream: Arc<str>,
    downloads: Arc<Downloads>,
    places: Arc<Places>,
    authorizer: Arc<PullAuthorizer>,
    credits: Credits,
}

impl Blobs {
    /// Returns the blobs of `upstream`, which are downloaded by `downloads`.
    pub(crate) fn new(
        upstream: Arc<str>,
        downloads: Downloads,
        small: Arc<SmallBlobs>,
        authorizer: Arc<PullAuthorizer>,
    ) -> Self {
        let (ledger, store) = (downloads.metadata.ledger().clone(), downloads.store.clone());
        let places = Arc::new(Places { ledger, small, store });
        Self { upstream, downloads: Arc::new(downloads), places, authorizer, credits: Credits::default() }
    }

    /// Returns the blob `digest`, or what `range` asks for of it; of HEAD, which has `head`, never more than what is known of it.
    ///
    /// # Errors
    /// [`CacheError`]. None of them shows a requester that may not have the blob whether it is here.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        range: Option<&ByteRange>,
        head: bool,
    ) -> Result<Blob, CacheError> {
        if digest.algorithm() == Algorithm::Other {
            return Err(self.bypass(requester, BypassReason::UnknownAlgorithm));
        }
        self.authorizer.authorize_blob(requester, digest).await?;
        match range.filter(|range| range.is_several()) {
            // RFC 9110 section 14.2: only GET has ranges.
            Some(_) if head => self.one(requester, digest, None, true).await,
            Some(range) => Box::pin(self.several(requester, digest, range)).await,
            None => self.one(requester, digest, range, head).await,
        }
    }

    /// Returns several parts of a blob; one, or the whole, where that is shorter.
    async fn several(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        range: &ByteRange,
    ) -> Result<Blob, CacheError> {
        let held = self.membership().holds(requester, digest).await?;
        let total = match held.size {
            Some(size) => Some(size),
            None => self.here_or_pass(requester, digest).await?.map(|here| here.length()),
        };
        let Some(total) = total else { return self.one(requester, digest, None, false).await };
        let spans = match range.resolve(total) {
            Resolved::Ignore => return self.one(requester, digest, None, false).await,
            Resolved::Unsatisfiable => return Err(CacheError::Unsatisfiable(total)),
            Resolved::Spans(spans) => spans,
        };
        let content_type = held.content_type().unwrap_or(OCTET_STREAM);
        if self.downloads.ranges.are_ignored() && self.here_or_pass(requester, digest).await?.is_none() {
            return self.one(requester, digest, None, false).await;
        }
        let parts = Multipart::new(&spans, total, content_type);
        let single = match *parts.spans() {
            [span] => Some(ByteRange::from(span)),
            [first, ..] if parts.length() < total => {
                return self.parts(requester, digest, parts, first).await;
            }
            _ => None,
        };
        self.one(requester, digest, single.as_ref(), false).await
    }

    async fn parts(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        parts: Multipart,
        first: Span,
    ) -> Result<Blob, CacheError> {
        let blob = self.one(requester, digest, Some(&first.into()), false).await?;
        if blob.span != Some(first) {
            // An upstream without ranges gives the whole.
            let whole = blob.span.is_none();
            return if whole { Ok(blob) } else { Err(CacheError::Bypass(BypassReason::NoRanges)) };
        }
        let (this, requester, digest) = (self.clone(), requester.clone(), digest.clone());
        let open = move |span: Span| -> Opening {
            let (this, requester, digest) = (this.clone(), requester.clone(), digest.clone());
            Box::pin(async move {
                let blob = this.one(&requester, &digest, Some(&span.into()), false).await?;
                let is_part = blob.span == Some(span);
                is_part
                    .then_some(blob.body)
                    .ok_or_else(|| CacheError::unusable("another part of a blob than was asked for"))
            })
        };
        let multipart = Some(parts.media_type());
        Ok(Blob { span: None, multipart, body: parts.into_body(blob.body, open), ..blob })
    }

    /// Returns the whole blob, or one part of it.
    async fn one(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        range: Option<&ByteRange>,
        head: bool,
    ) -> Result<Blob, CacheError> {
        // A fill can end between a look and the next; one more finds what it has left.
        for _ in 0..3 {
            match self.look(requester, digest, range, head).await {
                Err(CacheError::Retry) => {}
                Err(CacheError::Bypass(reason)) => return Err(self.bypass(requester, reason)),
                result => return result,
            }
        }
        Err(self.bypass(requester, BypassReason::Unsettled))
    }

    /// Returns the error for a blob that is not for the cache: the upstream answers, if it may be asked.
    fn bypass(&self, requester: &Requester, reason: BypassReason) -> CacheError {
        let held_only = self.gate().upstream().held_only(requester);
        held_only.or_else(|| self.gate().upstream().refrains(requester)).unwrap_or(CacheError::Bypass(reason))
    }

    /// Looks for the blob here, else has it downloaded. All but a hit is boxed: each connection has room for what is not.
    async fn look(
        self: &Arc<Self>,
        requester: &Requester,
        digest: &Digest,
        range: Option<&ByteRange>,
        head: bool,
    ) -> Result<Blob, CacheError> {
        let key = self.key(digest);
        let held_only = self.gate().upstream().held_only(requester);
        self.membership().load(requester.repository(), digest).await;
        let record = self.membership().recorded(requester.repository(), digest);
        let mut known = record.clone().filter(BlobMembership::is_believed);
        let mut asked = false;
        if known.is_none() {
            let proof = if head || held_only.is_some() {
                Some(Box::pin(self.membership().holds(requester, digest)).await)
            } else {
                Box::pin(self.prove(requester, &key, record)).await?
            };
            asked = proof.is_some();
            match proof {
                Some(Ok(held)) => known = Some(held),
                // Nothing is proved. GET downloads the blob, and its digest proves it.
                Some(Err(refusal)) if !head && held_only.is_none() && is_unproved(&refusal) => {}
                Some(Err(refusal)) => return Err(refusal),
                None => {}
            }
        }
        if let Some(held) = &known {
            if let Some(here) = self.here(digest).await? {
                self.note_length(requester, &here, digest, held);
                let outcome = if asked { CacheStatus::Revalidated } else { CacheStatus::Hit };
                return self.serve(requester, digest, here, (held, range), head, outcome);
            }
            if head {
                let outcome = if asked { CacheStatus::Miss } else { CacheStatus::Hit };
                return head_of(held, range, outcome);
            }
        }
        let joins = || requester.reach() != RequesterReach::Held && self.fills().has(&key);
        if let Some(error) = held_only
            && !(known.is_some() && joins())
            && !self.gate().has_others(requester)
        {
            return Err(error);
        }
        match range {
            Some(range) => Box::pin(self.part(requester, key, range, known.as_ref())).await,
            None => Box::pin(self.whole(requester, key)).await,
        }
    }

    /// Asks whether the requester's repository holds a blob that is here, or on its way, for others. `None` if it is neither:
    /// the download will ask.
    ///
    /// A requester that is refused must not learn which it was by the time that takes. So the same is looked up in both cases,
    /// and the same request made of the upstream.
    async fn prove(
        &self,
        requester: &Requester,
        key: &Key,
        old: Option<Membership>,
    ) -> Result<Option<Result<Membership, CacheError>>, CacheError> {
        let digest = &key.digest;
        let here = self.is_here(digest).await?;
        // A fill for other repositories alone says nothing of this one.
        let foreign = self.fills().is_foreign(key, requester);
        if !(here || foreign) {
            return Ok(None);
        }
        Ok(Some(self.membership().holds_by_get(requester, digest, old).await))
    }

    fn key(&self, digest: &Digest) -> Key {
        Key { upstream: self.upstream.clone(), digest: digest.clone(), part: None }
    }

    /// Returns true if the blob is here, by this upstream: that another has served it says nothing of what this one would, and
    /// its word for having it is not enough.
    async fn is_here(&self, digest: &Digest) -> Result<bool, CacheError> {
        self.find(digest, Places::has).await
    }

    async fn here(&self, digest: &Digest) -> Result<Option<Here>, CacheError> {
        self.find(digest, Places::find).await
    }

    /// Returns the blob if it is here. Where the disk does not answer, the requester may have to do without the upstream too.
    async fn here_or_pass(&self, requester: &Requester, digest: &Digest) -> Result<Option<Here>, CacheError> {
        self.here(digest).await.map_err(|error| match error {
            CacheError::Bypass(reason) => self.bypass(requester, reason),
            error => error,
        })
    }

    /// Looks for a blob: in memory, else on the disk.
    async fn find<T: Send + 'static>(
        &self,
        digest: &Digest,
        look: fn(&Places, &Digest) -> T,
    ) -> Result<T, CacheError> {
        let (found, missed) = disk_pool::in_memory(|| look(&self.places, digest));
        if !missed {
            return Ok(found);
        }
        let (places, digest) = (self.places.clone(), digest.clone());
        let found = self.store().disk().run(Use::Read, "looking for a blob", move || look(&places, &digest));
        found.await.map_err(|_| CacheError::Bypass(BypassReason::DiskBusy))
    }

    /// Returns the record of a blob that the requester's repository holds.
    async fn known(&self, requester: &Requester, digest: &Digest) -> Option<Membership> {
        self.membership().load(requester.repository(), digest).await;
        self.membership().known(requester.repository(), digest)
    }

    /// Notes how long the blob is, if the record says another length: that is a head's word, and what is here was proved by
    /// its digest before it was kept (containerd PR#5154). It is hashed again all the same, in case the disk has lost some.
    fn note_length(&self, requester: &Requester, here: &Here, digest: &Digest, held: &Membership) {
        if held.size.is_none_or(|size| size == here.length()) {
            return;
        }
        tracing::warn!(%digest, "a blob in the cache is not as long as the upstream's HEAD says; it is hashed again");
        self.places.small.remove(digest);
        self.store().schedule_verify(Kind::Blob, digest);
        let proved = Membership { size: Some(here.length()), ..held.clone() };
        self.ledger().hold(requester.repository(), Kind::Blob, digest, &proved);
    }

    fn serve(
        &self,
        requester: &Requester,
        digest: &Digest,
        here: Here,
        (held, range): (&Membership, Option<&ByteRange>),
        head: bool,
        outcome: CacheStatus,
    ) -> Result<Blob, CacheError> {
        let total = here.length();
        let (first, end, span) = match resolve(range, total)? {
            Asked::Whole => (0, total, None),
            Asked::Part(span) => (span.first, span.last + 1, Some(span)),
        };
        let body = if head {
            Body::empty()
        } else {
            self.counters().saved(end - first);
            here.body(first, end, || (self.rest_of(requester, digest), self.credit(requester)))
        };
        Ok(Blob { span, ..Blob::held(held, total, body, outcome) })
    }

    /// Returns the request for what cannot be read of a blob that is here.
    fn rest_of(&self, requester: &Requester, digest: &Digest) -> RestRequest {
        let (gate, requester, digest) = (self.gate().clone(), requester.clone(), digest.clone());
        Box::new(move |at, end| Box::pin(rest(gate, requester, digest, at, Some(end))))
    }

    /// Returns the whole blob, by a fill.
    async fn whole(&self, requester: &Requester, key: Key) -> Result<Blob, CacheError> {
        let (mut subscription, joined) = self.downloads.join(&key, requester, Demand::REQUIRED)?;
        let head = subscription.head().await?;
        self.check_member(requester, &key.digest, joined || head.is_unasked).await?;
        self.count(joined, head.total);
        let reader = self.reader(subscription, requester, 0, head.total);
        Ok(self.noted(blob(&head, None, reader, joined)))
    }

    /// Notes why a blob that came from the upstream is not kept.
    fn noted(&self, blob: Blob) -> Blob {
        let is_large = blob.total.is_some_and(|total| !self.store().may_keep(total));
        let bypass = (is_large && blob.outcome.is_fetched()).then_some(BypassReason::TooLarge);
        Blob { bypass, ..blob }
    }

    /// Returns a part of a blob that is not here whole: from the fill of the whole if that will soon have it, else piece by piece.
    async fn part(
        self: &Arc<Self>,
        requester: &Requester,
        key: Key,
        range: &ByteRange,
        known: Option<&Membership>,
    ) -> Result<Blob, CacheError> {
        if let Some(mut subscription) = self.fills().follow(&key, requester) {
            let head = subscription.head().await?;
            self.check_member(requester, &key.digest, true).await?;
            return self.part_of(subscription, requester, &head, range, true).await;
        }
        if self.comes_from_store(requester, &key).await {
            return self.part_of_new(requester, key, range).await;
        }
        // A single range that does not count from the end can be asked for without knowing the length.
        let Some((first, last)) = range.as_plain() else {
            return match known.and_then(|held| held.size) {
                Some(total) => match resolve(Some(range), total)? {
                    Asked::Whole => self.whole(requester, key).await,
                    Asked::Part(span) => {
                        let looked = Looked { is_first: true, is_proved: true, size: Some(total) };
                        self.pieces_or_join(requester, key, range, (bytes_of(span), looked)).await
                    }
                },
                None => self.part_of_new(requester, key, range).await,
            };
        };
        let part = ByteSpan { first, last };
        if part == (ByteSpan { first: 0, last: None }) {
            return self.part_of_new(requester, key, range).await;
        }
        let looked =
            Looked { is_first: true, is_proved: known.is_some(), size: known.and_then(|held| held.size) };
        self.pieces_or_join(requester, key, range, (part, looked)).await
    }

    /// Returns true if a part is to be taken from the whole, as the store has it: nothing else proves bytes of the store. A client
    /// waits that long for a part, so that larger blobs are asked of the upstream, if that may be asked; and so are those of which
    /// other parts come from there.
    async fn comes_from_store(&self, requester: &Requester, key: &Key) -> bool {
        let is_short =
            |length| length <= limits::BUCKET_PARTED || self.gate().upstream().held_only(requester).is_some();
        self.fills().partials().get(key).is_none()
            && self.gate().stored_length(requester, &key.digest).await.is_some_and(is_short)
    }

    /// Returns a part piece by piece, or from a download of the whole where the upstream ignores ranges.
    async fn pieces_or_join(
        self: &Arc<Self>,
        requester: &Requester,
        key: Key,
        range: &ByteRange,
        (part, looked): (ByteSpan, Looked),
    ) -> Result<Blob, CacheError> {
        let ranges = &self.downloads.ranges;
        if ranges.are_ignored() {
            return self.part_of_new(requester, key, range).await;
        }
        match self.pieces(requester, key.clone(), part, looked).await {
            // The upstream sends the whole, and the part lies far behind its first byte.
            Err(CacheError::Bypass(BypassReason::NoRanges)) if ranges.are_ignored() => {
                self.part_of_new(requester, key, range).await
            }
            pieces => pieces,
        }
    }

    async fn part_of_new(
        self: &Arc<Self>,
        requester: &Requester,
        key: Key,
        range: &ByteRange,
    ) -> Result<Blob, CacheError> {
        let (mut subscription, joined) = self.downloads.join(&key, requester, Demand::REQUIRED)?;
        let head = subscription.head().await?;
        self.check_member(requester, &key.digest, joined || head.is_unasked).await?;
        self.part_of(subscription, requester, &head, range, joined).await
    }

    async fn part_of(
        self: &Arc<Self>,
        subscription: Subscription,
        requester: &Requester,
        head: &Head,
        range: &ByteRange,
        joined: bool,
    ) -> Result<Blob, CacheError> {
        let asked = match head.total {
            Some(total) => resolve(Some(range), total)?,
            None => Asked::Whole,
        };
        // Where the upstream ignores ranges, the bytes before would come again for each range. Unless the download is kept and
        // finished, the client gets them (RFC 9110 section 14.2 lets a server ignore Range).
        let ignored = self.downloads.ranges.are_ignored();
        let is_far = |span: &Span| span.first > limits::SKIPPED_BYTES.max(span.length());
        let span = match asked {
            Asked::Part(span)
                if !ignored || !is_far(&span) || self.finish_anyway(&subscription, requester, head) =>
            {
                span
            }
            Asked::Whole | Asked::Part(_) => {
                self.count(joined, head.total);
                let reader = self.reader(subscription, requester, 0, head.total);
                return Ok(self.noted(blob(head, None, reader, joined)));
            }
        };
        if !ignored && !subscription.is_near(span.first) && !head.from.is_unproved() {
            let key = self.key(subscription.digest());
            let looked = Looked { is_first: true, is_proved: true, size: head.total };
            let pieces = self.pieces(requester, key, bytes_of(span), looked).await;
            drop(subscription);
            return pieces;
        }
        self.count(joined, Some(span.length()));
        let reader = self.reader(subscription, requester, span.first, Some(span.last + 1));
        Ok(self.noted(blob(head, Some(span), reader, joined)))
    }

    /// Has a download finished also if its clients leave, if it is kept and the requester has credit for it. Returns true if it
    /// will be.
    fn finish_anyway(&self, subscription: &Subscription, requester: &Requester, head: &Head) -> bool {
        if !subscription.is_kept() {
            return false;
        }
        let Some(total) = head.total else { return false };
        subscription.is_finished_anyway()
            || (self.credit(requester).pay(total)
                && self.fill_besides(self.key(subscription.digest()), requester, total))
    }

    /// Has a blob of `total` bytes downloaded besides what is passed through. Returns false if there is no memory for it: the
    /// next request tries again.
    fn fill_besides(&self, whole: Key, requester: &Requester, total: u64) -> bool {
        let Ok((subscription, _)) = self.downloads.join(&whole, requester, Demand::background(total)) else {
            return false;
        };
        tokio::spawn(async move { subscription.done().await });
        true
    }

    /// Returns a part, piece by piece. What comes of it is kept; of a small blob the rest is fetched besides.
    async fn pieces(
        self: &Arc<Self>,
        requester: &Requester,
        whole: Key,
        part: ByteSpan,
        looked: Looked,
    ) -> Result<Blob, CacheError> {
        let end = part.last.map(|last| last.saturating_add(1));
        let first = match self.piece(requester, &whole, (part.first, end), looked).await {
            Ok(piece) => piece,
            Err(error) => return Err(self.unsatisfied(requester, &whole.digest, part, error).await),
        };
        let (total, outcome, content_type) = (first.total, first.outcome, first.content_type.clone());
        let span = Span::new(part.first, end.map_or(total, |end| end.min(total)).saturating_sub(1));
        let span = span.filter(|span| span.last < total).ok_or(CacheError::Unsatisfiable(total))?;
        if total <= limits::FILLED_BESIDES_BYTES
            && self.store().may_keep(total)
            && outcome != CacheStatus::Hit
            && !self.fills().has(&whole)
            && self.credit(requester).pay(total)
        {
            self.fill_besides(whole.clone(), requester, total);
        }
        let (this, requester) = (self.clone(), requester.clone());
        let open = move |at| -> pieces::Opening {
            let (this, requester, whole) = (this.clone(), requester.clone(), whole.clone());
            Box::pin(async move {
                let looked = Looked { is_first: false, is_proved: true, size: Some(total) };
                this.piece(&requester, &whole, (at, Some(span.last + 1)), looked).await
            })
        };
        let body = Body::stream(PiecesBody::new(span, first, open));
        let (total, span) = (Some(total), Some(span));
        Ok(self.noted(Blob {
            total,
            span,
            multipart: None,
            content_type,
            body,
            outcome,
            bypass: None,
            is_unproved: false,
        }))
    }

    /// Returns the next bytes of a part, from `at` on: as many as one source has of those up to `end`.
    async fn piece(
        self: &Arc<Self>,
        requester: &Requester,
        whole: &Key,
        (at, end): (u64, Option<u64>),
        looked: Looked,
    ) -> Result<Piece, CacheError> {
        let (begun, digest) = (clock::now(), &whole.digest);
        let mut retries = 0..MOST_RETRIES;
        let mut waiter = None;
        loop {
            let changed = self.fills().changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            // How long a refusal takes must not tell what is on the disk.
            let partial = if looked.is_proved {
                self.downloads.partial(whole).await
            } else {
                self.fills().partials().get(whole)
            };
            if partial.is_none()
                && !looked.is_first
                && let Some(here) = self.here(digest).await?
            {
                let held = self.proved(requester, digest).await?;
                return Ok(self.piece_here(requester, digest, here, (at, end), &held));
            }
            let total = partial.as_ref().and_then(|partial| partial.head().0);
            if let Some(total) = total.filter(|total| at >= *total) {
                self.proved(requester, digest).await?;
                return Err(CacheError::Unsatisfiable(total));
            }
            let keeps =
                self.store().takes_new() && looked.size.is_none_or(|size| self.store().may_keep(size));
            let urgent = clock::now() - begun >= limits::STREAM_WAIT;
            let wanted = Wanted { at, end, partial: partial.as_ref(), total, urgent };
            let pays = |bytes| keeps && self.credit(requester).pay(bytes);
            match (self.downloads.next(whole, requester, &wanted, pays)?, &partial) {
                (Next::There(until), Some(partial)) => {
                    let held = self.proved(requester, digest).await?;
                    self.downloads.complete(whole, partial, requester);
                    return Ok(self.piece_kept(requester, partial, (at, end, until), &held));
                }
                (Next::Coming(subscription, joined, until), _) => {
                    let until = [end, until].into_iter().flatten().min();
                    match self.piece_coming(requester, subscription, joined, (at, until)).await {
                        Err(CacheError::Retry) if retries.next().is_some() => {}
                        piece => return piece,
                    }
                }
                (Next::There(_), None) => {}
                (Next::Waits(next), _) => {
                    // The reader counts as waiting before the last wait ends: at no moment does it not.
                    drop(waiter.replace(next));
                    let _ = tokio::time::timeout(WAITS_LOOK, changed).await;
                }
            }
        }
    }

    /// Returns the record of a blob of which something is here. Where there is none, the upstream is asked as it would be for a
    /// blob of which nothing is.
    async fn proved(&self, requester: &Requester, digest: &Digest) -> Result<Membership, CacheError> {
        match self.known(requester, digest).await {
            Some(held) => Ok(held),
            None => self.membership().holds_by_get(requester, digest, None).await,
        }
    }

    fn piece_here(
        &self,
        requester: &Requester,
        digest: &Digest,
        here: Here,
        (at, end): (u64, Option<u64>),
        held: &Membership,
    ) -> Piece {
        let total = here.length();
        let end = end.map_or(total, |end| end.min(total));
        self.counters().saved(end.saturating_sub(at));
        let rest = || (self.rest_of(requester, digest), self.credit(requester));
        let body = here.body(at.min(end), end, rest);
        Piece { total, content_type: held.content_type(), body, outcome: CacheStatus::Hit, partial: None }
    }

    fn piece_kept(
        &self,
        requester: &Requester,
        partial: &Arc<Partial>,
        (at, end, until): (u64, Option<u64>, u64),
        held: &Membership,
    ) -> Piece {
        let total = partial.head().0.unwrap_or(until);
        let is_all = end.map_or(total, |end| end.min(total)) <= until;
        let outcome = if is_all { CacheStatus::Hit } else { CacheStatus::Fill };
        let end = end.map_or(until, |end| end.min(until));
        self.counters().saved(end - at);
        let body = KeptBody::new(partial.clone(), at, end);
        let body = Body::stream(Credited::new(body, self.credit(requester)));
        Piece { total, content_type: held.content_type(), body, outcome, partial: Some(partial.clone()) }
    }

    async fn piece_coming(
        &self,
        requester: &Requester,
        mut subscription: Subscription,
        joined: bool,
        (at, end): (u64, Option<u64>),
    ) -> Result<Piece, CacheError> {
        let head = subscription.head().await?;
        self.check_member(requester, subscription.digest(), joined || head.is_unasked).await?;
        // A whole of unknown length is asked for otherwise.
        let total = head.total.ok_or(CacheError::Retry)?;
        let end = [end, head.end, Some(total)].into_iter().flatten().min();
        self.count(joined, end.map(|end| end.saturating_sub(at)));
        let outcome = came(&head, joined);
        let partial = subscription.partial();
        let body = self.reader(subscription, requester, at, end.map(|end| end.max(at)));
        Ok(Piece { total, content_type: head.content_type.clone(), body, outcome, partial })
    }

    /// Returns the error for a part that the upstream refuses to give. A registry that says only that the range is behind the
    /// end is asked how long the blob is: clients need that to go on.
    async fn unsatisfied(
        &self,
        requester: &Requester,
        digest: &Digest,
        part: ByteSpan,
        error: CacheError,
    ) -> CacheError {
        let is_silent = match &error {
            CacheError::Origin(failure) => failure.is_unsatisfied() && failure.unsatisfied.is_none(),
            _ => false,
        };
        if !is_silent {
            return error;
        }
        match self.membership().holds(requester, digest).await {
            Ok(Membership { size: Some(total), .. }) if part.first >= total => {
                CacheError::Unsatisfiable(total)
            }
            _ => error,
        }
    }

    fn reader(&self, subscription: Subscription, requester: &Requester, at: u64, end: Option<u64>) -> Body {
        let (gate, disk) = (self.gate().clone(), self.store().disk().clone());
        let reader = Reader::new(subscription, requester.clone(), gate, disk, at, end);
        Body::stream(Credited::new(reader, self.credit(requester)))
    }

    /// Asks whether the requester's repository holds a blob that a fill for another has joined, if that is not known.
    async fn check_member(
        &self,
        requester: &Requester,
        digest: &Digest,
        joined: bool,
    ) -> Result<(), CacheError> {
        if joined && self.known(requester, digest).await.is_none() {
            self.membership().holds(requester, digest).await?;
        }
        Ok(())
    }

    fn count(&self, joined: bool, bytes: Option<u64>) {
        if joined {
            self.counters().saved(bytes.unwrap_or_default());
        }
    }

    /// Fetches a blob that no client waits for, and waits until it is here. One that turns out longer than `most`, or than any
    /// that is kept, is given up: nothing more of it is read, and nothing of it is kept.
    pub(crate) async fn fetch_ahead(
        &self,
        requester: &Requester,
        digest: &Digest,
        most: Option<u64>,
    ) -> Result<(), CacheError> {
        if digest.algorithm() == Algorithm::Other {
            return Err(CacheError::Bypass(BypassReason::UnknownAlgorithm));
        }
        if self.is_here(digest).await? {
            return self.check_member(requester, digest, true).await;
        }
        let most = most.unwrap_or(u64::MAX).min(self.store().largest_kept());
        let (mut subscription, joined) =
            self.downloads.join(&self.key(digest), requester, Demand::background(most))?;
        let head = match subscription.head().await {
            // Another download has ended since the cache was looked into.
            Err(CacheError::Retry) if self.is_here(digest).await? => {
                return self.check_member(requester, digest, true).await;
            }
            head => head?,
        };
        if head.total.is_some_and(|total| total > most) {
            return Err(CacheError::unusable(
                "a blob that is longer than its manifest says, or than any that is kept",
            ));
        }
        self.check_member(requester, digest, joined).await?;
        if subscription.done().await {
            Ok(())
        } else {
            Err(CacheError::unusable("a blob that did not come whole"))
        }
    }

    /// Returns true if a blob has to be fetched for the requester's repository, and can be checked here.
    pub(crate) fn is_missing(&self, requester: &Requester, digest: &Digest) -> bool {
        let is_known = || self.membership().known(requester.repository(), digest).is_some();
        digest.algorithm() != Algorithm::Other && !(self.store().has(Kind::Blob, digest) && is_known())
    }

    /// Returns the number of fills that clients wait for.
    pub(crate) fn wanted(&self) -> usize {
        self.fills().wanted(&self.upstream)
    }

    /// Returns the credit from which is paid what is fetched because `requester` named it.
    pub(crate) fn credit(&self, requester: &Requester) -> Credit {
        self.credits.of(requester)
    }

    /// Returns the gate to the upstream.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.downloads.gate
    }

    /// Returns the records of blobs that repositories hold.
    pub(crate) fn membership(&self) -> &Arc<BlobMembership> {
        &self.downloads.membership
    }

    fn ledger(&self) -> &Ledger {
        self.downloads.metadata.ledger()
    }

    fn store(&self) -> &Store {
        &self.downloads.store
    }

    fn fills(&self) -> &Fills {
        &self.downloads.fills
    }

    fn counters(&self) -> &Counters {
        &self.downloads.counters
    }
}

/// Returns true if the upstream's answer about a blob is none that can be believed, and says no more than that.
fn is_unproved(refusal: &CacheError) -> bool {
    refusal.meaning() == Some(Meaning::Unusable)
}

/// Returns the cache's part in what a fill brings. `joined` is true if it was under way.
fn came(head: &Head, joined: bool) -> CacheStatus {
    match (joined, head.from) {
        (true, _) => CacheStatus::Fill,
        (false, Provenance::Replica { .. }) => CacheStatus::Peer,
        (false, Provenance::Store { .. }) => CacheStatus::Store,
        (false, Provenance::Upstream) => CacheStatus::Miss,
    }
}

fn blob(head: &Head, span: Option<Span>, body: Body, joined: bool) -> Blob {
    let outcome = came(head, joined);
    // A part waits until the whole is proved.
    let is_unproved = head.from.is_unproved() && span.is_none();
    let content_type = head.content_type.clone();
    Blob { total: head.total, span, multipart: None, content_type, body, outcome, bypass: None, is_unproved }
}

fn head_of(held: &Membership, range: Option<&ByteRange>, outcome: CacheStatus) -> Result<Blob, CacheError> {
    // Without a length the answer is not what clients need.
    let total = held.size.ok_or(CacheError::Bypass(BypassReason::UnknownLength))?;
    let span = match resolve(range, total)? {
        Asked::Whole => None,
        Asked::Part(span) => Some(span),
    };
    Ok(Blob { span, ..Blob::held(held, total, Body::empty(), outcome) })
}

/// Returns the part that `range` asks for. Of several ranges this is the span that covers them all, for the callers that know
/// only one.
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

/// How often a part is looked for anew after a fill has ended that was to have it.
const MOST_RETRIES: usize = 3;

/// The time after which it is looked again whether a stream has become free: most wait for less.
const WAITS_LOOK: Duration = Duration::from_millis(100);

const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");

fn bytes_of(span: Span) -> ByteSpan {
    ByteSpan { first: span.first, last: Some(span.last) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cache::scripted_origin::{Place, name};

    #[tokio::test]
    async fn a_blob_that_has_just_come_is_not_fetched_again() {
        let place = Place::new();
        let blobs = &place.upstream_cache.blobs;
        let (bytes, requester) = (b"it came between the look and the download", place.repository().requester);
        let (digest, length) = (Digest::sha256_of(bytes), bytes.len() as u64);
        let partial = blobs.store().begin(&blobs.upstream, &digest, Some(length), None).unwrap();
        partial.write(0, bytes).unwrap();
        partial.commit(&digest, length).unwrap();
        blobs.ledger().note_served(&digest);
        let held = Membership { media_type: None, size: Some(length), confirmed: clock::wall() };
        blobs.ledger().hold(&name(), Kind::Blob, &digest, &held);
        let fetched = blobs.whole(&requester, blobs.key(&digest)).await;
        assert!(matches!(fetched, Err(CacheError::Retry)));
        blobs.fetch_ahead(&requester, &digest, None).await.unwrap();
        assert_eq!(place.registry.asked(), [""; 0]);
        assert_eq!(blobs.blob(&requester, &digest, None, false).await.unwrap().outcome, CacheStatus::Hit);
    }

    #[tokio::test]
    async fn a_refusal_looks_up_the_same_whatever_is_here() {
        let place = Place::new();
        let blobs = &place.upstream_cache.blobs;
        let (here, absent) = (Digest::sha256_of(b"here"), Digest::sha256_of(b"not here"));
        // The registry has neither in this repository.
        blobs.places.small.keep(&here, &Bytes::from_static(b"here"));
        blobs.ledger().note_served(&here);
        let requester = place.repository().requester;
        for range in [None, Some(ByteRange::parse(b"bytes=0-0")), Some(ByteRange::parse(b"bytes=-1"))] {
            let mut costs = Vec::new();
            for digest in [&here, &absent] {
                let before = blobs.ledger().lookups();
                let error = blobs.blob(&requester, digest, range.as_ref(), false).await.unwrap_err();
                let asked = place.registry.asked().join(" ").replace(digest.as_str(), "DIGEST");
                costs.push((blobs.ledger().lookups() - before, asked, error.to_string()));
            }
            assert_eq!(costs[0], costs[1], "{range:?}");
            assert_eq!(costs[0].1, "BLOB DIGEST");
        }
    }
}
