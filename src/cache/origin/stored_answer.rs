//! Answers made of what the object store has: as the upstream would have given them, and with the time at which it confirmed them.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::body::Body;
use crate::cache::metadata::record::{Membership, TagRecord};
use crate::cache::origin::{ByteSpan, OriginResponse, Provenance, StoredContent};

/// Returns the answer with a blob, or with `bytes` of it. `None` where the store has not these bytes.
pub(super) fn of_blob(
    content: StoredContent,
    held: &Membership,
    bytes: Option<ByteSpan>,
) -> Option<OriginResponse> {
    let whole = content.total;
    let (status, length, range) = match bytes {
        None => (StatusCode::OK, whole, None),
        Some(span) => {
            let end = span.last.map_or(whole, |last| last.saturating_add(1).min(whole));
            let length = end.checked_sub(span.first).filter(|length| *length > 0)?;
            let range = format!("bytes {}-{}/{whole}", span.first, end - 1);
            (StatusCode::PARTIAL_CONTENT, length, HeaderValue::try_from(range).ok())
        }
    };
    let mut headers = headers(held, Some(length));
    headers.extend(range.map(|range| (header::CONTENT_RANGE, range)));
    let from = Provenance::Store { confirmed: held.confirmed, is_stale: false };
    Some(OriginResponse { status, headers, body: content.body, from })
}

/// Returns the answer to a HEAD.
pub(super) fn of_word(held: &Membership) -> OriginResponse {
    let from = Provenance::Store { confirmed: held.confirmed, is_stale: false };
    OriginResponse { status: StatusCode::OK, headers: headers(held, held.size), body: Body::empty(), from }
}

/// Returns the answer with a manifest.
pub(super) fn of_manifest(whole: bytes::Bytes, held: &Membership) -> OriginResponse {
    let headers = headers(held, Some(whole.len() as u64));
    let from = Provenance::Store { confirmed: held.confirmed, is_stale: false };
    OriginResponse { status: StatusCode::OK, headers, body: Body::full(whole), from }
}

/// Returns the answer of a manifest as that to a question by its tag: it is as old as what is known of the tag.
pub(super) fn by_tag(answer: OriginResponse, tag: &TagRecord, is_stale: bool) -> OriginResponse {
    let mut headers = answer.headers;
    headers.extend(
        HeaderValue::from_str(tag.digest.as_str()).ok().map(|digest| (DOCKER_CONTENT_DIGEST, digest)),
    );
    let from = Provenance::Store { confirmed: tag.confirmed, is_stale };
    OriginResponse { headers, from, ..answer }
}

fn headers(held: &Membership, length: Option<u64>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.extend(length.map(|length| (header::CONTENT_LENGTH, length.into())));
    headers.extend(held.content_type().map(|kind| (header::CONTENT_TYPE, kind)));
    headers
}

const DOCKER_CONTENT_DIGEST: header::HeaderName = header::HeaderName::from_static("docker-content-digest");
