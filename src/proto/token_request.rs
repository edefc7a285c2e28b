//! Requests to the token service (token auth, token.md and oauth.md).

use crate::proto::query::Query;
use crate::proto::scope::{Scope, ScopeSet};
use crate::proto::secret::Secret;
use crate::proto::target_error::TargetError;

/// A request by GET. `service`, `account`, `client_id` and `offline_token` change nothing: the gateway has one service, the
/// login decides whose token it is, and there are no refresh tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRequest {
    /// The scopes, repeated or divided by spaces.
    pub(crate) scopes: ScopeSet,
}

/// A request by POST.
#[derive(Debug, Clone)]
pub(crate) enum TokenForm {
    /// The grant of a name and its password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
        /// The scopes.
        request: TokenRequest,
    },
    /// Another grant, which is not offered.
    Other,
}

impl TokenRequest {
    /// Reads the query of a GET.
    ///
    /// # Errors
    /// [`TargetError::QueryInvalid`] when a scope can't be decoded.
    pub(crate) fn parse(query: &str) -> Result<Self, TargetError> {
        Self::of(&Query::parse(query)?)
    }

    fn of(query: &Query) -> Result<Self, TargetError> {
        let words = query.all("scope")?.into_iter().flat_map(str::split_ascii_whitespace);
        Ok(Self { scopes: words.take(MOST_SCOPES).map(Scope::parse).collect() })
    }
}

impl TokenForm {
    /// Reads the form of a POST.
    ///
    /// # Errors
    /// [`TargetError::QueryInvalid`] when a value that counts can't be decoded, or occurs twice.
    pub(crate) fn parse(form: &str) -> Result<Self, TargetError> {
        let query = Query::parse(form)?;
        if query.one("grant_type")? != Some("password") {
            return Ok(Self::Other);
        }
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        Ok(Self::Password {
            username: text(query.one("username")?),
            password: Secret::new(text(query.one("password")?)),
            request: TokenRequest::of(&query)?,
        })
    }
}

/// The scopes of one request that are looked at: the rules are asked about each.
const MOST_SCOPES: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(query: &str) -> String {
        TokenRequest::parse(query).unwrap().scopes.to_string()
    }

    #[test]
    fn scopes_are_repeated_or_divided_by_spaces() {
        let both = "repository:a:pull repository:b:push";
        assert_eq!(scopes("service=x&scope=repository:a:pull&scope=repository%3Ab%3Apush&account=y"), both);
        assert_eq!(scopes("scope=repository:a:pull+repository:b:push&scope="), both);
        assert_eq!(scopes("scope=repository:a:pull%20repository:b:push&offline_token=true"), both);
        assert_eq!((scopes(""), scopes("scope=")), (String::new(), String::new()));
        let many: String = (0..300).map(|n| format!("scope=repository:a{n}:pull&")).collect();
        assert_eq!(TokenRequest::parse(&many).unwrap().scopes.iter().count(), MOST_SCOPES);
        assert!(TokenRequest::parse("scope=%ff").is_err());
    }

    #[test]
    fn the_password_grant_is_read_and_no_other() {
        let form = TokenForm::parse(
            "grant_type=password&username=al&password=p%26w%2B&scope=repository:a:pull&client_id=x",
        );
        let Ok(TokenForm::Password { username, password, request }) = form else { panic!("{form:?}") };
        assert_eq!((username.as_str(), password.expose()), ("al", "p&w+"));
        assert_eq!(request.scopes.to_string(), "repository:a:pull");
        for other in ["", "grant_type=refresh_token&refresh_token=x", "grant_type=", "{\"grant_type\":1}"] {
            assert!(matches!(TokenForm::parse(other), Ok(TokenForm::Other)), "{other}");
        }
        assert!(TokenForm::parse("grant_type=password&username=a&username=b").is_err());
    }
}
