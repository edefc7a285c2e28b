//! `[upstream.credentials]`: the gateway's logins at an upstream.

use std::path::PathBuf;

use crate::config::group::Group;
use crate::config::group_list::groups_of;
use crate::config::pattern::UserPattern;
use crate::config::reader::{Item, Reader};
use crate::config::reference::Reference;
use crate::config::schema::{Key, Kind, key};
use crate::config::value_error::ValueError;
use crate::proto::Secret;

/// The credentials for an upstream. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The source for every client that no entry of `users` matches.
    pub source: CredentialSource,
    /// Other identities for some clients; the first that matches decides.
    pub users: Vec<UserCredentials>,
}

/// The source of credentials for an upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CredentialSource {
    /// Nowhere: it is asked anonymously.
    #[default]
    Anonymous,
    /// The configuration.
    Login(Login),
    /// The program `docker-credential-NAME`. Holds NAME.
    Helper(String),
    /// A docker `config.json`.
    DockerConfig(PathBuf),
    /// Each client's own name and password.
    Forward,
}

/// A name and its password.
#[derive(Debug, Clone)]
pub struct Login {
    /// The name. Without `:` (RFC 7617 section 2).
    pub username: String,
    /// The password or token that goes with it.
    pub password: Secret,
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        self.username == other.username && self.password.ct_eq(&other.password)
    }
}

impl Eq for Login {}

/// `[[upstream.credentials.users]]`: another identity at the upstream for some clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserCredentials {
    /// The clients that it serves, by name.
    pub users: Vec<UserPattern>,
    /// And by group.
    pub groups: Vec<Group>,
    /// The login of their requests at the upstream.
    pub login: Login,
}

pub(super) const KEYS: &[Key] = &[
    key("username", Kind::Text),
    key("password", Kind::Text),
    key("helper", Kind::Text),
    key("docker_config", Kind::Text),
    key("forward", Kind::Flag),
    key("users", Kind::Tables(USER_KEYS)),
];

const USER_KEYS: &[Key] = &[
    key("users", Kind::Texts),
    key("username", Kind::Text),
    key("password", Kind::Text),
    key("groups", Kind::Texts),
];

/// Reads the credentials of an upstream's table.
pub(super) fn read(upstream: &Reader<'_>) -> Credentials {
    let Some(table) = upstream.optional("credentials") else { return Credentials::default() };
    let sources = sources(&table);
    refuse_emptiness(&table, &sources);
    refuse_two(&table, &sources);
    Credentials { source: source(&table, sources.first()).unwrap_or_default(), users: users(&table) }
}

/// Returns the credentials of the first upstream that judges the clients' own passwords.
pub(super) fn forward<'a>(root: &Reader<'a>) -> Option<Reader<'a>> {
    root.tables("upstream").iter().filter_map(|table| table.optional("credentials")).find(forwards)
}

