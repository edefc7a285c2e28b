//! The public keys of others, as JSON Web Keys (RFC 7517, RFC 7518 section 6, RFC 8037), and signatures by them.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// A key that verifies signatures, by one algorithm alone: a token that names another is not by this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    id: Option<String>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    /// RS256, by a key of 2048 to 8192 bits.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// ES256: the point, uncompressed.
    P256(Vec<u8>),
    /// EdDSA on Ed25519.
    Ed25519(Vec<u8>),
}

/// A text that is no key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeySetError {
    /// Not the JSON of RFC 7517 section 5.
    #[error("is not a JSON Web Key Set")]
    Malformed,
    /// Keys, but none that can be used.
    #[error("has no key for RS256, ES256 or EdDSA")]
    NoKey,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Key {
    kty: String,
    #[serde(rename = "use")]
    used_for: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl PublicKey {
    /// Reads a key set. Keys that are not for signatures, or of other kinds, are passed over (RFC 7517 section 5).
    ///
    /// # Errors
    /// [`KeySetError`] when it is malformed, or none of its keys can be used.
    pub(crate) fn parse_set(text: &[u8]) -> Result<Vec<Self>, KeySetError> {
        let set: KeySet = serde_json::from_slice(text).map_err(|_| KeySetError::Malformed)?;
        let keys =
            set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok().and_then(Self::read));
        let keys: Vec<_> = keys.take(MOST_KEYS).collect();
        if keys.is_empty() { Err(KeySetError::NoKey) } else { Ok(keys) }
    }

    fn read(key: Key) -> Option<Self> {
        let signs = key.used_for.as_deref().is_none_or(|used_for| used_for == "sig")
            && key.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|one| one == "verify"));
        let material = match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => Material::Rsa { modulus: number(&key.n)?, exponent: number(&key.e)? },
            ("EC", Some("P-256")) => Material::P256([vec![4], part(&key.x, 32)?, part(&key.y, 32)?].concat()),
            ("OKP", Some("Ed25519")) => Material::Ed25519(part(&key.x, 32)?),
            _ => return None,
        };
        let key_itself = Self { id: key.kid, material };
        let agrees = key.alg.as_deref().is_none_or(|algorithm| algorithm == key_itself.algorithm());
        (signs && agrees).then_some(key_itself)
    }

    /// Returns its id, by which tokens name it.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns the name of its algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1).
    pub(crate) fn algorithm(&self) -> &'static str {
        match self.material {
            Material::Rsa { .. } => "RS256",
            Material::P256(_) => "ES256",
            Material::Ed25519(_) => "EdDSA",
        }
    }

    /// Returns true if the signature of `message` is by this key.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.material {
            Material::Rsa { modulus, exponent } => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Material::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
        };
        verified.is_ok()
    }
}

/// The keys of a set that are read. Providers have two to ten.
const MOST_KEYS: usize = 100;

fn part(text: &Option<String>, length: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_deref()?).ok().filter(|bytes| bytes.len() == length)
}

/// Returns a number, of which leading zeros count for nothing: some providers write one.
fn number(text: &Option<String>) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text.as_deref()?).ok()?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[first..].to_vec())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RsaKeyPair,
    };
    use serde_json::{Value, json};

    use super::*;

    fn text(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parsed(keys: &[Value]) -> Result<Vec<PublicKey>, KeySetError> {
        PublicKey::parse_set(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn ec() -> (EcdsaKeyPair, Value) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "alg": "ES256",
            "x": text(&point[1..33]), "y": text(&point[33..])});
        (pair, key)
    }

    #[test]
    fn each_kind_of_key_verifies_its_own_signatures() {
        let (ec, ec_key) = ec();
        let ed = Ed25519KeyPair::generate().unwrap();
        let ed_key =
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": text(ed.public_key().as_ref())});
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        // SEQUENCE { INTEGER modulus, INTEGER 65537 }, both with lengths of two bytes.
        let der = rsa.public_key().as_ref();
        let modulus = 8..8 + usize::from(u16::from_be_bytes([der[6], der[7]]));
        let components = (der[modulus].to_vec(), der[der.len() - 3..].to_vec());
        let padded = [&[0][..], &components.0].concat();
        let rsa_key = json!({"kty": "RSA", "kid": "rsa", "n": text(&padded), "e": text(&components.1)});
        let keys = parsed(&[ec_key, ed_key, rsa_key]).unwrap();
        let message = b"a.b";
        let mut rsa_signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut rsa_signature).unwrap();
        let signatures = [
            ec.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            ed.sign(message).as_ref().to_vec(),
            rsa_signature,
        ];
        assert_eq!(keys.iter().map(PublicKey::algorithm).collect::<Vec<_>>(), ["ES256", "EdDSA", "RS256"]);
        assert_eq!(keys[2].id(), Some("rsa"));
        for (i, key) in keys.iter().enumerate() {
            for (j, signature) in signatures.iter().enumerate() {
                assert_eq!(key.verifies(message, signature), i == j, "{i} {j}");
            }
            assert!(!key.verifies(b"a.c", &signatures[i]));
        }
    }

    #[test]
    fn keys_for_other_uses_are_passed_over() {
        let with = |name: &str, value: Value| {
            let mut key = ec().1;
            key[name] = value;
            key
        };
        let others = [
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
            json!("no key"),
            with("use", json!("enc")),
            with("key_ops", json!(["sign"])),
            with("alg", json!("HS256")),
            with("x", json!("AA")),
            with("y", json!(null)),
        ];
        for other in &others {
            assert_eq!(parsed(std::slice::from_ref(other)), Err(KeySetError::NoKey), "{other}");
        }
        let good = ec().1;
        assert_eq!(parsed(&[&others[..], &[good]].concat()).map(|keys| keys.len()), Ok(1));
        assert_eq!(PublicKey::parse_set(b"{}"), Err(KeySetError::Malformed));
        assert_eq!(PublicKey::parse_set(b"<html>"), Err(KeySetError::Malformed));
    }
}
