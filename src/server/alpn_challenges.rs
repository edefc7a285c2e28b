//! The certificates by which an ACME server sees that a name leads here (TLS-ALPN-01, RFC 8737).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;

/// The protocol that a validating server, and no other client, asks for (RFC 8737 section 6.2).
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

/// The certificates of the validations under way, by name in lower case.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlpnChallenges(Arc<Mutex<HashMap<String, Arc<CertifiedKey>>>>);

/// A certificate that is shown to a validating server, until this is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct ShownChallenge {
    challenges: AlpnChallenges,
    name: String,
}

impl AlpnChallenges {
    /// Shows `key` to the server that validates `name`.
    pub(crate) fn show(&self, name: &str, key: CertifiedKey) -> ShownChallenge {
        let name = name.to_ascii_lowercase();
        self.0.lock().insert(name.clone(), Arc::new(key));
        ShownChallenge { challenges: self.clone(), name }
    }

    /// Returns true for the hello of a validating server: it offers this protocol alone (RFC 8737 section 3).
    pub(super) fn is_validation(hello: &ClientHello<'_>) -> bool {
        let mut offered = hello.alpn().into_iter().flatten();
        offered.next() == Some(ACME_TLS) && offered.next().is_none()
    }

    /// Returns the certificate for the name that a validating server asks for.
    pub(super) fn find(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        self.0.lock().get(&name).cloned()
    }
}

impl Drop for ShownChallenge {
    fn drop(&mut self) {
        self.challenges.0.lock().remove(&self.name);
    }
}
