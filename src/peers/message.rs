//! Questions of one replica to another, and the heads of their answers, as HTTP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::request::{Builder, Parts};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::Full;

use crate::budget::Client;
use crate::cache::{ByteSpan, FleetQuestion, OriginRequest, Provenance};
use crate::clock;
use crate::proto::{ByteRange, Digest, Reference, RepositoryName, Span};

/// A question of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// The upstream's name and URL.
    pub(super) upstream: Arc<str>,
    /// The repository, by the upstream's own name.
    pub(super) repository: RepositoryName,
    pub(super) subject: Subject,
    /// Whether more than what is held may serve.
    pub(super) leave: Leave,
    /// The client to which what is asked of the upstream is charged.
    pub(super) client: Client,
    /// The replica that asks, by its own name; none if it is not among the members.
    pub(super) asker: Option<Arc<str>>,
}

/// The subject of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    /// A blob's bytes.
    Blob { digest: Digest, bytes: Option<ByteSpan> },
    /// Whether the repository holds a blob.
    Membership(Digest),
    /// A manifest.
    Manifest { reference: Reference, accept: Option<HeaderValue>, head: bool },
}

/// The leave that an asked replica has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// The asked replica may ask the upstream.
    Ask,
    /// The asked replica gives what it holds, and what is on its way to it.
    Join,
    /// The asked replica gives only what it holds: a download under way could come from the asker.
    Hold,
}

/// The paths of questions.
pub(super) const BLOB: &str = "/v1/blob";
pub(super) const MEMBERSHIP: &str = "/v1/membership";
pub(super) const MANIFEST: &str = "/v1/manifest";
/// No HEAD: the registry's no would have no body.
pub(super) const MANIFEST_HEAD: &str = "/v1/manifest-head";
pub(super) const ALIVE: &str = "/alive";
pub(super) const WRITTEN: &str = "/v1/written";
pub(super) const DOUBT: &str = "/v1/doubt";
pub(super) const ORDER: &str = "/v1/order";

const UPSTREAM: HeaderName = HeaderName::from_static("dockgate-upstream");
const REPOSITORY: HeaderName = HeaderName::from_static("dockgate-repository");
const SUBJECT: HeaderName = HeaderName::from_static("dockgate-subject");
const CLIENT: HeaderName = HeaderName::from_static("dockgate-client");
const ASKER: HeaderName = HeaderName::from_static("dockgate-asker");
const JOIN: HeaderName = HeaderName::from_static("dockgate-join");
/// Milliseconds since the upstream confirmed it: no clock is compared with another machine's.
const AGE: HeaderName = HeaderName::from_static("dockgate-age");
/// The bytes of content that is not sent.
pub(super) const SIZE: HeaderName = HeaderName::from_static("dockgate-size");
const STALE: HeaderName = HeaderName::from_static("dockgate-stale");
/// On content that comes from the object store and that nothing has proved yet.
pub(super) const UNPROVED: HeaderName = HeaderName::from_static("dockgate-unproved");
/// On a refusal for the time being: the replica ends.
pub(super) const DRAINING: HeaderName = HeaderName::from_static("dockgate-draining");
const ONLY_IF_CACHED: HeaderValue = HeaderValue::from_static("only-if-cached");

impl Question {
    /// Returns the question that the cache has; none for what only the upstream itself can answer.
    pub(super) fn of(asked: FleetQuestion) -> Option<Self> {
        let FleetQuestion { upstream, repository, request, held_only, client, patience: _ } = asked;
        let first = ByteSpan { first: 0, last: Some(0) };
        let subject = match request {
            // Content is proved by its digest: no validator is needed.
            OriginRequest::Blob { digest, bytes, validator: _ } => Subject::Blob { digest, bytes },
            // As one who asks for the blob: which of both it was must not show in where it is asked.
            OriginRequest::BlobFirstByte(digest) => Subject::Blob { digest, bytes: Some(first) },
            OriginRequest::BlobExists(digest) => Subject::Membership(digest),
            OriginRequest::ManifestHead(reference) => {
                Subject::Manifest { reference, accept: None, head: true }
            }
            OriginRequest::Manifest(reference) => Subject::Manifest { reference, accept: None, head: false },
            OriginRequest::ManifestFor(reference, accept) => {
                Subject::Manifest { reference, accept: Some(accept), head: false }
            }
            OriginRequest::Public(_) | OriginRequest::Ping => return None,
        };
        let leave = if held_only { Leave::Join } else { Leave::Ask };
        Some(Self { upstream, repository, subject, leave, client, asker: None })
    }

