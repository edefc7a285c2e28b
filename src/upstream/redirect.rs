//! Requests to wherever an upstream redirects.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::body::Body;
use crate::config;
use crate::config::{Redirects, limits};
use crate::proto::ContentRange;
use crate::upstream::auth::challenge::{Authenticator, set_authorization};
use crate::upstream::auth::guest_tokens::GuestTokens;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::token::TokenClient;
use crate::upstream::egress::{Destination, EgressError, EgressPolicy, url};
use crate::upstream::error::{Error, StorageError};
use crate::upstream::exchange::{Purpose, Request, Response, is_redirect};
use crate::upstream::said::Said;
use crate::upstream::storage_circuit::StorageCircuits;
use crate::upstream::transport::backoff::retry_after;
use crate::upstream::transport::client::HttpClient;

/// Sends requests to one upstream, answers its challenges and follows its redirects.
pub(crate) struct RedirectingClient {
    authenticator: Authenticator,
    client: Arc<HttpClient>,
    egress: Arc<EgressPolicy>,
    redirects: Redirects,
    storage: StorageCircuits,
    guest_tokens: GuestTokens,
}

impl RedirectingClient {
    pub(crate) fn new(
        settings: &config::Upstream,
        authenticator: Authenticator,
        client: Arc<HttpClient>,
        egress: Arc<EgressPolicy>,
    ) -> Self {
        let guest_tokens = GuestTokens::new(TokenClient::new(client.clone(), egress.clone()));
        Self {
            authenticator,
            client,
            egress,
            redirects: settings.redirects,
            storage: StorageCircuits::default(),
            guest_tokens,
        }
    }

    /// Returns the upstream's name.
    pub(crate) fn upstream(&self) -> &str {
        self.authenticator.upstream()
    }

    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    pub(crate) fn client(&self) -> &Arc<HttpClient> {
        &self.client
    }

    /// Sends a request with the credentials of `identity` and returns the first answer that is no redirect to follow.
    pub(crate) async fn fetch(
        &self,
        identity: &UpstreamIdentity,
        request: &mut Request<'_>,
    ) -> Result<Response, Error> {
        match self.follow(identity, request).await {
            // A signed URL may have expired, or led to a host that is down: the registry gives another. Or it was signed
            // for GET alone.
            Err(Error::Storage { host, source }) if is_repeatable(request) => {
                tracing::debug!(upstream = self.upstream(), host, error = %source, "asking for a fresh redirect");
                match request.method {
                    Method::HEAD => Box::pin(self.head_by_get(identity, request)).await,
                    _ => Box::pin(self.follow(identity, request)).await,
                }
            }
            result => result,
        }
    }

    /// Answers a HEAD by a GET of the first byte: many registries sign the URL at which storage has a blob for GET, whatever
    /// they were asked (pulp_container#579, stargz-snapshotter#167, artifact-keeper#3209).
    async fn head_by_get(
        &self,
        identity: &UpstreamIdentity,
        request: &mut Request<'_>,
    ) -> Result<Response, Error> {
        request.method = Method::GET;
        let range = request.headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let response = self.follow(identity, request).await;
        request.method = Method::HEAD;
        match range {
            Some(range) => request.headers.insert(header::RANGE, range),
            None => request.headers.remove(header::RANGE),
        };
        response.map(as_head)
    }

    async fn follow(
        &self,
        identity: &UpstreamIdentity,
        request: &mut Request<'_>,
    ) -> Result<Response, Error> {
        let mut destination = self.first_destination(&request.target)?;
        for _ in 0..=limits::REDIRECTS {
            // Only the egress policy lets a request lead here.
            let mut response = if destination.is_own() {
                self.authenticator.send(identity, &destination, request).await?
            } else {
                request.headers.remove(header::AUTHORIZATION);
                Box::pin(self.ask_storage(&destination, request)).await?
            };
            if response.status == StatusCode::UNAUTHORIZED {
                // The client must not be asked for a password that another host wants.
                return Err(Error::Redirect("the host of its upload location wants credentials"));
            }
            match self.next_destination(&destination, request, &mut response)? {
                None => return Ok(response),
                Some(next) => destination = next,
            }
        }
        Err(Error::Redirect("it redirects too many times"))
    }

