//! The answer of a token service.

use jiff::Timestamp;
use serde_json::Value;
use thiserror::Error;

use crate::proto::secret::Secret;

/// The longest answer that is read, in bytes. go-containerregistry reads no more either.
pub(crate) const MAX_ANSWER_LENGTH: usize = 64 * 1024;

/// The lifetime of a token whose answer does not say, in seconds (token auth, token.md: "default 60").
pub(crate) const DEFAULT_LIFETIME: u64 = 60;

/// A token and its lifetime (token auth, token.md "Token Response Fields" and oauth.md). `Debug` does not show the
/// token.
#[derive(Debug, Clone)]
pub(crate) struct TokenAnswer {
    /// `token`, or `access_token` where there is none.
    pub token: Secret,
    /// Seconds from `issued_at`; `None` when missing, or no number of seconds.
    pub expires_in: Option<u64>,
    /// As it was written.
    pub issued_at: Option<String>,
}

/// The reason why an answer gives no token. Says nothing of what it contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum TokenError {
    /// More than [`MAX_ANSWER_LENGTH`].
    #[error("the token service's answer is longer than {MAX_ANSWER_LENGTH} bytes")]
    TooLong,
    /// No JSON object.
    #[error("the token service's answer is no JSON object")]
    NotJson,
    /// Neither `token` nor `access_token`.
    #[error("the token service's answer contains no token")]
    NoToken,
    /// A token with space, control or non-ASCII characters, which no header can carry.
    #[error("the token service's answer contains a malformed token")]
    Malformed,
}

impl TokenAnswer {
    /// Reads the body of a 200.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, TokenError> {
        if body.len() > MAX_ANSWER_LENGTH {
            return Err(TokenError::TooLong);
        }
        let answer: serde_json::Map<String, Value> =
            serde_json::from_slice(body).map_err(|_| TokenError::NotJson)?;
        let text = |key| answer.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let token = text("token").or_else(|| text("access_token")).ok_or(TokenError::NoToken)?;
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            token: Secret::new(token),
            expires_in: answer.get("expires_in").and_then(seconds),
            issued_at: text("issued_at").map(str::to_owned),
        })
    }

    /// Returns seconds for which the token is good: [`DEFAULT_LIFETIME`] when the answer does not say.
    pub(crate) fn lifetime(&self) -> u64 {
        self.expires_in.unwrap_or(DEFAULT_LIFETIME)
    }

    /// Returns `issued_at` in seconds since 1970; `None` when missing or malformed.
    pub(crate) fn issued_at_unix(&self) -> Option<i64> {
        self.issued_at.as_deref()?.parse().ok().map(Timestamp::as_second)
    }
}

/// Services write whole numbers, numbers with a fraction, and numbers in quotes.
fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn whole(number: f64) -> Option<u64> {
    // A cast from float to integer saturates.
    (number >= 0.0).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &str) -> TokenAnswer {
        TokenAnswer::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn the_answer_of_the_token_documents_is_read() {
        let answer = parse(
            r#"{"token":"ab.c-d","access_token":"other","expires_in":300,"issued_at":"2015-05-20T12:34:56Z"}"#,
        );
        assert_eq!(answer.token.expose(), "ab.c-d");
        assert_eq!((answer.lifetime(), answer.issued_at_unix()), (300, Some(1_432_125_296)));
    }

    #[test]
    fn either_name_of_the_token_will_do() {
        assert_eq!(parse(r#"{"access_token":"x"}"#).token.expose(), "x");
        assert_eq!(parse(r#"{"token":"","access_token":"x"}"#).token.expose(), "x");
        assert_eq!(parse(r#"{"token":null,"access_token":"x"}"#).token.expose(), "x");
    }

    #[test]
    fn a_token_is_good_for_60_seconds_when_nothing_is_said() {
        for expires in ["", r#","expires_in":null"#, r#","expires_in":-5"#, r#","expires_in":"soon""#] {
            assert_eq!(parse(&format!(r#"{{"token":"x"{expires}}}"#)).lifetime(), 60);
        }
        assert_eq!(parse(r#"{"token":"x","expires_in":"900"}"#).lifetime(), 900);
        assert_eq!(parse(r#"{"token":"x","expires_in":299.9}"#).lifetime(), 299);
        assert_eq!(parse(r#"{"token":"x","expires_in":1e300}"#).lifetime(), u64::MAX);
        assert_eq!(parse(r#"{"token":"x","issued_at":"now"}"#).issued_at_unix(), None);
        let nanoseconds = r#"{"token":"x","issued_at":"2026-07-16T23:59:59.123456789+02:00"}"#;
        assert_eq!(parse(nanoseconds).issued_at_unix(), Some(1_784_239_199));
    }

    #[test]
    fn an_answer_without_a_token_is_an_error() {
        let long = "x".repeat(MAX_ANSWER_LENGTH + 1);
        let cases = [
            ("<html>", TokenError::NotJson),
            ("", TokenError::NotJson),
            ("[]", TokenError::NotJson),
            ("{}", TokenError::NoToken),
            (r#"{"token":7}"#, TokenError::NoToken),
            (r#"{"token":"a b"}"#, TokenError::Malformed),
            (r#"{"token":"a\r\nX: y"}"#, TokenError::Malformed),
            (long.as_str(), TokenError::TooLong),
        ];
        for (body, error) in cases {
            assert_eq!(TokenAnswer::parse(body.as_bytes()).unwrap_err(), error);
        }
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        assert!(!format!("{:?}", parse(r#"{"token":"hunter2"}"#)).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in any::<Vec<u8>>()) {
            let _ = TokenAnswer::parse(&body);
        }
    }
}
