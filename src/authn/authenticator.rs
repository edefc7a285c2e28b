//! The `Authorization` header to an identity.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::authn::htpasswd::{HtpasswdFile, Reload};
use crate::authn::password_checks::PasswordChecks;
use crate::authn::verifier::{Outcome, Verifier};
use crate::budget::Usage;
use crate::proto::authorization::Authorization;
use crate::proto::htpasswd::Line;
use crate::proto::identity::{Forwarded, Identity, ROBOT_PREFIX};
use crate::proto::{Fingerprint, Secret};

/// Decides the identity of a request. Without an htpasswd file or an upstream that judges, no login succeeds.
pub struct Authenticator {
    verifier: Option<Verifier>,
    forwards: bool,
}

/// The reason why a request's credentials do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Wrong, malformed, or of a scheme that is not accepted: 401.
    #[error("wrong name or password")]
    Invalid,
    /// Too many failures from this client, or too many logins at once: 429.
    #[error("too many login attempts")]
    Throttled {
        /// The time after which to ask again.
        retry_after: Duration,
    },
}

impl Authenticator {
    /// Lets the users of a file log in; without a file, none.
    ///
    /// # Errors
    /// The system's, when it gives no threads or random bytes.
    pub fn new(htpasswd: Option<HtpasswdFile>) -> io::Result<Self> {
        Ok(Self { verifier: htpasswd.map(Verifier::new).transpose()?, forwards: false })
    }

    /// Sets whether an upstream judges the passwords of users who are not in the file.
    #[must_use]
    pub fn forwarding(self, forwards: bool) -> Self {
        Self { forwards, ..self }
    }

    /// Returns true if anyone can log in.
    pub fn has_logins(&self) -> bool {
        self.verifier.is_some() || self.forwards
    }

    /// Returns the client that sends this `Authorization` header value to `upstream`; `None` where it is not for an
    /// upstream to
    /// judge. That is decided here, before anything is checked: a name that the htpasswd file has is never forwarded.
    pub fn for_upstream(&self, authorization: Option<&[u8]>, upstream: &str) -> Option<Arc<Forwarded>> {
        let Ok(Authorization::Basic { user, password }) = Authorization::parse(authorization?) else {
            return None;
        };
        // A robot's token is for this gateway alone, also when it has no token service any more.
        if is_blank(&user, &password) || password.expose().starts_with(ROBOT_PREFIX) {
            return None;
        }
        let is_local = self.verifier.as_ref().is_some_and(|verifier| verifier.names(&user));
        (!is_local).then(|| Arc::new(Forwarded::new(upstream, user, password)))
    }

    /// Returns the fingerprint of a user's line in the htpasswd file, if the user can log in by it.
    pub(crate) fn fingerprint(&self, user: &str) -> Option<Fingerprint> {
        let verifier = self.verifier.as_ref()?;
        verifier.file().table().line(user).map(Line::fingerprint)
    }

    /// Returns the least time of the answer to a wrong pair: zero without an htpasswd file.
    pub fn floor(&self) -> Duration {
        self.verifier.as_ref().map_or(Duration::ZERO, Verifier::floor)
    }

