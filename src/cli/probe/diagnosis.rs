//! The diagnosis of a failure, in one line.

use std::io;

use http::HeaderMap;
use serde::Serialize;

use crate::cli::probe::format;
use crate::upstream;
use crate::upstream::{CertificateFault, DialError, EgressError, Error, RateLimit, TokenError, Unauthorized};

/// The one thing that is wrong. `Display` is the line that people read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Diagnosis {
    pub(super) kind: Kind,
    pub(super) message: String,
    /// The remedy.
    pub(super) advice: Option<String>,
}

/// The kind of a [`Diagnosis`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// The name has no address.
    CannotResolve,
    /// No process listens there.
    Refused,
    /// No connection for another reason, or no answer in time.
    Unreachable,
    /// The proxy gives no way through.
    Proxy,
    /// The certificate is not accepted.
    Certificate,
    /// TLS fails for another reason.
    Tls,
    /// https is spoken to a port where http is.
    PlainHttp,
    /// http is spoken to a port where https is.
    NeedsTls,
    /// The answer is no HTTP, or breaks off.
    Broken,
    /// The registry asks for a login.
    NeedsLogin,
    /// The name or the password is wrong.
    WrongPassword,
    /// There should be credentials and are none.
    Credentials,
    /// The token endpoint is nowhere that credentials may go.
    RealmElsewhere,
    /// The token endpoint gives no token.
    NoToken,
    /// The registry does not take its own tokens.
    TokenRefused,
    /// A clock is wrong.
    ClockSkew,
    /// The repository does not exist, or the user may not see it.
    NoSuchRepository,
    /// The repository is there, and not what is asked for.
    NoSuchImage,
    /// The user may not read the repository.
    Denied,
    /// Too many requests.
    Limited,
    /// A redirect that is not followed.
    Redirect,
    /// The server is no registry.
    NoRegistry,
    /// Another answer.
    Answer,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::CannotResolve => "cannot resolve",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Proxy => "proxy",
            Self::Certificate => "certificate",
            Self::Tls => "TLS",
            Self::PlainHttp => "plain HTTP there",
            Self::NeedsTls => "TLS wanted there",
            Self::Broken => "no HTTP",
            Self::NeedsLogin => "login wanted",
            Self::WrongPassword => "wrong password",
            Self::Credentials => "no credentials",
            Self::RealmElsewhere => "realm elsewhere",
            Self::NoToken => "no token",
            Self::TokenRefused => "token refused",
            Self::ClockSkew => "clock skew",
            Self::NoSuchRepository => "no such repository",
            Self::NoSuchImage => "no such image",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Redirect => "redirect",
            Self::NoRegistry => "no registry",
            Self::Answer => "unexpected answer",
        }
    }
}

impl std::fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let repeats = self.message.strip_prefix(self.kind.title()).is_some_and(|rest| rest.starts_with(' '));
        if !repeats {
            write!(f, "{}: ", self.kind.title())?;
        }
        write!(f, "{}", format::plain(&self.message))?;
        match &self.advice {
            Some(advice) => write!(f, "; {}", format::plain(advice)),
            None => Ok(()),
        }
    }
}

