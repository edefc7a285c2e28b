//! The phases of a request: screen, parse, authenticate, route, authorize, handle.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;

use crate::authz::{Denied, Side, Subject};
use crate::body::{Body, RequestBody};
use crate::budget::Client;
use crate::cache::CacheStatus;
use crate::config::limits;
use crate::gateway::answer::{Answer, set_cache_status};
use crate::gateway::authorized::{AuthorizedRepository, AuthorizedRequest};
use crate::gateway::client_locations::ClientLocations;
use crate::gateway::core::Core;
use crate::gateway::denial::{deciding_rule, denial};
use crate::gateway::forward::Refused;
use crate::gateway::host::RequestHost;
use crate::gateway::login::Sender;
use crate::gateway::record::{Logs, RequestRecord};
use crate::gateway::respond::{Problem, Unauthorized, log_failure};
use crate::gateway::route::{Addressing, Route, RouteError};
use crate::gateway::token::TokenEndpoint;
use crate::gateway::{blob, catalog, cors, listing, login, login_count, manifest, screen, token, upload};
use crate::net::Peer;
use crate::proto::{Action, BearerError, Operation, RepositoryName, Scope, ScopeSet, Target, TargetError};
use crate::telemetry::RequestId;
use crate::watchdog::{Polled, noted};
use crate::x509::ClientCertificate;

/// The handler of the registry's requests. All workers share one [`Core`].
#[derive(Clone)]
pub(crate) struct Gateway {
    core: Arc<ArcSwap<Core>>,
    logs: Logs,
}

impl Gateway {
    /// Returns a gateway that answers each request by what `core` holds at the time.
    pub(crate) fn new(core: Arc<ArcSwap<Core>>, logs: Logs) -> Self {
        Self { core, logs }
    }

