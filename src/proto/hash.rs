//! Digests of bytes, by the algorithms that are checked here.

use aws_lc_rs::digest::{Context, SHA256, SHA512};

use crate::proto::{Algorithm, Digest};

/// A digest in the making.
#[derive(Clone)]
pub(crate) struct Hasher(Context);

impl Hasher {
    /// Returns a hasher that has seen nothing; none for an algorithm that is not checked here.
    pub(crate) fn new(algorithm: Algorithm) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => Some(Self(Context::new(&SHA256))),
            Algorithm::Sha512 => Some(Self(Context::new(&SHA512))),
            Algorithm::Other => None,
        }
    }

    /// Returns a hasher of the algorithm that most registries use.
    pub(crate) fn sha256() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Returns the algorithm.
    pub(crate) fn algorithm(&self) -> Algorithm {
        if self.0.algorithm() == &SHA512 { Algorithm::Sha512 } else { Algorithm::Sha256 }
    }

    /// Hashes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all the bytes.
    pub(crate) fn finish(self) -> Digest {
        let sum = self.0.finish();
        if let Ok(sum) = sum.as_ref().try_into() {
            return Digest::sha512(sum);
        }
        let mut short = [0; 32];
        short.copy_from_slice(sum.as_ref());
        Digest::sha256(&short)
    }
}

impl Digest {
    /// Returns the digest of `bytes` that most registries use.
    pub(crate) fn sha256_of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns true if it is the digest of `bytes`; false for an algorithm that is not checked here.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        Hasher::new(self.algorithm()).is_some_and(|mut hasher| {
            hasher.update(bytes);
            hasher.finish() == *self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests_are_computed() {
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::sha256_of(b"abc").as_str(), abc);
        let abc = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                   2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        assert!(Digest::parse(abc).unwrap().is_of(b"abc"));
    }

    #[test]
    fn other_bytes_or_algorithms_do_not_match() {
        assert!(!Digest::sha256_of(b"abc").is_of(b"abd"));
        assert!(!Digest::parse("blake3:abc").unwrap().is_of(b"abc"));
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut hasher = Hasher::new(Algorithm::Sha256).unwrap();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), Digest::sha256_of(b"abc"));
    }
}
