//! The id of a request.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A name for a request, in the logs and in its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// Returns an id that no other request of this process has, and very likely none of another process.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(start_number());
        // An odd multiplier is a bijection: ids do not repeat, and neighbours look nothing alike.
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut text = [0u8; 16];
        for (place, digit) in text.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(mixed >> (60 - 4 * place) & 15) as usize];
        }
        Self(text)
    }

    /// Returns 16 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn start_number() -> u64 {
    static START: OnceLock<u64> = OnceLock::new();
    *START.get_or_init(|| {
        let mut bytes = [0u8; 8];
        // Without randomness the ids of two processes may be equal, which matters only to a reader of both logs.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_do_not_repeat() {
        let ids: std::collections::HashSet<_> =
            (0..1000).map(|_| RequestId::next().as_str().to_owned()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 16));
    }
}