    /// Answers one request. Never fails: every problem becomes a response of the registry's kind.
    pub(crate) async fn handle(self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let core = self.core.load_full();
        let (parts, incoming) = request.into_parts();
        let http2 = parts.version == Version::HTTP_2;
        let expects = parts.headers.contains_key(header::EXPECT);
        let head_request = parts.method == Method::HEAD;
        let mut body = RequestBody::new(incoming, http2, core.settings.stall_timeout);
        let client = core.settings.proxies.client(peer, &parts.headers);
        let is_forwarded = core.settings.proxies.may_forward(peer);
        let mut record = RequestRecord::new(self.logs, client, &parts, is_forwarded);

        let request = IncomingRequest { core: &core, parts: &parts, peer, client };
        let mut response = match request.answer(&mut body, &mut record).await {
            Ok(answer) => answer_response(answer, &mut record),
            Err(problem) => {
                record.set_problem(&problem);
                problem.log(record.id.as_str());
                problem.respond(core.challenges.basic())
            }
        };
        record.set_received(body.taken());
        if !head_request {
            response = counted(&core, Client::of(client), response, record.id.as_str());
        }
        if body.is_unfinished() {
            end_upload(body, expects);
            if !http2 {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        set_common_headers(&mut response, &record.id);
        cors::allow(core.settings.cors.as_ref(), &parts.headers, response.headers_mut());
        if head_request {
            keep_length(&mut response);
        }
        record.attach(response)
    }
}

fn answer_response(answer: Answer, record: &mut RequestRecord) -> Response<Body> {
    record.set_answer(&answer);
    let mut response = answer.response;
    if let Some(Refused { upstream, failure }) = response.extensions_mut().remove() {
        log_failure(record.id.as_str(), &upstream, &failure);
        record.set_failure(&failure);
    }
    if let Some(cache_status) = answer.cache_status {
        set_cache_status(response.headers_mut(), cache_status, answer.bypass);
    }
    response
}

/// Sets the headers that every response has.
fn set_common_headers(response: &mut Response<Body>, id: &RequestId) {
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    // Everyone who may push to an upstream chooses its content: a browser must neither guess its type nor run it.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert("x-request-id", id);
    }
}

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Makes a response one to HEAD: without a body, and with the length that GET would have had (RFC 9110 section 8.6).
fn keep_length(response: &mut Response<Body>) {
    let length = http_body::Body::size_hint(response.body()).exact();
    let body = std::mem::replace(response.body_mut(), Body::empty());
    drop(body);
    if let (Some(length @ 1..), headers) = (length, response.headers_mut()) {
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
}

/// Takes room for a body that is held whole, until it has been written to the client: a client that reads nothing holds it as
/// long. Does not wait for room, since the body would be held meanwhile.
fn counted(core: &Core, client: Client, response: Response<Body>, id: &str) -> Response<Body> {
    let length = response.body().remaining().filter(|_| response.body().is_held()).unwrap_or_default();
    if length <= limits::UNCOUNTED_BYTES {
        return response;
    }
    if let Some(lease) = core.shared.held_bytes.try_take(client, length) {
        return response.map(|body| body.held_by(lease));
    }
    let problem = Problem::Spent(core.shared.held_bytes.spent());
    problem.log(id);
    problem.respond(core.challenges.basic())
}

/// Reads for a little while what a client still sends after its answer is made, so that a client which sends first and
/// reads later finds the answer instead of a reset. A client that waits for `100 Continue` sends nothing, and reading would
/// tell it to.
///
/// The stream is not ended before that time either: curl 7.88, for one, drops an HTTP/2 answer that comes together with the
/// stream's reset.
fn end_upload(mut body: RequestBody, expects: bool) {
    if expects && !body.has_begun() {
        return;
    }
    tokio::spawn(async move {
        let deadline = tokio::time::Instant::now() + limits::REFUSED_UPLOAD_DEADLINE;
        let drained = tokio::time::timeout_at(deadline, body.drain(limits::REFUSED_UPLOAD_BYTES)).await;
        if drained.is_ok_and(|more| more) {
            tokio::time::sleep_until(deadline).await;
        }
    });
}

/// A request that has arrived, of which nothing is known yet.
struct IncomingRequest<'a> {
    core: &'a Core,
    parts: &'a Parts,
    peer: Peer,
    /// The client's address, as trusted proxies give it.
    client: IpAddr,
}

/// A request that the rules allow.
enum Authorized<'a> {
    Registry(AuthorizedRequest<'a>),
    Repository(AuthorizedRepository<'a>),
}

impl IncomingRequest<'_> {
    async fn answer(&self, body: &mut RequestBody, record: &mut RequestRecord) -> Result<Answer, Problem> {
        let (settings, headers, uri) = (&self.core.settings, &self.parts.headers, &self.parts.uri);
        screen::check(self.parts)?;
        let host = settings.hosts.host_of(&settings.proxies, self.peer, self.parts);
        let host = host.map_err(|error| {
            record.set_host_error(&error);
            Problem::Host(error)
        })?;
        if let Some(answer) = cors::preflight(settings.cors.as_ref(), &self.parts.method, headers) {
            return Ok(answer);
        }
        if let Some(tokens) = &self.core.settings.tokens
            && let Some(endpoint) = TokenEndpoint::parse(uri.path())
        {
            self.core.shared.via.check(headers)?;
            let sender = self.sender(&host);
            let request = token::Request { core: self.core, tokens, sender, parts: self.parts };
            return Box::pin(request.answer(&endpoint, body, record)).await.map(Answer::from);
        }
        let served = self.serve(&host, body, record).await;
        served.map_err(|problem| match problem {
            Problem::Unauthorized(unauthorized) => self.challenged(&host, unauthorized),
            problem => problem,
        })
    }

    async fn serve(
        &self,
        host: &RequestHost,
        body: &mut RequestBody,
        record: &mut RequestRecord,
    ) -> Result<Answer, Problem> {
        let headers = &self.parts.headers;
        let target = self.target();
        if let Ok(target) = &target {
            record.set_operation(&target.operation);
        }
        // Before authentication, which may ask an upstream: that could be this gateway.
        self.core.shared.via.check(headers)?;
        let operation = target.as_ref().ok().map(|target| &target.operation);
        let field = login::authorization(headers)?;
        let sender = self.sender(host);
        let requester = login::authenticate(self.core, sender, field, operation).await;
        let requester = requester.inspect_err(|problem| {
            record.set_failed_login(headers);
            login_count::count_refused(record, login_count::method_of(field), problem);
        })?;
        login_count::count_accepted(record, &requester);
        record.set_identity(&requester.identity);
        let Target { prefix, ns, operation } = target.map_err(Problem::Target)?;
        let addressing =
            Addressing { host: &host.name, port: host.port, prefix: prefix.as_ref(), ns: ns.as_deref() };
        let subject = requester.subject(self.client);
        let authorized = self.authorize(addressing, &subject, operation, record)?;
        let mut answer = match &authorized {
            Authorized::Registry(request) => serve_registry(request).await?,
            Authorized::Repository(request) => serve_repository(request, body).await?,
        };
        if let Some(ns) = ns.as_deref().and_then(|ns| HeaderValue::from_str(ns).ok()) {
            answer.response.headers_mut().insert("oci-namespace", ns);
        }
        Ok(answer)
    }

    fn sender<'a>(&'a self, host: &'a RequestHost) -> Sender<'a> {
        let certificate = self.parts.extensions.get::<Arc<ClientCertificate>>().map(Arc::as_ref);
        Sender { host, address: self.client, headers: &self.parts.headers, certificate }
    }

    fn target(&self) -> Result<Target, TargetError> {
        let Parts { method, uri, .. } = self.parts;
        Target::parse(method.as_str(), uri.path(), uri.query())
    }

    /// Completes a refusal with the challenge that this request gets. Its scope is in the client's own names, but for a
    /// request with `ns`: a client's name for a repository does not say there which upstream it thinks of.
    fn challenged(&self, host: &RequestHost, mut unauthorized: Box<Unauthorized>) -> Problem {
        let target = self.target().ok();
        let addressing = |ns, prefix| Addressing { host: &host.name, port: host.port, prefix, ns };
        let (prefix, ns) =
            target.as_ref().map_or((None, None), |target| (target.prefix.as_ref(), target.ns.as_deref()));
        let mut scopes = ScopeSet::default();
        if let Some(operation) = target.as_ref().map(|target| &target.operation)
            && let Some(action) = operation.action()
        {
            let name = operation.repository().map(|name| match ns {
                Some(_) => self.canonical(addressing(ns, prefix), name),
                None => name.clone(),
            });
            scopes.insert(Scope::repository(name.as_ref().map_or("", RepositoryName::as_str), action));
        }
        let prefix = prefix.filter(|_| ns.is_none());
        let is_virtual = self.core.routes.is_virtual(&host.name, host.port);
        unauthorized.challenge =
            self.core.challenges.bearer(host, is_virtual, prefix, &scopes, unauthorized.error);
        Problem::Unauthorized(unauthorized)
    }

    /// Returns a repository's canonical name; of one that no upstream has, the name by which rules would know it.
    fn canonical(&self, addressing: Addressing<'_>, name: &RepositoryName) -> RepositoryName {
        match self.core.routes.find(addressing, name, |_| false) {
            Ok(found) => found.canonical,
            Err(_) => addressing.full_name(name).unwrap_or_else(|| name.clone()),
        }
    }

    /// Asks the rules about a repository that no upstream has, as if one had it: a client that may not do this anywhere
    /// does not learn which prefixes are configured.
    fn authorize_unrouted(
        &self,
        addressing: Addressing<'_>,
        subject: &Subject,
        operation: &Operation,
    ) -> Result<(), Denied> {
        let Some(name) = operation.repository().and_then(|name| addressing.full_name(name)) else {
            return Ok(());
        };
        let operation = operation.clone().with_repository(name);
        if self.core.routes.iter().any(|route| !login::may_enter(&subject.identity, &route.name)) {
            return Err(login::stranger(&operation));
        }
        match self.core.rules.authorize(subject, &operation) {
            // No token can name it.
            Ok(_) | Err(Denied { by: Side::Token, .. }) => Ok(()),
            Err(denied) => Err(denied),
        }
    }

    /// Finds the repository and asks the rules. An anonymous request that is not allowed is answered with a challenge
    /// wherever logins exist, so that the answer tells nothing of which repositories there are.
    fn authorize<'a>(
        &'a self,
        addressing: Addressing<'a>,
        subject: &Subject,
        operation: Operation,
        record: &mut RequestRecord,
    ) -> Result<Authorized<'a>, Problem> {
        let (core, headers, identity) = (self.core, &self.parts.headers, &subject.identity);
        let narrow = || subject.access.is_some().then_some(BearerError::InsufficientScope);
        let login = || {
            let asks = identity.is_anonymous() && core.settings.has_logins();
            asks.then(|| Problem::unauthorized(Some(&operation), narrow()))
        };
        let denied = |denied: Denied| match denied.by {
            Side::Token => Problem::unauthorized(Some(&operation), narrow()),
            Side::Rules => login().unwrap_or_else(|| denial(identity, &denied)),
        };
        let Some(name) = operation.repository() else {
            let permit = core.rules.authorize(subject, &operation).map_err(denied)?;
            let permit = permit.charged_to(Client::of(self.client));
            let locations = ClientLocations::new(addressing, None);
            let request = AuthorizedRequest { core, permit, operation, locations, addressing, headers };
            return Ok(Authorized::Registry(request));
        };
        let sees = |route: &Route| login::may_see(core, subject, route, login::ANY_ACTION);
        let repository = match core.routes.find(addressing, name, sees) {
            Ok(repository) => repository,
            Err(error) => {
                // The client sees both upstreams of those that disagree.
                if error != RouteError::Disagree {
                    self.authorize_unrouted(addressing, subject, &operation).map_err(denied)?;
                }
                return Err(login().unwrap_or(Problem::Route(error)));
            }
        };
        record.set_repository(&repository);
        let canonical = operation.clone().with_repository(repository.canonical.clone());
        let permit = if login::may_enter(identity, &repository.route.name) {
            core.rules.authorize(subject, &canonical)
        } else {
            Err(login::stranger(&canonical))
        };
        let permit = permit.map_err(|missing| {
            if missing.by == Side::Rules
                && !identity.is_anonymous()
                && let Some(rule) = deciding_rule(&core.rules, subject, &canonical)
            {
                record.set_rule(rule);
            }
            // The canonical name has the prefix of the upstream that a virtual host or `ns` means.
            denied(Denied { repository: Some(addressing.shown_name(name)), ..missing })
        })?;
        let permit = permit.charged_to(Client::of(self.client));
        let locations = ClientLocations::new(addressing, Some((name, &repository)));
        let named = name.clone();
        let operation = operation.with_repository(repository.remote.clone());
        let request = AuthorizedRequest { core, permit, operation, locations, addressing, headers };
        Ok(Authorized::Repository(AuthorizedRepository { request, repository, named }))
    }
}