    /// Returns the state of the queue of passwords that are to be checked, where there is an htpasswd file.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.verifier.as_ref().map(Verifier::usage)
    }

    /// Returns the counters of the checks of passwords, where there is an htpasswd file.
    pub(crate) fn password_checks(&self) -> Option<&PasswordChecks> {
        self.verifier.as_ref().map(Verifier::password_checks)
    }

    /// Returns the verifier of passwords, where there is one.
    pub fn verifier(&self) -> Option<&Verifier> {
        self.verifier.as_ref()
    }

    /// Returns the answer, when it needs neither work nor waiting; else ask [`Authenticator::authenticate`].
    pub fn remembered(&self, authorization: Option<&[u8]>) -> Option<Result<Identity, Failure>> {
        match self.claim(authorization) {
            Claim::Settled(answer) => Some(answer),
            Claim::Password(verifier, user, password) => verifier.remembered(&user, &password).map(Ok),
        }
    }

    /// Authenticates an `Authorization` header value (RFC 7617). No header is [`Identity::Anonymous`].
    ///
    /// # Errors
    /// [`Failure`]; a wrong pair fails no sooner than the file's costliest check takes.
    pub async fn authenticate(
        &self,
        authorization: Option<&[u8]>,
        peer: IpAddr,
    ) -> Result<Identity, Failure> {
        let (verifier, user, password) = match self.claim(authorization) {
            Claim::Settled(answer) => return answer,
            Claim::Password(verifier, user, password) => (verifier, user, password),
        };
        match verifier.verify(&user, &password, peer).await {
            Outcome::Accept(identity) => Ok(identity),
            Outcome::Reject => Err(Failure::Invalid),
            Outcome::Throttled { retry_after } => Err(Failure::Throttled { retry_after }),
        }
    }

    /// Reads the htpasswd file again if it changed. Blocks on the disk; ask every two seconds.
    pub fn reload_if_changed(&self) -> Reload {
        self.verifier.as_ref().map_or(Reload::Unchanged, Verifier::reload_if_changed)
    }

    /// Reads the htpasswd file again in any case.
    pub fn reload(&self) -> Reload {
        self.verifier.as_ref().map_or(Reload::Unchanged, Verifier::reload)
    }

    fn claim(&self, authorization: Option<&[u8]>) -> Claim<'_> {
        let Some(value) = authorization else { return Claim::Settled(Ok(Identity::Anonymous)) };
        match (Authorization::parse(value), &self.verifier) {
            (Ok(Authorization::Basic { user, password }), _) if is_blank(&user, &password) => {
                Claim::Settled(Ok(Identity::Anonymous))
            }
            (Ok(Authorization::Basic { user, password }), Some(verifier)) => {
                Claim::Password(verifier, user, password)
            }
            _ => Claim::Settled(Err(Failure::Invalid)),
        }
    }
}

/// Returns true for what clients without a login send: podman, buildah and skopeo answer a Basic challenge with an empty name
/// and an empty password (podman#1963, distribution#1230).
fn is_blank(user: &str, password: &Secret) -> bool {
    user.is_empty() && password.expose().is_empty()
}

