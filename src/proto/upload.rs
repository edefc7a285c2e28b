//! The ways that a blob gets into a registry.

use std::iter::once;

use crate::proto::digest::{Digest, is_algorithm};
use crate::proto::name::RepositoryName;
use crate::proto::query;
use crate::proto::query::Query;
use crate::proto::target_error::TargetError;

/// The longest upload session, in bytes: the sealed handle of the longest location that an upstream may give, which is a
/// third longer than that. Half of what a request's head may have.
pub(crate) const MAX_SESSION_LENGTH: usize = 32 * 1024;

/// The way that an upload begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UploadStart {
    /// end-4a: a session.
    Session,
    /// end-4b: the body is the whole blob, with this digest.
    Monolithic(Digest),
    /// end-4c: a session whose digest will be of this algorithm.
    Algorithm(String),
    /// end-11: no upload, if the registry has the blob in another repository.
    Mount {
        /// The blob.
        digest: Digest,
        /// The repository that has it; `None` when the client leaves it to the registry.
        from: Option<RepositoryName>,
    },
    /// A mount whose `mount` or `from` is malformed or doubled: an ordinary upload, never an error (end-11 lets a
    /// registry fall back to a session for any reason).
    Unmountable,
}

/// Returns the URL that finishes an upload: an upstream's `location` with `digest=` appended. distribution-spec,
/// "Pushing a blob
/// monolithically": the location may carry a query that is critical to the upload, so nothing of it is rebuilt.
pub(crate) fn with_digest(location: &str, digest: &Digest) -> String {
    let divider = match location.split_once('?') {
        None => "?",
        Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    format!("{location}{divider}{}", query::render(once(("digest", digest.to_string()))))
}

impl UploadStart {
    /// Parses the query: `mount` goes before `digest`, and that before `digest-algorithm`. `from` alone means nothing.
    pub(super) fn parse(query: &Query) -> Result<Self, TargetError> {
        if query.has("mount") {
            return Ok(mount(query).unwrap_or(Self::Unmountable));
        }
        if let Some(digest) = query.one("digest")? {
            return Ok(Self::Monolithic(Digest::parse(digest)?));
        }
        match query.one("digest-algorithm")? {
            Some(algorithm) if is_algorithm(algorithm) => Ok(Self::Algorithm(algorithm.into())),
            Some(_) => Err(TargetError::DigestInvalid),
            None => Ok(Self::Session),
        }
    }

    pub(super) fn query(&self) -> String {
        match self {
            Self::Session | Self::Unmountable => String::new(),
            Self::Monolithic(digest) => query::render(once(("digest", digest.to_string()))),
            Self::Algorithm(algorithm) => query::render(once(("digest-algorithm", algorithm.clone()))),
            Self::Mount { digest, from } => {
                let from = from.as_ref().map(|from| ("from", from.to_string()));
                query::render(once(("mount", digest.to_string())).chain(from))
            }
        }
    }
}

/// Parses one of our handles: `[A-Za-z0-9_.=-]+`, at most [`MAX_SESSION_LENGTH`] bytes.
pub(super) fn parse_session(text: &str) -> Result<String, TargetError> {
    let known = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'=' | b'-'));
    if known && text.len() <= MAX_SESSION_LENGTH { Ok(text.into()) } else { Err(TargetError::UploadUnknown) }
}

fn mount(query: &Query) -> Option<UploadStart> {
    let digest = Digest::parse(query.one("mount").ok()??).ok()?;
    let from = query.one("from").ok()?.map(RepositoryName::parse).transpose().ok()?;
    Some(UploadStart::Mount { digest, from })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_keeps_its_bytes_when_the_digest_is_appended() {
        let digest = Digest::parse("other:ab").unwrap();
        let cases = [
            ("/v2/a/blobs/uploads/1", "/v2/a/blobs/uploads/1?digest=other%3Aab"),
            ("https://x/u?_state=a%2Bb+c", "https://x/u?_state=a%2Bb+c&digest=other%3Aab"),
            ("/u?", "/u?digest=other%3Aab"),
            ("/u?a=b&", "/u?a=b&digest=other%3Aab"),
        ];
        for (location, whole) in cases {
            assert_eq!(with_digest(location, &digest), whole);
        }
    }
}
