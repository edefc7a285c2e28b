//! From a request's method, path and query to an [`Operation`].

use std::borrow::Cow;

use crate::proto::authority::Authority;
use crate::proto::digest::Digest;
use crate::proto::name::RepositoryName;
use crate::proto::operation::Operation;
use crate::proto::page::Page;
use crate::proto::query::Query;
use crate::proto::reference::{Reference, ReferenceError, Tag};
use crate::proto::target_error::TargetError;
use crate::proto::upload;
use crate::proto::upload::UploadStart;

/// The operation of a request, and the way that it addresses its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path before `/v2`, as mirrors with a path are asked (`/hub/v2/library/nginx/…`).
    pub prefix: Option<RepositoryName>,
    /// The registry that the client thinks of (`?ns=`, distribution-spec "Registry Proxying"), `host[:port]` in lower
    /// case. The client's word: to be looked up, never dialled.
    pub ns: Option<String>,
    /// The operation.
    pub operation: Operation,
}

/// The methods of the distribution API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl Target {
    /// Decides what a request is about. `path` is the raw path of the request target, nothing decoded; `query` what
    /// follows its `?`.
    ///
    /// distribution-spec, "Endpoints". Names may contain the words of the API (`foo/manifests/bar`), so the path is
    /// read from the right. A segment consists of RFC 3986 `pchar` without `;`; `%` occurs only as `%3A` in a
    /// reference, since Go clients may encode a digest's colon; `.` and `..` are no segments. A path that begins
    /// with `/v2/` has no prefix; in any other the first segment `v2` ends it.
    ///
    /// The first failure of these decides: shape, method, name, reference, query.
    pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, TargetError> {
        let (prefix, rest) = split_prefix(path)?;
        let resource = Resource::parse(rest)?;
        let method = resource.method(method)?;
        let prefix = prefix.map(RepositoryName::parse).transpose().map_err(|_| TargetError::NameInvalid)?;
        let query = Query::parse(query.unwrap_or_default())?;
        let operation = resource.operation(method, &query)?;
        Ok(Self { prefix, ns: namespace(&query)?, operation })
    }
}

impl Method {
    /// Methods are case-sensitive (RFC 9110 section 9.1).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => return None,
        })
    }
}

