//! The login of the admin listener: everything but its health asks for one.

use http::{HeaderValue, Request, Response, StatusCode, header};

use crate::admin::{guard, response};
use crate::authn::{Authenticator, Failure};
use crate::body::Body;
use crate::net::Peer;
use crate::proto::identity::Identity;

/// Returns the refusal of a request, or `None` if it may be answered. Without a login, a request of this machine may; with
/// one, a request of whichever machine that brings a name and password of the file. A web page has them not, whatever
/// address its host's name resolves to, but a browser that once logged in sends them along with what a page causes.
pub(super) async fn refusal<B>(
    authenticator: Option<&Authenticator>,
    request: &Request<B>,
    peer: Peer,
) -> Option<Response<Body>> {
    let Some(authenticator) = authenticator else {
        let local = guard::is_local(request, peer);
        return (!local).then(|| response::text(StatusCode::FORBIDDEN, FOR_THIS_MACHINE));
    };
    if !guard::is_of_no_page(request) {
        return Some(response::text(StatusCode::FORBIDDEN, FOR_NO_PAGE));
    }
    let mut fields = request.headers().get_all(header::AUTHORIZATION).iter();
    let field = fields.next().map(HeaderValue::as_bytes);
    if fields.next().is_some() {
        return Some(response::text(StatusCode::BAD_REQUEST, "two Authorization fields\n"));
    }
    let result = match authenticator.remembered(field) {
        Some(result) => result,
        None => authenticator.authenticate(field, peer.address).await,
    };
    match result {
        Ok(Identity::User(_)) => None,
        Ok(_) => Some(challenge()),
        Err(failure) => {
            tracing::warn!(client = %peer.address, reason = %failure, "a login at the admin listener failed");
            Some(refused(failure))
        }
    }
}

fn refused(failure: Failure) -> Response<Body> {
    match failure {
        Failure::Invalid => challenge(),
        Failure::Throttled { retry_after } => {
            let mut response = response::text(StatusCode::TOO_MANY_REQUESTS, "too many login attempts\n");
            let seconds = retry_after.as_secs().max(1);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            response
        }
    }
}

fn challenge() -> Response<Body> {
    let mut response =
        response::text(StatusCode::UNAUTHORIZED, "a name and password of admin.htpasswd are needed\n");
    let basic = HeaderValue::from_static("Basic realm=\"dockgate admin\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
    response
}

const FOR_THIS_MACHINE: &str = "this is for this machine alone, by the name localhost or a loopback address; /healthz and \
                                /readyz are for every machine, and admin.htpasswd lets others in\n";

const FOR_NO_PAGE: &str = "this is not for web pages of other origins\n";
