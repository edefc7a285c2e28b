//! The members that have sent content, so that one whose bytes do not have the digest is not asked for them again.

use std::sync::Arc;
use std::time::Instant;

use moka::sync::Cache;

use crate::clock;
use crate::config::limits;
use crate::proto::Digest;

/// The members that have sent content lately, and the content that is not asked of them.
pub(super) struct Senders {
    sent: Cache<Digest, Arc<[Arc<str>]>>,
    distrusted: Cache<Digest, Instant>,
}

impl Senders {
    pub(super) fn new() -> Self {
        Self { sent: Cache::new(limits::PEER_CONTENTS), distrusted: Cache::new(limits::PEER_CONTENTS) }
    }

    /// Notes that `member` sends bytes of the content.
    pub(super) fn note(&self, digest: &Digest, member: &Arc<str>) {
        let sent = self.sent.get(digest).unwrap_or_default();
        if !sent.contains(member) {
            self.sent.insert(digest.clone(), sent.iter().chain([member]).cloned().collect());
        }
    }

    /// Distrusts the members that have sent the content, if there are any, and returns their names.
    pub(super) fn distrust(&self, digest: &Digest) -> Arc<[Arc<str>]> {
        let names = self.sent.remove(digest).unwrap_or_default();
        if !names.is_empty() {
            self.distrusted.insert(digest.clone(), clock::now());
        }
        names
    }

    /// Returns true if the content is not to be asked of members.
    pub(super) fn is_distrusted(&self, digest: &Digest) -> bool {
        let since = self.distrusted.get(digest);
        since.is_some_and(|since| clock::now().duration_since(since) < limits::PEER_DISTRUST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn content_that_was_wrong_is_not_asked_of_members_for_a_while() {
        let (senders, digest) = (Senders::new(), Digest::sha256_of(b"it"));
        assert!(
            senders.distrust(&digest).is_empty() && !senders.is_distrusted(&digest),
            "it was the upstream"
        );
        for member in ["a:1", "b:1", "a:1"] {
            senders.note(&digest, &member.into());
        }
        assert_eq!(*senders.distrust(&digest), ["a:1".into(), "b:1".into()]);
        assert!(senders.is_distrusted(&digest));
        tokio::time::advance(limits::PEER_DISTRUST).await;
        assert!(!senders.is_distrusted(&digest));
    }
}
