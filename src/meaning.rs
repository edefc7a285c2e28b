//! The meaning of an upstream's answer, and what follows from it.
//!
//! `upstream` decides the meaning once, from the whole exchange; the cache and the gateway ask this enum and nothing else.
//! Every policy is an exhaustive match, so that a new meaning does not compile before each question has its answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::proto::{ErrorBody, ErrorCode, ErrorEntry};

/// The message that a client gets for [`Meaning::RateLimited`]. The gateway's own limits have other messages.
pub(crate) const RATE_LIMITED: &str = "the upstream limits the rate; try again later";

/// The meaning of an exchange with an upstream.
///
/// *Registry* is the upstream's own host; *storage* is any other host to which it redirects: a CDN, a bucket, a second
/// registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The answer is what was asked for, as far as the head can tell.
    Usable,
    /// The registry says that it does not exist: 404, or 401 to a token that is good (Docker Hub).
    NotFound,
    /// The registry gives the requester's own account what it gives for things that do not exist. Others may see it.
    Hidden,
    /// The registry says 403 to credentials that it takes.
    Denied,
    /// The registry does not take the requester's own name and password, which the gateway forwarded, or wants some.
    LoginRefused,
    /// The registry or its token endpoint does not take the gateway's credentials, or there are none to show.
    CredentialsRefused,
    /// 429 by the registry, its token endpoint or storage.
    RateLimited {
        /// How long the upstream asks to be left alone, if it says so.
        retry_after: Option<Duration>,
    },
    /// The upstream was not asked: the gateway asks too much of it already, or too much of it for this client.
    Busy {
        /// After what time asking again may help.
        retry_after: Duration,
    },
    /// No connection, a broken one, no answer in time, 5xx, or 408, 421, 425.
    Unavailable {
        /// No answer in time, rather than a bad one or none.
        late: bool,
        /// The part that failed.
        of: Fault,
    },
    /// The registry redirected, and storage answered 4xx or 5xx or could not be reached.
    StorageFailed,
    /// A success that is not what was asked for: a page, an error body, half a manifest, another digest.
    Unusable,
    /// An optional part of the API that the registry does not have.
    NotOffered {
        /// The registry's own status.
        status: u16,
    },
    /// The registry refuses the request itself: 400, 406, 409, 413, 416 and other 4xx.
    Rejected {
        /// The registry's own status.
        status: u16,
    },
    /// The client's own request broke off. No fault of the upstream.
    ClientGone,
    /// The upstream is this gateway, or leads back to it.
    Loop,
}

/// The part of an upstream that is unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The registry as a whole: no connection, no answer, 502, 503, 504.
    Registry,
    /// Perhaps only the object that was asked for: 500 and other 5xx, 408, 421, 425.
    Object,
    /// The token endpoint.
    TokenEndpoint,
}

/// The worth of asking for the same content in another way: by GET rather than HEAD, by tag rather than by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherWay {
    /// The answer would be the same.
    Useless,
    /// Worth it where the content itself is wanted: this no is not believed before the other way says it too.
    ForContent,
    /// Worth it for a head alone: the way may be all that is refused.
    Always,
}

/// The words with which a client is told of an answer that gives it nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// The registry's own errors, where it sent some.
    Registrys,
    /// The gateway's, with the registry's own errors as their detail.
    Detailed,
    /// The gateway's alone: the registry's are about the gateway's own account.
    Gateways,
}

/// The part of what is known that an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// None of it.
    Nothing,
    /// The requester's own grant: what others may read stays.
    Grant,
    /// The entry, for every client.
    Entry,
}

/// The way in which a request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Not repeated.
    Never,
    /// Only after a pause that outlives the request: a lockout, or the time that the upstream named.
    Later,
    /// GET and HEAD, with growing pauses.
    Reads,
    /// Once, for a fresh redirect of the registry.
    FreshRedirect,
    /// Once.
    Once,
}

/// The effect of an answer on the circuit breaker of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Circuit {
    /// The registry answers: failures are forgotten.
    Reset,
    /// A further failure of the registry.
    Failure,
    /// Says nothing of the registry.
    Unaffected,
}