    /// Sends a request to another host than the registry. What fails there is storage's failure, whatever it is, but for
    /// its 429 and for a range that it can't satisfy, which are answers.
    async fn ask_storage(
        &self,
        destination: &Destination,
        request: &mut Request<'_>,
    ) -> Result<Response, Error> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            // An upload that continues elsewhere: the answer is the client's.
            return self.client.send(destination, request.outgoing()).await;
        }
        let host = destination.url().origin.authority();
        let failed = |source| Error::Storage { host: host.clone(), source };
        if !self.storage.admits(&host) {
            return Err(failed(StorageError::CircuitOpen));
        }
        let response = match self.ask_as_guest(destination, request).await {
            Ok(response) => response,
            Err(error @ (Error::Client(_) | Error::Spent(_))) => return Err(error),
            Err(error) => {
                self.storage_failed(&host);
                return Err(failed(StorageError::NoAnswer(Box::new(error))));
            }
        };
        if response.status.is_server_error() {
            self.storage_failed(&host);
        } else {
            self.storage.answered(&host);
        }
        match response.status {
            StatusCode::TOO_MANY_REQUESTS => {
                Err(Error::Limited { retry_after: retry_after(&response.headers) })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            status if status.is_client_error() || status.is_server_error() => {
                let said = Said::read(status, &response.headers, response.body).await;
                Err(failed(StorageError::Status(said.behind(status))))
            }
            _ => Ok(response),
        }
    }

    /// Sends a request to another host than the registry, and once more with an anonymous token if it challenges: that host
    /// may be a second registry.
    async fn ask_as_guest(
        &self,
        destination: &Destination,
        request: &mut Request<'_>,
    ) -> Result<Response, Error> {
        let mut shown = None;
        for _ in 0..2 {
            let response = self.client.send_once(destination, request.outgoing()).await?;
            if response.status != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            let token = match self.guest_tokens.token(destination, &response.headers, shown.as_ref()).await {
                Ok(Some(token)) => token,
                Ok(None) => return Ok(response),
                Err(error) => {
                    let (upstream, host) = (self.upstream(), destination.entry());
                    tracing::warn!(upstream, host, %error, "a redirect leads to a registry that gives no anonymous token");
                    return Ok(response);
                }
            };
            shown = Some(token.clone());
            set_authorization(&mut request.headers, Some(token));
        }
        self.client.send_once(destination, request.outgoing()).await
    }

    fn storage_failed(&self, host: &str) {
        if self.storage.failed(host) {
            let upstream = self.upstream();
            tracing::warn!(upstream, host, "circuit open: the storage host failed several times in a row");
        }
    }

    fn first_destination(&self, target: &str) -> Result<Destination, Error> {
        if target.starts_with('/') {
            return Ok(self.egress.own(target.to_owned()));
        }
        // The configuration may have changed since the location was sealed.
        Ok(self.egress.upload(self.egress.own("/".to_owned()).url(), target)?)
    }

    /// Returns the destination that `response` redirects to; `None` where the response is the answer, with a redirect
    /// for the client to follow made absolute.
    fn next_destination(
        &self,
        from: &Destination,
        request: &Request<'_>,
        response: &mut Response,
    ) -> Result<Option<Destination>, Error> {
        if !response.status.is_redirection() || response.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        if !is_redirect(response.status) {
            return Err(Error::Redirect("it redirects with a status that is not followed"));
        }
        let location = response.headers.get(header::LOCATION).map(|value| url::written(value.as_bytes()));
        let location = &location.ok_or(Error::Redirect("its redirect has no usable Location"))?;
        let next = self.egress.redirect(from.url(), location);
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return next_of_write(from, request, response.status, next).map(Some);
        }
        let own = next.as_ref().is_ok_and(Destination::is_own);
        if own || request.purpose != Purpose::Blob || self.redirects == Redirects::Follow {
            return Ok(Some(next?));
        }
        let url = from.url().join(location).map_err(EgressError::Url)?;
        let location = HeaderValue::try_from(url.expose());
        let location = location.map_err(|_| Error::Redirect("its redirect has no usable Location"))?;
        response.headers.insert(header::LOCATION, location);
        Ok(None)
    }

    /// Returns where an upload continues, as `response` to a request for `target` says: path and query at the
    /// upstream, or a whole URL where `redirect_hosts` names its host. `None` where it does not say.
    ///
    /// # Errors
    /// [`Error::EgressPolicy`] when it is elsewhere, and when another host names the upstream.
    pub(crate) fn upload_location(&self, target: &str, headers: &HeaderMap) -> Result<Option<String>, Error> {
        let Some(location) = headers.get(header::LOCATION) else { return Ok(None) };
        let from = self.first_destination(target)?;
        let next = self.egress.upload(from.url(), &url::written(location.as_bytes()))?;
        Ok(Some(if next.is_own() { next.url().target.clone() } else { next.url().expose() }))
    }
}

/// Returns the destination of a redirected write: the registry itself by https, with a status that keeps the method, as long
/// as the body can be sent again.
fn next_of_write(
    from: &Destination,
    request: &Request<'_>,
    status: StatusCode,
    next: Result<Destination, EgressError>,
) -> Result<Destination, Error> {
    let next = match next {
        Ok(next) if next.is_own() && next.url().origin != from.url().origin => next,
        _ => return Err(Error::Redirect("it redirects a write")),
    };
    let keeps_method = matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
    if keeps_method && !request.body.has_begun() {
        return Ok(next);
    }
    Err(Error::WriteRedirected { url: next.url().origin.to_string() })
}

/// Turns the answer to a GET of the first byte into the one to HEAD.
fn as_head(mut response: Response) -> Response {
    let part = response.headers.remove(header::CONTENT_RANGE);
    let total = match part.as_ref().and_then(|part| ContentRange::parse(part.as_bytes())) {
        Some(ContentRange::Part { total, .. }) => total,
        // The empty blob has no first byte.
        Some(ContentRange::Unsatisfied { total }) => Some(total),
        None => response.body.remaining(),
    };
    let is_part = matches!(response.status, StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE);
    if is_part {
        response.status = StatusCode::OK;
    }
    match total {
        Some(total) => response.headers.insert(header::CONTENT_LENGTH, total.into()),
        None => response.headers.remove(header::CONTENT_LENGTH),
    };
    response.body = Body::empty();
    response
}

/// Returns true if the request can be sent again: it reads, and has no body that has begun.
fn is_repeatable(request: &Request<'_>) -> bool {
    matches!(request.method, Method::GET | Method::HEAD) && !request.body.has_begun()
}
