//! The state by which requests are served.

use std::sync::Arc;

use crate::authn::UpstreamLogins;
use crate::authz::Rules;
use crate::budget::{Budget, Usage};
use crate::gateway::challenge::Challenges;
use crate::gateway::handle::{SealError, Sealer};
use crate::gateway::rewrite::Via;
use crate::gateway::route::Routes;
use crate::gateway::settings::Settings;
use crate::gateway::upload_location::UploadDirectories;
use crate::proto::Secret;
use crate::upstream;

/// The state by which requests are served. A reload creates a new one and swaps it in as a whole.
pub(crate) struct Core {
    pub(super) rules: Rules,
    pub(super) routes: Routes,
    pub(super) challenges: Challenges,
    /// The settings it was made from.
    pub settings: Settings,
    pub(super) shared: SharedState,
}

/// The state that outlives a reload: the key of the handles that clients hold, the places to which they lead, the mark by which loops are known, and the
/// logins that upstreams have judged.
#[derive(Clone)]
pub(crate) struct SharedState {
    pub(super) sealer: Arc<Sealer>,
    pub(super) upload_directories: Arc<UploadDirectories>,
    pub(super) via: Via,
    /// The bytes of bodies that are held whole.
    pub(super) held_bytes: Arc<Budget>,
    pub(super) logins: UpstreamLogins<upstream::Error>,
}

impl SharedState {
    /// Returns a new state. Bodies that are held whole are taken from `held_bytes`. `secret` seals upload URLs and page cursors; without one a key is made that ends with the
    /// process.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub(crate) fn new(secret: Option<&Secret>, held_bytes: Arc<Budget>) -> Result<Self, SealError> {
        let logins = UpstreamLogins::new().map_err(|_| SealError)?;
        Ok(Self {
            sealer: Arc::new(Sealer::new(secret)?),
            upload_directories: Arc::new(UploadDirectories::new()),
            via: Via::new(),
            held_bytes,
            logins,
        })
    }

    /// Forgets all logins that upstreams have judged. The next core has other upstreams: what the old ones said, or are about
    /// to say, does not count there.
    pub(crate) fn forget_logins(&mut self) {
        self.logins.forget_all();
    }
}

impl Core {
    /// Returns a core of `settings`, with the state of the one before it.
    pub(crate) fn new(settings: Settings, shared: SharedState) -> Self {
        settings.upstreams.iter().for_each(|upstream| upstream.set_held_bytes(shared.held_bytes.clone()));
        Self {
            rules: settings.rules.clone(),
            routes: Routes::new(&settings.upstreams, &settings.upstream_caches),
            challenges: Challenges::new(&settings),
            settings,
            shared,
        }
    }

    /// Returns the state of the budgets of requests: of bytes that are held whole, and of logins that are checked.
    pub(crate) fn budgets(&self) -> Vec<Usage> {
        let own = [self.shared.held_bytes.usage(None), self.shared.logins.usage()];
        own.into_iter().chain(self.settings.authenticator.usage()).collect()
    }

    /// Returns the shared state, for the next core.
    pub(crate) fn shared(&self) -> SharedState {
        self.shared.clone()
    }
}
