//! Asking an upstream whether it knows a client.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, StatusCode};
use tokio::sync::Mutex;

use crate::authn::Forwarded;
use crate::body::RequestBody;
use crate::clock;
use crate::config::limits;
use crate::proto::Secret;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::token::{Key, TokenError};
use crate::upstream::transport::backoff::retry_after;
use crate::upstream::{Error, Purpose, Request, RequiredScope, Response, Unauthorized, Upstream};

/// What an upstream's word on a name and a password is worth, and since when that is known. Held while it is found out.
#[derive(Debug, Default)]
pub(crate) struct Judging(Mutex<Option<(Instant, Judge)>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judge {
    /// It refuses a wrong name.
    Sound,
    /// It takes any name and any password.
    Open,
    /// It takes a right password under any name.
    Nameless,
}

impl Judge {
    const fn verdict(self) -> Result<(), Error> {
        match self {
            Self::Sound => Ok(()),
            Self::Open => Err(Error::AnonymousUpstream),
            Self::Nameless => Err(Error::UsernameIgnored),
        }
    }
}

impl Upstream {
    /// Whether this upstream knows `client`, by the name and password that it came with. `headers` go with all that is
    /// asked of it at `/v2/`.
    ///
    /// Before the first yes is believed, and every five minutes, the upstream is asked about somebody who can't exist:
    /// once by the same password under a made-up name and, if it says yes, once by a made-up password too.
    ///
    /// # Errors
    /// When it can't be asked or doesn't say yes or no; [`Error::AnonymousUpstream`] when it lets in anyone, and [`Error::UsernameIgnored`]
    /// when it lets in anyone who has some account: then its word on a client is worth nothing.
    pub(crate) async fn login(&self, client: Arc<Forwarded>, headers: HeaderMap) -> Result<bool, Error> {
        if let Some(judge) = fresh(*self.judging.0.lock().await) {
            judge.verdict()?;
        }
        // Asked without a password each time: one that lets in anyone by now, or at `/v2/`, would take any password there.
        self.greet(headers.clone()).await?;
        let known = self.judge(client.clone(), &headers).await?;
        if known {
            self.examine(&client, &headers).await?.verdict()?;
        }
        Ok(known)
    }

    /// Asks at `/v2/` without a password, and learns what it wants.
    async fn greet(&self, headers: HeaderMap) -> Result<(), Error> {
        let (response, _) = self.ping(headers).await?;
        match response.status {
            StatusCode::UNAUTHORIZED if self.known.get().is_some() => Ok(()),
            StatusCode::UNAUTHORIZED => Err(Error::Unauthorized(Unauthorized::NoChallenge)),
            status if status.is_success() => Err(Error::AnonymousUpstream),
            _ => Err(neither(&response)),
        }
    }

    /// What it says of a name and a password.
    async fn judge(&self, client: Arc<Forwarded>, headers: &HeaderMap) -> Result<bool, Error> {
        let who = UpstreamIdentity::Client(client);
        // A token of an earlier login says nothing of the password today.
        self.tokens.drop_kept(&Key { who: who.clone(), scope: RequiredScope::Version.scope() });
        let mut request = Request {
            method: Method::GET,
            target: self.version_target(),
            headers: headers.clone(),
            body: &mut RequestBody::empty(),
            access: RequiredScope::Version,
            subject: Purpose::Other,
        };
        let hop = self.reach.own(request.target.clone());
        match self.authorized(&who, &hop, &mut request).await {
            Ok(response) if response.status.is_success() => Ok(true),
            Ok(response) if response.status == StatusCode::FORBIDDEN => Ok(false),
            Ok(response) => Err(neither(&response)),
            // The other meanings are not about the password: it may be right.
            Err(Error::Unauthorized(Unauthorized::Password | Unauthorized::Insufficient)) => Ok(false),
            Err(Error::Token(error)) if matches!(*error, TokenError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What its yes to `client` is worth: as it is known, else found out. Whoever comes meanwhile waits for it.
    async fn examine(&self, client: &Forwarded, headers: &HeaderMap) -> Result<Judge, Error> {
        let mut known = self.judging.0.lock().await;
        if let Some(judge) = fresh(*known) {
            return Ok(judge);
        }
        let judge = if !self.knows_anyone_by(client.password().clone(), headers).await? {
            Judge::Sound
        } else if self.knows_anyone_by(made_up(), headers).await? {
            Judge::Open
        } else {
            Judge::Nameless
        };
        *known = Some((clock::now(), judge));
        Ok(judge)
    }

    /// Whether it says yes to this password under a name that nobody has.
    async fn knows_anyone_by(&self, password: Secret, headers: &HeaderMap) -> Result<bool, Error> {
        // Letters and digits, no more than 30: others are no names at Docker Hub.
        let name = format!("dockgate{}", made_up().expose());
        let stranger = Arc::new(Forwarded::new(&self.settings.name, name, password));
        let known = self.judge(stranger.clone(), headers).await;
        let key = Key { who: UpstreamIdentity::Client(stranger), scope: RequiredScope::Version.scope() };
        self.tokens.drop_kept(&key);
        known
    }
}

fn fresh(known: Option<(Instant, Judge)>) -> Option<Judge> {
    let (since, judge) = known?;
    let age = clock::now().saturating_duration_since(since);
    (age < limits::FORWARDED_JUDGE_LIFE).then_some(judge)
}

/// 64 bits that nobody could have guessed.
fn made_up() -> Secret {
    let mut bytes = [0u8; 8];
    // Where there is no randomness, the gateway has not started.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    Secret::new(format!("{:016x}", u64::from_be_bytes(bytes)))
}

/// What an answer means that is no judgement.
fn neither(response: &Response) -> Error {
    match response.status {
        StatusCode::TOO_MANY_REQUESTS => {
            let asked = retry_after(&response.headers);
            Error::Limited { retry_after: asked.map(|after| after.min(limits::TOKEN_LIMITED_MOST)) }
        }
        StatusCode::LOOP_DETECTED => Error::Loop,
        _ => Error::Redirect("its answer to a login is neither yes nor no"),
    }
}
