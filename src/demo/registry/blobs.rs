//! end-2, end-10: blobs.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use super::answer::{Answer, DOCKER_CONTENT_DIGEST, entity_tag, is_known_to_client};
use super::{Refusal, Registry};
use crate::proto::range;
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
