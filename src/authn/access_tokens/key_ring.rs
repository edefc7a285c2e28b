//! The keys of the token service: one signs, all verify.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::proto::Secret;
use crate::x509::{Block, blocks};

/// The algorithm of every token: a token that names another one is none of ours.
pub(super) const ALGORITHM: &str = "ES256";

/// The keys of a key file.
pub(super) struct KeyRing {
    signing: SigningKey,
    /// The signing key first.
    verifying: Vec<VerifyingKey>,
}

/// The key that signs.
struct SigningKey {
    pair: EcdsaKeyPair,
    id: String,
    /// Its certificate first, in base64.
    chain: Vec<String>,
}

/// A key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VerifyingKey {
    id: String,
    /// The point, uncompressed (SEC 1 section 2.3.3).
    point: Vec<u8>,
    certificate: Option<String>,
}

impl KeyRing {
    /// Reads a key file: its first private key signs. Every other private or public key verifies, and so does that of a
    /// certificate. All are keys of the curve P-256.
    ///
    /// # Errors
    /// The defect of the file, as the end of a sentence that begins with its name.
    pub(super) fn parse(file: &[u8]) -> Result<Self, String> {
        let (mut signing, mut verifying, mut certificates) = (None, Vec::new(), Vec::new());
        for block in blocks(file)? {
            match block.label.as_str() {
                "PRIVATE KEY" | "EC PRIVATE KEY" if !block.encrypted => {
                    let pair = private_key(&block)?;
                    verifying.push(VerifyingKey::of(pair.public_key().as_ref()));
                    signing.get_or_insert(pair);
                }
                "PUBLIC KEY" => verifying.push(public_key(&block)?),
                "CERTIFICATE" => certificates.push(block.der),
                "EC PARAMETERS" => {}
                label => return Err(format!("holds a {label} at line {}; {ADVICE}", block.line)),
            }
        }
        let pair = signing.ok_or_else(|| format!("holds no private key; {ADVICE}"))?;
        for key in &mut verifying {
            key.certificate = certificates.iter().find(|der| key.is_in(der)).map(|der| STANDARD.encode(der));
        }
        let own = VerifyingKey::of(pair.public_key().as_ref());
        let chain = chain(&own, &verifying, &certificates);
        let mut ring = Self { signing: SigningKey { pair, id: own.id, chain }, verifying: Vec::new() };
        ring.keep(verifying);
        Ok(ring)
    }

    /// Adds keys that verify, each once.
    fn keep(&mut self, keys: Vec<VerifyingKey>) {
        for key in keys {
            if !self.verifying.iter().any(|known| known.id == key.id) {
                self.verifying.push(key);
            }
        }
    }

    /// Returns the keys that verify.
    pub(super) fn verifying(&self) -> &[VerifyingKey] {
        &self.verifying
    }

    /// Returns the id of the key that signs.
    pub(super) fn id(&self) -> &str {
        &self.signing.id
    }

    /// Returns the certificates of the key that signs.
    pub(super) fn chain(&self) -> &[String] {
        &self.signing.chain
    }

    /// Signs. `None` if the machine has no randomness.
    pub(super) fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let signature = self.signing.pair.sign(&SystemRandom::new(), bytes).ok()?;
        Some(signature.as_ref().to_vec())
    }

    /// Returns the public keys as a JSON Web Key Set (RFC 7517), with further ones.
    pub(super) fn jwks<'a>(&'a self, further: impl Iterator<Item = &'a VerifyingKey>) -> Value {
        json!({ "keys": self.verifying.iter().chain(further).map(VerifyingKey::jwk).collect::<Vec<_>>() })
    }

    /// Returns a secret that can be derived from the private key alone.
    pub(super) fn derived_secret(&self, purpose: &str) -> Option<Secret> {
        use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
        let private: EcPrivateKeyBin<'_> = self.signing.pair.private_key().as_be_bytes().ok()?;
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, private.as_ref());
        let tag = aws_lc_rs::hmac::sign(&key, purpose.as_bytes());
        Some(Secret::new(tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
    }
}

