//! Lists of one repository: tags (end-8) and referrers (end-12).

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use serde::{Deserialize, Serialize};

use crate::body::{Body, RequestBody, WholeError};
use crate::cache::{CacheError, CacheStatus, KeptList, ListHead, Listed, Requester, UpstreamCache};
use crate::config::limits;
use crate::gateway::answer::Answer;
use crate::gateway::authorized::{AuthorizedRepository, AuthorizedRequest};
use crate::gateway::forward::set;
use crate::gateway::handle::{HandleKind, Sealer};
use crate::gateway::respond::Problem;
use crate::gateway::rewrite;
use crate::gateway::tag_list::{Keep, TagList};
use crate::meaning::{Ends, Meaning};
use crate::proto::{Digest, Link, Operation, Page, Target, link, media_type};
use crate::upstream;
use crate::upstream::{RequiredScope, Upstream};

/// Returns the tags, under the client's own name for the repository.
pub(super) async fn tags(request: &AuthorizedRepository<'_>, page: &Page) -> Result<Answer, Problem> {
    List { request, page, resource: "tags/list".to_owned(), subject: None }.answer().await
}

/// Returns the manifests that point at one. An index names no repository, so its bytes stay as they are.
pub(super) async fn referrers(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    page: &Page,
) -> Result<Answer, Problem> {
    List { request, page, resource: format!("referrers/{digest}"), subject: Some(digest) }.answer().await
}

/// A list that a client asks for.
struct List<'a> {
    request: &'a AuthorizedRepository<'a>,
    page: &'a Page,
    /// Its path below the repository's name.
    resource: String,
    /// The manifest whose referrers are asked for; none for tags.
    subject: Option<&'a Digest>,
}

/// The way to the cache, and the list there.
struct Cached<'a> {
    upstream_cache: &'a Arc<UpstreamCache>,
    requester: Requester,
    listed: Listed,
}

/// The query of an upstream's next page, where the client's own could not hold it.
#[derive(Debug, Serialize, Deserialize)]
struct ListCursor {
    /// The list that it is of.
    r: String,
    /// The query, as the upstream wrote it.
    q: String,
}

impl<'a> List<'a> {
    async fn answer(&self) -> Result<Answer, Problem> {
        let target = self.target();
        let Some(cached) = self.cached(&target) else { return Ok(self.ask(target, None).await?.1.into()) };
        let problem = match cached.upstream_cache.refrains(&cached.requester) {
            Some(CacheError::Offline) => Problem::NotListed,
            Some(error) => self.request.cache_problem(error),
            None => {
                let mut asking = pin!(self.ask(target, Some(&cached)));
                let patience = cached.upstream_cache.settings().stale_after;
                let asked = match tokio::time::timeout(patience, &mut asking).await {
                    Ok(asked) => asked,
                    Err(_) => match self.kept(&cached).await {
                        Some(response) => return Ok(Answer::cached(response, CacheStatus::Stale)),
                        None => asking.await,
                    },
                };
                let meaning = asked.as_ref().map_or_else(meaning_of, |(meaning, _)| *meaning);
                cached.learn(meaning, &self.request.request.operation);
                match asked {
                    Ok((_, response)) => return Ok(response.into()),
                    Err(problem) if !meaning.allows_stale() => return Err(problem),
                    Err(problem) => problem,
                }
            }
        };
        let response = self.kept(&cached).await.ok_or(problem)?;
        Ok(Answer::cached(response, CacheStatus::Stale))
    }

