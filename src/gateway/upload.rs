//! Uploads: end-4 to end-6, end-11, end-13 and cancelling.
//!
//! The upstream's location is sealed into the client's URL, together with the repository and the identity that it is for.
//! Only the same identity, in the same repository, may go on with it, and only to where the upstream has uploads.

use std::sync::Arc;

use http::{Method, Response, StatusCode, header};

use crate::body::{Body, RequestBody};
use crate::cache::Push;
use crate::config::limits;
use crate::gateway::authorized::{AuthorizedRepository, AuthorizedRequest};
use crate::gateway::forward::set;
use crate::gateway::handle::HandleKind;
use crate::gateway::login;
use crate::gateway::manifest::{is_named, made};
use crate::gateway::respond::Problem;
use crate::gateway::route::Route;
use crate::gateway::upload_handle::{Handle, now};
use crate::gateway::write_guard::WriteGuard;
use crate::meaning::Meaning;
use crate::proto::upload::{MAX_SESSION_LENGTH, with_digest};
use crate::proto::{Digest, Operation, RepositoryName, UploadRange, UploadStart};
use crate::upstream;
use crate::upstream::{Purpose, RequiredScope};

/// The longest location of an upload at the upstream: with the digest behind it, it is still a URL that is dialled.
const LONGEST_LOCATION: usize = limits::URL_BYTES - 256;

/// Begins an upload, or mounts a blob from another repository.
///
/// A mount that can't be is an ordinary upload, never an error: clients give up on one.
pub(super) async fn start(
    request: &AuthorizedRepository<'_>,
    start: &UploadStart,
    body: &mut RequestBody,
) -> Result<Response<Body>, Problem> {
    if let UploadStart::Mount { digest, from: Some(from) } = start
        && let Some(mounted) = mount(request, digest, from).await?
    {
        return Ok(mounted);
    }
    let start = match start {
        UploadStart::Mount { .. } | UploadStart::Unmountable => &UploadStart::Session,
        start => start,
    };
    let target = start_target(request, start.clone());
    let UploadStart::Monolithic(digest) = start else {
        let response = request.send(target.clone(), body).await?;
        return sealed(request, &target, None, response);
    };
    let push = new_copy(request).and_then(|id| request.upstream_cache()?.push(&id, Some(0)));
    let guard = WriteGuard::new(request, &[]);
    let sent = send_copied(request, target.clone(), body, push).await;
    drop(guard);
    let (response, push) = sent?;
    match response.status() {
        // The registry has not taken the body: the upload goes on (distribution-spec, end-4b).
        StatusCode::ACCEPTED => sealed(request, &target, None, response),
        status if status.is_success() => Ok(pushed(request, digest, push, response).await),
        _ => Ok(response),
    }
}

/// Mounts the blob. `None` where that can't be: an ordinary upload is to begin.
async fn mount(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    from: &RepositoryName,
) -> Result<Option<Response<Body>>, Problem> {
    let Some(from) = mountable(request, from) else {
        let from = from.as_str();
        tracing::debug!(
            from,
            "no mount: the source may not be pulled, or is at another upstream; an upload begins"
        );
        return Ok(None);
    };
    let source = from.clone();
    let start = UploadStart::Mount { digest: digest.clone(), from: Some(from) };
    let target = start_target(request, start);
    let access = RequiredScope::Mount(request.repository.remote.clone(), source);
    let guard = WriteGuard::new(request, &[]);
    let answer = request.send_with(access, target.clone(), &mut RequestBody::empty()).await;
    drop(guard);
    match answer {
        Ok(response) if response.status() == StatusCode::ACCEPTED => {
            sealed(request, &target, None, response).map(Some)
        }
        Ok(response) if response.status().is_success() => {
            Ok(Some(pushed(request, digest, None, response).await))
        }
        Err(problem) if !is_refusal(&problem) => Err(problem),
        // The upstream's refusal is not the client's: it gets an ordinary upload.
        Ok(_) | Err(_) => {
            tracing::debug!(upstream = request.upstream().settings().name, "the upstream refuses the mount");
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
            Meaning::Usable | Meaning::Busy { .. } | Meaning::ClientGone | Meaning::Loop => false,
        },
        _ => false,
    }
}

/// Returns the source's name at the upstream, if it is at the same one and the client may read it.
fn mountable(request: &AuthorizedRepository<'_>, from: &RepositoryName) -> Option<RepositoryName> {
    let AuthorizedRepository { request, repository, .. } = request;
    let sees =
        |route: &Route| login::may_see(request.core, request.permit.subject(), route, login::ANY_ACTION);
    let source = request.core.routes.find(request.addressing, from, sees).ok()?;
    let may = std::ptr::eq(source.route, repository.route)
        && request.core.rules.may_mount(&request.permit, &source.canonical);
    may.then_some(source.remote)
}

