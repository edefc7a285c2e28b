//! end-2, end-10: blobs.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use super::answer::{Answer, DOCKER_CONTENT_DIGEST, entity_tag, is_known_to_client};
use super::range::{self, Wanted};
use super::{Refusal, Registry};
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

fn ranged(blob: Bytes, digest: &Digest, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let length = blob.len();
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    match asked.filter(|_| is_still_the_same(headers, digest)).map(|asked| range::resolve(asked, length)) {
        None | Some(Wanted::Whole) => Ok(whole(blob)),
        Some(Wanted::Nothing) => Err(Refusal::RangeUnsatisfiable(length as u64)),
        Some(Wanted::Part(part)) => {
            let content_range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            let answer = Answer::with_body(StatusCode::PARTIAL_CONTENT, blob.slice(part.clone()));
            let answer = answer.header(header::CONTENT_LENGTH, &part.len().to_string());
            Ok(answer.header(header::CONTENT_RANGE, &content_range))
        }
    }
}

/// RFC 9110 section 13.1.5: an `If-Range` that is not our validator makes the range void.
fn is_still_the_same(headers: &HeaderMap, digest: &Digest) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == entity_tag(digest).as_bytes())
}
