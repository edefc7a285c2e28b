//! The words of an upstream's error answer: its errors for the client, and an excerpt for the log.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::body::Body;
use crate::config::limits;
use crate::proto::ErrorBody;

/// The words of an error answer.
pub(crate) struct Said {
    /// The registry's own errors, if the body is the API's (distribution-spec, "Error Codes").
    pub(crate) errors: Option<ErrorBody>,
    /// The first words of the body, escaped; empty if it has none, or if they are not for the log.
    pub(crate) words: String,
}

impl Said {
    /// Reads the body of an answer with this status. One that does not come soon, or that is long, is cut.
    ///
    /// The body of a 401 may repeat what was presented, so its words are not for the log.
    pub(crate) async fn read(status: StatusCode, headers: &HeaderMap, body: Body) -> Self {
        let bytes = body.beginning(limits::ERROR_BODY_BYTES, limits::ERROR_BODY_DEADLINE).await;
        let errors = ErrorBody::parse(&bytes).filter(|body| !body.errors.is_empty());
        let coding = headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
        let is_text = coding.is_none_or(|coding| coding.eq_ignore_ascii_case(b"identity"));
        let words = match &errors {
            _ if status == StatusCode::UNAUTHORIZED => String::new(),
            Some(errors) => words_of(errors),
            None if is_text => excerpt(&bytes),
            None => String::new(),
        };
        Self { errors, words }
    }

    /// Returns `status` and the words behind it, as they stand in a log line.
    pub(crate) fn behind(&self, status: StatusCode) -> String {
        if self.words.is_empty() { status.to_string() } else { format!("{status}, {}", self.words) }
    }
}

/// Returns a registry's own errors in one line: distribution has the reason in the detail.
fn words_of(errors: &ErrorBody) -> String {
    let words = errors.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    words.escape_debug().take(ERRORS_CHARS).collect()
}

/// Returns the first words of a body in quotes: control characters and quotes are escaped, white space is one space, and
/// queries are left out, since those of signed URLs are secrets.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(READ_BYTES)]);
    let words: Vec<_> = text.split_whitespace().map(without_query).collect();
    let joined = words.join(" ");
    if joined.is_empty() {
        return joined;
    }
    let cut = joined.chars().count() > EXCERPT_CHARS || bytes.len() > READ_BYTES;
    let kept = joined.chars().take(EXCERPT_CHARS).flat_map(char::escape_debug);
    let mut out = String::from("\"");
    out.extend(kept);
    // Writing to a String can't fail.
    let _ = write!(out, "\"{}", if cut { " ..." } else { "" });
    out
}

fn without_query(word: &str) -> &str {
    match (word.find("://"), word.find('?')) {
        (Some(_), Some(query)) => &word[..query],
        _ => word,
    }
}

/// The most characters of a registry's own errors in one line of the log.
const ERRORS_CHARS: usize = 500;
/// The bytes of a body from which an excerpt is made.
const READ_BYTES: usize = 1024;
/// The characters of an excerpt: enough for a code and its message, or for the title of a page.
const EXCERPT_CHARS: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_escaped_and_cut() {
        assert_eq!(excerpt(b""), "");
        assert_eq!(excerpt(b" \r\n\t "), "");
        assert_eq!(excerpt(b"<Error>\n  <Code>AccessDenied"), "\"<Error> <Code>AccessDenied\"");
        assert_eq!(excerpt(b"a\"b\\c \x1b[31m\x00"), r#""a\"b\\c \u{1b}[31m\0""#);
        let long = excerpt("é".repeat(400).as_bytes());
        assert_eq!(long.chars().count(), EXCERPT_CHARS + "\"\" ...".len());
        assert!(excerpt(&[0xff; 5000]).ends_with("\" ..."));
    }

    #[test]
    fn an_excerpt_has_no_signature_of_a_url() {
        let text = b"see https://cdn.example/blob?X-Amz-Signature=secret for more";
        assert_eq!(excerpt(text), "\"see https://cdn.example/blob for more\"");
    }

    #[tokio::test]
    async fn a_401_has_errors_and_no_words() {
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"secret"}]}"#;
        for (status, words) in [(401, false), (403, true)] {
            let status = StatusCode::from_u16(status).unwrap();
            let said = Said::read(status, &HeaderMap::new(), Body::full(body)).await;
            assert_eq!((said.errors.is_some(), !said.words.is_empty()), (true, words), "{status}");
        }
    }
}
