//! `dockgate explain`: tells what the rules decide, and what a request would meet at its upstream.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::authz::{Explanation, Obstacle, Rules, Subject, Verdict, Wish};
use crate::config::{self, AccessRule, Config, ConfigErrors, Environment};
use crate::gateway::{ImageResolver, Location};
use crate::proto::identity::{Forwarded, Identity, ProvidedName, ROBOT, RobotName, UserName, UserNameError};
use crate::proto::{Action, Secret};
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::{RequiredScope, TlsSettingsError, Upstream};

/// Explain what a user may do, by which rule, and as whom the upstream sees it
#[derive(Args, Debug)]
#[command(after_help = "Exit code: 0 allowed, 1 denied, 2 wrong command line or configuration\n\n\
    Examples:\n  dockgate explain --user alice push team/app\n  \
    dockgate explain --user anonymous --from 10.1.2.3 pull docker.io/library/alpine")]
pub(crate) struct ExplainArgs {
    /// The user; "anonymous" is a client without a login, forward/UPSTREAM:NAME one that an upstream knows,
    /// robot:NAME a robot
    #[arg(long, value_name = "NAME")]
    user: String,
    /// A group that an identity provider says the user is in, besides those of [auth.groups]
    #[arg(long, value_name = "G")]
    group: Vec<String>,
    /// The address that the request comes from
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// The configuration; else as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The action; "fetch" is a pull of content that is not in the cache
    #[arg(value_enum)]
    action: ActionArg,
    /// The repository, by its canonical name or as a client names it; none for the catalog
    #[arg(required_if_eq_any([("action", "pull"), ("action", "push"), ("action", "delete"), ("action", "fetch")]))]
    repository: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ActionArg {
    Pull,
    Push,
    Delete,
    Catalog,
    Fetch,
}

/// The reason why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// No user can have that name.
    #[error("--user {name:?}: {why}")]
    User {
        /// The name.
        name: String,
        /// The reason.
        why: UserNameError,
    },
    /// No provider gives such names.
    #[error("--user {name:?}: there is nothing before or behind the \":\"")]
    Provided {
        /// The name.
        name: String,
    },
    /// No upstream serves the repository.
    #[error("{name}: {why}")]
    Repository {
        /// The repository as written.
        name: String,
        /// The reason.
        why: String,
    },
    /// An upstream's TLS settings are wrong.
    #[error("upstream \"{name}\": {why}")]
    Upstream {
        /// Its name.
        name: String,
        /// The reason.
        why: TlsSettingsError,
    },
    /// The output is closed.
    #[error(transparent)]
    Output(#[from] io::Error),
}

impl ExplainError {
    /// Returns 1 where the output is closed, else 2.
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, Self::Output(_)) { 1 } else { 2 }
    }
}

/// Prints the decision and its reasons. Returns true if it is allowed.
///
/// # Errors
/// [`ExplainError`].
pub(crate) fn run(
    args: &ExplainArgs,
    environment: &Environment,
    output: &mut dyn Write,
) -> Result<bool, ExplainError> {
    let config = Config::load(args.config.as_deref(), environment)?;
    let subject = subject(args)?;
    let location = match &args.repository {
        Some(name) if args.action != ActionArg::Catalog => Some(locate(&config, name)?),
        _ => None,
    };
    let repository = location.as_ref().map(|location| &location.canonical);
    let wish = args.action.wish();
    let rules = Rules::new(config.access.clone(), true);
    let explanation = rules.explain(&subject, repository, wish);
    let may_enter = location.as_ref().is_none_or(|location| location.admits(&subject.identity));
    let allowed = explanation.allowed && may_enter;
    let verdict = Verdict { who: subject.identity.name(), allowed, wish, repository };
    writeln!(output, "{}: {verdict}", if allowed { "allowed" } else { "denied" })?;
    if !may_enter {
        line(
            output,
            "rule",
            "none is looked at: a user that one upstream knows is a stranger at all others",
        )?;
    } else {
        tell_rule(output, &explanation)?;
    }
    if let Some(location) = &location {
        tell_upstream(output, location, &subject, args.action)?;
    }
    let pulls = || rules.explain(&subject, repository, Wish::Do(Action::Pull)).allowed && may_enter;
    let note = match args.action {
        ActionArg::Push if allowed && !pulls() => {
            "without \"pull\" only HEAD is allowed there: helm and others read what they have pushed"
        }
        ActionArg::Fetch if !allowed && pulls() => "what is in the cache already may be pulled",
        _ => return Ok(allowed),
    };
    line(output, "note", note)?;
    Ok(allowed)
}

impl ActionArg {
    fn wish(self) -> Wish {
        match self {
            Self::Pull => Wish::Do(Action::Pull),
            Self::Push => Wish::Do(Action::Push),
            Self::Delete => Wish::Do(Action::Delete),
            Self::Catalog => Wish::Do(Action::Catalog),
            Self::Fetch => Wish::Fetch,
        }
    }

