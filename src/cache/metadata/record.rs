//! The format of a record: an HTTP header block (RFC 9112 section 2.1), readable with `cat`.
//!
//! ```text
//! Content-Type: application/vnd.oci.image.manifest.v1+json
//! Content-Length: 1024
//! Last-Confirmed: Sun, 06 Nov 1994 08:49:37 GMT
//!
//! ```
//!
//! Lines end in LF alone, which section 2.2 lets a reader take. The empty line at the end is what tells a whole record
//! from one that was cut short; fields of other names are passed over.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::clock;
use crate::proto::{Digest, MediaType};

/// A repository's holding of a blob or manifest, by its upstream's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The type that the upstream gave it; of manifests always known.
    pub(crate) media_type: Option<MediaType>,
    /// Its length in bytes, where that is known.
    pub(crate) size: Option<u64>,
    /// The time when the upstream served or confirmed it there.
    pub(crate) confirmed: SystemTime,
}

impl Membership {
    /// Returns how long ago the upstream said so.
    pub(crate) fn age(&self) -> Duration {
        age(self.confirmed)
    }

    /// Returns its type, for a client.
    pub(crate) fn content_type(&self) -> Option<HeaderValue> {
        self.media_type.as_ref().and_then(|kind| HeaderValue::from_str(kind.as_str()).ok())
    }
}

/// Returns how long ago `confirmed` was. A clock that was set back makes no record good for longer.
pub(crate) fn age(confirmed: SystemTime) -> Duration {
    clock::wall().duration_since(confirmed).unwrap_or_else(|ahead| ahead.duration())
}

/// The manifest that a tag points to, by its upstream's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TagRecord {
    /// The manifest.
    pub(crate) digest: Digest,
    /// The time when the upstream said so last.
    pub(crate) confirmed: SystemTime,
}

impl Membership {
    /// Returns the record as it is written. Times are cut to the second.
    pub(crate) fn render(&self) -> Vec<u8> {
        let mut block = Block::default();
        block.optional(CONTENT_TYPE, self.media_type.as_ref().map(MediaType::as_str));
        block.optional(CONTENT_LENGTH, self.size);
        block.field(LAST_CONFIRMED, date(self.confirmed));
        block.finish()
    }

    /// Reads a record. None if it is malformed or was cut short.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        read(bytes, |fields| {
            Some(Self {
                media_type: fields.optional(CONTENT_TYPE, |text| MediaType::parse(text).ok())?,
                size: fields.optional(CONTENT_LENGTH, number)?,
                confirmed: fields.optional(LAST_CONFIRMED, parse_date)??,
            })
        })
    }
}

impl TagRecord {
    /// Returns the record as it is written. Times are cut to the second.
    pub(crate) fn render(&self) -> Vec<u8> {
        let mut block = Block::default();
        block.field(DIGEST, &self.digest);
        block.field(LAST_CONFIRMED, date(self.confirmed));
        block.finish()
    }

    /// Reads a record. None if it is malformed or was cut short.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        read(bytes, |fields| {
            Some(Self {
                digest: fields.optional(DIGEST, |text| Digest::parse(text).ok())??,
                confirmed: fields.optional(LAST_CONFIRMED, parse_date)??,
            })
        })
    }
}

/// A header block that is being written.
#[derive(Default)]
struct Block(String);

impl Block {
    fn field(&mut self, name: &str, value: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name}: {value}");
    }

    fn optional(&mut self, name: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.push('\n');
        self.0.into_bytes()
    }
}

/// The fields of a header block that is being read.
struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    /// Returns the field's value, none if it is absent. The outer is none if it is malformed.
    fn optional<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
        match self.value(name)? {
            Some(value) => Some(Some(parse(std::str::from_utf8(value).ok()?)?)),
            None => Some(None),
        }
    }

    /// Returns the field's text. The outer is none if there are two, which no version writes.
    fn value(&self, name: &str) -> Option<Option<&'a [u8]>> {
        let mut values = self.0.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        let value = values.next().map(|field| field.value);
        values.next().is_none().then_some(value)
    }
}

