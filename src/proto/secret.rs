//! Secrets, which must not be seen.

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

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
}

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
    fn secrets_are_equal_when_all_bytes_are() {
        let secret = Secret::new("hunter2");
        assert!(secret.ct_eq(&Secret::new("hunter2")));
        for other in ["hunter3", "hunter", "hunter22", "", "Hunter2"] {
            assert!(!secret.ct_eq(&Secret::new(other)), "{other:?}");
        }
        assert!(Secret::new("").ct_eq(&Secret::new("")));
    }
}
