//! The claims of the gateway's own tokens (token auth, jwt.md).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::proto::operation::Action;

/// The claims of an access token, or of a robot's token. Other registries read the registered ones and `access`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// The issuer.
    pub(crate) iss: String,
    /// The name of the identity; empty for an anonymous client.
    pub(crate) sub: String,
    /// The service that it is for.
    pub(crate) aud: String,
    /// The time of its death, in seconds since 1970, as the two that follow.
    pub(crate) exp: u64,
    /// The time before which it is not good.
    pub(crate) nbf: u64,
    /// The time when it was issued.
    pub(crate) iat: u64,
    /// The token's id.
    pub(crate) jti: String,
    /// The grants: canonical names in an access token, patterns in a robot's.
    pub(crate) access: Vec<Grant>,
    /// The claims that this gateway alone reads.
    pub(crate) dockgate: Login,
}

/// The login by which a token was got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The provider of the identity.
    pub(crate) provider: Provider,
    /// The groups that the provider says the identity is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<Box<str>>,
    /// The fingerprint of what the login rests upon: the htpasswd line, the settings of the platform, the authorities of
    /// clients. The token ends when that changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<String>,
    /// The id of the robot's token: this one ends with that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) robot: Option<String>,
    /// The limits of the robot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<Vec<Grant>>,
}

/// A provider of identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Provider {
    /// None: the client is anonymous.
    Anonymous,
    /// The htpasswd file.
    Htpasswd,
    /// A robot's token.
    Robot,
    /// A platform's token.
    Oidc,
    /// A client's certificate.
    Certificate,
}

/// An element of `access`: actions on one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The deprecated class of the scope, echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<String>,
    /// The name.
    pub(crate) name: String,
    /// The actions; `*` is every one.
    pub(crate) actions: Vec<String>,
}

impl Grant {
    /// Returns a grant of actions on a repository.
    pub(crate) fn repository(name: &str, actions: impl IntoIterator<Item = Action>) -> Self {
        let actions = actions.into_iter().map(|action| action.as_str().to_owned()).collect();
        Self { kind: REPOSITORY.to_owned(), class: None, name: name.to_owned(), actions }
    }

    /// Returns the grant of the list of all repositories.
    pub(crate) fn catalog() -> Self {
        let (kind, name) = (REGISTRY.to_owned(), CATALOG.to_owned());
        Self { kind, class: None, name, actions: vec![ANY.to_owned()] }
    }

    /// Returns true if it is about repositories.
    pub(crate) fn is_of_repository(&self) -> bool {
        self.kind == REPOSITORY
    }

    /// Returns true if it grants the list of all repositories.
    pub(crate) fn is_catalog(&self) -> bool {
        self.kind == REGISTRY && self.name == CATALOG && self.has(ANY)
    }

    /// Returns true if it contains the action.
    pub(crate) fn contains(&self, action: Action) -> bool {
        self.has(action.as_str()) || self.has(ANY)
    }

    fn has(&self, action: &str) -> bool {
        self.actions.iter().any(|own| own == action)
    }
}

/// Writes the grant as the scope that asks for it.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}

/// The type of scopes and grants of repositories.
pub(crate) const REPOSITORY: &str = "repository";
/// The type and the name of the scope of the list of all repositories.
pub(crate) const REGISTRY: &str = "registry";
pub(crate) const CATALOG: &str = "catalog";
/// Every action.
pub(crate) const ANY: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_written_as_the_token_documents_have_it() {
        let grant = Grant::repository("a/b", [Action::Pull, Action::Push]);
        let json = serde_json::to_string(&[grant.clone(), Grant::catalog()]).unwrap();
        let expected = concat!(
            r#"[{"type":"repository","name":"a/b","actions":["pull","push"]},"#,
            r#"{"type":"registry","name":"catalog","actions":["*"]}]"#
        );
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Vec<Grant>>(expected).unwrap()[0], grant);
        assert!(grant.contains(Action::Pull) && !grant.contains(Action::Delete) && !grant.is_catalog());
        assert!(Grant::catalog().is_catalog() && !Grant::catalog().is_of_repository());
    }
}
