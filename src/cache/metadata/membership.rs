//! Whether a repository holds a blob, by its upstream's word there.

use std::sync::Arc;
use std::time::Duration;

use http::{StatusCode, header};

use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::record::Membership;
use crate::cache::origin::{OriginRequest, OriginResponse};
use crate::cache::requester::{CacheError, Priority, Requester};
use crate::cache::store::Kind;
use crate::clock;
use crate::config::PullAuthorization;
use crate::config::limits;
use crate::meaning::Ends;
use crate::proto::{ContentRange, Digest, MediaType};

/// What came of asking whether a repository holds a blob, and as whom it was asked.
#[derive(Clone)]
pub(crate) struct Lookup {
    account: Arc<str>,
    result: Result<Membership, CacheError>,
}

impl Membership {
    /// How long ago the upstream said so. A clock that has been set back makes no record good for longer.
    pub(crate) fn age(&self) -> Duration {
        let age = clock::wall().duration_since(self.confirmed);
        age.unwrap_or_else(|ahead| ahead.duration())
    }
}

impl Requester {
    /// What is known of a blob here, if that is not too old to be believed. Asks nobody.
    pub(crate) fn known(&self, digest: &Digest) -> Option<Membership> {
        self.recorded_blob(digest).filter(|held| held.age() < limits::RECORD_BELIEVED)
    }

    /// Whether the repository holds a blob, asked of the upstream there where that is not known, once for all who ask.
    ///
    /// # Errors
    /// The upstream's no, which ends what was believed; and why it could not be asked, where nothing was believed.
    pub(crate) async fn holds(&self, digest: &Digest) -> Result<Membership, CacheError> {
        let old = match self.recorded_blob(digest) {
            Some(held) if held.age() < limits::RECORD_BELIEVED => return Ok(held),
            old => old,
        };
        // Whoever may not have it fetched hears nothing of what is not here; asking whether it still is is no fetch.
        let old = match (self.held_only(), old) {
            (Some(refusal), None) => return Err(refusal),
            (Some(CacheError::Offline), Some(old)) => return Ok(old),
            (_, old) => old,
        };
        let old = old.filter(|held| held.age() < limits::RECORD_BELIEVED + self.site.settings.stale_if_error);
        let need = if old.is_some() { Priority::Refresh } else { Priority::Required };
        match (self.ask_whether_held(digest, need).await, old) {
            (Err(refusal), Some(old)) if refusal.allows_stale() => Ok(old),
            (result, _) => result,
        }
    }

    /// Upstream has served or confirmed a blob here; it was asked when the repository was at `generation`. Where it has been
    /// written to since, that may be out of date, and is for those who asked alone. What it did not say this time is still as it
    /// was.
    pub(crate) fn confirm_since(
        &self,
        generation: Generation,
        digest: &Digest,
        media_type: Option<MediaType>,
        size: Option<u64>,
    ) -> Membership {
        let old = self.recorded_blob(digest);
        let (old_type, old_size) = old.map_or((None, None), |old| (old.media_type, old.size));
        let held = Membership {
            media_type: media_type.or(old_type),
            size: size.or(old_size),
            confirmed: clock::wall(),
        };
        self.site.hold_since(generation, &self.name, Kind::Blob, digest, &held);
        held
    }

    /// Upstream has answered the question whether it has a blob here with `answer`, likewise.
    pub(crate) fn confirm_by(
        &self,
        digest: &Digest,
        answer: &OriginResponse,
        generation: Generation,
    ) -> Membership {
        let (media_type, size) = described(answer);
        self.confirm_since(generation, digest, media_type, size)
    }

    /// What the upstream gave for a blob was not what its digest says: its word that it holds that counts for nothing.
    pub(crate) fn unconfirm(&self, digest: &Digest) {
        self.site.ledger.release(&self.name, Kind::Blob, digest);
    }

    fn recorded_blob(&self, digest: &Digest) -> Option<Membership> {
        self.site.ledger.held(&self.name, Kind::Blob, digest)
    }

    /// In `"shared"` one asks for all. Where others are known to the upstream as somebody else, its no to him is not one to
    /// them.
    async fn ask_whether_held(&self, digest: &Digest, need: Priority) -> Result<Membership, CacheError> {
        let account = self.source.account();
        let all = match self.site.settings.pull_authorization {
            PullAuthorization::Shared => "".into(),
            PullAuthorization::Each => account.clone(),
        };
        let heard = self.hear_of_blob(digest, need, all).await;
        match heard {
            Some(Lookup { account: other, result: Err(_) }) if other != account => {
                self.hear_of_blob(digest, need, account).await
            }
            heard => heard,
        }
        .map_or_else(
            || Err(CacheError::unusable("no answer: the request for it ended")),
            |heard| heard.result,
        )
    }

    async fn hear_of_blob(&self, digest: &Digest, need: Priority, key: Arc<str>) -> Option<Lookup> {
        let key = (self.name.clone(), digest.clone(), key);
        let (repository, digest) = (self.clone(), digest.clone());
        let ask = || async move { repository.ask_for_blob(&digest, need).await };
        self.site.held.join(key, ask).await.0
    }

    async fn ask_for_blob(&self, digest: &Digest, need: Priority) -> Lookup {
        let generation = self.generation();
        let result = match self.ask(need, OriginRequest::BlobExists(digest.clone())).await {
            Ok(answer) => Ok(self.confirm_by(digest, &answer, generation)),
            Err(refusal) => {
                if refusal.meaning().is_some_and(|meaning| self.ends(meaning) == Ends::Entry) {
                    self.site.release_since(generation, &self.name, Kind::Blob, digest);
                }
                Err(refusal)
            }
        };
        Lookup { account: self.source.account(), result }
    }
}

/// Type and size of a blob by a head. A redirect's are its own, and so is the length of what is encoded.
fn described(answer: &OriginResponse) -> (Option<MediaType>, Option<u64>) {
    if answer.headers.contains_key(header::CONTENT_ENCODING) {
        return (None, None);
    }
    let text = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
    let media_type = text(header::CONTENT_TYPE).and_then(|text| MediaType::parse(text).ok());
    let size = match answer.status {
        StatusCode::OK => text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok()),
        StatusCode::PARTIAL_CONTENT => total(answer),
        _ => return (None, None),
    };
    (media_type, size)
}

/// Bytes of the whole, of which a part has come.
fn total(answer: &OriginResponse) -> Option<u64> {
    match ContentRange::parse(answer.headers.get(header::CONTENT_RANGE)?.as_bytes())? {
        ContentRange::Part { total, .. } => total,
        ContentRange::Unsatisfied { .. } => None,
    }
}

#[cfg(test)]
mod tests;