impl Meaning {
    /// Returns the word in logs and metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::NotFound | Self::Hidden => "not_found",
            Self::Denied => "upstream_denied",
            Self::LoginRefused => "login_refused",
            Self::CredentialsRefused => "credentials_refused",
            Self::RateLimited { .. } => "rate_limited",
            Self::Busy { .. } => "busy",
            Self::Unavailable { late: true, .. } => "upstream_timeout",
            Self::Unavailable { late: false, .. } => "upstream_unavailable",
            Self::StorageFailed => "storage_failed",
            Self::Unusable => "upstream_unusable",
            Self::NotOffered { .. } => "not_offered",
            Self::Rejected { .. } => "upstream_rejected",
            Self::ClientGone => "client_gone",
            Self::Loop => "loop",
        }
    }

    /// Returns true if content that is held already may serve in spite of it: the registry itself has not said no.
    pub(crate) fn allows_stale(self) -> bool {
        match self {
            Self::CredentialsRefused
            | Self::RateLimited { .. }
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::StorageFailed
            | Self::Unusable => true,
            Self::Usable
            | Self::NotFound
            | Self::Hidden
            | Self::Denied
            | Self::LoginRefused
            | Self::NotOffered { .. }
            | Self::Rejected { .. }
            | Self::ClientGone
            | Self::Loop => false,
        }
    }

    /// Returns what it ends of what is known. `each` is `pull_authorization = "each"`; `shared` says that the registry knows
    /// the requester as it knows all others, so that its no to the requester is one to all.
    pub(crate) fn ends(self, each: bool, shared: bool) -> Ends {
        match self {
            Self::NotFound if each || shared => Ends::Entry,
            Self::Denied if shared && !each => Ends::Entry,
            Self::NotFound | Self::Denied | Self::Hidden | Self::LoginRefused => Ends::Grant,
            Self::Usable
            | Self::CredentialsRefused
            | Self::RateLimited { .. }
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::StorageFailed
            | Self::Unusable
            | Self::NotOffered { .. }
            | Self::Rejected { .. }
            | Self::ClientGone
            | Self::Loop => Ends::Nothing,
        }
    }

    /// Returns how the request is repeated.
    pub(crate) fn retry(self) -> Retry {
        match self {
            Self::CredentialsRefused | Self::RateLimited { .. } | Self::Busy { .. } => Retry::Later,
            Self::Unavailable { .. } => Retry::Reads,
            Self::StorageFailed => Retry::FreshRedirect,
            Self::Unusable => Retry::Once,
            Self::Usable
            | Self::NotFound
            | Self::Hidden
            | Self::Denied
            | Self::LoginRefused
            | Self::NotOffered { .. }
            | Self::Rejected { .. }
            | Self::ClientGone
            | Self::Loop => Retry::Never,
        }
    }

    /// Returns its effect on the circuit breaker of the registry.
    pub(crate) fn circuit(self) -> Circuit {
        match self {
            Self::Usable
            | Self::NotFound
            | Self::Hidden
            | Self::Denied
            | Self::LoginRefused
            | Self::Rejected { .. } => Circuit::Reset,
            Self::Unavailable { of: Fault::Registry | Fault::Object, .. } => Circuit::Failure,
            Self::CredentialsRefused
            | Self::RateLimited { .. }
            | Self::Busy { .. }
            | Self::Unavailable { of: Fault::TokenEndpoint, .. }
            | Self::StorageFailed
            | Self::Unusable
            | Self::NotOffered { .. }
            | Self::ClientGone
            | Self::Loop => Circuit::Unaffected,
        }
    }

    /// Returns the status of the client's answer when nothing that is held serves. `None`: the answer itself goes on.
    pub(crate) fn client_status(self) -> Option<u16> {
        Some(match self {
            Self::Usable => return None,
            Self::NotFound | Self::Hidden => 404,
            Self::Denied => 403,
            Self::LoginRefused => 401,
            Self::RateLimited { .. } => 429,
            Self::Busy { .. } => 503,
            Self::Unavailable { late: true, .. } => 504,
            Self::CredentialsRefused
            | Self::Unavailable { late: false, .. }
            | Self::StorageFailed
            | Self::Unusable => 502,
            Self::NotOffered { status } | Self::Rejected { status } => status,
            Self::ClientGone => 400,
            Self::Loop => 508,
        })
    }

    /// Returns whose words the client is told.
    pub(crate) fn words(self) -> Words {
        match self {
            Self::NotFound | Self::NotOffered { .. } | Self::Rejected { .. } => Words::Registrys,
            Self::Denied
            | Self::RateLimited { .. }
            | Self::Unavailable { of: Fault::Registry | Fault::Object, .. } => Words::Detailed,
            Self::Usable
            | Self::Hidden
            | Self::LoginRefused
            | Self::CredentialsRefused
            | Self::Busy { .. }
            | Self::Unavailable { of: Fault::TokenEndpoint, .. }
            | Self::StorageFailed
            | Self::Unusable
            | Self::ClientGone
            | Self::Loop => Words::Gateways,
        }
    }

    /// Returns true if another requester might get another answer: it is about the requester's credentials or limits.
    pub(crate) fn is_about_requester(self) -> bool {
        match self {
            Self::NotFound
            | Self::Hidden
            | Self::Denied
            | Self::LoginRefused
            | Self::CredentialsRefused
            | Self::RateLimited { .. }
            | Self::Busy { .. } => true,
            Self::Usable
            | Self::Unavailable { .. }
            | Self::StorageFailed
            | Self::Unusable
            | Self::NotOffered { .. }
            | Self::Rejected { .. }
            | Self::ClientGone
            | Self::Loop => false,
        }
    }

    /// Returns true if the same thing, asked for in another way (GET rather than HEAD, whole rather than in part), may get
    /// another answer.
    pub(crate) fn is_about_the_form(self) -> bool {
        match self {
            Self::NotOffered { .. } | Self::Rejected { .. } => true,
            Self::Usable
            | Self::NotFound
            | Self::Hidden
            | Self::Denied
            | Self::LoginRefused
            | Self::CredentialsRefused
            | Self::RateLimited { .. }
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::StorageFailed
            | Self::Unusable
            | Self::ClientGone
            | Self::Loop => false,
        }
    }

    /// Returns whether the same content, asked for in another way, may get another answer. Registries refuse HEAD where GET
    /// works, with almost any status (containerd PR#6684), and digests that their own HEAD has named (moby#41687).
    pub(crate) fn other_way(self) -> OtherWay {
        match self {
            Self::NotOffered { .. }
            | Self::Rejected { .. }
            | Self::Unavailable { of: Fault::Object, .. }
            | Self::StorageFailed
            | Self::Unusable => OtherWay::Always,
            Self::NotFound | Self::Hidden | Self::Denied | Self::LoginRefused | Self::CredentialsRefused => {
                OtherWay::ForContent
            }
            Self::Usable
            | Self::RateLimited { .. }
            | Self::Busy { .. }
            | Self::Unavailable { of: Fault::Registry | Fault::TokenEndpoint, .. }
            | Self::ClientGone
            | Self::Loop => OtherWay::Useless,
        }
    }

    /// Returns true if the registry as a whole is away. An object that it stumbles over is not that: a client whose rights
    /// have ended could ask for such a one.
    pub(crate) fn is_registry_away(self) -> bool {
        match self {
            Self::Unavailable { of: Fault::Registry, .. } => true,
            Self::Unavailable { of: Fault::Object | Fault::TokenEndpoint, .. }
            | Self::Usable
            | Self::NotFound
            | Self::Hidden
            | Self::Denied
            | Self::LoginRefused
            | Self::CredentialsRefused
            | Self::RateLimited { .. }
            | Self::Busy { .. }
            | Self::StorageFailed
            | Self::Unusable
            | Self::NotOffered { .. }
            | Self::Rejected { .. }
            | Self::ClientGone
            | Self::Loop => false,
        }
    }

    /// Returns true if a registry that answers a push of a manifest so may miss what the manifest names: a blob that it was
    /// believed to hold, and has lost.
    pub(crate) fn may_miss_content(self) -> bool {
        match self {
            Self::NotFound | Self::Rejected { .. } | Self::Unavailable { of: Fault::Object, .. } => true,
            Self::Usable
            | Self::Hidden
            | Self::Denied
            | Self::LoginRefused
            | Self::CredentialsRefused
            | Self::RateLimited { .. }
            | Self::Busy { .. }
            | Self::Unavailable { of: Fault::Registry | Fault::TokenEndpoint, .. }
            | Self::StorageFailed
            | Self::Unusable
            | Self::NotOffered { .. }
            | Self::ClientGone
            | Self::Loop => false,
        }
    }

    /// Returns true if the upstream was not asked, since the requester's client had its share of what may be asked: another
    /// client may still have some.
    pub(crate) fn is_busy(self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// Returns true if it is the registry's own word on what was asked for, which it would give to another replica of this
    /// gateway as well. What went wrong on the way there may go well on another.
    pub(crate) fn is_the_registrys_word(self) -> bool {
        match self {
            Self::NotFound
            | Self::Hidden
            | Self::Denied
            | Self::RateLimited { .. }
            | Self::NotOffered { .. }
            | Self::Rejected { .. } => true,
            Self::Usable
            | Self::LoginRefused
            | Self::CredentialsRefused
            | Self::Busy { .. }
            | Self::Unavailable { .. }
            | Self::StorageFailed
            | Self::Unusable
            | Self::ClientGone
            | Self::Loop => false,
        }
    }

    /// Returns true if the registry itself gave no answer that means anything.
    pub(crate) fn is_silence(self) -> bool {
        self.circuit() == Circuit::Failure
    }
}

