//! Asks an upstream if it accepts a client's name and password.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use crate::config::limits;
use crate::proto::Secret;
use crate::proto::identity::Forwarded;
use crate::upstream::auth::challenge::Authenticator;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::error::{Error, TokenError, Unauthorized};
use crate::upstream::exchange::Response;
use crate::upstream::transport::backoff::retry_after;

/// The answer of an upstream to a client's name and password.
#[derive(Debug)]
pub(crate) enum LoginAnswer {
    /// The pair is right.
    Accepted,
    /// The pair is wrong.
    Refused,
    /// The upstream accepts the password under a made-up name as well: its yes proves nothing about the name.
    Unproved(Error),
}

/// Asks the upstream about the name and password of `client`. `headers` go with every request to `/v2/`.
///
/// Each yes is tested: the same password under a made-up name must be refused. The result holds for this pair alone.
/// Gitea and GitLab, for two, check the name of a password, and ignore it beside an access token.
///
/// # Errors
/// When the upstream can't be asked, or says neither yes nor no.
pub(crate) async fn check(
    upstream: &Authenticator,
    client: Arc<Forwarded>,
    headers: HeaderMap,
) -> Result<LoginAnswer, Error> {
    // Sent without a password each time: an upstream that has become anonymous accepts any password.
    greet(upstream, headers.clone()).await?;
    if !accepts(upstream, client.clone(), &headers).await? {
        return Ok(LoginAnswer::Refused);
    }
    if !accepts_made_up_name(upstream, client.password().clone(), &headers).await? {
        return Ok(LoginAnswer::Accepted);
    }
    // Only the text for the operator depends on this answer.
    let anything = accepts_made_up_name(upstream, made_up(), &headers).await?;
    Ok(LoginAnswer::Unproved(if anything { Error::AnonymousUpstream } else { Error::UsernameIgnored }))
}

/// Asks at `/v2/` without a password, and learns what the upstream wants.
async fn greet(upstream: &Authenticator, headers: HeaderMap) -> Result<(), Error> {
    let (response, _) = upstream.ping(headers).await?;
    match response.status {
        StatusCode::UNAUTHORIZED if upstream.knows_scheme() => Ok(()),
        StatusCode::UNAUTHORIZED => Err(Error::Unauthorized(Unauthorized::NoChallenge)),
        status if status.is_success() => Err(Error::AnonymousUpstream),
        _ => Err(neither(&response)),
    }
}

/// Returns true if the upstream accepts this name and password.
async fn accepts(
    upstream: &Authenticator,
    client: Arc<Forwarded>,
    headers: &HeaderMap,
) -> Result<bool, Error> {
    let identity = UpstreamIdentity::Client(client);
    upstream.forget_login(&identity);
    match upstream.send_login(&identity, headers.clone()).await {
        Ok(response) if response.status.is_success() => Ok(true),
        Ok(response) if response.status == StatusCode::FORBIDDEN => Ok(false),
        Ok(response) => Err(neither(&response)),
        // The other meanings are not about the password: it may be right.
        Err(Error::Unauthorized(Unauthorized::Password | Unauthorized::Insufficient)) => Ok(false),
        Err(Error::Token(error)) if matches!(*error, TokenError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns true if the upstream accepts this password under a name that does not exist.
async fn accepts_made_up_name(
    upstream: &Authenticator,
    password: Secret,
    headers: &HeaderMap,
) -> Result<bool, Error> {
    // Letters and digits, at most 30: Docker Hub has no other names.
    let name = format!("dockgate{}", made_up().expose());
    let stranger = Arc::new(Forwarded::new(upstream.upstream(), name, password));
    let accepted = accepts(upstream, stranger.clone(), headers).await;
    upstream.forget_login(&UpstreamIdentity::Client(stranger));
    accepted
}

/// Returns 64 bits that can't be guessed.
fn made_up() -> Secret {
    let mut bytes = [0u8; 8];
    // Without randomness the gateway does not start.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    Secret::new(format!("{:016x}", u64::from_be_bytes(bytes)))
}

/// Returns the error of an answer that is neither yes nor no.
fn neither(response: &Response) -> Error {
    match response.status {
        StatusCode::TOO_MANY_REQUESTS => {
            let asked = retry_after(&response.headers);
            Error::Limited { retry_after: asked.map(|after| after.min(limits::TOKEN_LIMITED_MOST)) }
        }
        StatusCode::LOOP_DETECTED => Error::Loop,
        _ => Error::Redirect("its answer to a login neither accepts nor refuses it"),
    }
}
