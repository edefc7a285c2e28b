//! The token service: `/token` and `/.well-known/jwks.json` (token auth, token.md and oauth.md).
//!
//! A token names its holder and the actions that it grants, by canonical names. Of the scopes that were asked for it grants what
//! the rules allow; the rules are asked again with every request that shows the token.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::authn::{AccessTokens, Holder, Issued};
use crate::authz::Subject;
use crate::body::{Body, CollectError, RequestBody};
use crate::budget::Client;
use crate::clock;
use crate::config::limits;
use crate::gateway::core::Core;
use crate::gateway::handle::SealError;
use crate::gateway::login::{Requester, Sender};
use crate::gateway::record::RequestRecord;
use crate::gateway::respond::Problem;
use crate::gateway::route::Addressing;
use crate::gateway::{login, login_count};
use crate::proto::claims::{ANY, CATALOG, REGISTRY, REPOSITORY};
use crate::proto::identity::Identity;
use crate::proto::token_request::{TokenForm, TokenRequest};
use crate::proto::{
    Action, Authority, Authorization, Fingerprint, Grant, RepositoryName, ResourceScope, Scope, ScopeSet,
    TargetError,
};
use crate::telemetry::metrics::LoginMethod;

/// A resource of the token service.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TokenEndpoint {
    /// The tokens. Names in scopes are below the prefix, as they are in requests to `/PREFIX/v2/`.
    Tokens(Option<RepositoryName>),
    /// The public keys.
    Keys,
}

impl TokenEndpoint {
    /// Reads a path: `/token`, `/PREFIX/token` or that of the keys.
    pub(super) fn parse(path: &str) -> Option<Self> {
        match path {
            "/token" => return Some(Self::Tokens(None)),
            "/.well-known/jwks.json" => return Some(Self::Keys),
            _ => {}
        }
        let prefix = RepositoryName::parse(path.strip_prefix('/')?.strip_suffix("/token")?).ok()?;
        // `/hub/v2/a/manifests/token` is a tag.
        let is_registry = prefix.components().any(|component| component == "v2");
        (!is_registry).then_some(Self::Tokens(Some(prefix)))
    }
}

/// A request to the token service.
pub(super) struct Request<'a> {
    pub(super) core: &'a Core,
    pub(super) tokens: &'a AccessTokens,
    pub(super) sender: Sender<'a>,
    pub(super) parts: &'a Parts,
}

/// A login that gets a token.
struct TokenLogin {
    requester: Requester,
    /// The fingerprint of what it rests upon: the user's line in the htpasswd file, the settings of its provider.
    rests_upon: Option<Fingerprint>,
}

