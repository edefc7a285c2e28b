//! The certificate that a connection has shown, and whether it would still be let in with it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustls::ServerConnection;
use rustls::pki_types::CertificateDer;

use crate::clock;
use crate::server::tls::{Handshakes, TlsSettings};
use crate::x509::ClientCertificate;

/// The certificate of a connection. When the authorities of clients change, it is verified again: a connection may last for
/// days, and a withdrawn authority must not.
pub(super) struct ShownCertificate {
    certificate: Arc<ClientCertificate>,
    /// It, and those above it that the client has sent.
    chain: Vec<CertificateDer<'static>>,
    tls: TlsSettings,
    /// The settings by which it was found good last.
    verified_by: Mutex<Arc<Handshakes>>,
    withdrawn: AtomicBool,
}

impl ShownCertificate {
    /// Returns the certificate that the client has shown, in this session or in the one that it resumes. `verified_by` are the
    /// settings of the handshake.
    ///
    /// # Errors
    /// If it is not valid now: a resumed session does not look.
    pub(super) fn of(
        session: &ServerConnection,
        tls: &TlsSettings,
        verified_by: Arc<Handshakes>,
    ) -> io::Result<Option<Arc<Self>>> {
        let Some(chain) = session.peer_certificates().filter(|chain| !chain.is_empty()) else {
            return Ok(None);
        };
        let certificate = ClientCertificate::parse(&chain[0]);
        let certificate = certificate.filter(|certificate| certificate.is_valid(clock::wall()));
        let invalid =
            || io::Error::new(io::ErrorKind::InvalidData, "the client's certificate is not valid now");
        Ok(Some(Arc::new(Self {
            certificate: Arc::new(certificate.ok_or_else(invalid)?),
            chain: chain.to_vec(),
            tls: tls.clone(),
            verified_by: Mutex::new(verified_by),
            withdrawn: AtomicBool::new(false),
        })))
    }

    /// Returns the certificate for the next request; a withdrawn one if its authority is not trusted any more.
    pub(super) fn for_request(&self) -> Arc<ClientCertificate> {
        let now = self.tls.load();
        let mut verified_by = self.verified_by.lock();
        if Arc::ptr_eq(&now, &verified_by) {
            return self.certificate.clone();
        }
        if now.trust(&self.chain) {
            *verified_by = now.clone();
            return self.certificate.clone();
        }
        self.withdrawn.store(true, Ordering::Relaxed);
        Arc::new(self.certificate.withdrawn())
    }

    /// Returns true if a request has come since its authority was withdrawn: the client has to connect anew.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }
}
