//! Percent-encoding (RFC 3986 section 2.1).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_decode_str, utf8_percent_encode};

/// Everything but RFC 3986's `unreserved`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes everything outside `unreserved`.
pub(crate) fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, RESERVED)
}

/// Decodes a text; `None` where it is not UTF-8, or where a `%` stands without two hexadecimal digits, which
/// `percent_encoding` alone would leave as it is.
pub(crate) fn decode(text: &str) -> Option<String> {
    let is_encoded = |piece: &str| matches!(piece.as_bytes(), [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(is_encoded) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_sequences_are_refused() {
        for text in ["%", "%2", "%zz", "%+1", "%ff", "a%2", "%%41", "%é"] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode("x+y%2B%C3%A9%c3%a9").as_deref(), Some("x+y+éé"));
    }

    proptest! {
        #[test]
        fn encoded_text_decodes_to_itself(text in any::<String>()) {
            let encoded = encode(&text).to_string();
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
            prop_assert_eq!(decode(&encoded), Some(text));
        }
    }
}
