//! The handle of an upload: the part of it that the client holds, sealed.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::gateway::handle::{HandleKind, Sealer};
use crate::proto::Operation;
use crate::proto::identity::Identity;

/// The lifetime of a handle. Registries forget an upload sooner.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// The content of a handle.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handle {
    /// The upstream's name.
    pub(super) u: String,
    /// The repository's canonical name.
    pub(super) r: String,
    /// The name of the identity that began it.
    pub(super) i: String,
    /// When it began, in seconds since 1970.
    pub(super) t: u64,
    /// Path and query at the upstream, byte for byte; or the URL at another host that the upload has been sent to.
    pub(super) l: String,
    /// The id of its copy in the cache, if it has one. Handles of earlier versions have no such field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) c: Option<String>,
}

impl Handle {
    /// Opens the handle of an upload that `identity` began, unless that was too long ago.
    pub(super) fn open(sealer: &Sealer, session: &str, identity: &Identity) -> Option<Self> {
        let handle: Self = sealer.open(HandleKind::Upload, session)?;
        let young = now().saturating_sub(handle.t) <= LIFETIME.as_secs();
        (young && handle.i == identity.name()).then_some(handle)
    }
}

/// Returns true if the operation goes on with an upload that `identity` began: the handle proves it.
pub(super) fn goes_on(sealer: &Sealer, operation: &Operation, identity: &Identity) -> bool {
    match operation {
        Operation::UploadStatus { session, .. }
        | Operation::PatchUpload { session, .. }
        | Operation::FinishUpload { session, .. }
        | Operation::CancelUpload { session, .. } => Handle::open(sealer, session, identity).is_some(),
        _ => false,
    }
}

pub(super) fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_of_an_earlier_version_opens() {
        let earlier = r#"{"u":"up","r":"a","i":"alice","t":1,"l":"/v2/a/blobs/uploads/1"}"#;
        let handle: Handle = serde_json::from_str(earlier).unwrap();
        assert_eq!((handle.l.as_str(), handle.c.as_ref()), ("/v2/a/blobs/uploads/1", None));
        assert_eq!(
            serde_json::to_string(&handle).unwrap(),
            earlier,
            "a handle without a copy must look as before"
        );
    }
}
