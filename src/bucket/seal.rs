//! The signatures of records: who can write to the bucket must not be able to say what a repository holds.
//!
//! ```text
//! Signature: <64 hexadecimal digits>
//! Content-Length: 1024
//! Last-Confirmed: Sun, 06 Nov 1994 08:49:37 GMT
//!
//! ```
//!
//! HMAC-SHA256 (RFC 2104) over the record's name and its bytes, by a key that is derived from `server.secret` for this use alone
//! ([`Secret::derive`]): who can read the bucket can guess at the secret. An old record can be put back in its own place. It says when
//! the upstream confirmed it, and is believed no longer than any other.

use aws_lc_rs::hmac;

use crate::proto::Secret;

/// The key of all records.
pub(super) struct RecordSeal(hmac::Key);

impl RecordSeal {
    /// Derives the key from `server.secret`.
    pub(super) fn derive(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &secret.derive(b"dockgate store records v1")))
    }

    /// Returns a record with its signature, as the object `name`.
    pub(super) fn seal(&self, name: &str, record: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.0, &signed(name, record));
        let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        [FIELD.as_bytes(), digits.as_bytes(), b"\n", record].concat()
    }

    /// Returns the record in the object `name`. `None` if no replica of this gateway has written it there.
    pub(super) fn open<'a>(&self, name: &str, object: &'a [u8]) -> Option<&'a [u8]> {
        let rest = object.strip_prefix(FIELD.as_bytes())?;
        let (digits, rest) = rest.split_at_checked(DIGITS)?;
        let record = rest.strip_prefix(b"\n")?;
        let tag = bytes_of(digits)?;
        hmac::verify(&self.0, &signed(name, record), &tag).ok()?;
        Some(record)
    }
}

/// Returns the bytes that are signed. A name has no zero byte.
fn signed(name: &str, record: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b"\0", record].concat()
}

fn bytes_of(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits.chunks(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

const FIELD: &str = "Signature: ";

/// Hexadecimal digits of a signature.
const DIGITS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secret: &str) -> RecordSeal {
        RecordSeal::derive(&Secret::new(secret.repeat(64)))
    }

    #[test]
    fn a_record_is_read_where_it_was_written() {
        let object = seal("1").seal("a/b", b"Last-Confirmed: now\n\n");
        assert_eq!(seal("1").open("a/b", &object), Some(&b"Last-Confirmed: now\n\n"[..]));
        assert!(object.starts_with(b"Signature: "));
    }

    #[test]
    fn a_record_in_another_place_is_none() {
        let object = seal("1").seal("a/b", b"record");
        assert_eq!(seal("1").open("a/c", &object), None);
        assert_eq!(seal("2").open("a/b", &object), None);
    }

    #[test]
    fn no_changed_byte_is_overlooked() {
        let (seal, object) = (seal("1"), seal("1").seal("a/b", b"record"));
        for at in 0..object.len() {
            let mut changed = object.clone();
            changed[at] ^= 1;
            assert_eq!(seal.open("a/b", &changed), None, "{at}");
            assert_eq!(seal.open("a/b", &object[..at]), None, "{at}");
        }
        assert_eq!(seal.open("a/b", &[&object[..], b"x"].concat()), None);
    }
}
