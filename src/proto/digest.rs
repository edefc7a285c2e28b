//! Content digests.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use thiserror::Error;

/// The longest digest that is accepted, in bytes. A registered one has at most 135.
pub(crate) const MAX_DIGEST_LENGTH: usize = 512;

/// The name of some content, made from its bytes: `sha256:` and 64 hexadecimal digits.
///
/// image-spec descriptor.md, "Digests": `digest = algorithm ":" encoded`, where
/// `algorithm = [a-z0-9]+([+._-][a-z0-9]+)*` and `encoded = [a-zA-Z0-9=_-]+`. The registered algorithms are checked
/// to the letter: sha256 has exactly 64 lower-case hexadecimal digits, sha512 128. Others pass on syntax alone, as the
/// specification asks.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    text: Arc<str>,
}

/// The algorithm of a [`Digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// Another algorithm, whose digests can be passed on but not checked here.
    Other,
}

/// The reason why a text is no [`Digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DigestError {
    /// No `:` in it.
    #[error("a digest is written ALGORITHM:ENCODED")]
    NoAlgorithm,
    /// The algorithm's name is outside the grammar.
    #[error("the digest's algorithm is malformed")]
    Algorithm,
    /// The encoded part is outside the grammar, or not what this algorithm gives.
    #[error("the digest's value is malformed for its algorithm")]
    Encoded,
    /// Longer than [`MAX_DIGEST_LENGTH`].
    #[error("a digest has at most {MAX_DIGEST_LENGTH} characters")]
    TooLong,
}

impl Digest {
    /// Accepts exactly the digests of the grammar, up to [`MAX_DIGEST_LENGTH`] bytes.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        if text.len() > MAX_DIGEST_LENGTH {
            return Err(DigestError::TooLong);
        }
        let (algorithm, encoded) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        if !is_algorithm(algorithm) {
            return Err(DigestError::Algorithm);
        }
        if !is_encoded(Algorithm::named(algorithm), encoded) {
            return Err(DigestError::Encoded);
        }
        Ok(Self { text: text.into() })
    }

    /// Returns the digest that SHA-256 gave.
    pub fn sha256(hash: &[u8; 32]) -> Self {
        Self::hexadecimal("sha256", hash)
    }

    /// Returns the digest that SHA-512 gave.
    pub fn sha512(hash: &[u8; 64]) -> Self {
        Self::hexadecimal("sha512", hash)
    }

    /// Returns the whole digest.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the algorithm, as far as this program knows it.
    pub fn algorithm(&self) -> Algorithm {
        Algorithm::named(self.parts().0)
    }

    /// Returns what follows the colon.
    pub fn encoded(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.text.split_once(':').unwrap_or_default()
    }

    fn hexadecimal(algorithm: &str, hash: &[u8]) -> Self {
        let mut text = format!("{algorithm}:");
        for byte in hash {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self { text: text.into() }
    }
}

impl Algorithm {
    fn named(name: &str) -> Self {
        match name {
            "sha256" => Self::Sha256,
            "sha512" => Self::Sha512,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

/// Returns true for `[a-z0-9]+([+._-][a-z0-9]+)*`, also the grammar of `?digest-algorithm=` (distribution-spec end-4c).
pub(super) fn is_algorithm(text: &str) -> bool {
    text.split(['+', '.', '_', '-'])
        .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

fn is_encoded(algorithm: Algorithm, text: &str) -> bool {
    match algorithm {
        Algorithm::Sha256 => text.len() == 64 && text.bytes().all(is_lower_hex),
        Algorithm::Sha512 => text.len() == 128 && text.bytes().all(is_lower_hex),
        Algorithm::Other => !text.is_empty() && text.bytes().all(is_encoded_byte),
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_encoded_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sha256(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    #[test]
    fn digests_of_the_grammar_are_accepted() {
        let sha512 = format!("sha512:{}", "0".repeat(128));
        let good = [
            sha256("a").as_str(),
            &sha512,
            "blake3:abc",
            "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
            "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
            "a.b_c-d:=_-",
        ]
        .map(|text| (text.to_owned(), Digest::parse(text)));
        for (text, digest) in good {
            assert_eq!(digest.unwrap().as_str(), text);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let cases = [
            ("", DigestError::NoAlgorithm),
            ("latest", DigestError::NoAlgorithm),
            (":abc", DigestError::Algorithm),
            ("SHA256:abc", DigestError::Algorithm),
            ("a..b:abc", DigestError::Algorithm),
            ("+a:abc", DigestError::Algorithm),
            ("a-:abc", DigestError::Algorithm),
            ("sha256:", DigestError::Encoded),
            ("sha256:abc", DigestError::Encoded),
            ("sha512:abc", DigestError::Encoded),
            ("other:", DigestError::Encoded),
            ("other:a:b", DigestError::Encoded),
            ("other:a/b", DigestError::Encoded),
            ("other:é", DigestError::Encoded),
        ];
        for (text, error) in cases {
            assert_eq!(Digest::parse(text), Err(error), "{text:?}");
        }
        for digit in ["A", "g", "F"] {
            assert_eq!(Digest::parse(&sha256(digit)), Err(DigestError::Encoded));
        }
        assert_eq!(Digest::parse(&format!("x:{}", "a".repeat(511))), Err(DigestError::TooLong));
    }

    #[test]
    fn the_parts_are_known() {
        let digest = Digest::parse(&sha256("7")).unwrap();
        assert_eq!((digest.algorithm(), digest.encoded()), (Algorithm::Sha256, "7".repeat(64).as_str()));
        assert_eq!(Digest::parse("blake3:ab").unwrap().algorithm(), Algorithm::Other);
    }

    #[test]
    fn a_hash_makes_a_digest() {
        assert_eq!(Digest::sha256(&[0x0a; 32]).as_str(), format!("sha256:{}", "0a".repeat(32)));
        assert_eq!(Digest::sha512(&[0xff; 64]).algorithm(), Algorithm::Sha512);
    }

    proptest! {
        #[test]
        fn what_is_made_from_a_hash_parses_back(hash in any::<[u8; 32]>()) {
            let digest = Digest::sha256(&hash);
            prop_assert_eq!(Digest::parse(digest.as_str()), Ok(digest));
        }

        #[test]
        fn what_follows_the_grammar_parses_and_renders_back(text in "[a-z0-9]{1,5}([+._-][a-z0-9]{1,4}){0,2}:[a-zA-Z0-9=_-]{1,60}") {
            if !text.starts_with("sha256:") && !text.starts_with("sha512:") {
                prop_assert_eq!(Digest::parse(&text).unwrap().to_string(), text);
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Digest::parse(&text);
        }
    }
}