fn read<T>(bytes: &[u8], parse: impl Fn(Fields<'_>) -> Option<T>) -> Option<T> {
    let mut slots = [httparse::EMPTY_HEADER; FIELDS];
    match httparse::parse_headers(bytes, &mut slots) {
        Ok(httparse::Status::Complete((length, fields))) if length == bytes.len() => parse(Fields(fields)),
        _ => None,
    }
}

/// Renders a date (RFC 9110 section 5.6.7). Years outside 1970 to 9999 cannot be written, and are wrong anyway.
fn date(time: SystemTime) -> httpdate::HttpDate {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (UNIX_EPOCH + since.min(LAST_DATE)).into()
}

fn parse_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// Reads digits alone: Rust takes a sign as well.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

const CONTENT_TYPE: &str = "Content-Type";
const CONTENT_LENGTH: &str = "Content-Length";
const DIGEST: &str = "Docker-Content-Digest";
const LAST_CONFIRMED: &str = "Last-Confirmed";

/// More than any record has, so that a later version may write more.
const FIELDS: usize = 32;

/// 9999-12-31T23:59:59.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_799);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn digest() -> Digest {
        Digest::sha256(&[7; 32])
    }

    #[test]
    fn a_record_is_a_header_block() {
        let held = Membership {
            media_type: Some(MediaType::parse("application/json").unwrap()),
            size: Some(12),
            confirmed: at(784_111_777),
        };
        let text = "Content-Type: application/json\nContent-Length: 12\n\
            Last-Confirmed: Sun, 06 Nov 1994 08:49:37 GMT\n\n";
        assert_eq!(String::from_utf8(held.render()).unwrap(), text);
        let pointer = TagRecord { digest: digest(), confirmed: at(784_111_777) };
        let text = format!(
            "Docker-Content-Digest: sha256:{}\nLast-Confirmed: Sun, 06 Nov 1994 08:49:37 GMT\n\n",
            "07".repeat(32)
        );
        assert_eq!(String::from_utf8(pointer.render()).unwrap(), text);
    }

    #[test]
    fn a_record_that_was_cut_short_is_none() {
        let held = Membership { media_type: None, size: Some(12), confirmed: at(9) }.render();
        let pointer = TagRecord { digest: digest(), confirmed: at(9) }.render();
        assert!(Membership::parse(&held).is_some() && TagRecord::parse(&pointer).is_some());
        assert!((0..held.len()).all(|end| Membership::parse(&held[..end]).is_none()));
        assert!((0..pointer.len()).all(|end| TagRecord::parse(&pointer[..end]).is_none()));
    }

    #[test]
    fn a_malformed_record_is_none() {
        let date = "Last-Confirmed: Sun, 06 Nov 1994 08:49:37 GMT\n";
        let cases = [
            "\n".to_owned(),
            "Last-Confirmed: yesterday\n\n".to_owned(),
            format!("{date}{date}\n"),
            format!("{date}Content-Length: +1\n\n"),
            format!("{date}Content-Length: 99999999999999999999\n\n"),
            format!("{date}Content-Type: json\n\n"),
            format!("{date}\nmore"),
            format!("{date}no field\n\n"),
            "\0".repeat(64),
        ];
        for text in cases {
            assert_eq!(Membership::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(TagRecord::parse(format!("{date}\n").as_bytes()), None, "without a digest");
        assert!(
            Membership::parse(format!("{date}Later: x\r\n\r\n").as_bytes()).is_some(),
            "a later version's"
        );
    }

    #[test]
    fn dates_out_of_range_are_clamped() {
        for (off, written) in
            [(UNIX_EPOCH - Duration::from_secs(1), UNIX_EPOCH), (at(300_000_000_000), UNIX_EPOCH + LAST_DATE)]
        {
            let held = Membership { media_type: None, size: None, confirmed: off };
            assert_eq!(Membership::parse(&held.render()).unwrap().confirmed, written);
        }
    }

    fn any_size() -> impl Strategy<Value = Option<u64>> {
        proptest::option::of(any::<u64>())
    }

    proptest! {
        #[test]
        fn a_membership_reads_back(
            kind in proptest::option::of("[a-z]{1,9}/[a-z0-9.+-]{1,40}"),
            size in any_size(),
            seconds in 0u64..200_000_000_000,
        ) {
            let media_type = kind.map(|kind| MediaType::parse(&kind).unwrap());
            let held = Membership { media_type, size, confirmed: at(seconds) };
            prop_assert_eq!(Membership::parse(&held.render()), Some(held));
        }

        #[test]
        fn a_tag_record_reads_back(hash in any::<[u8; 32]>(), seconds in 0u64..200_000_000_000) {
            let pointer = TagRecord { digest: Digest::sha256(&hash), confirmed: at(seconds) };
            prop_assert_eq!(TagRecord::parse(&pointer.render()), Some(pointer));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in any::<Vec<u8>>()) {
            let _ = (Membership::parse(&bytes), TagRecord::parse(&bytes));
        }
    }
}
