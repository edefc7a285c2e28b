//! The challenges of 401: one, in one line, or clients get lost.

use http::HeaderValue;

use crate::gateway::host::RequestHost;
use crate::gateway::settings::Settings;
use crate::proto::{BearerError, Challenge, RepositoryName, ScopeSet};

/// The challenges that the gateway makes.
pub(super) struct Challenges {
    basic: HeaderValue,
    /// The token service's name and the origin by which clients know it, where clients are to be asked for tokens.
    bearer: Option<(String, Option<String>)>,
}

impl Challenges {
    pub(super) fn new(settings: &Settings) -> Self {
        let tokens = settings.tokens.as_ref().filter(|_| settings.bearer);
        Self {
            // The renderer drops control characters; what is left is always a header's value.
            basic: value(&Challenge::basic(&settings.realm))
                .unwrap_or_else(|| HeaderValue::from_static("Basic realm=\"dockgate\"")),
            bearer: tokens.map(|tokens| (tokens.settings().service.clone(), settings.external_url.clone())),
        }
    }

    /// Returns the Basic challenge.
    pub(super) fn basic(&self) -> &HeaderValue {
        &self.basic
    }

    /// Returns the Bearer challenge to a request; none where clients are asked for a password, and for a request without a
    /// Host, whose client is told no URL.
    ///
    /// `is_virtual` says that the request's host is one upstream's own: names mean something else there than elsewhere, so
    /// the token is to be had there too. `prefix` is the path before `/v2`, below which names are understood.
    pub(super) fn bearer(
        &self,
        host: &RequestHost,
        is_virtual: bool,
        prefix: Option<&RepositoryName>,
        scopes: &ScopeSet,
        error: Option<BearerError>,
    ) -> Option<HeaderValue> {
        let (service, external) = self.bearer.as_ref()?;
        let external = external.as_ref().filter(|_| !is_virtual);
        let origin = external.cloned().or_else(|| host.origin())?;
        let path = prefix.map_or_else(|| "/token".to_owned(), |prefix| format!("/{prefix}/token"));
        value(&Challenge::bearer(&format!("{origin}{path}"), service, scopes, error))
    }
}

fn value(challenge: &Challenge) -> Option<HeaderValue> {
    HeaderValue::try_from(challenge.to_string()).ok()
}
