//! The `Authorization` header: a client's credentials.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::proto::secret::Secret;

/// The credentials of one request (RFC 9110 section 11.6.2: `credentials = auth-scheme [ 1*SP ( token68 / … ) ]`).
#[derive(Debug, Clone)]
pub enum Authorization {
    /// RFC 7617.
    Basic {
        /// Never contains a `:`.
        user: String,
        /// May be empty, and may contain `:`.
        password: Secret,
    },
    /// RFC 6750.
    Bearer(Secret),
    /// A scheme that is not spoken here.
    Other,
}

/// The reason why a value is none of `Authorization`. Says nothing of what it contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthorizationError {
    /// No scheme.
    #[error("the Authorization header is malformed")]
    Malformed,
    /// Basic, and not base64 in the standard alphabet with padding.
    #[error("the Basic credentials are not valid base64")]
    Base64,
    /// Basic, and not UTF-8.
    #[error("the Basic credentials are not valid UTF-8")]
    Utf8,
    /// Basic, without a `:`.
    #[error("the Basic credentials contain no colon")]
    NoColon,
    /// Bearer, and no `b64token`.
    #[error("the Bearer token is malformed")]
    Token,
}

impl Authorization {
    /// Reads the value of the header. The scheme is matched in any case (RFC 9110 section 11.1).
    pub fn parse(value: &[u8]) -> Result<Self, AuthorizationError> {
        let value = value.trim_ascii();
        let end = value.iter().position(|&b| b == b' ').unwrap_or(value.len());
        let (scheme, rest) = (&value[..end], value[end..].trim_ascii_start());
        if scheme.is_empty() || !scheme.iter().all(|&b| super::syntax::is_token_byte(b)) {
            return Err(AuthorizationError::Malformed);
        }
        if scheme.eq_ignore_ascii_case(b"basic") {
            parse_basic(rest)
        } else if scheme.eq_ignore_ascii_case(b"bearer") {
            parse_bearer(rest)
        } else {
            Ok(Self::Other)
        }
    }

    /// Returns the value of the header; none for [`Other`](Self::Other).
    pub fn render(&self) -> Option<Secret> {
        match self {
            Self::Basic { user, password } => {
                let pair = format!("{user}:{}", password.expose());
                Some(Secret::new(format!("Basic {}", STANDARD.encode(pair))))
            }
            Self::Bearer(token) => Some(Secret::new(format!("Bearer {}", token.expose()))),
            Self::Other => None,
        }
    }
}

/// RFC 7617 section 2: `user-pass = user-id ":" password`, where the user-id has no colon. Padding is required: RFC 4648
/// section 3.2 has it so unless a specification says otherwise.
///
/// Deviation: control characters are taken, because Google's `_json_key` passwords are files of several lines (jib#2535).
fn parse_basic(encoded: &[u8]) -> Result<Authorization, AuthorizationError> {
    let decoded = STANDARD.decode(encoded).map_err(|_| AuthorizationError::Base64)?;
    let pair = String::from_utf8(decoded).map_err(|_| AuthorizationError::Utf8)?;
    let (user, password) = pair.split_once(':').ok_or(AuthorizationError::NoColon)?;
    Ok(Authorization::Basic { user: user.into(), password: Secret::new(password) })
}

