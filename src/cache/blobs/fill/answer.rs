//! The bytes that an upstream's answer has of a blob.

use http::{StatusCode, header};

use crate::body::Body;
use crate::cache::origin::OriginResponse;
use crate::proto::ContentRange;

/// Returns the first byte of an answer, the byte behind its last, and the bytes of the whole; none where it does not say.
pub(crate) fn extent(answer: &OriginResponse) -> Option<(u64, u64, u64)> {
    match answer.status {
        StatusCode::OK => answer.body.remaining().map(|length| (0, length, length)),
        StatusCode::PARTIAL_CONTENT => {
            let value = answer.headers.get(header::CONTENT_RANGE)?;
            let ContentRange::Part { span, total: Some(total) } = ContentRange::parse(value.as_bytes())?
            else {
                return None;
            };
            Some((span.first, span.last + 1, total))
        }
        _ => None,
    }
}

/// Returns the bytes from `at` up to `end` (the blob's end where there is none) of an answer that has them.
pub(crate) fn exactly(answer: OriginResponse, at: u64, end: Option<u64>) -> Option<Body> {
    let (first, last, total) = extent(&answer)?;
    let end = end.unwrap_or(total);
    let has = first <= at && at <= end && end <= last;
    let length = answer.body.remaining().is_none_or(|length| length == last - first);
    (has && length).then(|| answer.body.slice(at - first, end - at))
}
