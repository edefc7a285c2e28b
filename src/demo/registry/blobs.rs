//! end-2, end-10: blobs.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use crate::demo::registry::answer::{Answer, DOCKER_CONTENT_DIGEST, entity_tag, is_known_to_client};
use crate::demo::registry::refusal::Refusal;
use crate::demo::registry::state::Registry;
use crate::proto::range::{ByteRange, ContentRange, Resolved, Span};
use crate::proto::{Digest, RepositoryName};

impl Registry {
    pub(super) fn get_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        head: bool,
        headers: &HeaderMap,
    ) -> Result<Answer, Refusal> {
        let blob = self.store().blob(name, digest)?;
        if is_known_to_client(headers, digest) {
            return Ok(validated(Answer::new(StatusCode::NOT_MODIFIED), digest));
        }
        // A range is for GET alone (RFC 9110 section 14.2).
        let answer = if head { whole(blob) } else { ranged(blob, digest, headers)? };
        let answer = answer.header(header::CONTENT_TYPE, "application/octet-stream");
        Ok(validated(answer.header(header::ACCEPT_RANGES, "bytes"), digest))
    }

    pub(super) fn delete_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Answer, Refusal> {
        self.store().delete_blob(name, digest)?;
        Ok(Answer::new(StatusCode::ACCEPTED))
    }
}

fn validated(answer: Answer, digest: &Digest) -> Answer {
    answer
        .header(DOCKER_CONTENT_DIGEST, digest.as_str())
        .header(header::ETAG, &entity_tag(digest))
        .header(header::CACHE_CONTROL, "max-age=31536000")
}

fn whole(blob: Bytes) -> Answer {
    let length = blob.len();
    Answer::with_body(StatusCode::OK, blob).header(header::CONTENT_LENGTH, &length.to_string())
}

/// Answers a range. Several are answered with the whole, as RFC 9110 section 14.2 allows: no client needs more here.
fn ranged(blob: Bytes, digest: &Digest, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let length = blob.len() as u64;
    let asked = headers.get(header::RANGE).filter(|_| is_still_the_same(headers, digest));
    let resolved = asked.map(|asked| ByteRange::parse(asked.as_bytes()).resolve(length));
    match resolved.unwrap_or(Resolved::Ignore) {
        Resolved::Unsatisfiable => Err(Refusal::RangeUnsatisfiable(length)),
        Resolved::Spans(spans) if spans.len() == 1 => Ok(part(&blob, spans[0])),
        Resolved::Spans(_) | Resolved::Ignore => Ok(whole(blob)),
    }
}

/// Answers `span`, which lies within the blob, whose length is a `usize`.
fn part(blob: &Bytes, span: Span) -> Answer {
    let content_range = ContentRange::Part { span, total: Some(blob.len() as u64) };
    let body = blob.slice(span.first as usize..=span.last as usize);
    Answer::with_body(StatusCode::PARTIAL_CONTENT, body)
        .header(header::CONTENT_LENGTH, &span.length().to_string())
        .header(header::CONTENT_RANGE, &content_range.to_string())
}

/// Returns false for an `If-Range` that is not our validator, which makes the range void (RFC 9110 section 13.1.5).
fn is_still_the_same(headers: &HeaderMap, digest: &Digest) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == entity_tag(digest).as_bytes())
}