/// An exchange that gave nothing usable: its meaning, and what the operator and the client are told.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamFailure {
    /// The meaning, on which alone decisions rest.
    pub(crate) meaning: Meaning,
    /// A sentence for the client, without what only the operator should know. `None`: the error code's own.
    pub(crate) message: Option<&'static str>,
    /// The length of a blob, in bytes, none of which the requested range covers (416).
    pub(crate) unsatisfied: Option<u64>,
    /// How long the upstream asks to be left alone, if it says so.
    pub(crate) retry_after: Option<Duration>,
    /// The cause and its causes in one line, with the first words of the answer, for the log.
    pub(crate) cause: Arc<str>,
    /// The key of the configuration that may help.
    pub(crate) key: Option<&'static str>,
    /// The registry's own errors, if its answer had some.
    pub(crate) errors: Option<Arc<ErrorBody>>,
    /// True if HEAD failed, which GET may contradict.
    pub(crate) by_head: bool,
    /// True if another replica of this gateway was told so, and remembers it.
    pub(crate) by_replica: bool,
}

impl UpstreamFailure {
    /// Returns true if the upstream says that a range is behind the end, with the length of the whole or without it.
    pub(crate) fn is_unsatisfied(&self) -> bool {
        self.unsatisfied.is_some() || self.meaning == (Meaning::Rejected { status: 416 })
    }