async fn serve_registry(request: &AuthorizedRequest<'_>) -> Result<Answer, Problem> {
    match &request.operation {
        Operation::Catalog { page } => Ok(Box::pin(catalog::list(request, page)).await?.into()),
        // end-1. The gateway is a registry whatever its upstreams are doing.
        _ => {
            let mut response = Response::new(Body::full("{}"));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            Ok(response.into())
        }
    }
}

async fn serve_repository(
    request: &AuthorizedRepository<'_>,
    body: &mut RequestBody,
) -> Result<Answer, Problem> {
    let action = request.request.operation.action();
    if matches!(action, Some(Action::Push | Action::Delete)) && request.upstream().settings().read_only {
        return Err(Problem::ReadOnly);
    }
    let polled = polled(&request.request.operation);
    let mut answer = noted(polled, pin!(handle(request, body))).await?;
    // A read that the cache could have answered and did not.
    if action == Some(Action::Pull) && request.upstream_cache().is_some() {
        answer.cache_status.get_or_insert(CacheStatus::Miss);
    }
    Ok(answer)
}

/// Returns the word for a worker that polls an operation.
fn polled(operation: &Operation) -> Polled {
    match operation {
        Operation::GetManifest { .. } | Operation::PutManifest { .. } | Operation::DeleteManifest { .. } => {
            Polled::Manifest
        }
        Operation::GetBlob { .. } | Operation::DeleteBlob { .. } => Polled::Blob,
        Operation::ListTags { .. } | Operation::Referrers { .. } | Operation::Catalog { .. } => Polled::List,
        Operation::StartUpload { .. }
        | Operation::UploadStatus { .. }
        | Operation::PatchUpload { .. }
        | Operation::FinishUpload { .. }
        | Operation::CancelUpload { .. } => Polled::Upload,
        Operation::Version => Polled::Connection,
    }
}