impl VerifyingKey {
    fn of(point: &[u8]) -> Self {
        Self { id: key_id(&key_info(point)), point: point.to_vec(), certificate: None }
    }

    /// Returns its id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns true if it signed the bytes.
    pub(super) fn verify(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point).verify(bytes, signature).is_ok()
    }

    /// Returns it as a block of a key file.
    pub(super) fn pem(&self) -> String {
        let lines = STANDARD.encode(key_info(&self.point));
        let lines: Vec<_> = lines.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// Returns true if a certificate is this key's.
    fn is_in(&self, certificate: &[u8]) -> bool {
        let info = key_info(&self.point);
        certificate.windows(info.len()).any(|part| part == info)
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
        let mut jwk = json!({
            "kty": "EC",
            "crv": "P-256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
            "use": "sig",
            "alg": ALGORITHM,
            "kid": self.id,
        });
        if let Some(certificate) = &self.certificate {
            jwk["x5c"] = json!([certificate]);
        }
        jwk
    }
}

/// Returns the certificates of the signing key, its own first: then those that are no other key's, which may be of the
/// authorities above it.
fn chain(own: &VerifyingKey, keys: &[VerifyingKey], certificates: &[Vec<u8>]) -> Vec<String> {
    let mine = |der: &&Vec<u8>| own.is_in(der);
    let Some(first) = certificates.iter().find(mine) else { return Vec::new() };
    let above = certificates.iter().filter(|der| !keys.iter().any(|key| key.is_in(der)));
    std::iter::once(first).chain(above).map(|der| STANDARD.encode(der)).collect()
}

fn private_key(block: &Block) -> Result<EcdsaKeyPair, String> {
    EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &block.der)
        .map_err(|_| format!("holds at line {} no key of the curve P-256; {ADVICE}", block.line))
}

fn public_key(block: &Block) -> Result<VerifyingKey, String> {
    let point = block.der.strip_prefix(KEY_INFO).filter(|point| point.len() == POINT && point[0] == 4);
    let point = point.ok_or_else(|| format!("holds at line {} no key of the curve P-256", block.line))?;
    Ok(VerifyingKey::of(point))
}

/// Returns the SubjectPublicKeyInfo of a point (RFC 5480 section 2).
fn key_info(point: &[u8]) -> Vec<u8> {
    [KEY_INFO, point].concat()
}

/// Returns the key's id as libtrust makes it, by which distribution 2.x knows the keys of `rootcertbundle`: 240 bits of the
/// SHA-256 of its SubjectPublicKeyInfo, in base32 (RFC 4648 section 6), in groups of four.
fn key_id(info: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = digest(&SHA256, info);
    let mut id = String::new();
    for (index, five) in hash.as_ref()[..30].chunks(5).enumerate() {
        let bits = five.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        for place in 0..8 {
            if (index + place) > 0 && place % 4 == 0 {
                id.push(':');
            }
            let number = (bits >> (35 - 5 * place)) & 31;
            id.push(char::from(ALPHABET[usize::try_from(number).unwrap_or_default()]));
        }
    }
    id
}

const ADVICE: &str = "make one with `openssl ecparam -name prime256v1 -genkey -noout`, or remove it, and the gateway makes one";