    fn cached(&self, target: &str) -> Option<Cached<'a>> {
        let (upstream_cache, requester) = self.request.cached()?;
        let listed = upstream_cache.listings().begin(requester.repository(), target);
        Some(Cached { upstream_cache, requester, listed })
    }

    /// Returns the request target at the upstream: as the client asks, or where the last page's link led.
    fn target(&self) -> String {
        let target = self.request.target();
        match self.page.last.as_deref().and_then(|last| self.open_cursor(last)) {
            Some(ListCursor { q, .. }) => {
                format!("{}?{}", target.split('?').next().unwrap_or_default(), link::encoded(&q))
            }
            None => target,
        }
    }

    /// Asks the upstream for the list. Returns what its answer means, and the answer to the client: the list, or a refusal in
    /// the registry's own words.
    async fn ask(
        &self,
        target: String,
        cached: Option<&Cached<'_>>,
    ) -> Result<(Meaning, Response<Body>), Problem> {
        let (request, upstream) = (&self.request.request, self.request.upstream());
        let scope = RequiredScope::of(&request.operation);
        let mut answer = request.send_to(upstream, scope, target, &mut RequestBody::empty()).await?;
        let meaning = Upstream::meaning_of(&answer);
        let referrers = match self.subject {
            Some(_) => Some(self.collect(&mut answer).await?),
            None => None,
        };
        if !answer.status.is_success() {
            return Ok((meaning, self.request.sort(answer).await?));
        }
        let filters = answer.headers.get(FILTERS_APPLIED).and_then(|value| value.to_str().ok());
        let head = ListHead { next: next_query(&answer.headers), filters: filters.map(str::to_owned) };
        let keep = cached.map(|cached| cached.keep(head.clone()));
        let mut response = self.request.sort(answer).await?;
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::LINK);
        self.describe(headers, head.next.as_deref());
        match referrers {
            Some(bytes) => {
                if let Some(keep) = keep.filter(|_| bytes.len() <= limits::KEPT_LIST_BYTES) {
                    keep(bytes.clone());
                }
                *response.body_mut() = Body::full(bytes);
            }
            None => {
                let body = std::mem::replace(response.body_mut(), Body::empty());
                *response.body_mut() = self.open(body, keep).await.map_err(|reason| self.unusable(reason))?;
            }
        }
        Ok((meaning, response))
    }

    /// Opens a list of tags, under the client's name.
    async fn open(&self, body: Body, keep: Option<Keep>) -> Result<Body, &'static str> {
        let AuthorizedRequest { core, permit, locations, .. } = &self.request.request;
        let room = || core.shared.held_bytes.try_take(permit.client(), limits::UNCOUNTED_BYTES);
        let keep = keep.and_then(|keep| Some((keep, room()?)));
        let name = locations.name();
        Ok(TagList::open(body, name, limits::KEPT_LIST_BYTES, keep).await?.into_body())
    }

    /// Reads an answer to a request for referrers whole: whether it is one shows in its body alone.
    async fn collect(&self, answer: &mut upstream::Response) -> Result<Bytes, Problem> {
        let body = std::mem::replace(&mut answer.body, Body::empty());
        let collected = collect(&self.request.request, body).await?;
        if collected.is_none() && answer.status.is_success() {
            return Err(self.unusable("a list of referrers that is too long or broke off"));
        }
        // Of a refusal the status is enough.
        let bytes = collected.unwrap_or_default();
        if let Some(failure) = Upstream::without_referrers(answer.status, &bytes) {
            return Err(self.request.request.failed(&self.request.upstream().settings().name, failure));
        }
        answer.body = Body::full(bytes.clone());
        Ok(bytes)
    }

    fn unusable(&self, reason: &'static str) -> Problem {
        Problem::unusable(&self.request.upstream().settings().name, reason)
    }

    /// Returns the list as the upstream gave it last. `None` where it is not known, or not for this requester.
    async fn kept(&self, cached: &Cached<'_>) -> Option<Response<Body>> {
        let listings = cached.upstream_cache.listings();
        let list = listings.kept(&cached.requester, &cached.listed, self.subject).await.ok()??;
        let KeptList { head, body } = list;
        let body = Body::full(body);
        let body = if self.subject.is_some() { body } else { self.open(body, None).await.ok()? };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, rewrite::cache_control(&self.request.request.operation));
        if let Some(filters) = &head.filters {
            set(headers, FILTERS_APPLIED, filters);
        }
        self.describe(headers, head.next.as_deref());
        Some(response)
    }

    /// Says of what type the list is, and where its next page is (RFC 8288): at the client's path, with the upstream's own
    /// query.
    fn describe(&self, headers: &mut HeaderMap, next: Option<&str>) {
        let kind = if self.subject.is_some() { media_type::OCI_INDEX } else { media_type::JSON };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(target) = next.and_then(|query| self.next_target(query)) {
            set(headers, header::LINK, &Link::next(&target).to_string());
        }
    }

    /// Returns the target of the next page. The upstream's query is kept to the byte if it comes back here as what it is, and
    /// sealed otherwise: it may hold `ns`, an `n` that is no number, or bytes that are no text.
    fn next_target(&self, query: &str) -> Option<String> {
        let path = self.request.request.locations.resource(&self.resource);
        let parsed = Target::parse("GET", &path, Some(query));
        let comes_back = parsed.is_ok_and(|target| {
            let last = match &target.operation {
                Operation::ListTags { page, .. } | Operation::Referrers { page, .. } => page.last.as_deref(),
                _ => None,
            };
            target.ns.is_none() && last.is_none_or(|last| self.open_cursor(last).is_none())
        });
        if comes_back {
            return Some(format!("{path}?{query}"));
        }
        let cursor = ListCursor { r: self.resource.clone(), q: query.to_owned() };
        let cursor = self.sealer().seal(HandleKind::Cursor, &cursor).ok()?;
        Some(format!("{path}?last={cursor}"))
    }

    fn open_cursor(&self, last: &str) -> Option<ListCursor> {
        let cursor: ListCursor = self.sealer().open(HandleKind::Cursor, last)?;
        (cursor.r == self.resource).then_some(cursor)
    }

    fn sealer(&self) -> &Sealer {
        &self.request.request.core.shared.sealer
    }
}

