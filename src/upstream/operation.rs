//! Operations as an upstream is asked for them.

use http::{HeaderName, Method};

use crate::proto::Operation;
use crate::upstream::{RequiredScope, Upstream};

impl Upstream {
    /// Returns the request target of an operation, whose names are the upstream's: below its path and `/v2`.
    pub(crate) fn target_of(&self, operation: &Operation) -> String {
        [self.settings().url.path.as_str(), "/v2", &operation.path_and_query()].concat()
    }
}

impl RequiredScope {
    /// Returns the least that an operation, whose names are the upstream's, needs there. A mount needs its source besides.
    pub(crate) fn of(operation: &Operation) -> Self {
        if let Operation::CancelUpload { repository, .. } = operation {
            return Self::Cancel(repository.clone());
        }
        match (operation.repository(), operation.action()) {
            (Some(name), Some(action)) => Self::Repository(name.clone(), action),
            (None, Some(_)) => Self::Catalog,
            (_, None) => Self::Version,
        }
    }
}

/// Returns the method of an operation.
pub(crate) fn method_of(operation: &Operation) -> Method {
    match operation.method() {
        "HEAD" => Method::HEAD,
        "POST" => Method::POST,
        "PUT" => Method::PUT,
        "PATCH" => Method::PATCH,
        "DELETE" => Method::DELETE,
        _ => Method::GET,
    }
}

/// The digest of a manifest or blob, as the registry names it (distribution-spec, "Pulling manifests").
pub(crate) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
