//! The pipeline of a request, and one file per resource.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, Version};
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::authn::{Authenticator, UpstreamLogins};
use crate::authz::{Denied, Permit, Rules};
use crate::body::{Body, RequestBody};
use crate::cache::UpstreamCache;
use crate::config::limits;
use crate::net::{BothLengths, Peer};
use crate::proto::identity::Identity;
use crate::proto::{Challenge, Operation, Secret, Target};
use crate::telemetry::{AccessLog, AccessRecord, RequestId, Subject};
use crate::upstream;
use crate::upstream::Upstream;

pub(crate) mod blob;
pub(crate) mod cached;
pub(crate) mod catalog;
pub(crate) mod client_locations;
pub(crate) mod forward;
pub(crate) mod handle;
pub(crate) mod host;
pub(crate) mod image_resolver;
pub(crate) mod listing;
pub(crate) mod login;
pub(crate) mod manifest;
pub(crate) mod respond;
pub(crate) mod rewrite;
pub(crate) mod route;
pub(crate) mod upload;

use crate::gateway::client_locations::ClientLocations;
pub(crate) use crate::gateway::image_resolver::Ways;
pub(crate) use handle::SealError;
use handle::Sealer;
pub(crate) use host::{KnownHosts, TrustedProxies};
use respond::Problem;
use rewrite::Via;
use route::{Addressing, ResolvedRepository, Routes};

/// What a gateway is made of. A reload makes a new one of these and swaps it in whole.
pub(crate) struct Core {
    rules: Rules,
    routes: Routes,
    challenge: HeaderValue,
    /// As it was given.
    pub settings: Settings,
    lasting: SharedState,
}

/// What a [`Core`] is made from.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Who may log in.
    pub authenticator: Arc<Authenticator>,
    /// What they may do.
    pub rules: Rules,
    /// Where the repositories are.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What is kept of them, of those that have a cache.
    pub sites: Vec<Arc<UpstreamCache>>,
    /// The hosts that are served.
    pub hosts: KnownHosts,
    /// Who may speak for a client.
    pub proxies: TrustedProxies,
    /// What a password is asked for.
    pub realm: String,
    /// How long a client's body may stand still.
    pub stall_timeout: Duration,
}

/// What outlives a reload: the key of the handles that clients hold, the mark by which loops are known, and what
/// upstreams have said of clients.
#[derive(Clone)]
pub(crate) struct SharedState {
    sealer: Arc<Sealer>,
    via: Via,
    /// A permit for each byte of a body that is held whole.
    held: Arc<Semaphore>,
    logins: UpstreamLogins<upstream::Error>,
}

impl SharedState {
    /// `secret` seals upload URLs and page cursors; without one a key is made that ends with the process.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub(crate) fn new(secret: Option<&Secret>) -> Result<Self, SealError> {
        let held = Arc::new(Semaphore::new(limits::HELD_BYTES));
        let logins = UpstreamLogins::new().map_err(|_| SealError)?;
        Ok(Self { sealer: Arc::new(Sealer::new(secret)?), via: Via::new(), held, logins })
    }

    /// The upstreams of the next core are others than before: what these said of clients, or are about to say, counts
    /// for nothing there.
    pub(crate) fn forget_logins(&mut self) {
        self.logins.forget_all();
    }
}

impl Core {
    /// A core of `settings`, with what lasts.
    pub(crate) fn new(settings: Settings, lasting: SharedState) -> Self {
        let challenge = HeaderValue::try_from(Challenge::basic(&settings.realm).to_string());
        // The renderer drops control characters; what is left is always a header's value.
        let challenge = challenge.unwrap_or_else(|_| HeaderValue::from_static("Basic realm=\"dockgate\""));
        Self {
            rules: settings.rules.clone(),
            routes: Routes::new(&settings.upstreams, &settings.sites),
            challenge,
            settings,
            lasting,
        }
    }

    /// What lasts, for the next core.
    pub(crate) fn lasting(&self) -> SharedState {
        self.lasting.clone()
    }
}

/// Answers the registry's requests. One for each worker; all share one [`Core`].
#[derive(Clone)]
pub(crate) struct Gateway {
    core: Arc<ArcSwap<Core>>,
    access_log: Option<AccessLog>,
}

