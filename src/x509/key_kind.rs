//! The kinds of keys, by what certificates and private keys say of themselves.

use std::fmt;

use crate::x509::der::{Element, Elements, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, dotted};

/// The kind of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// RSA, with the bits of its modulus.
    Rsa(usize),
    /// An elliptic curve, by the name that openssl gives it.
    Ec(String),
    /// Ed25519.
    Ed25519,
    /// Another, by name or number.
    Other(String),
}

impl KeyKind {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
    pub(super) fn of_certificate(info: &Element<'_>) -> Self {
        let mut parts = info.parts();
        let (algorithm, key) = (parts.next(), parts.next());
        let rsa = key.and_then(Element::bits).and_then(modulus_bits);
        algorithm.map_or_else(Self::unknown, |algorithm| Self::of_algorithm(algorithm, rsa))
    }

    /// Reads a private key in the form PKCS#8 (RFC 5958).
    pub(super) fn of_pkcs8(der: &[u8]) -> Self {
        let mut parts = Element::only(der).map(Element::parts).unwrap_or(Elements(&[])).skip(1);
        let (algorithm, key) = (parts.next(), parts.next());
        let rsa = key.filter(|key| key.tag == OCTET_STRING).and_then(|key| private_bits(key.content));
        algorithm.map_or_else(Self::unknown, |algorithm| Self::of_algorithm(algorithm, rsa))
    }

    /// Reads a private key in the form PKCS#1 (RFC 8017 appendix A.1.2).
    pub(super) fn of_pkcs1(der: &[u8]) -> Self {
        private_bits(der).map_or_else(Self::unknown, Self::Rsa)
    }

    /// Reads a private key in the form SEC1 (RFC 5915).
    pub(super) fn of_sec1(der: &[u8]) -> Self {
        let parts = Element::only(der).map(Element::parts).unwrap_or(Elements(&[]));
        let curve = parts.skip(2).find(|part| part.tag == PARAMETERS).and_then(|named| named.parts().next());
        curve.map_or_else(Self::unknown, Self::of_curve)
    }

    fn of_algorithm(algorithm: Element<'_>, rsa_bits: Option<usize>) -> Self {
        let mut parts = algorithm.parts();
        let id = parts.next().filter(|id| id.tag == OBJECT_IDENTIFIER);
        match id.map(|id| dotted(id.content)).as_deref() {
            Some("1.2.840.113549.1.1.1") => rsa_bits.map_or_else(Self::unknown, Self::Rsa),
            Some("1.2.840.10045.2.1") => parts.next().map_or_else(Self::unknown, Self::of_curve),
            Some("1.3.101.112") => Self::Ed25519,
            Some("1.3.101.113") => Self::Other("Ed448".to_owned()),
            Some("1.2.840.10040.4.1") => Self::Other("DSA".to_owned()),
            Some("1.2.840.113549.1.1.10") => Self::Other("RSA-PSS".to_owned()),
            Some(id) => Self::Other(id.to_owned()),
            None => Self::unknown(),
        }
    }

    fn of_curve(curve: Element<'_>) -> Self {
        if curve.tag != OBJECT_IDENTIFIER {
            return Self::Ec("with parameters of its own".to_owned());
        }
        let id = dotted(curve.content);
        let known = CURVES.iter().find(|(known, _)| *known == id).map(|(_, name)| (*name).to_owned());
        Self::Ec(known.unwrap_or(id))
    }

    fn unknown() -> Self {
        Self::Other("unknown".to_owned())
    }

    /// Returns true if a TLS server can sign with it, and clients accept that.
    pub(crate) fn is_usable(&self) -> bool {
        match self {
            Self::Rsa(bits) => (LEAST_RSA_BITS..=MOST_RSA_BITS).contains(bits),
            Self::Ec(curve) => ["P-256", "P-384", "P-521"].contains(&curve.as_str()),
            Self::Ed25519 => true,
            Self::Other(_) => false,
        }
    }
}

/// As it stands in a sentence: `an RSA key of 1024 bits`.
impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "an RSA key of {bits} bits"),
            Self::Ec(curve) => write!(f, "an EC key on the curve {curve}"),
            Self::Ed25519 => f.write_str("an Ed25519 key"),
            Self::Other(name) => write!(f, "a key of the kind {name}"),
        }
    }
}

/// What clients accept since 2014 (CA/Browser Forum Baseline Requirements, section 6.1.5).
const LEAST_RSA_BITS: usize = 2048;

/// What aws-lc signs with.
const MOST_RSA_BITS: usize = 8192;

const PARAMETERS: u8 = 0xa0;

const CURVES: [(&str, &str); 9] = [
    ("1.2.840.10045.3.1.7", "P-256"),
    ("1.3.132.0.34", "P-384"),
    ("1.3.132.0.35", "P-521"),
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.132.0.33", "P-224"),
    ("1.2.840.10045.3.1.1", "P-192"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
];

/// Returns the bits of the modulus of an RSA public key.
fn modulus_bits(key: &[u8]) -> Option<usize> {
    integer_bits(Element::only(key)?.parts().next()?)
}

/// Returns the bits of the modulus of an RSA private key, which follows its version.
fn private_bits(key: &[u8]) -> Option<usize> {
    integer_bits(Element::only(key)?.parts().nth(1)?)
}

fn integer_bits(number: Element<'_>) -> Option<usize> {
    let digits = Some(number.content).filter(|_| number.tag == INTEGER)?;
    let zeros = digits.iter().take_while(|byte| **byte == 0).count();
    let first = digits.get(zeros)?;
    Some((digits.len() - zeros) * 8 - first.leading_zeros() as usize)
}
