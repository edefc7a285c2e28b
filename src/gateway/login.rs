//! Authentication of requests: by password, by token, by the judgement of an upstream.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, header};

use crate::authn::{
    AccessTokens, Failure, Judgement, Proof, Provider, Refusal, TokenRefusal, Undecided, Workload,
};
use crate::authz::{Denied, Limits, Side, Subject};
use crate::budget::Client;
use crate::clock;
use crate::gateway::core::Core;
use crate::gateway::host::RequestHost;
use crate::gateway::respond::Problem;
use crate::gateway::route::Route;
use crate::gateway::upload_handle;
use crate::proto::identity::{Forwarded, Identity, ProvidedName, ROBOT_PREFIX};
use crate::proto::{Action, Authorization, BearerError, Fingerprint, Operation, Secret};
use crate::upstream;
use crate::upstream::LoginAnswer;
use crate::x509::{ClientCertificate, NameKind};

/// The sender of a request, before it has been authenticated.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    /// The host that the request is for.
    pub(super) host: &'a RequestHost,
    /// The address that it comes from.
    pub(super) address: IpAddr,
    /// The headers.
    pub(super) headers: &'a HeaderMap,
    /// The certificate that its connection has shown.
    pub(super) certificate: Option<&'a ClientCertificate>,
}

/// A requester that has been authenticated.
pub(super) struct Requester {
    /// Its identity.
    pub(super) identity: Identity,
    /// The proof that its token of this gateway is, if it has one.
    pub(super) proof: Option<Arc<Proof>>,
    /// The groups that the provider of its identity says it is in.
    pub(super) groups: Vec<Box<str>>,
    /// When its credential dies, in seconds since 1970, where it says so.
    pub(super) until: Option<u64>,
    /// The fingerprint of what the login of a workload or a certificate rests upon.
    pub(super) rests_upon: Option<Fingerprint>,
}

impl Requester {
    /// Returns the requester as rules see it, with what its access token grants.
    pub(super) fn subject(self, address: IpAddr) -> Subject {
        let subject = Subject { groups: self.groups, ..Subject::at(self.identity, address) };
        let Some(proof) = self.proof else { return subject };
        let limits = proof.limits.as_deref().map(|limits| Arc::new(Limits::of(limits)));
        Subject { access: proof.access.clone(), limits, ..subject }
    }

    fn by_proof(proof: Arc<Proof>) -> Self {
        let (identity, groups) = (proof.identity.clone(), proof.groups.clone());
        Self { proof: Some(proof), groups, ..Self::from(identity) }
    }

    fn by_workload(workload: &Workload) -> Self {
        let (identity, groups) = (Identity::Workload(workload.name.clone()), workload.groups.clone());
        let (until, rests_upon) = (Some(workload.expires), Some(workload.settings));
        Self { groups, until, rests_upon, ..Self::from(identity) }
    }
}

impl From<Identity> for Requester {
    fn from(identity: Identity) -> Self {
        Self { identity, proof: None, groups: Vec::new(), until: None, rests_upon: None }
    }
}

/// Returns the value of the `Authorization` field, of which there must be one at most.
pub(super) fn authorization(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next().map(HeaderValue::as_bytes);
    if fields.next().is_some() { Err(Problem::Malformed("two Authorization fields")) } else { Ok(field) }
}

/// Authenticates the sender of a request by the value of its `Authorization` field.
pub(super) async fn authenticate(
    core: &Core,
    sender: Sender<'_>,
    field: Option<&[u8]>,
    operation: Option<&Operation>,
) -> Result<Requester, Problem> {
    let authenticator = &core.settings.authenticator;
    // The form of the credentials decides which provider judges them, before anything is checked.
    let (tokens, workloads) = (&core.settings.tokens, &core.settings.workloads);
    if let Some(value) = field.filter(|_| tokens.is_some() || !workloads.is_empty()) {
        match (Authorization::parse(value), tokens) {
            (Ok(Authorization::Bearer(token)), _) => return by_bearer(core, &token, operation).await,
            (Ok(Authorization::Basic { password, .. }), Some(tokens))
                if password.expose().starts_with(ROBOT_PREFIX) =>
            {
                return Box::pin(by_robot(core, tokens, &password, operation)).await;
            }
            (Ok(Authorization::Basic { user, password }), _) => {
                if let Some(provider) = workloads.named(&user) {
                    return Box::pin(by_platforms_name(core, provider, &password, operation)).await;
                }
            }
            _ => {}
        }
    }
    if let (None, Some(certificate)) = (field, sender.certificate)
        && let Some(kind) = core.settings.certificate_names
    {
        let requester = by_certificate(certificate, kind, operation)?;
        return Ok(Requester { rests_upon: core.settings.client_authorities, ..requester });
    }
    if let Some(judge) = core.routes.judge(&sender.host.name, sender.host.port)
        && let Some(client) = authenticator.for_upstream(field, &judge.name)
    {
        let login = log_in(core, judge, client, sender.address, sender.headers, operation);
        return Box::pin(login).await.map(Requester::from);
    }
    let result = match authenticator.remembered(field) {
        Some(result) => result,
        None => Box::pin(authenticator.authenticate(field, sender.address)).await,
    };
    result.map(Requester::from).map_err(|failure| Problem::authentication(failure, operation))
}