    /// Returns the failure of an upstream whose success is not what was asked for.
    pub(crate) fn unusable(reason: impl fmt::Display) -> Self {
        Self {
            meaning: Meaning::Unusable,
            message: Some("the upstream's answer can't be used"),
            unsatisfied: None,
            retry_after: None,
            cause: format!("the upstream sent {reason}").into(),
            key: None,
            errors: None,
            by_head: false,
            by_replica: false,
        }
    }

    /// Returns the failure of an upstream for which no client waits longer, since something stale can serve.
    pub(crate) fn late() -> Self {
        Self {
            meaning: Meaning::Unavailable { late: true, of: Fault::Registry },
            message: Some("the upstream does not answer"),
            cause: "it did not answer within stale_after".into(),
            key: Some("upstream.cache.stale_after"),
            ..Self::unusable("nothing")
        }
    }

    /// Returns the worth of asking in another way, if this is a HEAD's no.
    pub(crate) fn other_way_than_head(&self) -> OtherWay {
        if self.by_head { self.meaning.other_way() } else { OtherWay::Useless }
    }

    /// Returns the code of the registry's first error that is known here.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        self.errors.as_ref()?.errors.iter().find_map(ErrorEntry::known)
    }
}

impl fmt::Display for UpstreamFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for UpstreamFailure {}

/// A registry that can't be reached, for tests.
#[cfg(test)]
pub(crate) const UNAVAILABLE: Meaning = Meaning::Unavailable { late: false, of: Fault::Registry };

