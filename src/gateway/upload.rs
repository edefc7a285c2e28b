//! Uploads: end-4 to end-6, end-11, end-13 and cancelling.
//!
//! The upstream's location is sealed into the client's URL, together with where and for whom it is. Only the same
//! identity, in the same repository, may go on with it.

use std::time::{Duration, UNIX_EPOCH};

use http::{Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::body::{Body, RequestBody};
use crate::cache::Push;
use crate::clock;
use crate::gateway::AuthorizedRequest;
use crate::gateway::forward::set;
use crate::gateway::handle::Kind;
use crate::gateway::respond::Problem;
use crate::gateway::route::Addressing;
use crate::meaning::Meaning;
use crate::proto::upload::with_digest;
use crate::proto::{Digest, Operation, RepositoryName, UploadRange, UploadStart};
use crate::upstream::DOCKER_CONTENT_DIGEST;
use crate::upstream::RequiredScope;

/// How long an upload may be gone on with after it began. Registries forget theirs sooner.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a handle holds.
#[derive(Debug, Serialize, Deserialize)]
struct Handle {
    /// The upstream's name.
    u: String,
    /// The repository's canonical name.
    r: String,
    /// Who began it.
    i: String,
    /// When, in seconds since 1970.
    t: u64,
    /// Path and query at the upstream, byte for byte; or the URL at another host that the upload has been sent to.
    l: String,
    /// Its copy in the cache, if it has one. Handles of earlier versions say nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    c: Option<String>,
}

/// Begins an upload, or mounts a blob from another repository.
///
/// A mount that can't be is an ordinary upload, never an error: clients give up on one.
pub(crate) async fn start(
    allowed: &AuthorizedRequest<'_>,
    start: &UploadStart,
    body: &mut RequestBody,
) -> Result<Response<Body>, Problem> {
    if let UploadStart::Mount { digest, from: Some(from) } = start
        && let Some(mounted) = mount(allowed, digest, from).await?
    {
        return Ok(mounted);
    }
    let start = match start {
        UploadStart::Mount { .. } | UploadStart::Unmountable => &UploadStart::Session,
        start => start,
    };
    let target = start_target(allowed, start.clone())?;
    let UploadStart::Monolithic(digest) = start else {
        let response = allowed.send(target.clone(), body).await?;
        return sealed(allowed, &target, None, response);
    };
    let push = new_copy(allowed).and_then(|id| allowed.site()?.push(&id, Some(0)));
    let unsettled = allowed.unsettled(None);
    let sent = send_copied(allowed, target.clone(), body, push).await;
    drop(unsettled);
    let (response, push) = sent?;
    match response.status() {
        StatusCode::CREATED => Ok(pushed(allowed, digest, push, response).await),
        _ => sealed(allowed, &target, None, response),
    }
}

/// `Some` when the upstream has mounted the blob, or has begun an upload instead.
async fn mount(
    allowed: &AuthorizedRequest<'_>,
    digest: &Digest,
    from: &RepositoryName,
) -> Result<Option<Response<Body>>, Problem> {
    let Some(from) = mountable(allowed, from) else { return Ok(None) };
    let source = from.clone();
    let start = UploadStart::Mount { digest: digest.clone(), from: Some(from) };
    let target = start_target(allowed, start)?;
    let upstream = allowed.upstream()?;
    // The upstream's refusal is not the client's: it gets an ordinary upload.
    let place = allowed.place.as_ref().ok_or(Problem::UploadUnknown)?;
    let access = RequiredScope::Mount(place.remote.clone(), source);
    let unsettled = allowed.unsettled(None);
    let answer = allowed.send_with(access, target.clone(), &mut RequestBody::empty()).await;
    drop(unsettled);
    match answer {
        Ok(response) if response.status() == StatusCode::CREATED => {
            Ok(Some(pushed(allowed, digest, None, response).await))
        }
        Ok(response) if response.status() == StatusCode::ACCEPTED => {
            sealed(allowed, &target, None, response).map(Some)
        }
        Err(problem) if !is_refusal(&problem) => Err(problem),
        Ok(_) | Err(_) => {
            tracing::debug!(upstream = upstream.settings().name, "the upstream refuses the mount");
            Ok(None)
        }
    }
}

/// Returns true if the upstream refuses the mount. An ordinary upload asks for less, and may succeed.
fn is_refusal(problem: &Problem) -> bool {
    match problem {
        Problem::Unauthorized(_) => true,
        Problem::Upstream { failure, .. } => match failure.meaning {
            Meaning::NotFound
            | Meaning::Hidden
            | Meaning::Denied
            | Meaning::LoginRefused
            | Meaning::CredentialsRefused
            | Meaning::RateLimited { .. }
            | Meaning::Unavailable { .. }
            | Meaning::StorageFailed
            | Meaning::Unusable
            | Meaning::NotOffered { .. }
            | Meaning::Rejected { .. } => true,
            Meaning::Usable | Meaning::ClientGone | Meaning::Loop => false,
        },
        _ => false,
    }
}

/// The source's name at the upstream, if it is at the same one and the client may read it.
fn mountable(allowed: &AuthorizedRequest<'_>, from: &RepositoryName) -> Option<RepositoryName> {
    let here = allowed.place.as_ref()?;
    let way = Addressing { ..allowed.way };
    let source = allowed.core.routes.find(way, from).ok()?;
    let may = source.route == here.route && allowed.core.rules.may_mount(&allowed.permit, &source.canonical);
    may.then_some(source.remote)
}

fn start_target(allowed: &AuthorizedRequest<'_>, start: UploadStart) -> Result<String, Problem> {
    let repository = allowed.place.as_ref().map(|place| place.remote.clone());
    let repository = repository.ok_or(Problem::UploadUnknown)?;
    Ok(allowed.upstream()?.target_of(&Operation::StartUpload { repository, start }))
}

/// Sends more, asks how far it has come, or gives it up.
pub(crate) async fn go_on(
    allowed: &AuthorizedRequest<'_>,
    session: &str,
    body: &mut RequestBody,
) -> Result<Response<Body>, Problem> {
    let handle = open(allowed, session)?;
    let copied = matches!(allowed.operation, Operation::PatchUpload { .. } | Operation::CancelUpload { .. });
    let push = if copied { copy_of(allowed, &handle) } else { None };
    let (response, push) = send_copied(allowed, handle.l.clone(), body, push).await?;
    if matches!(allowed.operation, Operation::CancelUpload { .. }) {
        return Ok(without_location(response));
    }
    if let Some(push) = push {
        push.keep();
    }
    sealed(allowed, &handle.l.clone(), Some(handle), response)
}

/// Sends the rest, if any, and names the digest of the whole.
pub(crate) async fn finish(
    allowed: &AuthorizedRequest<'_>,
    session: &str,
    digest: &Digest,
    body: &mut RequestBody,
) -> Result<Response<Body>, Problem> {
    let handle = open(allowed, session)?;
    let push = copy_of(allowed, &handle);
    let unsettled = allowed.unsettled(None);
    let sent = send_copied(allowed, with_digest(&handle.l, digest), body, push).await;
    drop(unsettled);
    let (response, push) = sent?;
    match response.status() {
        StatusCode::CREATED => Ok(pushed(allowed, digest, push, response).await),
        StatusCode::NO_CONTENT => Ok(created(allowed, digest, response)),
        _ => sealed(allowed, &handle.l.clone(), Some(handle), response),
    }
}

/// A copy of an upload that begins, where there is a cache.
fn new_copy(allowed: &AuthorizedRequest<'_>) -> Option<String> {
    allowed.site().and_then(|site| site.begin_push())
}

/// The copy of an upload that goes on, where there is one, and what the client sends now goes on where it ends.
fn copy_of(allowed: &AuthorizedRequest<'_>, handle: &Handle) -> Option<Push> {
    let range = allowed.headers.get(header::CONTENT_RANGE);
    // Where a range can't be read, it does not go on there.
    let first = |range: UploadRange| range.0.first;
    let first = range.map(|range| UploadRange::parse(range.as_bytes()).map_or(u64::MAX, first));
    allowed.site()?.push(handle.c.as_deref()?, first)
}

/// Sends a part of an upload. The copy comes back only where the upstream has taken all of what it copied.
async fn send_copied(
    allowed: &AuthorizedRequest<'_>,
    target: String,
    body: &mut RequestBody,
    push: Option<Push>,
) -> Result<(Response<Body>, Option<Push>), Problem> {
    body.set_tap(push.as_ref().and_then(Push::tap));
    let sent = allowed.send(target, body).await;
    // What is read of a body that the upstream did not want is no part of the upload.
    body.set_tap(None);
    let response = sent?;
    let taken = response.status().is_success() && body.is_taken();
    Ok((response, push.filter(|_| taken)))
}

/// The upstream has said that the blob is there: the cache knows it too.
async fn pushed(
    allowed: &AuthorizedRequest<'_>,
    digest: &Digest,
    push: Option<Push>,
    response: Response<Body>,
) -> Response<Body> {
    if let Some((site, place)) = allowed.site().zip(allowed.place.as_ref())
        && is_named(&response, digest)
    {
        site.pushed(&place.remote, digest, push).await;
    }
    created(allowed, digest, response)
}

/// Whether the upstream speaks of this blob, as far as it says of which.
fn is_named(response: &Response<Body>, digest: &Digest) -> bool {
    let named = response.headers().get(DOCKER_CONTENT_DIGEST);
    named.is_none_or(|named| named.as_bytes() == digest.as_str().as_bytes())
}

fn open(allowed: &AuthorizedRequest<'_>, session: &str) -> Result<Handle, Problem> {
    let handle: Option<Handle> = allowed.core.lasting.sealer.open(Kind::Upload, session);
    let handle = handle.ok_or(Problem::UploadUnknown)?;
    let place = allowed.place.as_ref().ok_or(Problem::UploadUnknown)?;
    let same = handle.u == allowed.upstream()?.settings().name
        && handle.r == place.canonical.as_str()
        && handle.i == allowed.permit.identity().name();
    let young = now().saturating_sub(handle.t) <= LIFETIME.as_secs();
    if same && young { Ok(handle) } else { Err(Problem::UploadUnknown) }
}

fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The blob is there: its location and digest in the client's own words, whatever the upstream said.
fn created(allowed: &AuthorizedRequest<'_>, digest: &Digest, mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    set(headers, header::LOCATION, &allowed.naming.blob(digest));
    if !headers.contains_key(DOCKER_CONTENT_DIGEST) {
        set(headers, DOCKER_CONTENT_DIGEST, digest.as_str());
    }
    response
}

fn without_location(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().remove(header::LOCATION);
    response
}

/// The upload goes on: the upstream's new location, or the last one where it gave none, as a handle. `target` is what
/// was asked.
fn sealed(
    allowed: &AuthorizedRequest<'_>,
    target: &str,
    before: Option<Handle>,
    mut response: Response<Body>,
) -> Result<Response<Body>, Problem> {
    if !response.status().is_success() {
        return Ok(response);
    }
    let upstream = allowed.upstream()?;
    let settings = upstream.settings();
    let location = upstream.upload_location(target, response.headers());
    let location = match (location.map_err(|error| allowed.problem(upstream, &error))?, &before) {
        (Some(location), _) => location,
        (None, Some(before)) => before.l.clone(),
        (None, None) => return Err(Problem::unusable(&settings.name, "an upload without a location")),
    };
    let place = allowed.place.as_ref().ok_or(Problem::UploadUnknown)?;
    let (began, copy) = before.map_or_else(|| (now(), new_copy(allowed)), |before| (before.t, before.c));
    let handle = Handle {
        u: settings.name.clone(),
        r: place.canonical.to_string(),
        i: allowed.permit.identity().name().to_owned(),
        t: began,
        l: location,
        c: copy,
    };
    let handle = allowed.core.lasting.sealer.seal(Kind::Upload, &handle).map_err(Problem::Seal)?;
    set(response.headers_mut(), header::LOCATION, &allowed.naming.upload(&handle));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_of_an_earlier_version_has_no_copy() {
        let earlier = r#"{"u":"up","r":"a","i":"alice","t":1,"l":"/v2/a/blobs/uploads/1"}"#;
        let handle: Handle = serde_json::from_str(earlier).unwrap();
        assert_eq!((handle.l.as_str(), handle.c.as_ref()), ("/v2/a/blobs/uploads/1", None));
        assert_eq!(
            serde_json::to_string(&handle).unwrap(),
            earlier,
            "nor do they see one where there is none"
        );
    }
}