/// The claim of a header, not yet checked.
enum Claim<'a> {
    Settled(Result<Identity, Failure>),
    Password(&'a Verifier, String, Secret),
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn authenticator(name: &str, password: &str) -> Authenticator {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let hash = super::super::htpasswd::hash(&Secret::new(password), 4).unwrap();
        std::fs::write(&path, format!("{name}:{hash}\n")).unwrap();
        Authenticator::new(Some(HtpasswdFile::open(path).unwrap())).unwrap()
    }

    fn basic(pair: &str) -> Vec<u8> {
        format!("Basic {}", BASE64_STANDARD.encode(pair)).into_bytes()
    }

    async fn ask(authenticator: &Authenticator, header: &[u8]) -> Result<Identity, Failure> {
        authenticator.authenticate(Some(header), [192, 0, 2, 1].into()).await
    }

    #[tokio::test]
    async fn a_request_without_the_header_is_anonymous() {
        let authenticator = authenticator("al", "pw");
        assert_eq!(authenticator.remembered(None), Some(Ok(Identity::Anonymous)));
        let asked = authenticator.authenticate(None, [192, 0, 2, 1].into()).await;
        assert_eq!(asked, Ok(Identity::Anonymous));
    }

    #[tokio::test]
    async fn a_right_password_is_remembered_from_then_on() {
        let authenticator = authenticator("al", "pw");
        assert_eq!(authenticator.remembered(Some(&basic("al:pw"))), None);
        let identity = ask(&authenticator, &basic("al:pw")).await.unwrap();
        assert_eq!(identity.name(), "al");
        assert_eq!(authenticator.remembered(Some(&basic("al:pw"))), Some(Ok(identity)));
    }

    #[tokio::test]
    async fn a_password_may_hold_colons_and_be_empty() {
        let colons = authenticator("al", ":p:w:");
        assert!(ask(&colons, &basic("al::p:w:")).await.is_ok());
        assert!(ask(&authenticator("al", ""), &basic("al:")).await.is_ok());
    }

    #[tokio::test]
    async fn a_wrong_password_is_not_remembered_in_the_fast_answer() {
        let authenticator = authenticator("al", "pw");
        assert_eq!(ask(&authenticator, &basic("al:px")).await, Err(Failure::Invalid));
        assert_eq!(authenticator.remembered(Some(&basic("al:px"))), None);
    }

    #[tokio::test]
    async fn an_empty_name_with_an_empty_password_is_no_login() {
        let anonymous = Some(Ok(Identity::Anonymous));
        for authenticator in [authenticator("al", "pw"), Authenticator::new(None).unwrap().forwarding(true)] {
            assert_eq!(authenticator.remembered(Some(&basic(":"))), anonymous);
            assert_eq!(authenticator.for_upstream(Some(&basic(":")), "hub"), None);
            assert_ne!(authenticator.remembered(Some(&basic(":x"))), anonymous);
            assert_ne!(authenticator.remembered(Some(&basic("al:"))), anonymous);
        }
    }

    #[tokio::test]
    async fn other_schemes_and_malformed_headers_are_wrong() {
        let authenticator = authenticator("al", "pw");
        for header in ["", "Basic", "Basic !", "Bearer abc", "Negotiate x", "Basic YWw=", "al:pw"] {
            assert_eq!(
                authenticator.remembered(Some(header.as_bytes())),
                Some(Err(Failure::Invalid)),
                "{header}"
            );
        }
    }

    #[tokio::test]
    async fn names_of_the_file_are_never_forwarded() {
        let dir = tempfile::tempdir().unwrap();
        let hash = super::super::htpasswd::hash(&Secret::new("pw"), 4).unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, format!("al:{hash}\nold:$apr1$abc$def\n")).unwrap();
        let authenticator = Authenticator::new(Some(HtpasswdFile::open(path).unwrap())).unwrap();
        let forwarded = |header: &[u8]| authenticator.for_upstream(Some(header), "hub");
        for local in ["al:pw", "al:px", "old:pw"] {
            assert_eq!(forwarded(&basic(local)), None, "{local}");
        }
        let client = forwarded(&basic("bo:p:w")).unwrap();
        assert_eq!((client.upstream(), client.username(), client.password().expose()), ("hub", "bo", "p:w"));
        assert_eq!(Identity::Forwarded(client).name(), "forward/hub:bo");
        assert!(forwarded(b"Bearer abc").is_none() && forwarded(b"Basic !").is_none());
        assert_eq!(forwarded(&basic("bo:dgr_x")), None, "a robot's token");
        assert_eq!(authenticator.for_upstream(None, "hub"), None);
    }

    #[tokio::test]
    async fn one_can_log_in_where_an_upstream_judges() {
        let authenticator = Authenticator::new(None).unwrap();
        assert!(!authenticator.has_logins());
        let authenticator = authenticator.forwarding(true);
        assert!(
            authenticator.has_logins() && authenticator.for_upstream(Some(&basic("al:pw")), "hub").is_some()
        );
        assert_eq!(authenticator.floor(), Duration::ZERO);
    }

    #[tokio::test]
    async fn credentials_are_wrong_where_no_login_is_configured() {
        let authenticator = Authenticator::new(None).unwrap();
        assert_eq!(authenticator.remembered(Some(&basic("al:pw"))), Some(Err(Failure::Invalid)));
        assert_eq!(authenticator.remembered(None), Some(Ok(Identity::Anonymous)));
    }
}