fn start_target(request: &AuthorizedRepository<'_>, start: UploadStart) -> String {
    let repository = request.repository.remote.clone();
    request.upstream().target_of(&Operation::StartUpload { repository, start })
}

/// Sends more of an upload, asks how far it has come, or cancels it.
pub(super) async fn go_on(
    request: &AuthorizedRepository<'_>,
    session: &str,
    body: &mut RequestBody,
) -> Result<Response<Body>, Problem> {
    let handle = open(request, session).await?;
    let copied =
        matches!(request.request.operation, Operation::PatchUpload { .. } | Operation::CancelUpload { .. });
    let push = if copied { copy_of(request, &handle) } else { None };
    let (response, push) = send_copied(request, handle.l.clone(), body, push).await?;
    let response = match request.request.operation {
        Operation::CancelUpload { .. } => return Ok(without_location(response)),
        // The status of an upload is in the head of the answer. No content is read through a handle.
        Operation::UploadStatus { .. } if response.status().is_success() => without_body(response),
        _ => response,
    };
    if let Some(push) = push {
        push.keep();
    }
    sealed(request, &handle.l.clone(), Some(handle), response)
}

/// Sends the rest of an upload, if any, and names the digest of the whole.
pub(super) async fn finish(
    request: &AuthorizedRepository<'_>,
    session: &str,
    digest: &Digest,
    body: &mut RequestBody,
) -> Result<Response<Body>, Problem> {
    let handle = open(request, session).await?;
    let push = copy_of(request, &handle);
    let guard = WriteGuard::new(request, &[]);
    let sent = send_copied(request, with_digest(&handle.l, digest), body, push).await;
    drop(guard);
    let (response, push) = sent?;
    if response.status().is_success() {
        return Ok(pushed(request, digest, push, response).await);
    }
    Ok(without_location(response))
}

/// Begins a copy of an upload, if there is a cache. Returns the copy's id.
fn new_copy(request: &AuthorizedRepository<'_>) -> Option<String> {
    request.upstream_cache()?.begin_push(request.request.permit.client())
}

/// Returns the copy of an upload that goes on, if there is one and the client goes on where it ends.
fn copy_of(request: &AuthorizedRepository<'_>, handle: &Handle) -> Option<Push> {
    let range = request.request.headers.get(header::CONTENT_RANGE);
    // A range that can't be read matches no copy.
    let first = |range: UploadRange| range.0.first;
    let first = range.map(|range| UploadRange::parse(range.as_bytes()).map_or(u64::MAX, first));
    request.upstream_cache()?.push(handle.c.as_deref()?, first)
}

/// Sends a part of an upload. The copy is returned only if the upstream has taken all that was copied.
async fn send_copied(
    request: &AuthorizedRepository<'_>,
    target: String,
    body: &mut RequestBody,
    push: Option<Push>,
) -> Result<(Response<Body>, Option<Push>), Problem> {
    body.set_tap(push.as_ref().and_then(Push::tap));
    let sent = request.send(target, body).await;
    // Bytes that are read from here on are a rest that the upstream did not take.
    body.set_tap(None);
    let response = sent?;
    let taken = response.status().is_success() && body.is_taken();
    Ok((response, push.filter(|_| taken)))
}

/// Returns the answer to a blob's last part, and tells the cache that the upstream has the blob. Another success than 201 is
/// one for the client, and not certain enough for what others are to read.
async fn pushed(
    request: &AuthorizedRepository<'_>,
    digest: &Digest,
    push: Option<Push>,
    response: Response<Body>,
) -> Response<Body> {
    if let Some(upstream_cache) = request.upstream_cache()
        && response.status() == StatusCode::CREATED
        && is_named(&response, digest)
    {
        upstream_cache.pushed(&request.repository.remote, digest, push).await;
    }
    let mut response = response;
    made(&mut response, StatusCode::CREATED, &request.request.locations.blob(digest), digest);
    response
}

/// Opens a handle of this client, for this repository, that leads to an upload.
async fn open(request: &AuthorizedRepository<'_>, session: &str) -> Result<Handle, Problem> {
    let handle = unsealed(request, session)?;
    if admits(request, &handle.l) {
        return Ok(handle);
    }
    // Another replica began it, or this one before its restart: the upstream is asked where it has uploads.
    learn_directory(request).await?;
    if admits(request, &handle.l) { Ok(handle) } else { Err(Problem::UploadUnknown) }
}