#[cfg(test)]
impl UpstreamFailure {
    /// Returns a failure of this meaning.
    pub(crate) fn of(meaning: Meaning) -> Self {
        Self { meaning, ..Self::unusable("nothing, for a test") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const LIMITED: Meaning = Meaning::RateLimited { retry_after: None };

    /// The table of the kinds: meaning, client's status, stale, what it ends in "shared" and in "each", retry, circuit.
    #[test]
    fn every_meaning_answers_every_question() {
        use Circuit::{Failure, Reset, Unaffected};
        use Ends::{Entry, Grant, Nothing};
        use Retry::{FreshRedirect, Later, Never, Once, Reads};
        let table = [
            (Meaning::Usable, None, false, Nothing, Nothing, Never, Reset),
            (Meaning::NotFound, Some(404), false, Entry, Entry, Never, Reset),
            (Meaning::Hidden, Some(404), false, Grant, Grant, Never, Reset),
            (Meaning::Denied, Some(403), false, Entry, Grant, Never, Reset),
            (Meaning::LoginRefused, Some(401), false, Grant, Grant, Never, Reset),
            (Meaning::CredentialsRefused, Some(502), true, Nothing, Nothing, Later, Unaffected),
            (LIMITED, Some(429), true, Nothing, Nothing, Later, Unaffected),
            (
                Meaning::Busy { retry_after: Duration::ZERO },
                Some(503),
                true,
                Nothing,
                Nothing,
                Later,
                Unaffected,
            ),
            (UNAVAILABLE, Some(502), true, Nothing, Nothing, Reads, Failure),
            (
                Meaning::Unavailable { late: true, of: Fault::Registry },
                Some(504),
                true,
                Nothing,
                Nothing,
                Reads,
                Failure,
            ),
            (
                Meaning::Unavailable { late: false, of: Fault::TokenEndpoint },
                Some(502),
                true,
                Nothing,
                Nothing,
                Reads,
                Unaffected,
            ),
            (Meaning::StorageFailed, Some(502), true, Nothing, Nothing, FreshRedirect, Unaffected),
            (Meaning::Unusable, Some(502), true, Nothing, Nothing, Once, Unaffected),
            (Meaning::NotOffered { status: 405 }, Some(405), false, Nothing, Nothing, Never, Unaffected),
            (Meaning::Rejected { status: 400 }, Some(400), false, Nothing, Nothing, Never, Reset),
            (Meaning::ClientGone, Some(400), false, Nothing, Nothing, Never, Unaffected),
            (Meaning::Loop, Some(508), false, Nothing, Nothing, Never, Unaffected),
        ];
        for (meaning, status, stale, shared, each, retry, circuit) in table {
            assert_eq!(meaning.client_status(), status, "{meaning:?}: the client's status");
            assert_eq!(meaning.allows_stale(), stale, "{meaning:?}: stale");
            assert_eq!(meaning.ends(false, true), shared, "{meaning:?}: what it ends in shared");
            assert_eq!(meaning.ends(true, false), each, "{meaning:?}: what it ends in each");
            assert_eq!(meaning.retry(), retry, "{meaning:?}: retry");
            assert_eq!(meaning.circuit(), circuit, "{meaning:?}: circuit");
        }
    }

    #[test]
    fn only_another_way_may_contradict_a_no() {
        let by_head = |meaning| UpstreamFailure { by_head: true, ..UpstreamFailure::of(meaning) };
        for meaning in [Meaning::NotFound, Meaning::Denied, Meaning::Hidden] {
            assert_eq!(by_head(meaning).other_way_than_head(), OtherWay::ForContent, "{meaning:?}");
            assert_eq!(UpstreamFailure::of(meaning).other_way_than_head(), OtherWay::Useless, "{meaning:?}");
        }
        let object = Meaning::Unavailable { late: false, of: Fault::Object };
        for meaning in [object, Meaning::NotOffered { status: 405 }, Meaning::Rejected { status: 400 }] {
            assert_eq!(by_head(meaning).other_way_than_head(), OtherWay::Always, "{meaning:?}");
        }
        for meaning in [UNAVAILABLE, LIMITED] {
            assert_eq!(by_head(meaning).other_way_than_head(), OtherWay::Useless, "{meaning:?}");
        }
    }

    #[test]
    fn a_no_to_an_account_of_its_own_ends_nothing_for_others() {
        for meaning in [Meaning::NotFound, Meaning::Denied, Meaning::Hidden, Meaning::LoginRefused] {
            assert_eq!(meaning.ends(false, false), Ends::Grant, "{meaning:?}");
        }
    }
}