impl Diagnosis {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), advice: None }
    }

    pub(super) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    /// Returns the diagnosis of an exchange without an answer.
    pub(super) fn of(error: &Error, now: i64) -> Self {
        match error {
            Error::Dial(error) => Self::of_dial(error, now),
            Error::Timeout => Self::new(Kind::Unreachable, error.to_string()),
            Error::EgressPolicy(error) => Self::elsewhere(Kind::Redirect, error),
            Error::Redirect(why) => Self::new(Kind::Redirect, *why),
            Error::WriteRedirected { .. } => Self::new(Kind::Redirect, error.to_string()),
            Error::Storage { .. } => Self::new(Kind::Redirect, format::chain(error)),
            Error::Credentials(error) => Self::new(Kind::Credentials, error.to_string()),
            Error::Token(error) => Self::of_token(error, None, now),
            Error::Unauthorized(meaning) => Self::of_refusal(*meaning),
            Error::Broken(_)
            | Error::Client(_)
            | Error::AnonymousUpstream
            | Error::UsernameIgnored
            | Error::Limited { .. }
            | Error::Spent(_)
            | Error::Loop => Self::new(Kind::Broken, format::chain(error)),
        }
    }

    /// Returns a place where the gateway does not go. Behind the semicolon is what to write for it.
    pub(super) fn elsewhere(kind: Kind, error: &EgressError) -> Self {
        let text = error.to_string();
        match text.split_once("; ") {
            Some((message, advice)) => Self::new(kind, message).advise(advice),
            None => Self::new(kind, text),
        }
    }

    fn of_refusal(meaning: Unauthorized) -> Self {
        let kind = match meaning {
            Unauthorized::NoCredentials | Unauthorized::NoChallenge => Kind::NeedsLogin,
            Unauthorized::Password => Kind::WrongPassword,
            Unauthorized::InvalidToken => Kind::TokenRefused,
            Unauthorized::Insufficient => Kind::NoSuchRepository,
        };
        Self::new(kind, meaning.to_string())
    }

    fn of_dial(error: &DialError, now: i64) -> Self {
        let said = format::chain(error);
        match error {
            DialError::Resolve { .. } => Self::new(Kind::CannotResolve, said),
            DialError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
                Self::new(Kind::Refused, said)
            }
            DialError::Connect { .. } | DialError::Timeout { .. } => Self::new(Kind::Unreachable, said),
            DialError::Private { .. } => Self::new(Kind::Redirect, said),
            DialError::Proxy { .. } => Self::new(Kind::Proxy, said),
            DialError::Tls { authority, .. } => match error.certificate_fault() {
                Some(fault) => Self::of_certificate(authority, &fault, now),
                None => Self::new(Kind::Tls, said),
            },
        }
    }

    fn of_certificate(authority: &str, fault: &CertificateFault, now: i64) -> Self {
        use CertificateFault as F;
        let moment = |time| format::moment(format::unix(time), now).unwrap_or_default();
        let why = match fault {
            F::Expired { not_after: Some(time) } => format!("it expired on {}", moment(*time)),
            F::NotYetValid { not_before: Some(time) } => format!("it is not valid before {}", moment(*time)),
            other => other.to_string(),
        };
        let diagnosis = Self::new(Kind::Certificate, format!("{authority} shows one that is refused: {why}"));
        match fault {
            F::UnknownIssuer | F::SelfSigned | F::OtherKey | F::NoRoots => diagnosis
                .advise("if that is right, trust its signer: --ca FILE, or upstream.ca in the configuration"),
            F::NotYetValid { .. } => diagnosis.advise("or the clock here is behind"),
            _ => diagnosis,
        }
    }

    /// Returns the diagnosis of a token request; `username` is the requester.
    pub(super) fn of_token(error: &TokenError, username: Option<&str>, now: i64) -> Self {
        match (error, username) {
            (TokenError::EgressPolicy(error), _) => Self::elsewhere(Kind::RealmElsewhere, error),
            (TokenError::Credentials(error), _) => Self::new(Kind::Credentials, error.to_string()),
            (TokenError::Refused { endpoint, status }, Some(name)) => Self::new(
                Kind::WrongPassword,
                format!("the token endpoint {endpoint} refuses the name and password of {name} ({status})"),
            ),
            (TokenError::Refused { endpoint, status }, None) => Self::new(
                Kind::NeedsLogin,
                format!("the token endpoint {endpoint} gives no token without a login ({status})"),
            )
            .advise("-u NAME"),
            (TokenError::Limited { endpoint, retry_after }, _) => {
                let until = retry_after.map(|after| i64::try_from(after.as_secs()).unwrap_or(i64::MAX));
                let who = format!("the token endpoint {endpoint} has been asked too often");
                Self::limited(&who, until.map(|after| now.saturating_add(after)), now)
            }
            (TokenError::Failed { source, .. }, _) => {
                let diagnosis = Self::of(source, now);
                Self { message: format!("the token endpoint: {}", diagnosis.message), ..diagnosis }
            }
            (TokenError::LockedOut, _) => Self::new(Kind::WrongPassword, error.to_string()),
            (
                TokenError::Status { .. }
                | TokenError::Answer { .. }
                | TokenError::TokensRefused
                | TokenError::Busy
                | TokenError::Spent(_)
                | TokenError::Abandoned,
                _,
            ) => Self::new(Kind::NoToken, error.to_string()),
        }
    }

    /// Returns a 429.
    pub(super) fn of_limit(headers: &HeaderMap, now: i64) -> Self {
        let left = RateLimit::of(headers).map(|limit| format!(" ({limit})")).unwrap_or_default();
        Self::limited(&format!("too many requests{left}"), until(headers, now), now)
    }

    fn limited(who: &str, until: Option<i64>, now: i64) -> Self {
        let until = until.and_then(|until| format::moment(until, now));
        let until =
            until.map_or_else(|| "; it does not say until when".to_owned(), |at| format!(", until {at}"));
        Self::new(Kind::Limited, format!("{who}{until}"))
    }
}