/// Authenticates by a bearer token. One that is refused is answered as late as a wrong password, so that the time does not tell
/// which check failed; but not one that was good once, which clients show every few minutes.
async fn by_bearer(core: &Core, token: &Secret, operation: Option<&Operation>) -> Result<Requester, Problem> {
    let arrived = clock::now();
    let judged = judge_bearer(core, token, operation).await;
    if let Err(Problem::Unauthorized(refused)) = &judged
        && !refused.expired
    {
        Box::pin(wait_for_floor(core, arrived)).await;
    }
    judged
}

/// Authenticates by a platform's token, which is shown as a password. A wrong one is answered as late as a wrong password.
async fn by_platforms_name(
    core: &Core,
    provider: &Provider,
    password: &Secret,
    operation: Option<&Operation>,
) -> Result<Requester, Problem> {
    let arrived = clock::now();
    let judged = by_workload(core, provider, password, operation, None).await;
    if let Err(Problem::Unauthorized(_)) = &judged {
        wait_for_floor(core, arrived).await;
    }
    judged
}

/// Waits until the refusal of a login that arrived at `arrived` may be answered.
pub(super) async fn wait_for_floor(core: &Core, arrived: Instant) {
    tokio::time::sleep_until((arrived + core.settings.authenticator.floor()).into()).await;
}

/// Judges a bearer token: this gateway's own, or a platform's.
async fn judge_bearer(
    core: &Core,
    token: &Secret,
    operation: Option<&Operation>,
) -> Result<Requester, Problem> {
    let own = core.settings.tokens.as_ref().map(|tokens| by_token(core, tokens, token, operation));
    match own {
        Some(Ok(requester)) => return Ok(requester),
        Some(Err(problem)) if core.settings.workloads.is_empty() => return Err(problem),
        _ => {}
    }
    let error = Some(BearerError::InvalidToken);
    match (core.settings.workloads.issuer_of(token), own) {
        (Some(provider), _) => Box::pin(by_workload(core, provider, token, operation, error)).await,
        (None, Some(refused)) => refused,
        (None, None) => Err(Problem::unauthorized(operation, error)),
    }
}

/// Authenticates by the token of a workload's platform. One that died on the way is still good for an upload that its holder
/// began.
async fn by_workload(
    core: &Core,
    provider: &Provider,
    token: &Secret,
    operation: Option<&Operation>,
    error: Option<BearerError>,
) -> Result<Requester, Problem> {
    match provider.verify(token).await {
        Ok(workload) => Ok(Requester::by_workload(&workload)),
        Err(TokenRefusal::Expired(Some(workload)))
            if goes_on(core, operation, &Identity::Workload(workload.name.clone())) =>
        {
            Ok(Requester::by_workload(&workload))
        }
        Err(TokenRefusal::NoKeys(why)) => {
            Err(Problem::IssuerSilent { provider: provider.name().to_owned(), why })
        }
        Err(refusal) => {
            let expired = matches!(refusal, TokenRefusal::Expired(_));
            let reason = format!("a token for {}: {refusal}", provider.name());
            Err(Problem::refused_token(operation, error, reason, expired))
        }
    }
}