/// The beginning of every SubjectPublicKeyInfo of P-256, up to the point.
const KEY_INFO: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The length of an uncompressed point.
const POINT: usize = 65;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::access_tokens::key_file::new_key;

    fn ring(text: &str) -> KeyRing {
        KeyRing::parse(text.as_bytes()).unwrap()
    }

    fn verifies(ring: &KeyRing, id: &str, bytes: &[u8], signature: &[u8]) -> bool {
        ring.verifying().iter().any(|key| key.id() == id && key.verify(bytes, signature))
    }

    #[test]
    fn what_one_key_signs_it_alone_verifies() {
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        let (first, both) = (ring(&one), ring(&format!("{two}# the old one\n{one}")));
        let signature = first.sign(b"text").unwrap();
        assert!(verifies(&first, first.id(), b"text", &signature));
        assert!(verifies(&both, first.id(), b"text", &signature) && both.id() != first.id());
        assert!(
            !verifies(&both, both.id(), b"text", &signature) && !verifies(&first, "", b"text", &signature)
        );
        assert!(!verifies(&first, first.id(), b"test", &signature));
        assert!(!verifies(&ring(&two), first.id(), b"text", &signature));
    }

    #[test]
    fn a_key_has_the_id_of_libtrust_and_its_certificate() {
        let ring = ring(&new_key().unwrap());
        let groups: Vec<_> = ring.id().split(':').map(str::len).collect();
        assert_eq!(groups, [4; 12]);
        assert_eq!(ring.chain().len(), 1);
        let jwks = ring.jwks(std::iter::empty());
        let key = &jwks["keys"][0];
        assert_eq!((key["kid"].as_str(), key["alg"].as_str()), (Some(ring.id()), Some("ES256")));
        assert_eq!(key["x5c"][0].as_str(), Some(&*ring.chain()[0]));
        assert!(!jwks.to_string().contains("\"d\""), "no private part");
    }

    #[test]
    fn an_id_is_what_libtrust_computes() {
        // From Go: libtrust.FromCryptoPublicKey(key).KeyID() is keyIDEncode(sha256(DER)[:30]).
        let id = key_id(b"");
        // The SHA-256 of nothing is e3b0c44298fc1c149afbf4c8996fb924 27ae41e4649b934ca495991b7852b855.
        assert_eq!(id, "4OYM:IQUY:7QOB:JGX3:6TEJ:S35Z:EQT2:4QPE:MSNZ:GTFE:SWMR:W6CS");
    }

    #[test]
    fn keys_that_openssl_writes_are_read() {
        let sec1 = include_str!("../../../tests/it/certificates/ec.sec1.pem");
        let pkcs8 = include_str!("../../../tests/it/certificates/ec.pk8.pem");
        for text in [sec1, pkcs8] {
            assert!(KeyRing::parse(text.as_bytes()).is_ok_and(|ring| ring.chain().is_empty()));
        }
        assert!(
            KeyRing::parse(
                &[
                    b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
                    sec1.as_bytes()
                ]
                .concat()
            )
            .is_ok()
        );
    }

    #[test]
    fn a_public_key_verifies_and_signs_nothing() {
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        let old = ring(&one);
        let public = key_info(&old.verifying()[0].point);
        let block =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(public));
        let ring = ring(&format!("{two}{block}"));
        let signature = old.sign(b"text").unwrap();
        assert!(verifies(&ring, old.id(), b"text", &signature));
        assert!(KeyRing::parse(block.as_bytes()).err().unwrap().contains("holds no private key"));
    }

    #[test]
    fn other_keys_are_refused_by_line() {
        for file in ["ed.key.pem", "rsa.pk8.pem", "rsa.pk1.pem", "enc.pk8.pem", "enc.sec1.pem"] {
            let path = format!("{}/tests/it/certificates/{file}", env!("CARGO_MANIFEST_DIR"));
            let error = KeyRing::parse(&std::fs::read(path).unwrap()).err().unwrap();
            assert!(error.contains("line 1"), "{file}: {error}");
        }
        assert!(KeyRing::parse(b"").is_err());
    }

    #[test]
    fn the_derived_secret_is_the_keys_own() {
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        let secret = |text: &str, purpose| ring(text).derived_secret(purpose).unwrap();
        assert!(secret(&one, "a").ct_eq(&secret(&one, "a")));
        assert!(!secret(&one, "a").ct_eq(&secret(&two, "a")) && !secret(&one, "a").ct_eq(&secret(&one, "b")));
        assert_eq!(secret(&one, "a").expose().len(), 64);
    }
}