impl Gateway {
    /// Answers by what `core` holds at the time of each request.
    pub(crate) fn new(core: Arc<ArcSwap<Core>>, access_log: Option<AccessLog>) -> Self {
        Self { core, access_log }
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
        let mut record = Record::new(self.access_log, client, &parts);

        let arrival = IncomingRequest { core: &core, parts: &parts, peer, client };
        let result = arrival.answer(&mut body, &mut record).await;
        let mut response = result.unwrap_or_else(|problem| {
            problem.log(record.id.as_str());
            problem.respond(&core.challenge)
        });
        if body.is_unfinished() {
            end_upload(body, expects);
            if !http2 {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        finish(&mut response, &record.id);
        if head_request {
            keep_length(&mut response);
        }
        record.into_response(response)
    }
}

/// What every response has.
fn finish(response: &mut Response<Body>, id: &RequestId) {
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert("x-request-id", id);
    }
}

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The answer to HEAD has the length of what GET would have had (RFC 9110 section 8.6), and no body.
fn keep_length(response: &mut Response<Body>) {
    let length = http_body::Body::size_hint(response.body()).exact();
    let body = std::mem::replace(response.body_mut(), Body::empty());
    drop(body);
    if let (Some(length @ 1..), headers) = (length, response.headers_mut()) {
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
}

/// The answer is there before the body is. What still arrives is read for a little while, so that a client which
/// sends first and reads later finds the answer instead of a reset. One that waits for `100 Continue` sends nothing,
/// and reading would tell it to.
///
/// Nor is the stream ended before that time where the client goes on for longer: curl 7.88, for one, takes an HTTP/2 answer
/// that comes together with the stream's reset for none.
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

/// A request that has arrived, before anything is known of it.
struct IncomingRequest<'a> {
    core: &'a Core,
    parts: &'a Parts,
    peer: Peer,
    client: std::net::IpAddr,
}

/// A request that is allowed: what it does, where, and the proof.
pub(crate) struct AuthorizedRequest<'a> {
    core: &'a Core,
    permit: Permit,
    /// Names in it are the upstream's.
    operation: Operation,
    place: Option<ResolvedRepository>,
    naming: ClientLocations,
    way: Addressing<'a>,
    headers: &'a HeaderMap,
}

impl IncomingRequest<'_> {
    /// The way of a request: parse, authenticate, route, authorize, then to the resource.
    async fn answer(&self, body: &mut RequestBody, record: &mut Record) -> Result<Response<Body>, Problem> {
        let headers = &self.parts.headers;
        screen(self.parts)?;
        let hosts = (&self.core.settings.hosts, &self.core.settings.proxies);
        let host = host::host(hosts.0, hosts.1, self.peer, &self.parts.uri, headers)?;
        let uri = &self.parts.uri;
        let target = Target::parse(self.parts.method.as_str(), uri.path(), uri.query());
        if let Ok(target) = &target {
            record.operation(&target.operation);
        }
        // Before anybody else is asked who this is: that could be this gateway.
        self.core.lasting.via.check(headers)?;
        let identity = self.identify(&host, target.as_ref().ok().map(|target| &target.operation)).await?;
        record.identity(&identity);
        let target = target.map_err(Problem::Target)?;
        let way = Addressing { host: &host, prefix: target.prefix.as_ref(), ns: target.ns.as_deref() };
        let allowed = self.admit(way, &identity, target.operation.clone(), record)?;
        let mut response = allowed.serve(body).await?;
        allowed.mark_miss(response.headers_mut());
        if let Some(ns) = target.ns.as_deref().and_then(|ns| HeaderValue::from_str(ns).ok()) {
            response.headers_mut().insert("oci-namespace", ns);
        }
        Ok(response)
    }

    async fn identify(&self, host: &str, operation: Option<&Operation>) -> Result<Identity, Problem> {
        let mut fields = self.parts.headers.get_all(header::AUTHORIZATION).iter();
        let field = fields.next().map(HeaderValue::as_bytes);
        if fields.next().is_some() {
            return Err(Problem::Malformed("two Authorization fields"));
        }
        let authenticator = &self.core.settings.authenticator;
        if let Some(judge) = self.core.routes.judge(host)
            && let Some(client) = authenticator.for_upstream(field, &judge.name)
        {
            return self.log_in(judge, client, operation).await;
        }
        let result = match authenticator.remembered(field) {
            Some(result) => result,
            None => authenticator.authenticate(field, self.client).await,
        };
        result.map_err(|failure| Problem::authentication(failure, operation))
    }

    /// Finds the repository and asks the rules. Where nobody has logged in yet, all that is not allowed is answered
    /// by asking for a login, so that the answer tells nothing of what there is.
    fn admit<'w>(
        &'w self,
        way: Addressing<'w>,
        identity: &Identity,
        asked: Operation,
        record: &mut Record,
    ) -> Result<AuthorizedRequest<'w>, Problem> {
        let login = || {
            (identity.is_anonymous() && self.core.settings.authenticator.has_logins())
                .then(|| Problem::Unauthorized(respond::accesses(&asked)))
        };
        let place = match asked.repository().map(|name| self.core.routes.find(way, name)) {
            None => None,
            Some(Ok(place)) => Some(place),
            Some(Err(error)) => return Err(login().unwrap_or(Problem::Route(error))),
        };
        if let Some(place) = &place {
            record.place(place, &self.core.routes);
        }
        let route = place.as_ref().and_then(|place| self.core.routes.get(place.route));
        let naming = ClientLocations::new(way, asked.repository(), place.as_ref());
        let (canonical, remote) = match &place {
            Some(place) => (
                asked.clone().with_repository(place.canonical.clone()),
                asked.clone().with_repository(place.remote.clone()),
            ),
            None => (asked.clone(), asked.clone()),
        };
        let permit = match route {
            Some(route) if !login::may_enter(identity, route) => Err(login::stranger(&canonical)),
            _ => self.core.rules.authorize(identity, &canonical),
        };
        let permit = permit.map_err(|denied| login().unwrap_or_else(|| denial(identity, &denied)))?;
        let headers = &self.parts.headers;
        let core = self.core;
        Ok(AuthorizedRequest { core, permit, operation: remote, place, naming, way, headers })
    }
}

