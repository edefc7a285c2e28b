//! Clients that an upstream knows: their names and passwords are for it to judge.

use std::sync::Arc;

use http::HeaderMap;

use crate::authn::{Failure, Judgement};
use crate::authz::Denied;
use crate::gateway::IncomingRequest;
use crate::gateway::respond::Problem;
use crate::gateway::route::Route;
use crate::proto::Operation;
use crate::proto::identity::{Forwarded, Identity};
use crate::upstream::Error;

impl IncomingRequest<'_> {
    /// The identity of a client, when the upstream that judges knows it by this name and password.
    pub(crate) async fn log_in(
        &self,
        judge: &Route,
        client: Arc<Forwarded>,
        operation: Option<&Operation>,
    ) -> Result<Identity, Problem> {
        let core = self.core;
        let ask = || {
            let (upstream, client) = (judge.upstream.clone(), client.clone());
            let mut headers = HeaderMap::new();
            core.lasting.via.mark(&self.parts.headers, &mut headers);
            async move { upstream.login(client, headers).await }
        };
        let floor = core.settings.authenticator.floor();
        let failure = match core.lasting.logins.verify(&client, self.client, floor, ask).await {
            Judgement::Right => return Ok(Identity::Forwarded(client)),
            Judgement::Unasked(error) => return Err(unasked(judge, &error)),
            Judgement::Wrong => Failure::Invalid,
            Judgement::Throttled { retry_after } => Failure::Throttled { retry_after },
        };
        Err(Problem::authentication(failure, operation))
    }
}

/// The client's password may be right: it is not asked for another.
fn unasked(judge: &Route, error: &Error) -> Problem {
    Problem::upstream(&judge.name, judge.upstream.no_answer(None, error), &Operation::Version)
}

/// Whom one upstream knows is nobody at another.
pub(crate) fn may_enter(identity: &Identity, route: &Route) -> bool {
    match identity {
        Identity::Forwarded(client) => client.upstream() == &*route.name,
        Identity::Anonymous | Identity::User(_) => true,
    }
}

/// What is missing to a client of another upstream.
pub(crate) fn stranger(operation: &Operation) -> Denied {
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

    /// Upstreams that forward and others, each with what is written of it.
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
        routes.judge(host).map(|route| &*route.name)
    }

    #[test]
    fn the_only_upstream_judges_or_the_one_that_the_host_is_of() {
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
    fn whom_one_upstream_knows_is_nobody_at_another() {
        let routes = routes(&[("one", ""), ("two", "")]);
        let client = Forwarded::new("one", "alice".to_owned(), Secret::new("pw"));
        let client = Identity::Forwarded(Arc::new(client));
        let entered = |identity: &Identity| {
            let entered = routes.iter().filter(|route| may_enter(identity, route));
            entered.map(|route| route.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(entered(&client), ["one"]);
        let user = Identity::User(UserName::parse("alice").unwrap());
        assert_eq!((entered(&user).len(), entered(&Identity::Anonymous).len()), (2, 2));
    }
}