    /// Returns the name by which its owner is found: a blob's is its digest, wherever it is held.
    pub(super) fn object(&self) -> String {
        match &self.subject {
            Subject::Blob { digest, .. } => digest.to_string(),
            Subject::Membership(_) | Subject::Manifest { .. } => {
                repository_object(&self.upstream, &self.repository)
            }
        }
    }

    /// Returns the digest of the content that is asked for; none if that is not said.
    pub(super) fn digest(&self) -> Option<&Digest> {
        match &self.subject {
            Subject::Blob { digest, .. } | Subject::Manifest { reference: Reference::Digest(digest), .. } => {
                Some(digest)
            }
            Subject::Membership(_) | Subject::Manifest { reference: Reference::Tag(_), .. } => None,
        }
    }

    /// Returns true if the answer has no content.
    pub(super) fn is_head(&self) -> bool {
        matches!(self.subject, Subject::Membership(_) | Subject::Manifest { head: true, .. })
    }

    /// Returns the request; none if a name in it cannot be written in a header field.
    pub(super) fn request(&self) -> Option<Request<Full<Bytes>>> {
        let path = match &self.subject {
            Subject::Blob { .. } => BLOB,
            Subject::Membership(_) => MEMBERSHIP,
            Subject::Manifest { head: true, .. } => MANIFEST_HEAD,
            Subject::Manifest { head: false, .. } => MANIFEST,
        };
        let mut request = request(Method::GET, path)
            .header(UPSTREAM, &*self.upstream)
            .header(REPOSITORY, self.repository.as_str())
            .header(CLIENT, self.client.to_string());
        request = match &self.subject {
            Subject::Blob { digest, bytes } => {
                let request = request.header(SUBJECT, digest.as_str());
                match bytes {
                    Some(bytes) => request.header(header::RANGE, range(*bytes)),
                    None => request,
                }
            }
            Subject::Membership(digest) => request.header(SUBJECT, digest.as_str()),
            Subject::Manifest { reference, accept, .. } => {
                let request = request.header(SUBJECT, reference.to_string());
                match accept {
                    Some(accept) => request.header(header::ACCEPT, accept),
                    None => request,
                }
            }
        };
        request = match self.leave {
            Leave::Ask => request,
            Leave::Join => request.header(header::CACHE_CONTROL, ONLY_IF_CACHED).header(JOIN, "1"),
            Leave::Hold => request.header(header::CACHE_CONTROL, ONLY_IF_CACHED),
        };
        if let Some(asker) = &self.asker {
            request = request.header(ASKER, &**asker);
        }
        request.body(Full::default()).ok()
    }

    /// Reads the question of a request; none if it is none.
    pub(super) fn parse(parts: &Parts) -> Option<Self> {
        let text = |name| single(&parts.headers, name)?.to_str().ok();
        let subject = text(SUBJECT)?;
        if parts.method != Method::GET {
            return None;
        }
        let subject = match parts.uri.path() {
            BLOB => {
                let bytes = match single(&parts.headers, header::RANGE) {
                    Some(range) => Some(span(range)?),
                    None => None,
                };
                Subject::Blob { digest: Digest::parse(subject).ok()?, bytes }
            }
            MEMBERSHIP => Subject::Membership(Digest::parse(subject).ok()?),
            path @ (MANIFEST | MANIFEST_HEAD) => Subject::Manifest {
                reference: Reference::parse(subject).ok()?,
                accept: single(&parts.headers, header::ACCEPT).cloned(),
                head: path == MANIFEST_HEAD,
            },
            _ => return None,
        };
        let leave = match single(&parts.headers, header::CACHE_CONTROL) {
            Some(control) if control != ONLY_IF_CACHED => return None,
            Some(_) if parts.headers.contains_key(JOIN) => Leave::Join,
            Some(_) => Leave::Hold,
            None => Leave::Ask,
        };
        let repository = RepositoryName::parse(text(REPOSITORY)?).ok()?;
        Some(Self {
            upstream: text(UPSTREAM)?.into(),
            repository,
            subject,
            leave,
            client: client(text(CLIENT)?)?,
            asker: text(ASKER).map(Into::into),
        })
    }
}