/// Returns the key that lets users log in, if one is set.
pub(super) fn login_key(root: &Reader<'_>) -> Option<&'static str> {
    let htpasswd = root.section("auth").has("htpasswd").then_some("auth.htpasswd");
    let auth = root.section("auth");
    let others =
        [("token", "auth.token"), ("oidc", "auth.oidc"), ("client_certificate", "auth.client_certificate")];
    let others = || others.into_iter().find(|(key, _)| auth.has(key)).map(|(_, whole)| whole);
    htpasswd.or_else(|| forward(root).map(|_| "upstream.credentials.forward")).or_else(others)
}

/// Reports upstreams among several that forward and that no host says a password is for.
pub(super) fn check_forward(upstreams: &[Reader<'_>]) {
    let several = upstreams.iter().filter(|_| upstreams.len() > 1);
    for upstream in several.filter(|table| table.texts("hosts").is_empty() && !table.is_broken("hosts")) {
        let Some(credentials) = upstream.optional("credentials").filter(forwards) else { continue };
        let advice = upstream.advice("hosts = [\"hub.example.com\"]");
        let why = "which upstream a client's password is for must be plain where there are several";
        credentials.wrong("forward", format!("{why}; {advice}"));
    }
}

fn forwards(credentials: &Reader<'_>) -> bool {
    credentials.flag("forward", false)
}

/// Returns the keys that name a source, each source by its first.
fn sources(table: &Reader<'_>) -> Vec<&'static str> {
    let login = ["username", "password"].into_iter().find(|name| table.has(name));
    let others = ["helper", "docker_config"].into_iter().filter(|name| table.has(name));
    let forward = forwards(table).then_some("forward");
    login.into_iter().chain(others).chain(forward).collect()
}

fn refuse_emptiness(table: &Reader<'_>, sources: &[&str]) {
    let broken = KEYS.iter().any(|key| table.is_broken(key.name));
    if sources.is_empty() && table.tables("users").is_empty() && !broken {
        table.wrong_itself(
            "this names no credentials; write `username` and `password`, `helper`, `docker_config` or \
             `forward = true` in it, or remove it",
        );
    }
}

fn refuse_two(table: &Reader<'_>, sources: &[&str]) {
    let Some((first, others)) = sources.split_first() else { return };
    for other in others {
        let text =
            format!("{other:?} beside {first:?} is a second source of credentials; remove one of them");
        table.wrong(other, text);
    }
    if sources.contains(&"forward") && !table.tables("users").is_empty() {
        table.wrong("users", "beside \"forward\" every client goes as itself already; remove one of them");
    }
}

fn source(table: &Reader<'_>, key: Option<&&str>) -> Option<CredentialSource> {
    match key.copied()? {
        "helper" => table.parsed("helper", helper).map(CredentialSource::Helper),
        "docker_config" => docker_config(table).map(CredentialSource::DockerConfig),
        "forward" => Some(CredentialSource::Forward),
        _ => login(table).map(CredentialSource::Login),
    }
}

/// Checks a helper's name, which becomes part of a program's that is looked for on PATH.
fn helper(written: &str) -> Result<String, ValueError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if written.is_empty() || !written.bytes().all(plain) {
        return Err(ValueError::value(
            "is no helper's name; of the program docker-credential-ecr-login write \"ecr-login\"",
        ));
    }
    Ok(written.to_owned())
}

fn docker_config(table: &Reader<'_>) -> Option<PathBuf> {
    let Some(item) = table.text("docker_config") else {
        if !table.is_broken("docker_config") {
            table.wrong("docker_config", "this names no file; write for example \"~/.docker/config.json\"");
        }
        return None;
    };
    let file = item.located_from_home()?;
    let path = file.path.clone();
    table.context.refer(Reference::DockerConfig(file));
    Some(path)
}

fn users(table: &Reader<'_>) -> Vec<UserCredentials> {
    table.tables("users").iter().filter_map(user).collect()
}

fn user(table: &Reader<'_>) -> Option<UserCredentials> {
    let groups = groups_of(table);
    let users = match table.texts("groups").is_empty() || table.has("users") {
        false => Some(Vec::new()),
        true => table.all("users", "an entry", "users = [\"alice\"]", UserPattern::parse),
    };
    let login = login(table);
    Some(UserCredentials { users: users?, groups: groups?, login: login? })
}

/// Returns a name and its password, if both are there and can be sent.
fn login(table: &Reader<'_>) -> Option<Login> {
    let username = needed(table, "username", "robot").and_then(|item| item.parsed(username));
    let password = needed(table, "password", "${file:/run/secrets/password}");
    Some(Login { username: username?, password: Secret::new(password?.value()) })
}

fn needed<'a>(table: &Reader<'a>, name: &str, example: &str) -> Option<Item<'a>> {
    let item = table.text(name);
    if item.is_none() && !table.is_broken(name) {
        let text = match table.has(name) {
            true => format!("this is empty; write for example \"{example}\""),
            false => format!(
                "a name and a password belong together; {}",
                table.advice(&format!("{name} = \"{example}\""))
            ),
        };
        table.wrong(name, text);
    }
    item
}

/// Checks that Basic can carry a name (RFC 7617 section 2). The error hides it: a password may have been written here,
/// or behind a colon.
pub(super) fn username(written: &str) -> Result<String, ValueError> {
    if written.contains(':') {
        return Err(ValueError::hidden("a user name with \":\" in it cannot be sent; write it without"));
    }
    Ok(written.to_owned())
}