/// Authenticates by the certificate that the connection has shown.
fn by_certificate(
    certificate: &ClientCertificate,
    kind: NameKind,
    operation: Option<&Operation>,
) -> Result<Requester, Problem> {
    let refused = |reason: &str| Problem::refused_token(operation, None, reason.to_owned(), false);
    if certificate.is_withdrawn() {
        return Err(refused("the authority of the client's certificate is not trusted any more"));
    }
    if !certificate.is_valid(clock::wall()) {
        return Err(refused("the client's certificate is not valid any more"));
    }
    let name = certificate.name(kind).and_then(|name| ProvidedName::new(&format!("{}:{name}", kind.word())));
    let name = name.ok_or_else(|| {
        refused(
            "the client's certificate has not one name of the kind that auth.client_certificate.user says",
        )
    })?;
    let until = Some(certificate.expires());
    Ok(Requester { until, ..Requester::from(Identity::Certificate(name)) })
}

fn goes_on(core: &Core, operation: Option<&Operation>, identity: &Identity) -> bool {
    operation.is_some_and(|operation| upload_handle::goes_on(&core.shared.sealer, operation, identity))
}

/// Authenticates by an access token. One that died on the way is still good for an upload that its holder began.
fn by_token(
    core: &Core,
    tokens: &AccessTokens,
    token: &Secret,
    operation: Option<&Operation>,
) -> Result<Requester, Problem> {
    match tokens.verify(token, &core.settings.authenticator) {
        Ok(proof) if is_configured(core, &proof) => Ok(Requester::by_proof(proof)),
        Ok(_) => {
            let reason = "its provider is not configured any more, or is configured otherwise".to_owned();
            Err(Problem::refused_token(operation, Some(BearerError::InvalidToken), reason, false))
        }
        Err(Refusal::Expired(Some(proof)))
            if is_configured(core, &proof) && goes_on(core, operation, &proof.identity) =>
        {
            Ok(Requester::by_proof(proof))
        }
        Err(refusal) => {
            let expired = matches!(refusal, Refusal::Expired(_));
            Err(Problem::refused_token(
                operation,
                Some(BearerError::InvalidToken),
                refusal.to_string(),
                expired,
            ))
        }
    }
}

/// Returns true if the provider of a token's identity is configured as it was: a token that it once got ends with it.
fn is_configured(core: &Core, proof: &Proof) -> bool {
    let settings = &core.settings;
    match &proof.identity {
        Identity::Workload(name) => settings.workloads.give(name, proof.rested_upon),
        Identity::Certificate(name) => {
            settings.certificate_names.is_some_and(|kind| kind.word() == name.provider())
                && settings.client_authorities.is_some()
                && settings.client_authorities == proof.rested_upon
        }
        Identity::Anonymous | Identity::User(_) | Identity::Forwarded(_) | Identity::Robot(_) => true,
    }
}

/// Authenticates by a robot's token, which is shown as a password. A wrong one is answered as late as a wrong password.
async fn by_robot(
    core: &Core,
    tokens: &AccessTokens,
    password: &Secret,
    operation: Option<&Operation>,
) -> Result<Requester, Problem> {
    let arrived = clock::now();
    match tokens.verify_robot(password) {
        Ok(proof) => Ok(Requester::by_proof(proof)),
        Err(refusal) => {
            wait_for_floor(core, arrived).await;
            let expired = matches!(refusal, Refusal::Expired(_));
            Err(Problem::refused_token(operation, None, refusal.to_string(), expired))
        }
    }
}

/// Returns the identity of a client if the upstream of `judge` takes its name and password. `headers` are the client's.
async fn log_in(
    core: &Core,
    judge: &Route,
    client: Arc<Forwarded>,
    address: IpAddr,
    headers: &HeaderMap,
    operation: Option<&Operation>,
) -> Result<Identity, Problem> {
    let ask = || {
        let (upstream, client) = (judge.upstream.clone(), client.clone());
        let mut out = HeaderMap::new();
        core.shared.via.mark(headers, &mut out);
        async move { decide(upstream.login(client, out, Client::of(address)).await) }
    };
    let floor = core.settings.authenticator.floor();
    let failure = match core.shared.logins.verify(&client, address, floor, ask).await {
        Judgement::Right => return Ok(Identity::Forwarded(client)),
        // The password may be right: the client is not asked for another.
        Judgement::Undecided(error) => {
            let failure = judge.upstream.no_answer(None, &error);
            return Err(Problem::upstream(&judge.name, failure, &Operation::Version));
        }
        Judgement::Wrong => Failure::Invalid,
        Judgement::Throttled { retry_after } => Failure::Throttled { retry_after },
    };
    Err(Problem::authentication(failure, operation))
}

