//! Signed tokens (RFC 7515, RFC 7519): their form. Nothing of a token is believed here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest token that is read, in bytes.
pub(crate) const MAX_LENGTH: usize = 32 * 1024;

/// The members of a header that count. `jwk`, `jku` and `x5u` are not among them: a token does not say by which key it is
/// to be checked, only which of the known keys signed it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Header {
    /// The algorithm.
    pub(crate) alg: String,
    /// The kind of token.
    #[serde(default)]
    pub(crate) typ: Option<String>,
    /// The id of the key that signed it.
    #[serde(default)]
    pub(crate) kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11). None is.
    #[serde(default, deserialize_with = "there")]
    pub(crate) crit: Option<Value>,
}

/// Reads a member that is there, also if it is null.
fn there<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// The header that is written.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OwnHeader<'a> {
    /// The algorithm.
    pub(crate) alg: &'static str,
    /// The kind of token.
    pub(crate) typ: &'static str,
    /// The id of the key that signs it.
    pub(crate) kid: &'a str,
    /// The certificates of that key (RFC 7515 section 4.1.6): registries that trust one need not know the key's id.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(crate) x5c: &'a [String],
}

/// A token in its three parts (RFC 7515 section 7.1), not verified.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    /// The header.
    pub(crate) header: Header,
    /// The bytes that are signed.
    pub(crate) signed: &'a str,
    /// The signature.
    pub(crate) signature: Vec<u8>,
    payload: &'a str,
}

impl<'a> Unverified<'a> {
    /// Reads a token's form: exactly three parts in base64url without padding, the first a JSON object that names an
    /// algorithm.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        if token.len() > MAX_LENGTH {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.').filter(|(_, payload)| !payload.contains('.'))?;
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        (header.crit.is_none()).then_some(Self { header, signed, signature: decode(signature)?, payload })
    }

    /// Reads the claims. To be called when the signature was found right.
    pub(crate) fn claims<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&decode(self.payload)?).ok()
    }
}

/// Returns the bytes to be signed.
pub(crate) fn to_sign(header: &OwnHeader<'_>, claims: &impl Serialize) -> Option<String> {
    let encode = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
    let (header, claims) = (serde_json::to_vec(header).ok()?, serde_json::to_vec(claims).ok()?);
    Some(format!("{}.{}", encode(header), encode(claims)))
}

/// Returns the token of signed bytes and their signature.
pub(crate) fn joined(signed: String, signature: &[u8]) -> String {
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Reads a NumericDate (RFC 7519 section 2), which may have a fraction.
pub(crate) fn numeric_date(claim: &Value) -> Option<u64> {
    // A number of seconds that a u64 holds; the cast is exact up to the fraction that is dropped.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
    let whole = |time: f64| (time.is_finite() && (0.0..1e15).contains(&time)).then_some(time as u64);
    claim.as_u64().or_else(|| claim.as_f64().and_then(whole))
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn token(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.{}", part(header), part(claims), URL_SAFE_NO_PAD.encode("signature"))
    }

    #[test]
    fn the_three_parts_are_read() {
        let text = token(
            &json!({"alg": "ES256", "typ": "JWT", "kid": "k", "jwk": {"kty": "EC"}}),
            &json!({"sub": "a"}),
        );
        let read = Unverified::parse(&text).unwrap();
        assert_eq!((read.header.alg.as_str(), read.header.kid.as_deref()), ("ES256", Some("k")));
        assert_eq!(read.signature, b"signature");
        assert_eq!(read.claims::<Value>().unwrap()["sub"], "a");
        assert!(text.starts_with(read.signed) && text[read.signed.len()..].starts_with('.'));
    }

    #[test]
    fn other_forms_are_no_tokens() {
        let whole = token(&json!({"alg": "ES256"}), &json!({}));
        let long = token(&json!({"alg": "ES256"}), &json!({"x": "y".repeat(MAX_LENGTH)}));
        let critical = token(&json!({"alg": "ES256", "crit": ["exp"]}), &json!({}));
        let double = format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","alg":"ES256"}"#));
        for bad in [
            "",
            ".",
            "..",
            "a.b",
            &whole.replace('.', ""),
            &format!("{whole}."),
            &format!("{whole}="),
            &format!(" {whole}"),
            &format!("{whole}.{whole}"),
            &token(&json!([]), &json!({})),
            &token(&json!({"typ": "JWT"}), &json!({})),
            &long,
            &critical,
            &token(&json!({"alg": "ES256", "crit": null}), &json!({})),
            &double,
        ] {
            assert!(Unverified::parse(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_parses_back(kid in "\\PC{0,20}", sub in "\\PC{0,20}", signature: Vec<u8>) {
            let header = OwnHeader { alg: "ES256", typ: "JWT", kid: &kid, x5c: &[] };
            let text = joined(to_sign(&header, &json!({"sub": sub})).unwrap(), &signature);
            let read = Unverified::parse(&text).unwrap();
            prop_assert_eq!(read.header.kid.as_deref(), Some(kid.as_str()));
            prop_assert_eq!(&read.claims::<Value>().unwrap()["sub"], &Value::from(sub));
            prop_assert_eq!(read.signature, signature);
        }

        #[test]
        fn no_text_panics(text in "[a-zA-Z0-9_.=-]{0,60}", any in "\\PC{0,30}") {
            let _ = Unverified::parse(&text);
            let _ = Unverified::parse(&any);
        }
    }
}
