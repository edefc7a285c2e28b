//! Clients whose names and passwords an upstream judges.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use crate::authn::{Failure, Judgement, Undecided};
use crate::authz::{Denied, Subject};
use crate::budget::Client;
use crate::gateway::core::Core;
use crate::gateway::respond::Problem;
use crate::gateway::route::Route;
use crate::proto::identity::{Forwarded, Identity};
use crate::proto::{Action, Operation};
use crate::upstream;
use crate::upstream::LoginAnswer;

/// Returns the identity of a client if the upstream of `judge` takes its name and password. `headers` are the client's.
pub(super) async fn log_in(
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
        Identity::Anonymous | Identity::User(_) => true,
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
    Denied { repository: operation.repository().cloned(), action: operation.action() }
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
