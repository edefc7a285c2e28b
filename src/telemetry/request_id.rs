//! The id of a request.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest id that is taken over from a proxy, in bytes.
const LONGEST: usize = 64;

/// A name for a request, in the logs and in its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId {
    text: [u8; LONGEST],
    length: u8,
}

impl RequestId {
    /// Returns an id that no other request of this process has, and very likely none of another process: 16 hexadecimal
    /// digits.
    pub(crate) fn next() -> Self {
        let number = next_number().wrapping_add(start_number());
        // An odd multiplier is a bijection: ids do not repeat, and neighbours look nothing alike.
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut text = [0u8; LONGEST];
        for (place, digit) in text.iter_mut().take(16).enumerate() {
            *digit = b"0123456789abcdef"[(mixed >> (60 - 4 * place) & 15) as usize];
        }
        Self { text, length: 16 }
    }

    /// Returns the id that a proxy has given the request. `None` where it is longer than 64 bytes, or has others than
    /// letters, digits and `-._:`.
    pub(crate) fn given(id: &[u8]) -> Option<Self> {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:".contains(byte);
        if id.is_empty() || id.len() > LONGEST || !id.iter().all(is_plain) {
            return None;
        }
        let mut text = [0u8; LONGEST];
        text[..id.len()].copy_from_slice(id);
        Some(Self { text, length: u8::try_from(id.len()).ok()? })
    }

    /// Returns the text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns a number that no other call returns. A thread takes many at once: workers that count together wait for one another.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static OWN: Cell<Range<u64>> = const { Cell::new(0..0) };
    }
    let mut own = OWN.take();
    let number = own.next().unwrap_or_else(|| {
        let first = NEXT.fetch_add(NUMBERS, Ordering::Relaxed);
        own = first + 1..first + NUMBERS;
        first
    });
    OWN.set(own);
    number
}

/// The numbers that a thread takes at once.
const NUMBERS: u64 = 1024;

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

    #[test]
    fn no_two_threads_have_a_number() {
        let many = 3 * NUMBERS;
        let count = || std::thread::spawn(move || (0..many).map(|_| next_number()).collect::<Vec<_>>());
        let threads: Vec<_> = (0..4).map(|_| count()).collect();
        let numbers: std::collections::HashSet<_> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(numbers.len() as u64, 4 * many);
    }

    #[test]
    fn a_given_id_is_taken_as_it_is_or_not_at_all() {
        let longest = "a".repeat(LONGEST);
        for id in ["1", "4bf92f35-77b3:4da6_x.Z", &*longest] {
            assert_eq!(RequestId::given(id.as_bytes()).unwrap().as_str(), id);
        }
        let longer = "a".repeat(LONGEST + 1);
        for id in ["", "a b", "a\n", "a\"b", "é", &*longer] {
            assert_eq!(RequestId::given(id.as_bytes()), None, "{id}");
        }
    }
}
