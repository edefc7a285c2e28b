//! Checks of what other parties send about a client: an issuer's keys, scopes, a client's certificate.

use std::time::{Duration, UNIX_EPOCH};

use crate::proto::ScopeSet;
use crate::proto::jwk::PublicKey;
use crate::x509::{ClientCertificate, NameKind};

/// Reads `data` as a JSON Web Key Set (RFC 7517 section 5), and verifies signatures by each of its keys.
pub fn key_set(data: &[u8]) {
    let Ok(keys) = PublicKey::parse_set(data) else { return };
    assert!((1..=100).contains(&keys.len()));
    for key in keys {
        assert!(["RS256", "ES256", "EdDSA"].contains(&key.algorithm()));
        for signature in [&[0; 64][..], &[0; 256], data] {
            // Some points of Ed25519 take signatures of many texts: the issuer vouches for its keys.
            let _ = key.verifies(data, signature);
        }
        assert!(!key.verifies(data, &[]), "{key:?}");
    }
}

/// Reads `data` as scopes that are divided by spaces (token auth, scope.md).
pub fn scope(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let scopes = ScopeSet::parse(text);
    let rendered = scopes.to_string();
    assert_eq!(ScopeSet::parse(&rendered), scopes, "{rendered}");
    assert!(scopes.covers(&scopes) && scopes.covers(&ScopeSet::default()));
    assert_eq!(ScopeSet::default().covers(&scopes), scopes.is_empty());
}

/// Reads `data` as the DER of a client's certificate (RFC 5280 section 4.1).
pub fn client_certificate(data: &[u8]) {
    let Some(certificate) = ClientCertificate::parse(data) else { return };
    for kind in [NameKind::Common, NameKind::Dns, NameKind::Uri, NameKind::Email] {
        if let Some(name) = certificate.name(kind) {
            assert!(!name.is_empty() && name.len() <= 512, "{name}");
            assert!(!name.contains(|c: char| c.is_control() || "*?[]{}".contains(c)), "{name}");
        }
    }
    let _ = certificate.is_valid(UNIX_EPOCH + Duration::from_secs(certificate.expires()));
    assert!(certificate.withdrawn().is_withdrawn());
}