    /// Returns the action at the upstream; none for the catalog.
    fn at_upstream(self) -> Action {
        match self {
            Self::Pull | Self::Fetch => Action::Pull,
            Self::Push => Action::Push,
            Self::Delete => Action::Delete,
            Self::Catalog => Action::Catalog,
        }
    }
}

fn subject(args: &ExplainArgs) -> Result<Subject, ExplainError> {
    let forwarded = args.user.strip_prefix("forward/").and_then(|rest| rest.split_once(':'));
    let identity = match (args.user.as_str(), forwarded) {
        ("anonymous", _) => Identity::Anonymous,
        (_, Some((upstream, name))) => {
            Identity::Forwarded(Forwarded::new(upstream, name.to_owned(), Secret::new("")).into())
        }
        (name, None) if name.starts_with(ROBOT) => {
            let robot = RobotName::new(&name[ROBOT.len()..]);
            Identity::Robot(robot.map_err(|why| ExplainError::User { name: name.to_owned(), why })?)
        }
        (name, None) if name.contains(':') => {
            let provided = ProvidedName::new(name);
            Identity::Workload(provided.ok_or_else(|| ExplainError::Provided { name: name.to_owned() })?)
        }
        (name, None) => Identity::User(
            UserName::parse(name).map_err(|why| ExplainError::User { name: name.to_owned(), why })?,
        ),
    };
    let groups = args.group.iter().map(|group| group.as_str().into()).collect();
    Ok(Subject { address: args.from, groups, ..Subject::from(identity) })
}

fn locate(config: &Config, name: &str) -> Result<Location, ExplainError> {
    let make = |settings: &config::Upstream| {
        let failed = |why| ExplainError::Upstream { name: settings.name.clone(), why };
        // No request is sent: how long it may take is no matter.
        Upstream::new(settings.clone(), Duration::from_secs(1), 1).map_err(failed)
    };
    let upstreams = config.upstreams.iter().map(make).collect::<Result<Vec<_>, _>>()?;
    let found = ImageResolver::new(&upstreams, &[]).locate(name);
    found.map_err(|why| ExplainError::Repository { name: name.to_owned(), why })
}

fn tell_rule(output: &mut dyn Write, explanation: &Explanation<'_>) -> io::Result<()> {
    match explanation.rule {
        Some(rule) => line(output, "rule", &format!("{} {}: {rule}", place(rule), effect(rule)))?,
        None => line(output, "rule", "none matches, and what no rule allows is denied")?,
    }
    for (rule, obstacle) in &explanation.near {
        line(output, "otherwise", &format!("{} would allow it {}", place(rule), condition(rule, *obstacle)))?;
    }
    Ok(())
}

fn place(rule: &AccessRule) -> String {
    rule.place
        .as_ref()
        .map_or_else(|| "no [[access]] is written, so that the default".to_owned(), ToString::to_string)
}

fn effect(rule: &AccessRule) -> &'static str {
    if rule.allows() { "allows" } else { "denies" }
}

fn condition(rule: &AccessRule, obstacle: Obstacle) -> String {
    let join = |items: Vec<String>| items.join(", ");
    match obstacle {
        Obstacle::Users => format!("to {}", rule.subjects()),
        Obstacle::Networks => {
            format!("from {}", join(rule.networks.iter().map(ToString::to_string).collect()))
        }
        Obstacle::Repositories => {
            format!("in {}", join(rule.repositories.iter().map(ToString::to_string).collect()))
        }
        Obstacle::Actions => format!("if its actions, now {}, had this one", rule.actions),
        Obstacle::Order => "if it stood before the rule that denies".to_owned(),
    }
}

fn tell_upstream(
    output: &mut dyn Write,
    location: &Location,
    subject: &Subject,
    action: ActionArg,
) -> io::Result<()> {
    let settings = location.upstream.settings();
    line(
        output,
        "upstream",
        &format!("{} ({}), where it is {}", settings.name, settings.url, location.remote),
    )?;
    let there = match location.upstream.credentials().identify(&subject.identity, &subject.groups) {
        UpstreamIdentity::Anonymous => "anonymous".to_owned(),
        UpstreamIdentity::Gateway => "the gateway's own credentials".to_owned(),
        UpstreamIdentity::User(number) => format!("upstream.credentials.users[{number}]"),
        UpstreamIdentity::Client(_) => "the client's own name and password".to_owned(),
    };
    line(output, "identity", &there)?;
    let scope = RequiredScope::Repository(location.remote.clone(), action.at_upstream());
    line(output, "scope", &scope.as_text())
}

fn line(output: &mut dyn Write, what: &str, text: &str) -> io::Result<()> {
    writeln!(output, "  {what:<10} {text}")
}

#[cfg(test)]
mod tests;