/// A path of the API by its shape; the parts are still raw.
#[derive(Debug, Clone, Copy)]
enum Resource<'a> {
    Version,
    Catalog,
    Manifest { name: &'a str, reference: &'a str },
    Blob { name: &'a str, digest: &'a str },
    Tags { name: &'a str },
    Referrers { name: &'a str, digest: &'a str },
    Uploads { name: &'a str },
    Upload { name: &'a str, session: &'a str },
}

impl<'a> Resource<'a> {
    /// Parses `below`, which follows `/v2`: empty, or beginning with a slash.
    fn parse(below: &'a str) -> Result<Self, TargetError> {
        match below {
            "" | "/" => return Ok(Self::Version),
            "/_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        let path = below.strip_prefix('/').ok_or(TargetError::NotFound)?;
        let shape = Self::shape(path).ok_or(TargetError::NotFound)?;
        if shape.segments().all(is_segment) { Ok(shape) } else { Err(TargetError::NotFound) }
    }

    fn shape(path: &'a str) -> Option<Self> {
        let uploads = path.strip_suffix('/').unwrap_or(path);
        if let Some(name) = uploads.strip_suffix("/blobs/uploads") {
            return Some(Self::Uploads { name });
        }
        let (head, last) = path.rsplit_once('/')?;
        let (name, kind) = head.rsplit_once('/')?;
        match kind {
            "manifests" => Some(Self::Manifest { name, reference: last }),
            "blobs" => Some(Self::Blob { name, digest: last }),
            "referrers" => Some(Self::Referrers { name, digest: last }),
            "tags" if last == "list" => Some(Self::Tags { name }),
            "uploads" => Some(Self::Upload { name: name.strip_suffix("/blobs")?, session: last }),
            _ => None,
        }
    }

    /// Returns the segments that the shape has not fixed.
    fn segments(self) -> impl Iterator<Item = (&'a str, Encoded)> {
        let (name, last) = match self {
            Self::Version | Self::Catalog => (None, None),
            Self::Tags { name } | Self::Uploads { name } => (Some(name), None),
            Self::Upload { name, session } => (Some(name), Some((session, Encoded::Nothing))),
            Self::Manifest { name, reference: last }
            | Self::Blob { name, digest: last }
            | Self::Referrers { name, digest: last } => (Some(name), Some((last, Encoded::Colon))),
        };
        name.into_iter()
            .flat_map(|name| name.split('/'))
            .map(|segment| (segment, Encoded::Nothing))
            .chain(last)
    }

    fn allow(self) -> &'static str {
        match self {
            Self::Version => "GET, HEAD",
            Self::Catalog | Self::Tags { .. } | Self::Referrers { .. } => "GET",
            Self::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Self::Blob { .. } => "GET, HEAD, DELETE",
            Self::Uploads { .. } => "POST",
            Self::Upload { .. } => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }

    fn method(self, method: &str) -> Result<Method, TargetError> {
        let allow = self.allow();
        let allowed = allow.split(", ").any(|allowed| allowed == method);
        Method::parse(method).filter(|_| allowed).ok_or(TargetError::MethodNotAllowed { allow })
    }

    fn operation(self, method: Method, query: &Query) -> Result<Operation, TargetError> {
        Ok(match self {
            Self::Version => Operation::Version,
            Self::Catalog => Operation::Catalog { page: page(query, &[])? },
            Self::Manifest { name, reference } => manifest(method, repository(name)?, reference, query)?,
            Self::Blob { name, digest } => {
                blob(method, repository(name)?, Digest::parse(&decode_colon(digest))?)
            }
            Self::Tags { name } => {
                Operation::ListTags { repository: repository(name)?, page: page(query, &[])? }
            }
            Self::Referrers { name, digest } => {
                referrers(repository(name)?, Digest::parse(&decode_colon(digest))?, query)?
            }
            Self::Uploads { name } => {
                Operation::StartUpload { repository: repository(name)?, start: UploadStart::parse(query)? }
            }
            Self::Upload { name, session } => {
                upload(method, repository(name)?, upload::parse_session(session)?, query)?
            }
        })
    }
}

/// The percent-encoding that a segment may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoded {
    Nothing,
    Colon,
}

fn split_prefix(path: &str) -> Result<(Option<&str>, &str), TargetError> {
    if let Some(rest) = path.strip_prefix("/v2")
        && (rest.is_empty() || rest.starts_with('/'))
    {
        return Ok((None, rest));
    }
    let inner = path.strip_prefix('/').ok_or(TargetError::NotFound)?;
    let end = inner
        .find("/v2/")
        .or_else(|| inner.strip_suffix("/v2").map(str::len))
        .ok_or(TargetError::NotFound)?;
    let (prefix, rest) = (&inner[..end], &inner[end + "/v2".len()..]);
    let plain = prefix.split('/').all(|segment| is_segment((segment, Encoded::Nothing)));
    if plain { Ok((Some(prefix), rest)) } else { Err(TargetError::NotFound) }
}

/// Returns true for `segment-nz = 1*pchar` (RFC 3986 section 3.3) without `;`, percent-encodings and dot segments.
fn is_segment((segment, encoded): (&str, Encoded)) -> bool {
    if segment.is_empty() || segment == "." || segment == ".." {
        return false;
    }
    match encoded {
        Encoded::Nothing => segment.bytes().all(is_plain),
        Encoded::Colon => decode_colon(segment).bytes().all(is_plain),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

fn decode_colon(segment: &str) -> Cow<'_, str> {
    // Hardly a request encodes anything.
    if segment.contains('%') {
        segment.replace("%3A", ":").replace("%3a", ":").into()
    } else {
        segment.into()
    }
}

fn repository(name: &str) -> Result<RepositoryName, TargetError> {
    RepositoryName::parse(name).map_err(|_| TargetError::NameInvalid)
}

fn manifest(
    method: Method,
    repository: RepositoryName,
    reference: &str,
    query: &Query,
) -> Result<Operation, TargetError> {
    let reference = Reference::parse(&decode_colon(reference)).map_err(|error| match error {
        ReferenceError::Digest(_) => TargetError::DigestInvalid,
        ReferenceError::Tag(_) if method == Method::Put => TargetError::TagInvalid,
        ReferenceError::Tag(_) => TargetError::TagUnknown,
    })?;
    Ok(match method {
        Method::Put => {
            let tags = further_tags(&reference, query)?;
            Operation::PutManifest { repository, reference, tags }
        }
        Method::Delete => Operation::DeleteManifest { repository, reference },
        _ => Operation::GetManifest { repository, reference, head: method == Method::Head },
    })
}

/// Returns the tags of end-7b: only a manifest that is pushed by its digest can get tags on the way.
fn further_tags(reference: &Reference, query: &Query) -> Result<Vec<Tag>, TargetError> {
    if matches!(reference, Reference::Tag(_)) {
        return Ok(Vec::new());
    }
    let tags = query.all("tag")?.into_iter().map(Tag::parse);
    tags.collect::<Result<_, _>>().map_err(|_| TargetError::TagInvalid)
}

fn blob(method: Method, repository: RepositoryName, digest: Digest) -> Operation {
    match method {
        Method::Delete => Operation::DeleteBlob { repository, digest },
        _ => Operation::GetBlob { repository, digest, head: method == Method::Head },
    }
}

fn referrers(repository: RepositoryName, digest: Digest, query: &Query) -> Result<Operation, TargetError> {
    let artifact_type = query.one("artifactType")?.map(str::to_owned);
    Ok(Operation::Referrers { repository, digest, artifact_type, page: page(query, &["artifactType"])? })
}

fn upload(
    method: Method,
    repository: RepositoryName,
    session: String,
    query: &Query,
) -> Result<Operation, TargetError> {
    Ok(match method {
        Method::Patch => Operation::PatchUpload { repository, session },
        Method::Put => Operation::FinishUpload { repository, session, digest: final_digest(query)? },
        Method::Delete => Operation::CancelUpload { repository, session },
        _ => Operation::UploadStatus { repository, session },
    })
}

fn final_digest(query: &Query) -> Result<Digest, TargetError> {
    Ok(Digest::parse(query.one("digest")?.ok_or(TargetError::DigestInvalid)?)?)
}

fn page(query: &Query, known: &[&str]) -> Result<Page, TargetError> {
    let n = query.one("n")?.map(parse_count).transpose()?;
    let last = query.one("last")?.map(str::to_owned);
    let known = [&["n", "last", "ns"], known].concat();
    Ok(Page { n, last, other: query.others(&known)? })
}

fn parse_count(text: &str) -> Result<u64, TargetError> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(TargetError::QueryInvalid { parameter: "n" })
}

fn namespace(query: &Query) -> Result<Option<String>, TargetError> {
    let ns = query.one("ns")?.map(Authority::parse).transpose();
    let ns = ns.map_err(|_| TargetError::QueryInvalid { parameter: "ns" })?;
    Ok(ns.map(|authority| authority.to_string()))
}

#[cfg(test)]
mod tests;
