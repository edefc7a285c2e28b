//! The key by which replicas know each other, and TLS with it.
//!
//! Both ends derive the same Ed25519 key from `server.secret` (HKDF, RFC 5869), show it as a raw public key (RFC 7250), and
//! take no other: there is no certificate to hand out, to renew or to parse. Another version of the protocol has another ALPN
//! name, and comes to nothing in the handshake.

use std::sync::Arc;

use aws_lc_rs::hkdf;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as crypto};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

use crate::proto::Secret;

/// The protocol's name and version (RFC 7301).
pub(super) const ALPN: &[u8] = b"dockgate-peer/1";

/// The key that all replicas show.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// Derives the key from `server.secret`.
    ///
    /// # Errors
    /// Errors of the cryptography, which do not occur.
    pub(crate) fn derive(secret: &Secret) -> Result<Self, Error> {
        let unusable = |_| Error::General("the key of the replicas cannot be derived".to_owned());
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"dockgate");
        // The public key is shown to all who connect: they can guess at the secret without asking again.
        let pseudorandom = salt.extract(&secret.derive(PURPOSE));
        let mut document = PKCS8.to_vec();
        let mut seed = [0u8; SEED];
        let expanded = pseudorandom.expand(&[PURPOSE], SeedLength).map_err(unusable)?;
        expanded.fill(&mut seed).map_err(unusable)?;
        document.extend_from_slice(&seed);
        let provider = Arc::new(crypto::default_provider());
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document));
        let key = provider.key_provider.load_private_key(private)?;
        let public =
            key.public_key().ok_or_else(|| Error::General("the key has no public part".to_owned()))?;
        let public = CertificateDer::from(public.to_vec());
        Ok(Self { key: Arc::new(CertifiedKey::new(vec![public], key)), provider })
    }

    /// Returns the settings with which the other replicas are let in.
    ///
    /// # Errors
    /// As [`derive`](Self::derive).
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone());
        let mut config = builder
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(self.pinned()))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would show no key again.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Returns the settings with which the other replicas are connected to.
    ///
    /// # Errors
    /// As [`derive`](Self::derive).
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, Error> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone());
        let mut config = builder
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.pinned()))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    fn pinned(&self) -> Pinned {
        let key = self.key.cert.first().map(|key| key.to_vec()).unwrap_or_default();
        Pinned { key, algorithms: self.provider.signature_verification_algorithms }
    }
}

/// The check that the other end has the one key.
#[derive(Debug)]
struct Pinned {
    /// The public key (RFC 5280 section 4.1).
    key: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        // Both are public.
        if **shown == *self.key { Ok(()) } else { Err(Error::General(STRANGER.to_owned())) }
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("replicas speak TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("replicas speak TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The use of the derived key: other uses of the secret get other keys.
const PURPOSE: &[u8] = b"dockgate peers v1";

/// The message of a handshake with a server of another key.
pub(super) const STRANGER: &str = "it has another server.secret, or is no replica";

/// The length of an Ed25519 seed (RFC 8032 section 5.1.5).
const SEED: usize = 32;

/// The bytes before the seed in PKCS #8 (RFC 8410 section 7).
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

struct SeedLength;

impl hkdf::KeyType for SeedLength {
    fn len(&self) -> usize {
        SEED
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustls::{ClientConnection, ServerConnection};

    use super::*;

    fn identity(secret: &str) -> Identity {
        Identity::derive(&Secret::new(secret)).unwrap()
    }

    /// Shakes hands in memory, and returns both ends' results.
    fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (Result<(), Error>, Result<(), Error>) {
        let mut client = ClientConnection::new(client, "peer".try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        let (mut own, mut other) = (Ok(()), Ok(()));
        for _ in 0..4 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut read = &*wire;
            while !read.is_empty() && server.read_tls(&mut read).is_ok() {
                let told = server.process_new_packets().map(|_| ());
                other = other.and(told);
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut read = &*wire;
            while !read.is_empty() && client.read_tls(&mut read).is_ok() {
                let told = client.process_new_packets().map(|_| ());
                own = own.and(told);
            }
        }
        if own.is_ok() && other.is_ok() {
            assert!(!client.is_handshaking() && !server.is_handshaking());
            assert_eq!(server.alpn_protocol(), Some(ALPN));
            let _ = (server.reader().read(&mut []), client.writer().flush());
        }
        (own, other)
    }

    #[test]
    fn replicas_with_one_secret_know_each_other() {
        let (one, other) = (identity("a secret of all replicas"), identity("a secret of all replicas"));
        assert_eq!(shake(one.client().unwrap(), other.server().unwrap()), (Ok(()), Ok(())));
    }

    #[test]
    fn another_secret_is_none_of_the_replicas() {
        let (one, other) = (identity("a secret"), identity("another secret"));
        let (own, _) = shake(one.client().unwrap(), other.server().unwrap());
        assert_eq!(own, Err(Error::General(STRANGER.to_owned())));
    }

    #[test]
    fn a_client_with_another_key_is_not_let_in() {
        let (one, other) = (identity("a secret"), identity("another secret"));
        let mut config = ClientConfig::clone(&one.client().unwrap());
        // The client knows the public key of the replicas, but has not their private key.
        config.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(other.key));
        let (_, refused) = shake(Arc::new(config), one.server().unwrap());
        assert_eq!(refused, Err(Error::General(STRANGER.to_owned())));
    }

    #[test]
    fn a_client_without_a_key_is_not_let_in() {
        let one = identity("a secret");
        let mut config = ClientConfig::clone(&one.client().unwrap());
        config.client_auth_cert_resolver =
            ClientConfig::builder_with_provider(Arc::new(crypto::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth()
                .client_auth_cert_resolver;
        let (_, refused) = shake(Arc::new(config), one.server().unwrap());
        assert!(refused.is_err());
    }

    #[test]
    fn another_version_comes_to_nothing() {
        let one = identity("a secret");
        let mut config = ClientConfig::clone(&one.client().unwrap());
        config.alpn_protocols = vec![b"dockgate-peer/2".to_vec()];
        let (own, other) = shake(Arc::new(config), one.server().unwrap());
        assert!(own.is_err() && other == Err(Error::NoApplicationProtocol), "{own:?} {other:?}");
    }
}