impl AuthorizedRequest<'_> {
    async fn serve(&self, body: &mut RequestBody) -> Result<Response<Body>, Problem> {
        if self.writes() && self.upstream()?.settings().read_only {
            return Err(Problem::ReadOnly);
        }
        match &self.operation {
            Operation::Version => Ok(version()),
            Operation::Catalog { page } => catalog::list(self, page).await,
            Operation::GetManifest { reference, head, .. } => manifest::get(self, reference, *head).await,
            Operation::PutManifest { reference, .. } => manifest::put(self, reference, body).await,
            Operation::DeleteManifest { reference, .. } => manifest::delete(self, reference).await,
            Operation::GetBlob { digest, head, .. } => blob::get(self, digest, *head).await,
            Operation::DeleteBlob { digest, .. } => blob::delete(self, digest).await,
            Operation::ListTags { .. } => listing::tags(self).await,
            Operation::Referrers { .. } => listing::referrers(self).await,
            Operation::StartUpload { start, .. } => upload::start(self, start, body).await,
            Operation::UploadStatus { session, .. }
            | Operation::PatchUpload { session, .. }
            | Operation::CancelUpload { session, .. } => upload::go_on(self, session, body).await,
            Operation::FinishUpload { session, digest, .. } => {
                upload::finish(self, session, digest, body).await
            }
        }
    }

    fn writes(&self) -> bool {
        use crate::proto::Action;
        matches!(self.operation.action(), Some(Action::Push | Action::Delete))
    }
}

/// end-1. The gateway is a registry whatever its upstreams are doing.
fn version() -> Response<Body> {
    let mut response = Response::new(Body::full("{}"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What HTTP allows and a proxy must not let through, since the next hop could read it in another way.
fn screen(parts: &Parts) -> Result<(), Problem> {
    if parts.extensions.get::<BothLengths>().is_some() {
        return Err(Problem::Malformed("both Transfer-Encoding and Content-Length"));
    }
    if head_length(parts) > limits::HEADER_BYTES {
        return Err(Problem::HeadTooLarge);
    }
    if parts.version < Version::HTTP_11 && parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Problem::Malformed("Transfer-Encoding in HTTP/1.0"));
    }
    // RFC 9112 section 6.1: hyper takes the chunks off; another coding below them would be passed on as if it were
    // the body.
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let known = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !known || codings.next().is_some() {
        return Err(Problem::Malformed("a transfer coding other than chunked"));
    }
    Ok(())
}

/// Bytes of a head, near enough. hyper looks at its limit between reads alone, and one read may bring more.
fn head_length(parts: &Parts) -> usize {
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    fields.sum::<usize>() + target
}

fn denial(identity: &Identity, denied: &Denied) -> Problem {
    let what = denied.action.map_or("log in", |action| action.as_str());
    let place = denied.repository.as_ref().map_or(String::new(), |name| format!(" {name}"));
    Problem::Denied(format!("requested access to the resource is denied: {identity} may not {what}{place}"))
}

/// What the access log will say of a request; costs nothing where there is no access log.
struct Record {
    id: RequestId,
    access: Option<Box<AccessRecord>>,
}

impl Record {
    fn new(log: Option<AccessLog>, client: std::net::IpAddr, parts: &Parts) -> Self {
        let id = RequestId::next();
        let access = log.map(|log| {
            let mut access = log.record(id, client);
            access.operation = method_word(&parts.method);
            access.agent = parts.headers.get(header::USER_AGENT).cloned();
            access
        });
        Self { id, access }
    }

    fn identity(&mut self, identity: &Identity) {
        if let Some(access) = &mut self.access {
            access.user = Some(identity.shared_name());
        }
    }

    fn operation(&mut self, operation: &Operation) {
        if let Some(access) = &mut self.access {
            access.operation = operation.label();
            access.subject = match operation {
                Operation::GetManifest { reference, .. }
                | Operation::PutManifest { reference, .. }
                | Operation::DeleteManifest { reference, .. } => Some(Subject::Manifest(reference.clone())),
                operation => operation.digest().cloned().map(Subject::Digest),
            };
        }
    }

    fn place(&mut self, place: &ResolvedRepository, routes: &Routes) {
        if let Some(access) = &mut self.access {
            access.repository = Some(place.canonical.clone());
            access.upstream = routes.get(place.route).map(|route| route.name.clone());
        }
    }

    fn into_response(self, response: Response<Body>) -> Response<Body> {
        let Some(mut access) = self.access else { return response };
        access.status = response.status().as_u16();
        access.cache = cached::word(response.headers());
        response.map(|body| body.observed(access))
    }
}

/// A method for the log: one of those that HTTP knows, since what a client makes up is for it to choose.
fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