/// RFC 6750 section 2.1: `b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn parse_bearer(token: &[u8]) -> Result<Authorization, AuthorizationError> {
    let text = std::str::from_utf8(token).map_err(|_| AuthorizationError::Token)?;
    if super::syntax::is_token68(text) {
        Ok(Authorization::Bearer(Secret::new(text)))
    } else {
        Err(AuthorizationError::Token)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn basic(value: &str) -> (String, String) {
        match Authorization::parse(value.as_bytes()).unwrap() {
            Authorization::Basic { user, password } => (user, password.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    fn encoded(pair: &[u8]) -> Vec<u8> {
        format!("Basic {}", STANDARD.encode(pair)).into_bytes()
    }

    fn error(value: &[u8]) -> AuthorizationError {
        Authorization::parse(value).unwrap_err()
    }

    #[test]
    fn the_example_of_rfc_7617_is_read_in_any_case_of_the_scheme() {
        for scheme in ["Basic", "basic", "BASIC", "bAsIc"] {
            let value = format!("{scheme} QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
            assert_eq!(basic(&value), ("Aladdin".to_owned(), "open sesame".to_owned()));
        }
        assert_eq!(basic("  Basic   dGVzdDoxMjPCow== "), ("test".to_owned(), "123£".to_owned()));
    }

    #[test]
    fn a_pair_is_split_at_the_first_colon() {
        assert_eq!(basic("Basic YTpiOmM="), ("a".to_owned(), "b:c".to_owned()));
        assert_eq!(basic("Basic YTo="), ("a".to_owned(), String::new()));
        assert_eq!(basic("Basic Og=="), (String::new(), String::new()));
    }

    #[test]
    fn base64_is_strict() {
        for bad in [
            "Basic YTo",
            "Basic YTo==",
            "Basic YT_-",
            "Basic Y To=",
            "Basic YTp=",
            "Basic YTo=\tx",
            "Basic YTo=,",
        ] {
            assert_eq!(error(bad.as_bytes()), AuthorizationError::Base64, "{bad}");
        }
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        assert_eq!(error(&encoded(b"a\xff:b")), AuthorizationError::Utf8);
        assert_eq!(error(&encoded(b"ab")), AuthorizationError::NoColon);
        assert_eq!(error(b"Basic"), AuthorizationError::NoColon);
    }

    #[test]
    fn a_password_may_have_several_lines() {
        for (user, password) in
            [("_json_key", "{\n  \"type\": \"x\"\n}\n"), ("a\n", "\0"), ("a", "\x7f\u{85}\t")]
        {
            let value = String::from_utf8(encoded(format!("{user}:{password}").as_bytes())).unwrap();
            assert_eq!(basic(&value), (user.to_owned(), password.to_owned()));
        }
    }

    #[test]
    fn a_bearer_token_is_read() {
        let token = match Authorization::parse(b"bearer a.b-c_d~e+f/g==").unwrap() {
            Authorization::Bearer(token) => token,
            other => panic!("{other:?}"),
        };
        assert_eq!(token.expose(), "a.b-c_d~e+f/g==");
        for bad in [
            "Bearer",
            "Bearer ",
            "Bearer a b",
            "Bearer =",
            "Bearer a=b",
            "Bearer a,b",
            "Bearer \"a\"",
            "Bearer é",
        ] {
            assert_eq!(error(bad.as_bytes()), AuthorizationError::Token, "{bad}");
        }
    }

    #[test]
    fn other_schemes_are_known_to_be_other() {
        for value in ["Negotiate abc", "Digest username=\"x\"", "x"] {
            assert!(matches!(Authorization::parse(value.as_bytes()), Ok(Authorization::Other)));
        }
        for value in ["", " ", "=", "Ba\"sic x", "é x"] {
            assert_eq!(error(value.as_bytes()), AuthorizationError::Malformed, "{value:?}");
        }
    }

    #[test]
    fn credentials_do_not_show_in_debug_output() {
        let shown = format!("{:?}", Authorization::parse(b"Basic YTpodW50ZXIy").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_back(user in "[^:]{0,20}", password in "(?s).{0,40}") {
            let secret = Secret::new(password.clone());
            let header = Authorization::Basic { user: user.clone(), password: secret }.render().unwrap();
            prop_assert_eq!(basic(header.expose()), (user, password));
        }

        #[test]
        fn no_value_panics(value in any::<Vec<u8>>(), tail in any::<Vec<u8>>()) {
            let _ = Authorization::parse(&value);
            let _ = Authorization::parse(&[b"Basic ", tail.as_slice()].concat());
            let _ = Authorization::parse(&[b"Bearer ", tail.as_slice()].concat());
        }
    }
}