fn admits(request: &AuthorizedRepository<'_>, location: &str) -> bool {
    let directories = &request.request.core.shared.upload_directories;
    directories.admit(&request.upstream().settings().name, &request.repository.remote, location)
}

fn note(request: &AuthorizedRepository<'_>, location: &str) {
    let directories = &request.request.core.shared.upload_directories;
    directories.note(&request.upstream().settings().name, &request.repository.remote, location);
}

/// Begins an upload in the repository and cancels it, and notes where the upstream had it.
async fn learn_directory(request: &AuthorizedRepository<'_>) -> Result<(), Problem> {
    let upstream = request.upstream();
    let target = start_target(request, UploadStart::Session);
    let begun = send_own(request, Method::POST, target.clone()).await?;
    let location = upstream.upload_location(&target, &begun.headers);
    if let Some(location) = location.map_err(|error| request.request.problem(upstream, &error))? {
        note(request, &location);
        // A registry forgets an upload that could not be cancelled.
        let _ = send_own(request, Method::DELETE, location).await;
    }
    Ok(())
}

/// Sends a request of an upload that is the gateway's own.
async fn send_own(
    request: &AuthorizedRepository<'_>,
    method: Method,
    target: String,
) -> Result<upstream::Response, Problem> {
    let AuthorizedRequest { core, permit, headers, .. } = &request.request;
    let repository = request.repository.remote.clone();
    let operation = Operation::StartUpload { repository, start: UploadStart::Session };
    let headers = Arc::unwrap_or_clone(core.shared.via.mark_own(headers));
    let (scope, purpose) = (RequiredScope::of(&operation), Purpose::Other);
    let body = &mut RequestBody::empty();
    let sent = upstream::Request { method, target, headers, body, scope, purpose };
    let answer = request.upstream().send(permit, sent).await;
    answer.map_err(|error| request.request.problem(request.upstream(), &error))
}

/// Unseals a handle of this client, for this repository.
fn unsealed(request: &AuthorizedRepository<'_>, session: &str) -> Result<Handle, Problem> {
    let AuthorizedRepository { request: AuthorizedRequest { core, permit, .. }, repository, .. } = request;
    let handle =
        Handle::open(&core.shared.sealer, session, permit.identity()).ok_or(Problem::UploadUnknown)?;
    let same = handle.u == *repository.route.name && handle.r == repository.canonical.as_str();
    if same { Ok(handle) } else { Err(Problem::UploadUnknown) }
}

fn without_location(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().remove(header::LOCATION);
    response
}

fn without_body(mut response: Response<Body>) -> Response<Body> {
    *response.body_mut() = Body::empty();
    for name in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING] {
        response.headers_mut().remove(name);
    }
    response
}

/// Seals the upstream's new location, or the last one if it gave none, into the answer's. `target` is the request target
/// that was sent.
fn sealed(
    request: &AuthorizedRepository<'_>,
    target: &str,
    before: Option<Handle>,
    mut response: Response<Body>,
) -> Result<Response<Body>, Problem> {
    if !response.status().is_success() {
        return Ok(without_location(response));
    }
    let (upstream, repository) = (request.upstream(), &request.repository);
    let settings = upstream.settings();
    let location = upstream.upload_location(target, response.headers());
    let location = match (location.map_err(|error| request.request.problem(upstream, &error))?, &before) {
        (Some(location), _) => {
            note(request, &location);
            location
        }
        (None, Some(before)) => before.l.clone(),
        (None, None) => return Err(Problem::unusable(&settings.name, "an upload without a location")),
    };
    let (began, copy) = before.map_or_else(|| (now(), new_copy(request)), |before| (before.t, before.c));
    let handle = Handle {
        u: settings.name.clone(),
        r: repository.canonical.to_string(),
        i: request.request.permit.identity().name().to_owned(),
        t: began,
        l: location,
        c: copy,
    };
    let is_long = handle.l.len() > LONGEST_LOCATION;
    let handle =
        request.request.core.shared.sealer.seal(HandleKind::Upload, &handle).map_err(Problem::Seal)?;
    // The client would get a handle that is refused when it comes back.
    if is_long || handle.len() > MAX_SESSION_LENGTH {
        return Err(Problem::unusable(&settings.name, "an upload location that is too long to go on with"));
    }
    set(response.headers_mut(), header::LOCATION, &request.request.locations.upload(&handle));
    // Pulp answers a chunk with 204, on which regctl stops (pulp_container#2199).
    *response.status_mut() = match request.request.operation {
        Operation::UploadStatus { .. } => StatusCode::NO_CONTENT,
        _ => StatusCode::ACCEPTED,
    };
    Ok(response)
}
