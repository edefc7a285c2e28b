//! Secrets, which must not be seen.

use std::fmt;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::{hmac, pbkdf2};

/// A password or token. `Debug` does not show it, and there is no `Display`: code that writes it out calls
/// [`expose`](Self::expose), where a reviewer can see it.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps `text` from view.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }

    /// Returns the secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns true if both are the same, in a time that depends on their lengths only.
    pub fn ct_eq(&self, other: &Self) -> bool {
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        // Without the black box a compiler may leave the loop at the first difference.
        a.len() == b.len() && a.iter().zip(b).fold(0, |seen, (a, b)| black_box(seen | (a ^ b))) == 0
    }

    /// Returns a key for `purpose`; other purposes get other keys. At once of 32 random bytes, as `dockgate secret` prints them, and
    /// slowly of any other text: where others see what was made with the key, they can guess at the secret without asking the
    /// gateway, and each guess costs them what it costs here.
    pub(crate) fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut key = [0u8; 32];
        if let Some(bytes) = random_bytes(self.expose()) {
            let own = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
            key.copy_from_slice(hmac::sign(&own, purpose).as_ref());
        } else {
            let text = self.expose().as_bytes();
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, purpose, text, &mut key);
        }
        key
    }
}

/// Returns the bytes of 64 hexadecimal digits.
fn random_bytes(secret: &str) -> Option<Vec<u8>> {
    let bytes = secret.as_bytes();
    let is_hex = bytes.len() == 64 && bytes.iter().all(u8::is_ascii_hexdigit);
    let pairs = (0..64).step_by(2).map(|at| u8::from_str_radix(secret.get(at..at + 2)?, 16).ok());
    if is_hex { pairs.collect() } else { None }
}

/// OWASP's count for PBKDF2-HMAC-SHA256 (Password Storage Cheat Sheet, 2023). Takes some 0.2 s, once at the start.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(600_000 - 1);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some([secret])");
    }

    #[test]
    fn each_purpose_has_its_own_key() {
        let random = "8c1f0a7e5bd2936447aa01ce9f3d6b5802e4c7d98f1b3a6c5d7e9f0011223344";
        let key = Secret::new(random).derive(b"it");
        assert_eq!(key, Secret::new(random.to_uppercase()).derive(b"it"));
        assert_ne!(key, Secret::new(random).derive(b"something else"));
    }

    #[test]
    fn secrets_are_equal_when_all_bytes_are() {
        let secret = Secret::new("hunter2");
        assert!(secret.ct_eq(&Secret::new("hunter2")));
        for other in ["hunter3", "hunter", "hunter22", "", "Hunter2"] {
            assert!(!secret.ct_eq(&Secret::new(other)), "{other:?}");
        }
        assert!(Secret::new("").ct_eq(&Secret::new("")));
    }
}
