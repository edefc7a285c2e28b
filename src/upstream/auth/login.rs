//! Asks an upstream if it accepts a client's name and password.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, StatusCode};
use tokio::sync::Mutex;

use crate::clock;
use crate::config::limits;
use crate::proto::Secret;
use crate::proto::identity::Forwarded;
use crate::upstream::auth::challenge::Authenticator;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::error::{Error, TokenError, Unauthorized};
use crate::upstream::exchange::Response;
use crate::upstream::transport::backoff::retry_after;

/// Checks clients' passwords with an upstream, and checks that the upstream can tell right from wrong.
#[derive(Debug, Default)]
pub(crate) struct LoginCheck {
    /// The reliability of the upstream's logins, and when it was tested. Locked during the test.
    judge: Mutex<Option<(Instant, Judge)>>,
}

/// The reliability of an upstream's logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judge {
    /// The registry refuses a wrong name.
    Reliable,
    /// The registry accepts any name and any password.
    AcceptsAnything,
    /// The registry accepts a right password under any name.
    IgnoresNames,
}

impl Judge {
    const fn verdict(self) -> Result<(), Error> {
        match self {
            Self::Reliable => Ok(()),
            Self::AcceptsAnything => Err(Error::AnonymousUpstream),
            Self::IgnoresNames => Err(Error::UsernameIgnored),
        }
    }
}

impl LoginCheck {
    /// Returns true if the upstream accepts the name and password of `client`. `headers` go with every request to `/v2/`.
    ///
    /// Before the first yes is believed, and every five minutes, the upstream is asked about a user who can't exist:
    /// with the same password under a made-up name and, if it says yes, with a made-up password too.
    ///
    /// # Errors
    /// When it can't be asked or says neither yes nor no; [`Error::AnonymousUpstream`] when it accepts anything, and
    /// [`Error::UsernameIgnored`] when it accepts a right password under any name: then its yes is worth nothing.
    pub(crate) async fn check(
        &self,
        upstream: &Authenticator,
        client: Arc<Forwarded>,
        headers: HeaderMap,
    ) -> Result<bool, Error> {
        if let Some(judge) = fresh(*self.judge.lock().await) {
            judge.verdict()?;
        }
        // Sent without a password each time: an upstream that has become anonymous accepts any password.
        greet(upstream, headers.clone()).await?;
        let accepted = accepts(upstream, client.clone(), &headers).await?;
        if accepted {
            self.judge(upstream, &client, &headers).await?.verdict()?;
        }
        Ok(accepted)
    }

    /// Returns the reliability of the upstream's logins: as known, else tested with the password of `client`, once for
    /// all who wait.
    async fn judge(
        &self,
        upstream: &Authenticator,
        client: &Forwarded,
        headers: &HeaderMap,
    ) -> Result<Judge, Error> {
        let mut known = self.judge.lock().await;
        if let Some(judge) = fresh(*known) {
            return Ok(judge);
        }
        let judge = if !accepts_made_up_name(upstream, client.password().clone(), headers).await? {
            Judge::Reliable
        } else if accepts_made_up_name(upstream, made_up(), headers).await? {
            Judge::AcceptsAnything
        } else {
            Judge::IgnoresNames
        };
        *known = Some((clock::now(), judge));
        Ok(judge)
    }
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

fn fresh(known: Option<(Instant, Judge)>) -> Option<Judge> {
    let (since, judge) = known?;
    let age = clock::now().saturating_duration_since(since);
    (age < limits::FORWARDED_JUDGE_LIFE).then_some(judge)
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
