//! A case as it is written: rules, a subject, a question, an answer. Nothing of it is interpreted here.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::authz::{Limits, Rules, Side, Subject};
use crate::config::{Config, ConfigErrors, Environment};
use crate::proto::identity::{Forwarded, Identity, ProvidedName, RobotName, UserName};
use crate::proto::{Digest, Grant, Operation, Page, Reference, RepositoryName, Secret, UploadStart};

/// Rules, and the groups that they name.
#[derive(Clone, Debug, Default)]
pub(super) struct WrittenRules {
    pub(super) groups: Vec<(String, Vec<String>)>,
    pub(super) rules: Vec<WrittenRule>,
}

/// A rule.
#[derive(Clone, Debug)]
pub(super) struct WrittenRule {
    pub(super) allows: bool,
    pub(super) users: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) networks: Vec<String>,
    pub(super) repositories: Vec<String>,
    pub(super) actions: Vec<String>,
}

/// A repository, or a pattern over repositories, and actions.
pub(super) type WrittenGrant = (String, Vec<String>);

/// A subject.
#[derive(Clone, Debug)]
pub(super) struct WrittenSubject {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
    pub(super) address: Option<String>,
    pub(super) token: Option<Vec<WrittenGrant>>,
    pub(super) minted: Option<Vec<WrittenGrant>>,
}

/// A question.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Come,
    Pull(String),
    Head(String),
    Push(String),
    Delete(String),
    Catalog,
    List(String),
    Mount { from: String, into: String },
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Yes,
    /// Cached content may be read, and nothing fetched.
    Held,
    No,
    /// The rules allow it, the token does not.
    Token,
}

impl WrittenRules {
    /// Has them read as a configuration is.
    pub(super) fn read(&self) -> Result<Rules, ConfigErrors> {
        let mut text = "[auth]\nchallenge = 'basic'\nhtpasswd.path = 'h'\n[auth.groups]\n".to_owned();
        for (name, members) in &self.groups {
            let _ = writeln!(text, "{name} = {members:?}");
        }
        for rule in &self.rules {
            let effect = if rule.allows { "allow" } else { "deny" };
            let _ = writeln!(text, "[[access]]\neffect = {effect:?}\nrepositories = {:?}", rule.repositories);
            let _ = writeln!(text, "actions = {:?}", rule.actions);
            let lists = [("users", &rule.users), ("groups", &rule.groups), ("networks", &rule.networks)];
            for (key, values) in lists.into_iter().filter(|(_, values)| !values.is_empty()) {
                let _ = writeln!(text, "{key} = {values:?}");
            }
        }
        text += "[[upstream]]\nname = 'docker.io'\n[upstream.cache]\n";
        let config = Config::from_toml(&text, "d.toml", Path::new("/"), &Environment::default())?;
        Ok(Rules::new(config.access, true))
    }
}

impl WrittenSubject {
    /// Returns the subject as rules see it.
    pub(super) fn subject(&self) -> Subject {
        let grants = |written: &Vec<WrittenGrant>| written.iter().map(grant).collect::<Vec<_>>();
        Subject {
            identity: identity(&self.name),
            address: self.address.as_deref().map(|address| address.parse().unwrap()),
            groups: self.groups.iter().map(|name| name.as_str().into()).collect(),
            access: self.token.as_ref().map(|written| grants(written).into()),
            limits: self.minted.as_ref().map(|written| Arc::new(Limits::of(&grants(written)))),
        }
    }
}

fn identity(name: &str) -> Identity {
    match name.split_once(':') {
        None if name == "anonymous" => Identity::Anonymous,
        None => Identity::User(UserName::parse(name).unwrap()),
        Some(("robot", _)) => Identity::Robot(RobotName::parse(name).unwrap()),
        Some(("dns" | "cn" | "uri", _)) => Identity::Certificate(ProvidedName::new(name).unwrap()),
        Some((provider, rest)) => match provider.strip_prefix("forward/") {
            Some(upstream) => {
                Identity::Forwarded(Forwarded::new(upstream, rest.to_owned(), Secret::new("pw")).into())
            }
            None => Identity::Workload(ProvidedName::new(name).unwrap()),
        },
    }
}

fn grant((name, actions): &WrittenGrant) -> Grant {
    if name == "catalog" {
        return Grant::catalog();
    }
    Grant { actions: actions.clone(), ..Grant::repository(name, []) }
}

impl Asked {
    /// Asks the rules.
    pub(super) fn ask(&self, rules: &Rules, subject: &Subject) -> Decision {
        let permit = match rules.authorize(subject, &self.operation()) {
            Ok(permit) => permit,
            Err(denied) if denied.by == Side::Token && self.may_lack_a_token() => return Decision::Token,
            Err(_) => return Decision::No,
        };
        let allowed = match self {
            Self::List(listed) => rules.may_list(&permit, &name(listed)),
            Self::Mount { from, .. } => rules.may_mount(&permit, &name(from)),
            _ if !permit.may_fetch() => return Decision::Held,
            _ => true,
        };
        if allowed { Decision::Yes } else { Decision::No }
    }

    /// Returns true if a grant that the token lacks has an answer of its own.
    fn may_lack_a_token(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Mount { .. })
    }

    /// Returns the operation that the rules are asked about.
    pub(super) fn operation(&self) -> Operation {
        let reference = || Reference::parse("latest").unwrap();
        match self {
            Self::Come => Operation::Version,
            Self::Pull(repository) => {
                Operation::GetManifest { repository: name(repository), reference: reference(), head: false }
            }
            Self::Head(repository) => {
                let digest = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
                Operation::GetBlob { repository: name(repository), digest, head: true }
            }
            Self::Push(repository) | Self::Mount { into: repository, .. } => {
                Operation::StartUpload { repository: name(repository), start: UploadStart::Session }
            }
            Self::Delete(repository) => {
                Operation::DeleteManifest { repository: name(repository), reference: reference() }
            }
            Self::Catalog | Self::List(_) => Operation::Catalog { page: Page::default() },
        }
    }
}

fn name(written: &str) -> RepositoryName {
    written.parse().unwrap()
}