/// Returns the decision in an upstream's answer to a login, if it holds one.
fn decide(answer: Result<LoginAnswer, upstream::Error>) -> Result<bool, Undecided<upstream::Error>> {
    match answer {
        Ok(LoginAnswer::Accepted) => Ok(true),
        Ok(LoginAnswer::Refused) => Ok(false),
        Ok(LoginAnswer::Unproved(error)) => Err(Undecided::Unproved(error)),
        Err(error) => Err(Undecided::Unasked(error)),
    }
}

/// Returns true if `identity` means something at the upstream called `upstream`: a client that one upstream knows is a stranger at
/// all others.
pub(super) fn may_enter(identity: &Identity, upstream: &str) -> bool {
    match identity {
        Identity::Forwarded(client) => client.upstream() == upstream,
        Identity::Anonymous
        | Identity::User(_)
        | Identity::Robot(_)
        | Identity::Workload(_)
        | Identity::Certificate(_) => true,
    }
}

/// Returns true if the client may do one of `actions` somewhere at the upstream of `route`. Otherwise it must not learn that
/// the upstream is configured.
pub(super) fn may_see(core: &Core, subject: &Subject, route: &Route, actions: &[Action]) -> bool {
    let region = core.routes.region(route);
    may_enter(&subject.identity, &route.name)
        && actions.iter().any(|action| core.rules.may_anywhere(subject, &region, *action))
}

/// The actions that a rule grants at repositories.
pub(super) const ANY_ACTION: &[Action] = &[Action::Pull, Action::Push, Action::Delete];

/// Returns the denial of a client that another upstream knows.
pub(super) fn stranger(operation: &Operation) -> Denied {
    Denied { repository: operation.repository().cloned(), action: operation.action(), by: Side::Rules }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, Environment};
    use crate::gateway::route::Routes;
    use crate::proto::Secret;
    use crate::proto::identity::UserName;
    use crate::upstream::Upstream;

    /// Returns routes to upstreams, each given by its name and further lines of its section.
    fn routes(upstreams: &[(&str, &str)]) -> Routes {
        let access = "[auth]\nchallenge = \"basic\"\n\
             [[access]]\nusers = [\"*\", \"anonymous\"]\nrepositories = [\"**\"]\nactions = [\"*\"]\n";
        let table = |(name, lines): &(&str, &str)| {
            format!("[[upstream]]\nname = \"{name}\"\nurl = \"http://192.0.2.1\"\n{lines}\n")
        };
        let text = [access.to_owned(), upstreams.iter().map(table).collect()].concat();
        let config = Config::from_toml(&text, "d.toml", Path::new("/"), &Environment::default()).unwrap();
        let upstream = |settings| Upstream::new(settings, Duration::from_secs(1), 1).unwrap();
        Routes::new(&config.upstreams.into_iter().map(upstream).collect::<Vec<_>>(), &[])
    }

    fn judge<'a>(routes: &'a Routes, host: &str) -> Option<&'a str> {
        routes.judge(host, 443).map(|route| &*route.name)
    }

    #[test]
    fn the_only_upstream_or_the_hosts_own_judges() {
        let (forwards, plain) = ("credentials.forward = true", "");
        let only = routes(&[("one", forwards)]);
        assert_eq!((judge(&only, "localhost"), judge(&only, "")), (Some("one"), Some("one")));
        assert_eq!(judge(&routes(&[("one", plain)]), "localhost"), None);
        let hosts = |host: &str| format!("{forwards}\nhosts = [\"{host}\"]");
        let three = routes(&[("one", &hosts("one.test")), ("two", &hosts("two.test")), ("three", plain)]);
        assert_eq!((judge(&three, "one.test"), judge(&three, "two.test")), (Some("one"), Some("two")));
        assert_eq!((judge(&three, "three.test"), judge(&three, "localhost")), (None, None));
    }

    #[test]
    fn a_client_of_one_upstream_is_a_stranger_elsewhere() {
        let routes = routes(&[("one", ""), ("two", "")]);
        let client = Forwarded::new("one", "alice".to_owned(), Secret::new("pw"));
        let client = Identity::Forwarded(Arc::new(client));
        let entered = |identity: &Identity| {
            let entered = routes.iter().filter(|route| may_enter(identity, &route.name));
            entered.map(|route| route.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(entered(&client), ["one"]);
        let user = Identity::User(UserName::parse("alice").unwrap());
        assert_eq!((entered(&user).len(), entered(&Identity::Anonymous).len()), (2, 2));
    }
}
