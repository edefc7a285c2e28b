//! Lists of one repository: tags (end-8) and referrers (end-12).

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt, Limited};
use serde_json::value::RawValue;

use super::Allowed;
use super::forward::set;
use super::respond::Problem;
use crate::body::Body;
use crate::config::limits;
use crate::proto::{Link, link};

/// The tags, under the client's own name for the repository.
pub(super) async fn tags(allowed: &Allowed<'_>) -> Result<Response<Body>, Problem> {
    let response = with_link(allowed, "tags/list", allowed.ask().await?);
    let same_name = allowed.operation.repository().is_some_and(|name| name.as_str() == allowed.naming.name());
    if same_name || !response.status().is_success() {
        return Ok(response);
    }
    renamed(allowed, response).await
}

/// The manifests that point at one. An index names no repository, so its bytes stay as they are.
pub(super) async fn referrers(allowed: &Allowed<'_>) -> Result<Response<Body>, Problem> {
    let digest = allowed.operation.digest().map(ToString::to_string).unwrap_or_default();
    Ok(with_link(allowed, &format!("referrers/{digest}"), allowed.ask().await?))
}

/// RFC 8288: a link to the next page keeps its query to the byte, whatever the upstream has put there; its path is
/// the one that the client knows.
fn with_link(allowed: &Allowed<'_>, resource: &str, mut response: Response<Body>) -> Response<Body> {
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
async fn renamed(allowed: &Allowed<'_>, response: Response<Body>) -> Result<Response<Body>, Problem> {
    let (mut parts, body) = response.into_parts();
    let unusable = |reason| {
        let name = allowed.upstream().map(|upstream| upstream.settings().name.clone()).unwrap_or_default();
        Problem::Answer { name, reason }
    };
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
pub(super) async fn collect(body: Body) -> Option<Bytes> {
    let limited = Limited::new(body, limits::LIST_PAGE_BYTES);
    limited.collect().await.ok().map(http_body_util::Collected::to_bytes)
}
