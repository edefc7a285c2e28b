//! The fingerprint of what a login rests upon: a token that was got by the login ends when that changes.

use aws_lc_rs::digest::{Context as Sha256, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A fingerprint of a line of htpasswd, of a platform's settings, or of the authorities of clients. It tells nothing of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Returns the fingerprint of `parts`; `kind` says what they are.
    pub(crate) fn of<'a>(kind: &'a str, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Sha256::new(&SHA256);
        for part in std::iter::once(kind.as_bytes()).chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut own = [0; 16];
        own.copy_from_slice(&hasher.finish().as_ref()[..16]);
        Self(own)
    }

    /// Returns it as tokens have it.
    pub(crate) fn to_text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_borders_and_order_count() {
        let of = |kind, parts: &[&str]| Fingerprint::of(kind, parts.iter().map(|part| part.as_bytes()));
        let one = of("line", &["ab", "c"]);
        for other in [
            of("line", &["a", "bc"]),
            of("line", &["c", "ab"]),
            of("lin", &["eab", "c"]),
            of("line", &["ab", "c", ""]),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(Fingerprint::parse(&one.to_text()), Some(one));
        assert_eq!(Fingerprint::parse("AAAA"), None);
    }
}
