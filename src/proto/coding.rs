//! Content codings of answers to requests that asked for none.

use http::{HeaderMap, header};

/// The coding that an answer says its bytes have (RFC 9110 section 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// None, or one that changes no byte of the content.
    Plain,
    /// Another, though it was not asked for.
    Unasked,
}

impl Coding {
    /// Returns what `headers` say.
    ///
    /// `aws-chunked` was the coding of an upload, which some object stores keep with the object (versitygw#2398); an empty
    /// field says nothing.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let fields = headers.get_all(header::CONTENT_ENCODING).iter();
        let mut names =
            fields.flat_map(|field| field.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
        let is_plain = |name: &[u8]| {
            name.is_empty()
                || [&b"identity"[..], b"aws-chunked"].iter().any(|plain| name.eq_ignore_ascii_case(plain))
        };
        if names.all(is_plain) { Self::Plain } else { Self::Unasked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_that_change_nothing_are_plain() {
        let of = |fields: &[&str]| {
            let field = |field: &&str| (header::CONTENT_ENCODING, field.parse().unwrap());
            let mut headers = HeaderMap::new();
            headers.extend(fields.iter().map(field).map(|(name, value)| (Some(name), value)));
            Coding::of(&headers)
        };
        for fields in [&[][..], &[""], &["identity"], &["AWS-Chunked"], &["aws-chunked, identity", ""]] {
            assert_eq!(of(fields), Coding::Plain, "{fields:?}");
        }
        for fields in [&["gzip"][..], &["x-gzip"], &["aws-chunked,gzip"], &["identity", "br"]] {
            assert_eq!(of(fields), Coding::Unasked, "{fields:?}");
        }
    }
}
