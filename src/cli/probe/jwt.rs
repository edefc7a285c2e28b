//! The claims of a JSON web token (RFC 7519). Its signature is neither verified nor kept.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::probe::format;

/// A decoded token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Jwt {
    /// The header: algorithm and key.
    pub(super) header: Map<String, Value>,
    /// The claims.
    pub(super) claims: Map<String, Value>,
}

/// A claim that is a time (RFC 7519 section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Moment {
    /// `exp`, `nbf` or `iat`.
    pub(super) claim: &'static str,
    /// Seconds since 1970.
    pub(super) at: i64,
    /// For people.
    pub(super) words: Option<String>,
}

impl Jwt {
    /// Decodes a JWT, or returns `None`: three parts in base64url without padding (RFC 7515 section 3.1), the first two
    /// of
    /// them JSON objects, the first with `alg`.
    pub(super) fn decode(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (header, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let header = object(header).filter(|header| header.contains_key("alg"))?;
        Some(Self { header, claims: object(claims)? })
    }

    /// Returns it with every text in it changed.
    pub(super) fn with_texts(self, change: &dyn Fn(&str) -> String) -> Self {
        Self { header: each(self.header, change), claims: each(self.claims, change) }
    }

    /// Returns a time that it names, in seconds since 1970.
    pub(super) fn time(&self, claim: &str) -> Option<i64> {
        let value = self.claims.get(claim)?;
        // A cast from float to integer saturates.
        value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
    }

    /// Returns all times that it names.
    pub(super) fn moments(&self, now: i64) -> Vec<Moment> {
        let times = TIMES.into_iter().filter_map(|claim| Some((claim, self.time(claim)?)));
        times.map(|(claim, at)| Moment { claim, at, words: format::moment(at, now) }).collect()
    }
}

const TIMES: [&str; 3] = ["iat", "nbf", "exp"];

/// Some issuers pad, which RFC 7515 section 2 forbids.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn object(part: &str) -> Option<Map<String, Value>> {
    let object: Map<String, Value> = serde_json::from_slice(&ENGINE.decode(part).ok()?).ok()?;
    Some(each(object, &without_token))
}

/// Hides tokens within the token.
fn without_token(text: &str) -> String {
    if Jwt::decode(text).is_some() { "[a token]".to_owned() } else { text.to_owned() }
}

fn each(object: Map<String, Value>, change: &dyn Fn(&str) -> String) -> Map<String, Value> {
    object.into_iter().map(|(key, value)| (change(&key), changed(value, change))).collect()
}

fn changed(value: Value, change: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(change(&text)),
        Value::Array(items) => items.into_iter().map(|item| changed(item, change)).collect(),
        Value::Object(object) => Value::Object(each(object, change)),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn token(header: &str, claims: &str) -> String {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.c2lnbmF0dXJl", part(header), part(claims))
    }

    #[test]
    fn header_and_claims_are_read() {
        let jwt = Jwt::decode(&token(r#"{"alg":"ES256","kid":"k"}"#, r#"{"sub":"jo","exp":298,"nbf":-1.5}"#));
        let jwt = jwt.unwrap();
        assert_eq!(jwt.header["kid"], json!("k"));
        assert_eq!((jwt.time("exp"), jwt.time("nbf"), jwt.time("iat")), (Some(298), Some(-1), None));
        let moments = jwt.moments(0);
        assert_eq!(moments.len(), 2);
        assert_eq!(moments[1].words.as_deref(), Some("1970-01-01 00:04:58 UTC, in 4 min 58 s"));
        assert!(!serde_json::to_string(&jwt).unwrap().contains("c2lnbmF0dXJl"), "the signature");
    }

    #[test]
    fn padding_does_no_harm() {
        let part = |text: &str| BASE64_URL_SAFE.encode(text);
        let token = format!("{}.{}.", part(r#"{"alg":"none"}"#), part("{}"));
        assert!(token.contains('=') && Jwt::decode(&token).is_some());
    }

    #[test]
    fn every_other_token_is_opaque() {
        let good = token(r#"{"alg":"x"}"#, "{}");
        for other in [
            "",
            "abc",
            "a.b.c",
            &token(r#"{"typ":"JWT"}"#, "{}"),
            &token(r#"{"alg":"x"}"#, "[]"),
            &token("7", "{}"),
            &good[..good.rfind('.').unwrap()],
            &format!("{good}.x"),
            &format!("{good}.x.y"),
        ] {
            assert_eq!(Jwt::decode(other), None, "{other}");
        }
    }

    #[test]
    fn a_token_in_a_token_is_not_shown() {
        let inner = token(r#"{"alg":"x"}"#, "{}");
        let jwt = Jwt::decode(&token(r#"{"alg":"x"}"#, &format!(r#"{{"a":[{{"b":"{inner}"}}]}}"#))).unwrap();
        assert_eq!(jwt.claims["a"], json!([{"b": "[a token]"}]));
    }

    proptest! {
        #[test]
        fn no_token_panics(token in "[!-~]{0,60}|([A-Za-z0-9_-]{0,20}\\.){2}[A-Za-z0-9_-]{0,9}") {
            let _ = Jwt::decode(&token);
        }
    }
}