/// Returns the name by which the owner of a repository is found.
pub(super) fn repository_object(upstream: &str, repository: &RepositoryName) -> String {
    format!("{upstream} {repository}")
}

/// Returns the request that has a replica hash again what does not have its digest.
pub(super) fn doubt(upstream: &str, digest: &Digest) -> Option<Request<Full<Bytes>>> {
    let request = request(Method::POST, DOUBT).header(UPSTREAM, upstream).header(SUBJECT, digest.as_str());
    request.header(header::CONTENT_LENGTH, 0).body(Full::default()).ok()
}

/// Reads the upstream and the digest of such a request.
pub(super) fn parse_doubt(parts: &Parts) -> Option<(&str, Digest)> {
    let text = |name| single(&parts.headers, name)?.to_str().ok();
    Some((text(UPSTREAM)?, Digest::parse(text(SUBJECT)?).ok()?))
}

/// Begins a request to a replica.
pub(super) fn request(method: Method, path: &'static str) -> Builder {
    Request::builder().method(method).uri(path).header(header::HOST, "dockgate-peer")
}

/// Writes into the head of an answer when the upstream confirmed it.
pub(super) fn set_age(headers: &mut HeaderMap, confirmed: SystemTime, is_stale: bool) {
    let age = clock::wall().duration_since(confirmed).unwrap_or_default();
    headers.insert(AGE, HeaderValue::from(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
    if is_stale {
        headers.insert(STALE, HeaderValue::from_static("1"));
    }
}

/// Returns the provenance of an answer with this head; none if that does not say how old it is.
pub(super) fn provenance(headers: &HeaderMap) -> Option<Provenance> {
    let age = Duration::from_millis(single(headers, AGE)?.to_str().ok()?.parse().ok()?);
    let confirmed = clock::wall().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    let (is_stale, is_unproved) = (headers.contains_key(STALE), headers.contains_key(UNPROVED));
    Some(Provenance::Replica { confirmed, is_stale, is_unproved })
}

/// Takes out of a head what is between replicas. Afterwards it is as that of an upstream's answer.
pub(super) fn strip(headers: &mut HeaderMap) {
    if let Some(size) = headers.remove(SIZE) {
        headers.insert(header::CONTENT_LENGTH, size);
    }
    for name in [AGE, STALE, UNPROVED, DRAINING, header::CONNECTION, header::DATE, header::TRANSFER_ENCODING]
    {
        headers.remove(name);
    }
}

fn range(bytes: ByteSpan) -> String {
    match bytes.last {
        Some(last) => format!("bytes={}-{last}", bytes.first),
        None => format!("bytes={}-", bytes.first),
    }
}

fn span(range: &HeaderValue) -> Option<ByteSpan> {
    let (first, last) = ByteRange::parse(range.as_bytes()).as_plain()?;
    Some(ByteSpan { first, last })
}

/// Returns the range that the bytes are.
pub(super) fn byte_range(bytes: ByteSpan) -> Option<ByteRange> {
    match bytes.last {
        Some(last) => Span::new(bytes.first, last).map(ByteRange::from),
        None => Some(ByteRange::parse(range(bytes).as_bytes())),
    }
}

/// Reads a client as it is written.
fn client(written: &str) -> Option<Client> {
    if written == Client::Trusted.to_string() {
        return Some(Client::Trusted);
    }
    let address = written.strip_suffix("/64").unwrap_or(written);
    address.parse::<IpAddr>().ok().map(Client::of)
}

/// Returns the value of a field that is there once.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(subject: Subject, leave: Leave, client: Client) -> Question {
        let repository = RepositoryName::parse("library/alpine").unwrap();
        let upstream = "docker.io https://registry-1.docker.io".into();
        Question { upstream, repository, subject, leave, client, asker: Some("10.0.0.1:5003".into()) }
    }

    #[test]
    fn a_question_arrives_as_it_was_asked() {
        let digest = Digest::sha256_of(b"it");
        let tag = || Reference::parse("3.20").unwrap();
        let accept = Some(HeaderValue::from_static("application/vnd.oci.image.index.v1+json"));
        let bytes = |first, last| Some(ByteSpan { first, last });
        let v4 = Client::of([192, 0, 2, 7].into());
        let v6 = Client::of("2001:db8:1:2::7".parse().unwrap());
        for (subject, leave, client) in [
            (Subject::Blob { digest: digest.clone(), bytes: None }, Leave::Ask, v4),
            (Subject::Blob { digest: digest.clone(), bytes: bytes(5, None) }, Leave::Join, v6),
            (
                Subject::Blob { digest: digest.clone(), bytes: bytes(5, Some(9)) },
                Leave::Hold,
                Client::Trusted,
            ),
            (Subject::Membership(digest), Leave::Ask, v4),
            (Subject::Manifest { reference: tag(), accept: None, head: true }, Leave::Ask, v4),
            (Subject::Manifest { reference: tag(), accept, head: false }, Leave::Join, v4),
        ] {
            let question = question(subject, leave, client);
            let (parts, _) = question.request().unwrap().into_parts();
            assert_eq!(Question::parse(&parts), Some(question));
        }
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let good = || question(Subject::Membership(Digest::sha256_of(b"")), Leave::Ask, Client::Trusted);
        let parts = || good().request().unwrap().into_parts().0;
        assert!(Question::parse(&parts()).is_some());
        for name in [UPSTREAM, REPOSITORY, SUBJECT, CLIENT] {
            let mut without = parts();
            without.headers.remove(&name);
            assert_eq!(Question::parse(&without), None, "{name}");
            let mut twice = parts();
            let value = twice.headers[&name].clone();
            twice.headers.append(&name, value);
            assert_eq!(Question::parse(&twice), None, "{name} twice");
        }
        let mut other = parts();
        other.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        assert_eq!(Question::parse(&other), None);
        other = parts();
        other.uri = "/v1/blob".parse().unwrap();
        other.headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0,5-6"));
        assert_eq!(Question::parse(&other), None);
        other.uri = "/v2/".parse().unwrap();
        assert_eq!(Question::parse(&other), None);
    }

    #[test]
    fn a_blob_has_one_owner_in_all_repositories() {
        let subject = || Subject::Blob { digest: Digest::sha256_of(b"it"), bytes: None };
        let one = question(subject(), Leave::Ask, Client::Trusted);
        let other = Question { repository: RepositoryName::parse("nginx").unwrap(), ..one.clone() };
        assert_eq!(one.object(), other.object());
    }

    #[test]
    fn ages_travel_and_never_lie_in_the_future() {
        let mut headers = HeaderMap::new();
        let ago = clock::wall() - Duration::from_secs(90);
        set_age(&mut headers, ago, false);
        let Some(Provenance::Replica { confirmed, is_stale: false, is_unproved: false }) =
            provenance(&headers)
        else {
            panic!()
        };
        let off = confirmed.duration_since(ago).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(5), "{off:?}");
        set_age(&mut headers, clock::wall() + Duration::from_secs(90), true);
        headers.insert(UNPROVED, HeaderValue::from_static("1"));
        let Some(Provenance::Replica { confirmed, is_stale: true, is_unproved: true }) = provenance(&headers)
        else {
            panic!()
        };
        assert!(confirmed <= clock::wall());
        strip(&mut headers);
        assert!(headers.is_empty());
    }
}
