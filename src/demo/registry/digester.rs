//! Digests, computed while the bytes arrive.

use aws_lc_rs::digest::{Context, SHA256, SHA512};

use crate::proto::{Algorithm, Digest};

/// Computes a digest piece by piece.
pub(super) enum Digester {
    Sha256(Context),
    Sha512(Context),
}

impl Digester {
    /// Creates a digester; `None` for an algorithm that this registry cannot compute.
    pub(super) fn new(algorithm: Algorithm) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => Some(Self::Sha256(Context::new(&SHA256))),
            Algorithm::Sha512 => Some(Self::Sha512(Context::new(&SHA512))),
            Algorithm::Other => None,
        }
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        let (Self::Sha256(context) | Self::Sha512(context)) = self;
        context.update(bytes);
    }

    pub(super) fn finish(self) -> Digest {
        match self {
            Self::Sha256(context) => Digest::sha256(&array(context.finish())),
            Self::Sha512(context) => Digest::sha512(&array(context.finish())),
        }
    }
}

/// Returns the digest of `bytes`; none for an algorithm that this registry cannot compute.
pub(super) fn digest(algorithm: Algorithm, bytes: &[u8]) -> Option<Digest> {
    let mut digester = Digester::new(algorithm)?;
    digester.update(bytes);
    Some(digester.finish())
}

/// Returns the sha256 digest of a content.
pub fn canonical(bytes: &[u8]) -> Digest {
    Digest::sha256(&array(aws_lc_rs::digest::digest(&SHA256, bytes)))
}

/// Compares in constant time. The algorithm fixes the length, so the two are always equal.
fn array<const N: usize>(sum: aws_lc_rs::digest::Digest) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(sum.as_ref());
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_digest_of_the_empty_object_is_the_published_one() {
        let published = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(canonical(b"{}").as_str(), published);
    }

    #[test]
    fn sha512_is_computed_too() {
        let published = "sha512:27c74670adb75075fad058d5ceaf7b20c4e7786c83bae8a32f626f9782af34c9\
                         a33c2046ef60fd2a7878d378e29fec851806bbd9a67878f3a9f1cda4830763fd";
        assert_eq!(digest(Algorithm::Sha512, b"{}").unwrap().as_str(), published);
    }

    #[test]
    fn an_algorithm_that_is_not_known_gives_nothing() {
        assert!(digest(Algorithm::Other, b"{}").is_none());
    }
}
