//! The keys of the index.

use crate::proto::{Algorithm, Digest};

/// A digest by its bytes, which take half the room of its text and no allocation of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Sha256([u8; 32]),
    Sha512(Box<[u8; 64]>),
    /// An algorithm whose content is not stored.
    Other(Digest),
}

impl Key {
    /// Returns the key of a digest.
    pub(super) fn of(digest: &Digest) -> Self {
        let known = match digest.algorithm() {
            Algorithm::Sha256 => decoded(digest.encoded()).map(Self::Sha256),
            Algorithm::Sha512 => decoded(digest.encoded()).map(|hash| Self::Sha512(Box::new(hash))),
            Algorithm::Other => None,
        };
        known.unwrap_or_else(|| Self::Other(digest.clone()))
    }

    /// Returns the digest.
    pub(super) fn digest(&self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::sha256(hash),
            Self::Sha512(hash) => Digest::sha512(hash),
            Self::Other(digest) => digest.clone(),
        }
    }
}

/// Returns the bytes of hexadecimal digits, if there are as many as `N` bytes have.
fn decoded<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let value = |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut bytes = [0; N];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(high)? << 4 | value(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_makes_its_digest_again() {
        let other = Digest::parse("blake3:abc").unwrap();
        for digest in [Digest::sha256(&[0x5e; 32]), Digest::sha512(&[0xa1; 64]), other] {
            assert_eq!(Key::of(&digest).digest(), digest);
        }
        assert!(matches!(Key::of(&Digest::sha256(&[7; 32])), Key::Sha256(hash) if hash == [7; 32]));
        assert!(size_of::<Key>() <= 40, "a million of them are in memory");
    }
}
