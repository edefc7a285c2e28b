//! Lists of one repository: tags (end-8) and referrers (end-12).

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt, Limited};
use serde_json::value::RawValue;

use crate::body::Body;
use crate::cache::{CacheStatus, Requester};
use crate::config::limits;
use crate::gateway::AuthorizedRequest;
use crate::gateway::cached::mark;
use crate::gateway::forward::set;
use crate::gateway::respond::Problem;
use crate::meaning::Meaning;
use crate::proto::{Link, Operation, Tag, link, media_type};

/// The tags, under the client's own name for the repository.
pub(crate) async fn tags(allowed: &AuthorizedRequest<'_>) -> Result<Response<Body>, Problem> {
    let repository = allowed.cached()?;
    let asked = asked(allowed, repository.as_ref()).await;
    let response = match (asked, repository) {
        (Err(Unlisted { problem, known_may_serve: true }), Some(repository)) => {
            return known_tags(allowed, &repository).await.ok_or(problem);
        }
        (asked, _) => with_link(allowed, "tags/list", asked.map_err(|unlisted| unlisted.problem)?),
    };
    let same_name = allowed.operation.repository().is_some_and(|name| name.as_str() == allowed.naming.name());
    if same_name || !response.status().is_success() {
        return Ok(response);
    }
    renamed(allowed, response).await
}

/// The manifests that point at one. An index names no repository, so its bytes stay as they are.
pub(crate) async fn referrers(allowed: &AuthorizedRequest<'_>) -> Result<Response<Body>, Problem> {
    let repository = allowed.cached()?;
    let asked = asked(allowed, repository.as_ref()).await;
    match (asked, repository) {
        (Err(Unlisted { problem, known_may_serve: true }), Some(repository)) => {
            known_referrers(allowed, &repository).await.ok_or(problem)
        }
        (asked, _) => {
            let digest = allowed.operation.digest().map(ToString::to_string).unwrap_or_default();
            Ok(with_link(
                allowed,
                &format!("referrers/{digest}"),
                asked.map_err(|unlisted| unlisted.problem)?,
            ))
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
    allowed: &AuthorizedRequest<'_>,
    repository: Option<&Requester>,
) -> Result<Response<Body>, Unlisted> {
    if let Some(refusal) = repository.and_then(Requester::refrains) {
        return Err(Unlisted { problem: allowed.cache_problem(refusal), known_may_serve: true });
    }
    let asked = allowed.ask().await;
    let meaning = match &asked {
        Ok(_) => Meaning::Usable,
        Err(Problem::Upstream { failure, .. }) => failure.meaning,
        Err(Problem::Unauthorized(_)) => Meaning::LoginRefused,
        Err(Problem::ClientGone) => Meaning::ClientGone,
        Err(_) => Meaning::Loop,
    };
    if let Some(repository) = repository {
        repository.learn_of(meaning, &allowed.operation.path_and_query());
    }
    asked.map_err(|problem| Unlisted { problem, known_may_serve: meaning.allows_stale() })
}

/// The tags that the cache knows, where the upstream can't be asked. `None` where it knows none.
async fn known_tags(allowed: &AuthorizedRequest<'_>, repository: &Requester) -> Option<Response<Body>> {
    let Operation::ListTags { page, .. } = &allowed.operation else { return None };
    let tags = repository.known_tags().await.ok().filter(|tags| !tags.is_empty())?;
    let behind =
        tags.iter().map(Tag::as_str).filter(|tag| page.last.as_deref().is_none_or(|last| *tag > last));
    let most = page.n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let all: Vec<_> = behind.collect();
    let listed: Vec<_> = all.iter().take(most).collect();
    let body = serde_json::json!({ "name": allowed.naming.name(), "tags": listed });
    let mut response = out_of_the_cache(body.to_string().into(), "application/json");
    if let Some(last) = listed.last().filter(|_| listed.len() < all.len()) {
        let target = format!("{}?n={most}&last={last}", allowed.naming.resource("tags/list"));
        set(response.headers_mut(), header::LINK, &Link::next(&target).to_string());
    }
    Some(response)
}

/// The referrers that the cache knows, where the upstream can't be asked.
async fn known_referrers(allowed: &AuthorizedRequest<'_>, repository: &Requester) -> Option<Response<Body>> {
    let Operation::Referrers { digest, artifact_type, .. } = &allowed.operation else { return None };
    let index = repository.known_referrers(digest, artifact_type.as_deref()).await.ok()?;
    let mut response = out_of_the_cache(index.into(), media_type::OCI_INDEX);
    if artifact_type.is_some() {
        set(response.headers_mut(), FILTERS_APPLIED, "artifactType");
    }
    Some(response)
}

fn out_of_the_cache(body: Bytes, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    mark(headers, CacheStatus::Stale);
    response
}

/// distribution-spec, "Listing Referrers".
const FILTERS_APPLIED: header::HeaderName = header::HeaderName::from_static("oci-filters-applied");

/// RFC 8288: a link to the next page keeps its query to the byte, whatever the upstream has put there; its path is
/// the one that the client knows.
fn with_link(
    allowed: &AuthorizedRequest<'_>,
    resource: &str,
    mut response: Response<Body>,
) -> Response<Body> {
    let headers = response.headers_mut();
    let next = link::next(headers.get_all(header::LINK).iter().map(|value| value.as_bytes()));
    headers.remove(header::LINK);
    if let Some(query) = next.as_deref().and_then(|target| target.split_once('?')).map(|(_, query)| query) {
        let target = format!("{}?{query}", allowed.naming.resource(resource));
        set(headers, header::LINK, &Link::next(&target).to_string());
    }
    response
}

/// Puts the client's name into a list of tags.
async fn renamed(
    allowed: &AuthorizedRequest<'_>,
    response: Response<Body>,
) -> Result<Response<Body>, Problem> {
    let (mut parts, body) = response.into_parts();
    let upstream = allowed.upstream()?;
    let unusable = |reason| Problem::unusable(&upstream.settings().name, reason);
    let bytes = collect(body).await.ok_or_else(|| unusable("the list of tags is too long or broke off"))?;
    let list = with_name(&bytes, allowed.naming.name());
    let list = list.map_err(|_| unusable("the list of tags is not a JSON object"))?;
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::full(list)))
}

/// The JSON object `list` with `name` as its name. The rest is not taken apart, however it is made.
fn with_name(list: &[u8], name: &str) -> serde_json::Result<Vec<u8>> {
    let mut list: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(list)?;
    list.insert("name".to_owned(), serde_json::value::to_raw_value(name)?);
    serde_json::to_vec(&list)
}

/// A listing whole; `None` when it is longer than [`limits::LIST_PAGE_BYTES`] or breaks off.
pub(crate) async fn collect(body: Body) -> Option<Bytes> {
    let limited = Limited::new(body, limits::LIST_PAGE_BYTES);
    limited.collect().await.ok().map(http_body_util::Collected::to_bytes)
}