/// Returns the end of the limit. Docker Hub writes a time of the clock into fields that are for seconds.
fn until(headers: &HeaderMap, now: i64) -> Option<i64> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    let absolute = [number("retry-after"), number("x-retry-after")].into_iter().flatten();
    let absolute = absolute.into_iter().find(|seconds| *seconds > A_TIME);
    absolute.or_else(|| {
        let after = upstream::retry_after(headers)?.as_secs();
        Some(now.saturating_add(i64::try_from(after).unwrap_or(i64::MAX)))
    })
}

/// Seconds after 1970 rather than seconds to wait: 2001.
const A_TIME: i64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::StatusCode;

    use super::*;

    const NOW: i64 = 1_795_341_600;

    fn line(diagnosis: &Diagnosis) -> String {
        diagnosis.to_string()
    }

    #[test]
    fn a_certificate_is_refused_in_words() {
        let time = UNIX_EPOCH + Duration::from_secs(1_795_341_600 - 86_400);
        let expired = CertificateFault::Expired { not_after: Some(time) };
        assert_eq!(
            line(&Diagnosis::of_certificate("a:5000", &expired, NOW)),
            "certificate: a:5000 shows one that is refused: it expired on 2026-11-21 10:00:00 UTC, 1 d ago"
        );
        let early = CertificateFault::NotYetValid { not_before: Some(time + Duration::from_secs(86_460)) };
        assert!(
            line(&Diagnosis::of_certificate("a", &early, NOW))
                .ends_with("in 1 min; or the clock here is behind")
        );
        assert!(
            line(&Diagnosis::of_certificate("a", &CertificateFault::SelfSigned, NOW)).contains("--ca FILE")
        );
    }

    #[test]
    fn the_end_of_a_limit_is_told_however_it_is_written() {
        for (fields, until) in [
            (vec![("retry-after", "60")], ", until 2026-11-22 10:01:00 UTC, in 1 min"),
            (vec![("retry-after", "1795341660")], ", until 2026-11-22 10:01:00 UTC, in 1 min"),
            (vec![("x-retry-after", "1795341660")], ", until 2026-11-22 10:01:00 UTC, in 1 min"),
            (vec![], "; it does not say until when"),
        ] {
            let headers = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let headers: HeaderMap = headers.collect();
            assert_eq!(
                line(&Diagnosis::of_limit(&headers, NOW)),
                format!("limited: too many requests{until}")
            );
        }
    }

    #[test]
    fn a_refusing_token_endpoint_is_told_from_one_that_wants_a_name() {
        let refused =
            TokenError::Refused { endpoint: "https://a/t".into(), status: StatusCode::UNAUTHORIZED };
        assert_eq!(Diagnosis::of_token(&refused, Some("jo"), NOW).kind, Kind::WrongPassword);
        let diagnosis = Diagnosis::of_token(&refused, None, NOW);
        assert_eq!((diagnosis.kind, diagnosis.advice.as_deref()), (Kind::NeedsLogin, Some("-u NAME")));
    }
}