/// Handles a request for a repository. Awaiting a future moves it, whole, into the one that waits: all but the pulls are
/// boxed, so that a pull does not copy room for an upload.
async fn handle(request: &AuthorizedRepository<'_>, body: &mut RequestBody) -> Result<Answer, Problem> {
    Ok(match &request.request.operation {
        Operation::GetManifest { reference, head, .. } => manifest::get(request, reference, *head).await?,
        Operation::PutManifest { reference, .. } => {
            Box::pin(manifest::put(request, reference, body)).await?.into()
        }
        Operation::DeleteManifest { reference, .. } => {
            Box::pin(manifest::delete(request, reference)).await?.into()
        }
        Operation::GetBlob { digest, head, .. } => blob::get(request, digest, *head).await?,
        Operation::DeleteBlob { digest, .. } => Box::pin(blob::delete(request, digest)).await?.into(),
        Operation::ListTags { page, .. } => Box::pin(listing::tags(request, page)).await?,
        Operation::Referrers { digest, page, .. } => {
            Box::pin(listing::referrers(request, digest, page)).await?
        }
        Operation::StartUpload { start, .. } => Box::pin(upload::start(request, start, body)).await?.into(),
        Operation::UploadStatus { session, .. }
        | Operation::PatchUpload { session, .. }
        | Operation::CancelUpload { session, .. } => {
            Box::pin(upload::go_on(request, session, body)).await?.into()
        }
        Operation::FinishUpload { session, digest, .. } => {
            Box::pin(upload::finish(request, session, digest, body)).await?.into()
        }
        Operation::Version | Operation::Catalog { .. } => serve_registry(&request.request).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each connection has room for one, which each request writes: with 9 KiB a small manifest took a twentieth longer.
    #[test]
    fn the_future_of_a_request_is_small() {
        fn size<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(Gateway::handle);
        assert!(size <= 4096, "{size} bytes");
    }
}