impl Request<'_> {
    /// Answers it.
    pub(super) async fn answer(
        &self,
        endpoint: &TokenEndpoint,
        body: &mut RequestBody,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Problem> {
        match (endpoint, &self.parts.method) {
            (TokenEndpoint::Keys, &Method::GET | &Method::HEAD) => {
                record.set_label("token_keys");
                Ok(json_response(&self.tokens.jwks(), "public, max-age=60"))
            }
            (TokenEndpoint::Keys, _) => Err(not_allowed("GET, HEAD")),
            (TokenEndpoint::Tokens(prefix), &Method::GET) => {
                record.set_label("token");
                self.by_get(prefix.as_ref(), record).await
            }
            (TokenEndpoint::Tokens(prefix), &Method::POST) => {
                record.set_label("token");
                self.by_post(prefix.as_ref(), body, record).await
            }
            (TokenEndpoint::Tokens(_), _) => Err(not_allowed("GET, POST")),
        }
    }

    async fn by_get(
        &self,
        prefix: Option<&RepositoryName>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Problem> {
        let field = login::authorization(self.sender.headers)?;
        let login = self.authenticate(field).await;
        let login = login.inspect_err(|problem| {
            record.set_failed_login(self.sender.headers);
            login_count::count_refused(record, login_count::method_of(field), problem);
        })?;
        self.admit(&login.requester, record)?;
        let asked =
            TokenRequest::parse(self.parts.uri.query().unwrap_or_default()).map_err(Problem::Target)?;
        let (answer, _) = self.issue(login, prefix, &asked.scopes, record)?;
        Ok(json_response(&answer, NOT_STORED))
    }

    async fn by_post(
        &self,
        prefix: Option<&RepositoryName>,
        body: &mut RequestBody,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Problem> {
        let form = self.form(body).await?;
        let form = std::str::from_utf8(&form).ok().and_then(|form| TokenForm::parse(form).ok());
        let (username, password, asked) = match form {
            Some(TokenForm::Password { username, password, request }) => (username, password, request),
            // On this status alone every client goes on by GET.
            Some(TokenForm::Other) => return Err(Problem::Target(TargetError::NotFound)),
            None => return Err(Problem::Malformed("the form is malformed")),
        };
        if login::authorization(self.sender.headers)?.is_some() {
            return Err(Problem::Malformed("credentials both in the form and in Authorization"));
        }
        let login = if username.contains(':') {
            login::wait_for_floor(self.core, clock::now()).await;
            Err(Problem::unauthorized(None, None))
        } else {
            let field = Authorization::Basic { user: username.clone(), password }.render();
            self.authenticate(field.as_ref().map(|field| field.expose().as_bytes())).await
        };
        let login = login.inspect_err(|problem| {
            record.set_failed_name(&username);
            login_count::count_refused(record, LoginMethod::Password, problem);
        })?;
        self.admit(&login.requester, record)?;
        let (mut answer, granted) = self.issue(login, prefix, &asked.scopes, record)?;
        answer["scope"] = granted.into();
        Ok(json_response(&answer, NOT_STORED))
    }

    async fn form(&self, body: &mut RequestBody) -> Result<Bytes, Problem> {
        let client = Client::of(self.sender.address);
        let lease = self.core.shared.held_bytes.take(client, limits::UNCOUNTED_BYTES).await;
        let mut lease = lease.map_err(Problem::Spent)?;
        let collected = body.collect(limits::TOKEN_FORM_BYTES, &mut lease);
        let collected = tokio::time::timeout(limits::TOKEN_FORM_DEADLINE, collected).await;
        collected.map_err(|_| Problem::ClientGone)?.map_err(|error| match error {
            CollectError::Broken(_) => Problem::ClientGone,
            CollectError::TooLong => Problem::Malformed("the form is too long"),
            CollectError::Spent(spent) => Problem::Spent(spent),
        })
    }

    /// Authenticates by a password. A token gets no other token.
    async fn authenticate(&self, field: Option<&[u8]>) -> Result<TokenLogin, Problem> {
        // Read before the password is checked: if it changes meanwhile, the token dies with the old one.
        let line = match field.map(Authorization::parse) {
            Some(Ok(Authorization::Bearer(_))) => return Err(Problem::unauthorized(None, None)),
            Some(Ok(Authorization::Basic { user, .. })) => {
                self.core.settings.authenticator.fingerprint(&user)
            }
            _ => None,
        };
        let requester = login::authenticate(self.core, self.sender, field, None).await?;
        // The user was written into the file in between, and is known the next time.
        if matches!(requester.identity, Identity::User(_)) && line.is_none() {
            return Err(Problem::unauthorized(None, None));
        }
        let rests_upon = requester.rests_upon.or(line);
        Ok(TokenLogin { requester, rests_upon })
    }

    /// Refuses a requester that can have no token.
    fn admit(&self, requester: &Requester, record: &mut RequestRecord) -> Result<(), Problem> {
        login_count::count_accepted(record, requester);
        record.set_identity(&requester.identity);
        match &requester.identity {
            Identity::Anonymous if !self.core.rules.know_anonymous() => {
                Err(Problem::unauthorized(None, None))
            }
            // Its upstream needs its password with every request.
            Identity::Forwarded(_) => Err(Problem::Target(TargetError::NotFound)),
            _ => Ok(()),
        }
    }

    /// Issues a token for the scopes that are granted. Returns the answer, and these scopes in the client's names.
    fn issue(
        &self,
        TokenLogin { requester, rests_upon }: TokenLogin,
        prefix: Option<&RepositoryName>,
        asked: &ScopeSet,
        record: &mut RequestRecord,
    ) -> Result<(Value, String), Problem> {
        let (identity, robot) = (requester.identity.clone(), requester.proof.clone());
        let (groups, until) = (requester.groups.clone(), requester.until);
        let subject = requester.subject(self.sender.address);
        let (mut access, mut granted) = (Vec::new(), ScopeSet::default());
        for scope in asked.iter() {
            let Scope::Resource(scope) = scope else { continue };
            if let Some(grant) = self.grant(&subject, prefix, &scope) {
                let actions = grant.actions.iter().cloned().collect();
                granted.insert(Scope::Resource(ResourceScope { actions, ..scope }));
                access.push(grant);
            }
        }
        let holder =
            Holder { identity: &identity, rests_upon, robot: robot.as_deref(), groups: &groups, until };
        let issued = self.tokens.issue(&holder, access);
        let (issued, granted) = (issued.ok_or(Problem::Seal(SealError))?, granted.to_string());
        record.set_minted(&issued.id, &granted);
        Ok((answer(&issued)?, granted))
    }

    /// Returns the grant of one scope, as far as the rules allow it. A scope that names nothing here is granted nothing:
    /// clients ask for repositories of other registries, too.
    fn grant(
        &self,
        subject: &Subject,
        prefix: Option<&RepositoryName>,
        scope: &ResourceScope,
    ) -> Option<Grant> {
        let (core, asks) = (self.core, |action: &str| scope.actions.contains(action));
        if scope.kind == REGISTRY && scope.name == CATALOG && asks(ANY) {
            return core.rules.grant(subject, None, Action::Catalog).then(Grant::catalog);
        }
        let name = if scope.kind == REPOSITORY { self.repository(&scope.name) } else { None };
        let host = self.sender.host;
        let addressing = Addressing { host: &host.name, port: host.port, prefix, ns: None };
        let found = core.routes.find(addressing, &name?, |_| false).ok()?;
        let may = |action: &Action| {
            (asks(action.as_str()) || asks(ANY)) && core.rules.grant(subject, Some(&found.canonical), *action)
        };
        let actions: Vec<_> = [Action::Pull, Action::Push, Action::Delete].into_iter().filter(may).collect();
        let grant =
            Grant { class: scope.class.clone(), ..Grant::repository(found.canonical.as_str(), actions) };
        (!grant.actions.is_empty()).then_some(grant)
    }

    /// Returns the repository of a scope's name, which may begin with this gateway's own host and port.
    fn repository(&self, name: &str) -> Option<RepositoryName> {
        let Some((host, rest)) = name.split_once('/').filter(|(host, _)| host.contains(':')) else {
            return RepositoryName::parse(name).ok();
        };
        let written = Authority::parse(host).ok()?;
        let own = self.sender.host;
        let is_own = written.host == own.name && written.port == Some(own.port);
        let external = self.core.settings.external_url.as_deref();
        let is_external =
            external.and_then(|url| url.split_once("://")).is_some_and(|(_, known)| known == host);
        if is_own || is_external { RepositoryName::parse(rest).ok() } else { None }
    }
}

/// Returns the answer with a token. Clients read `token` or `access_token`.
fn answer(issued: &Issued) -> Result<Value, Problem> {
    let seconds = i64::try_from(issued.issued_at).ok();
    let issued_at = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    let issued_at = issued_at.ok_or(Problem::Seal(SealError))?;
    Ok(json!({
        "token": issued.token.expose(),
        "access_token": issued.token.expose(),
        "expires_in": issued.expires_in,
        "issued_at": issued_at.to_string(),
    }))
}

fn json_response(value: &Value, cache_control: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(value.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache_control));
    response
}

fn not_allowed(allow: &'static str) -> Problem {
    Problem::Target(TargetError::MethodNotAllowed { allow })
}

const NOT_STORED: &str = "no-store";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_the_token_service_are_no_others() {
        assert_eq!(TokenEndpoint::parse("/token"), Some(TokenEndpoint::Tokens(None)));
        assert_eq!(TokenEndpoint::parse("/.well-known/jwks.json"), Some(TokenEndpoint::Keys));
        let below = |prefix: &str| Some(TokenEndpoint::Tokens(Some(RepositoryName::parse(prefix).unwrap())));
        assert_eq!(TokenEndpoint::parse("/hub/token"), below("hub"));
        assert_eq!(TokenEndpoint::parse("/a/b/token"), below("a/b"));
        for path in [
            "",
            "/",
            "/token/",
            "//token",
            "/v2/token",
            "/v2/a/manifests/token",
            "/hub/v2/a/manifests/token",
            "/Hub/token",
            "/../token",
            "/tokens",
        ] {
            assert_eq!(TokenEndpoint::parse(path), None, "{path}");
        }
    }
}
