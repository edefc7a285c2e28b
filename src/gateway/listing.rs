//! Lists of one repository: tags (end-8) and referrers (end-12).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt, Limited};
use serde_json::value::RawValue;

use crate::body::Body;
use crate::cache::{CacheStatus, Requester, UpstreamCache};
use crate::config::limits;
use crate::gateway::answer::Answer;
use crate::gateway::authorized::AuthorizedRepository;
use crate::gateway::forward::set;
use crate::gateway::respond::Problem;
use crate::meaning::Meaning;
use crate::proto::{Digest, Link, Page, Tag, link, media_type};

/// Returns the tags, under the client's own name for the repository.
pub(super) async fn tags(request: &AuthorizedRepository<'_>, page: &Page) -> Result<Answer, Problem> {
    let cached = request.cached();
    let response = match (asked(request, cached.as_ref()).await, cached) {
        (Err(Unlisted { problem, known_may_serve: true }), Some((upstream_cache, requester))) => {
            return known_tags(request, upstream_cache, &requester, page).await.ok_or(problem);
        }
        (asked, _) => with_link(request, "tags/list", asked.map_err(|unlisted| unlisted.problem)?),
    };
    let same_name = request.repository.remote.as_str() == request.request.locations.name();
    if same_name || !response.status().is_success() {
        return Ok(response.into());
    }
    Ok(renamed(request, response).await?.into())
}

/// Returns the manifests that point at one. An index names no repository, so its bytes stay as they are.
pub(super) async fn referrers(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    artifact_type: Option<&str>,
) -> Result<Answer, Problem> {
    let cached = request.cached();
    match (asked(request, cached.as_ref()).await, cached) {
        (Err(Unlisted { problem, known_may_serve: true }), Some((upstream_cache, requester))) => {
            known_referrers(upstream_cache, &requester, digest, artifact_type).await.ok_or(problem)
        }
        (asked, _) => {
            let response = asked.map_err(|unlisted| unlisted.problem)?;
            Ok(with_link(request, &format!("referrers/{digest}"), response).into())
        }
    }
}

/// The reason why the upstream gave no list.
struct Unlisted {
    problem: Problem,
    /// A list of what the cache knows may serve instead.
    known_may_serve: bool,
}

/// Asks the upstream for a list, if it may be asked.
async fn asked(
    request: &AuthorizedRepository<'_>,
    cached: Option<&(&Arc<UpstreamCache>, Requester)>,
) -> Result<Response<Body>, Unlisted> {
    if let Some(error) = cached.and_then(|(upstream_cache, requester)| upstream_cache.refrains(requester)) {
        return Err(Unlisted { problem: request.cache_problem(error), known_may_serve: true });
    }
    let asked = request.ask().await;
    let meaning = match &asked {
        Ok(_) => Meaning::Usable,
        Err(Problem::Upstream { failure, .. }) => failure.meaning,
        Err(Problem::Unauthorized(_)) => Meaning::LoginRefused,
        Err(Problem::ClientGone) => Meaning::ClientGone,
        Err(_) => Meaning::Loop,
    };
    if let Some((upstream_cache, requester)) = cached {
        upstream_cache.learn_of(requester, meaning, &request.request.operation.path_and_query());
    }
    asked.map_err(|problem| Unlisted { problem, known_may_serve: meaning.allows_stale() })
}

/// Returns the tags that the cache knows. `None` where it knows none.
async fn known_tags(
    request: &AuthorizedRepository<'_>,
    upstream_cache: &UpstreamCache,
    requester: &Requester,
    page: &Page,
) -> Option<Answer> {
    let tags = upstream_cache.known_tags(requester).await.ok().filter(|tags| !tags.is_empty())?;
    let after = |tag: &&str| page.last.as_deref().is_none_or(|last| *tag > last);
    let all: Vec<_> = tags.iter().map(Tag::as_str).filter(after).collect();
    let most = page.n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let listed: Vec<_> = all.iter().take(most).collect();
    let locations = &request.request.locations;
    let body = serde_json::json!({ "name": locations.name(), "tags": listed });
    let mut response = out_of_the_cache(body.to_string().into(), "application/json");
    if let Some(last) = listed.last().filter(|_| listed.len() < all.len()) {
        let target = format!("{}?n={most}&last={last}", locations.resource("tags/list"));
        set(response.headers_mut(), header::LINK, &Link::next(&target).to_string());
    }
    Some(Answer::cached(response, CacheStatus::Stale))
}

/// Returns the referrers that the cache knows.
async fn known_referrers(
    upstream_cache: &UpstreamCache,
    requester: &Requester,
    digest: &Digest,
    artifact_type: Option<&str>,
) -> Option<Answer> {
    let index = upstream_cache.known_referrers(requester, digest, artifact_type).await.ok()?;
    let mut response = out_of_the_cache(index.into(), media_type::OCI_INDEX);
    if artifact_type.is_some() {
        set(response.headers_mut(), FILTERS_APPLIED, "artifactType");
    }
    Some(Answer::cached(response, CacheStatus::Stale))
}

fn out_of_the_cache(body: Bytes, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    response
}

/// The filters that an index of referrers was made with (distribution-spec, "Listing Referrers").
const FILTERS_APPLIED: header::HeaderName = header::HeaderName::from_static("oci-filters-applied");

/// Puts the client's path into the link to the next page (RFC 8288). Its query is kept to the byte, whatever the upstream
/// has put there.
fn with_link(
    request: &AuthorizedRepository<'_>,
    resource: &str,
    mut response: Response<Body>,
) -> Response<Body> {
    let headers = response.headers_mut();
    let next = link::next(headers.get_all(header::LINK).iter().map(|value| value.as_bytes()));
    headers.remove(header::LINK);
    if let Some(query) = next.as_deref().and_then(|target| target.split_once('?')).map(|(_, query)| query) {
        let target = format!("{}?{query}", request.request.locations.resource(resource));
        set(headers, header::LINK, &Link::next(&target).to_string());
    }
    response
}

/// Puts the client's name into a list of tags.
async fn renamed(
    request: &AuthorizedRepository<'_>,
    response: Response<Body>,
) -> Result<Response<Body>, Problem> {
    let (mut parts, body) = response.into_parts();
    let unusable = |reason| Problem::unusable(&request.upstream().settings().name, reason);
    let bytes = collect(body).await.ok_or_else(|| unusable("the list of tags is too long or broke off"))?;
    let list = with_name(&bytes, request.request.locations.name());
    let list = list.map_err(|_| unusable("the list of tags is not a JSON object"))?;
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::full(list)))
}

/// Returns the JSON object `list` with `name` as its name. The other members stay as they are, unparsed.
fn with_name(list: &[u8], name: &str) -> serde_json::Result<Vec<u8>> {
    let mut list: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(list)?;
    list.insert("name".to_owned(), serde_json::value::to_raw_value(name)?);
    serde_json::to_vec(&list)
}

/// Reads a listing whole. `None` when it is longer than [`limits::LIST_PAGE_BYTES`] or breaks off.
pub(super) async fn collect(body: Body) -> Option<Bytes> {
    let limited = Limited::new(body, limits::LIST_PAGE_BYTES);
    limited.collect().await.ok().map(http_body_util::Collected::to_bytes)
}
