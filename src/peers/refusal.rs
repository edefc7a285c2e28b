//! A refusal of the registry, as one replica hands it on to another.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::meaning::{Meaning, UpstreamFailure};
use crate::proto::ErrorBody;

/// The refusal, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    kind: Kind,
    status: Option<u16>,
    /// Seconds.
    retry_after: Option<u64>,
    /// The length of a blob of which no byte lies in the range.
    length: Option<u64>,
    /// For the log.
    cause: String,
    /// The registry's own errors.
    errors: Option<Value>,
}

/// The meanings that are handed on: the registry's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    NotFound,
    Hidden,
    Denied,
    RateLimited,
    NotOffered,
    Rejected,
}

impl Refusal {
    /// Returns the refusal that `failure` is; none if it is not the registry's own word, and the asker should ask elsewhere.
    pub(super) fn of(failure: &UpstreamFailure) -> Option<Self> {
        if !failure.meaning.is_the_registrys_word() {
            return None;
        }
        let (kind, status) = match failure.meaning {
            Meaning::NotFound => (Kind::NotFound, None),
            Meaning::Hidden => (Kind::Hidden, None),
            Meaning::Denied => (Kind::Denied, None),
            Meaning::RateLimited { .. } => (Kind::RateLimited, None),
            Meaning::NotOffered { status } => (Kind::NotOffered, Some(status)),
            Meaning::Rejected { status } => (Kind::Rejected, Some(status)),
            _ => return None,
        };
        let retry_after = match failure.meaning {
            Meaning::RateLimited { retry_after } => retry_after,
            _ => failure.retry_after,
        };
        Some(Self {
            kind,
            status,
            retry_after: retry_after.map(|wait| wait.as_secs().max(1)),
            length: failure.unsatisfied,
            cause: failure.cause.to_string(),
            errors: failure.errors.as_ref().and_then(|errors| serde_json::to_value(&**errors).ok()),
        })
    }

    /// Returns the failure as the asker sees it. `member` is the replica that hands it on.
    pub(super) fn failure(self, member: &str) -> UpstreamFailure {
        let retry_after = self.retry_after.map(Duration::from_secs);
        let meaning = match (self.kind, self.status) {
            (Kind::NotFound, _) => Meaning::NotFound,
            (Kind::Hidden, _) => Meaning::Hidden,
            (Kind::Denied, _) => Meaning::Denied,
            (Kind::RateLimited, _) => Meaning::RateLimited { retry_after },
            (Kind::NotOffered, status) => Meaning::NotOffered { status: status.unwrap_or(405) },
            (Kind::Rejected, status) => Meaning::Rejected { status: status.unwrap_or(400) },
        };
        let errors = self.errors.and_then(|errors| ErrorBody::parse(errors.to_string().as_bytes()));
        UpstreamFailure {
            meaning,
            message: None,
            unsatisfied: self.length,
            retry_after,
            cause: format!("{} (told by the replica {member})", self.cause).into(),
            errors: errors.map(Arc::new),
            by_replica: true,
            ..UpstreamFailure::unusable("nothing")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meaning::UNAVAILABLE;
    use crate::proto::ErrorCode;

    #[test]
    fn the_registrys_word_is_handed_on_whole() {
        let minute = Some(Duration::from_secs(60));
        for meaning in [
            Meaning::NotFound,
            Meaning::Hidden,
            Meaning::Denied,
            Meaning::RateLimited { retry_after: minute },
            Meaning::NotOffered { status: 405 },
            Meaning::Rejected { status: 416 },
        ] {
            let errors = Some(Arc::new(ErrorBody::new(ErrorCode::ManifestUnknown)));
            let unsatisfied = Some(7);
            let failure = UpstreamFailure { errors, unsatisfied, ..UpstreamFailure::of(meaning) };
            let told = serde_json::to_vec(&Refusal::of(&failure).unwrap()).unwrap();
            let heard = serde_json::from_slice::<Refusal>(&told).unwrap().failure("b:1");
            assert_eq!((heard.meaning, heard.unsatisfied), (meaning, unsatisfied));
            assert_eq!((heard.code(), heard.by_replica), (Some(ErrorCode::ManifestUnknown), true));
        }
    }

    #[test]
    fn a_failure_of_this_replicas_own_is_not_handed_on() {
        for meaning in [
            UNAVAILABLE,
            Meaning::Unusable,
            Meaning::StorageFailed,
            Meaning::CredentialsRefused,
            Meaning::Busy { retry_after: Duration::ZERO },
            Meaning::Loop,
        ] {
            assert!(Refusal::of(&UpstreamFailure::of(meaning)).is_none(), "{meaning:?}");
        }
    }
}
