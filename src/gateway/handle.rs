//! Sealed handles: state that the client keeps for the gateway and can't read.
//!
//! An upload's location at the upstream, and the position in a listing, go out as AES-256-GCM ciphertext in base64url.
//! Clients re-encode queries, and some registries' upload paths lie outside the grammar: a handle survives both. A client
//! can neither make one up nor use another's.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::proto::Secret;

/// The key that seals and opens handles.
pub(super) struct Sealer(LessSafeKey);

/// The purpose of a handle. One kind can't be opened as another.
#[derive(Clone, Copy, Debug)]
pub(super) enum HandleKind {
    Upload,
    Cursor,
}

/// A failure of the randomness or the cipher, which does not happen on a working machine.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("cannot seal a handle")]
pub struct SealError;

impl Sealer {
    /// Returns a sealer with the configured secret, so that all replicas and the next start can open the handles; without one, with a
    /// random key that ends with the process.
    pub(super) fn new(secret: Option<&Secret>) -> Result<Self, SealError> {
        let key = match secret {
            Some(secret) => secret.derive(PURPOSE),
            None => {
                let mut key = [0u8; 32];
                aws_lc_rs::rand::fill(&mut key).map_err(|_| SealError)?;
                key
            }
        };
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| SealError)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    pub(super) fn seal(&self, kind: HandleKind, content: &impl Serialize) -> Result<String, SealError> {
        let mut nonce = [0u8; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SealError)?;
        let mut bytes = serde_json::to_vec(content).map_err(|_| SealError)?;
        if matches!(kind, HandleKind::Cursor) {
            bytes.resize(bytes.len().next_multiple_of(CURSOR_BLOCK), b' ');
        }
        let unique = Nonce::assume_unique_for_key(nonce);
        self.0.seal_in_place_append_tag(unique, kind.aad(), &mut bytes).map_err(|_| SealError)?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat()))
    }

    /// Opens a handle. `None` if it was not sealed with this key, as this kind.
    pub(super) fn open<T: DeserializeOwned>(&self, kind: HandleKind, handle: &str) -> Option<T> {
        let mut bytes = URL_SAFE_NO_PAD.decode(handle).ok()?;
        let sealed = bytes.split_off(NONCE_LEN.min(bytes.len()));
        let nonce = Nonce::assume_unique_for_key(bytes.try_into().ok()?);
        let mut sealed = sealed;
        let opened = self.0.open_in_place(nonce, kind.aad(), &mut sealed).ok()?;
        serde_json::from_slice(opened).ok()
    }
}

/// Cursors are as long as a multiple of this, in bytes, with spaces behind the JSON: a cursor can hold a name that its holder
/// may not see, and its length would tell that of the name.
const CURSOR_BLOCK: usize = 512;

/// The use of the derived key. Clients hold handles: they can guess at the secret without asking the gateway.
const PURPOSE: &[u8] = b"dockgate handles v2";

impl HandleKind {
    fn aad(self) -> Aad<&'static [u8]> {
        Aad::from(match self {
            Self::Upload => b"upload",
            Self::Cursor => b"cursor",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a text that a person made up, and typed";
    const RANDOM: &str = "8c1f0a7e5bd2936447aa01ce9f3d6b5802e4c7d98f1b3a6c5d7e9f0011223344";

    fn sealer(secret: &str) -> Sealer {
        Sealer::new(Some(&Secret::new(secret))).unwrap()
    }

    #[test]
    fn a_handle_opens_with_the_same_secret_on_another_replica() {
        for secret in [TEXT, RANDOM] {
            let handle = sealer(secret).seal(HandleKind::Upload, &"where").unwrap();
            assert_eq!(sealer(secret).open::<String>(HandleKind::Upload, &handle).as_deref(), Some("where"));
        }
    }

    #[test]
    fn a_handle_opens_with_no_other_key_or_kind() {
        let own = sealer(RANDOM);
        let handle = own.seal(HandleKind::Upload, &"where").unwrap();
        assert_eq!(sealer(TEXT).open::<String>(HandleKind::Upload, &handle), None);
        assert_eq!(own.open::<String>(HandleKind::Cursor, &handle), None);
        for index in 0..handle.len() {
            let mut forged = handle.clone().into_bytes();
            forged[index] = if forged[index] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(own.open::<String>(HandleKind::Upload, &forged), None, "changed at {index}");
        }
    }

    #[test]
    fn a_guess_at_a_text_is_slow() {
        // A single hash would take a microsecond.
        let began = crate::clock::now();
        let key = Secret::new(TEXT).derive(PURPOSE);
        assert!(crate::clock::now() - began > std::time::Duration::from_millis(10));
        assert_ne!(key, Secret::new(TEXT.to_uppercase()).derive(PURPOSE));
    }

    #[test]
    fn cursors_do_not_tell_the_length_of_names() {
        let own = sealer(RANDOM);
        let sealed = |name: &str| own.seal(HandleKind::Cursor, &name).unwrap();
        let (short, long) = (sealed("a"), sealed(&"a".repeat(255)));
        assert_eq!(short.len(), long.len());
        assert_eq!(own.open::<String>(HandleKind::Cursor, &short).as_deref(), Some("a"));
    }

    #[test]
    fn garbage_is_no_handle() {
        let own = sealer(RANDOM);
        for garbage in ["", "0", "AAAA", "not base64!", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(own.open::<String>(HandleKind::Upload, garbage), None);
        }
    }

    #[test]
    fn two_handles_for_the_same_content_differ() {
        let sealer = Sealer::new(None).unwrap();
        assert_ne!(
            sealer.seal(HandleKind::Upload, &"x").unwrap(),
            sealer.seal(HandleKind::Upload, &"x").unwrap()
        );
    }
}
