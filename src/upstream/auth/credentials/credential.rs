//! The credentials of an identity, checked for what HTTP can carry.

use crate::config::Login;
use crate::proto::Secret;

/// A credential for an upstream or its token endpoint.
#[derive(Debug, Clone)]
pub(crate) enum Credential {
    /// Nothing.
    Nothing,
    /// Name and password.
    Password(Login),
    /// A refresh token (oauth.md), which is exchanged by POST.
    IdentityToken(Secret),
    /// A bearer token that serves as it is.
    RegistryToken(Secret),
}

/// The reason why a credential of a helper or a file can't be used. Never repeats the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialFlaw {
    /// Neither base64, nor UTF-8 with a colon in it.
    #[error("\"auth\" is not the base64 of NAME:PASSWORD")]
    Encoding,
    /// A password alone.
    #[error("the user name is empty")]
    NoName,
    /// A colon ends the name in Basic authentication (RFC 7617 section 2).
    #[error("the user name holds a \":\"")]
    Colon,
    /// A token that can't be sent in a header.
    #[error("the token is empty or holds characters that no token has")]
    Token,
}

impl Credential {
    /// Checks that Basic authentication can carry the name and password. It carries several lines too, though RFC 7617
    /// section 2 forbids control characters: Google's `_json_key` has such a password (jib#2535).
    pub(crate) fn password(username: String, password: String) -> Result<Self, CredentialFlaw> {
        if username.is_empty() {
            return Err(CredentialFlaw::NoName);
        }
        if username.contains(':') {
            return Err(CredentialFlaw::Colon);
        }
        Ok(Self::Password(Login { username, password: Secret::new(password) }))
    }

    /// A refresh token.
    pub(crate) fn identity_token(token: String) -> Result<Self, CredentialFlaw> {
        Ok(Self::IdentityToken(checked(token)?))
    }

    /// A bearer token.
    pub(crate) fn registry_token(token: String) -> Result<Self, CredentialFlaw> {
        Ok(Self::RegistryToken(checked(token)?))
    }
}

fn checked(token: String) -> Result<Secret, CredentialFlaw> {
    let sound = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    if sound { Ok(Secret::new(token)) } else { Err(CredentialFlaw::Token) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaw(username: &str, password: &str) -> Option<CredentialFlaw> {
        Credential::password(username.into(), password.into()).err()
    }

    #[test]
    fn logins_that_basic_can_not_carry_are_refused() {
        for (username, password, expected) in [
            ("robot", "s3cret", None),
            ("robot", "", None),
            ("robot", "with:colon and spaces", None),
            ("", "s3cret", Some(CredentialFlaw::NoName)),
            ("a:b", "s3cret", Some(CredentialFlaw::Colon)),
            ("a\u{1}", "s3cret", None),
            ("_json_key", "{\n  \"type\": \"service_account\"\n}\n", None),
        ] {
            assert_eq!(flaw(username, password), expected, "{username:?}");
        }
    }

    #[test]
    fn tokens_that_break_a_header_are_refused() {
        for token in ["", "a b", "a\r\nb", "tökén"] {
            assert_eq!(
                Credential::identity_token(token.into()).err(),
                Some(CredentialFlaw::Token),
                "{token:?}"
            );
            assert_eq!(
                Credential::registry_token(token.into()).err(),
                Some(CredentialFlaw::Token),
                "{token:?}"
            );
        }
        assert!(matches!(Credential::registry_token("ey.J+_~/-=".into()), Ok(Credential::RegistryToken(_))));
    }
}