impl Cached<'_> {
    /// Returns the place for a list that the upstream is about to give.
    fn keep(&self, head: ListHead) -> Keep {
        let (listings, listed) = (self.upstream_cache.listings().clone(), self.listed.clone());
        Box::new(move |body| listings.keep(listed, KeptList { head, body }))
    }

    /// Learns from an answer. The registry's own no ends what is known of the repository's lists.
    fn learn(&self, meaning: Meaning, operation: &Operation) {
        self.upstream_cache.learn_of(&self.requester, meaning, &operation.path_and_query());
        if self.upstream_cache.ends(&self.requester, meaning) == Ends::Entry {
            self.upstream_cache.listings().forget(self.requester.repository());
        }
    }
}

/// Returns what a problem with the upstream means.
fn meaning_of(problem: &Problem) -> Meaning {
    match problem {
        Problem::Upstream { failure, .. } => failure.meaning,
        Problem::Unauthorized(_) => Meaning::LoginRefused,
        Problem::ClientGone => Meaning::ClientGone,
        _ => Meaning::Loop,
    }
}

/// Returns the query of the upstream's next page.
pub(super) fn next_query(headers: &HeaderMap) -> Option<String> {
    let next = link::next(headers.get_all(header::LINK).iter().map(HeaderValue::as_bytes))?;
    let target = next.split('#').next().unwrap_or_default();
    target.split_once('?').map(|(_, query)| query.to_owned())
}

/// The filters that an index of referrers was made with (distribution-spec, "Listing Referrers").
const FILTERS_APPLIED: header::HeaderName = header::HeaderName::from_static("oci-filters-applied");

/// Reads a listing whole, and takes room for what arrives. `None` when it is longer than [`limits::LIST_PAGE_BYTES`], breaks
/// off or trickles.
pub(super) async fn collect(request: &AuthorizedRequest<'_>, body: Body) -> Result<Option<Bytes>, Problem> {
    let held_bytes = &request.core.shared.held_bytes;
    let room = held_bytes.take(request.permit.client(), limits::UNCOUNTED_BYTES).await;
    let mut room = room.map_err(Problem::Spent)?;
    match body.whole_within(limits::LIST_PAGE_BYTES, limits::HELD_BODY_DEADLINE, &mut room).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(WholeError::Spent(spent)) => Err(Problem::Spent(spent)),
        Err(WholeError::Broken(_) | WholeError::TooLong(_) | WholeError::TooSlow) => Ok(None),
    }
}
