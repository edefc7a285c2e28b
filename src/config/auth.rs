//! `[auth]`: how people log in.

use std::path::PathBuf;

use crate::config::access::Rules;
use crate::config::credentials;
use crate::config::reader::Reader;
use crate::config::reference::Reference;
use crate::config::schema::{Key, Kind, NO_ITEMS, key};
use crate::config::value_error::ValueError;

/// The ways to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The gateway's name in the challenge; printable ASCII.
    pub realm: String,
    /// The file of names and bcrypt hashes. `None`: no user can log in, unless an upstream judges
    /// passwords ([`CredentialSource::Forward`](super::CredentialSource::Forward)).
    pub htpasswd: Option<PathBuf>,
}

pub(super) const KEYS: &[Key] = &[
    key("realm", Kind::Text),
    key("challenge", Kind::Text),
    key("htpasswd", Kind::Table(&[key("path", Kind::Text)])),
    key("token", Kind::Later(&[])),
    key("oidc", Kind::Later(NO_ITEMS)),
    key("client_certificate", Kind::Later(&[])),
    key("groups", Kind::Lists),
];

pub(super) fn read(auth: &Reader<'_>) -> Auth {
    Auth {
        realm: auth.parsed("realm", realm).unwrap_or_else(|| "dockgate".to_owned()),
        htpasswd: auth.optional("htpasswd").and_then(|table| htpasswd(&table)),
    }
}

/// Reports a configuration that no client can use, and one that this version has no challenge for. Warns of one that
/// may
/// give local passwords away.
pub(super) fn check(root: &Reader<'_>, rules: &Rules<'_>) {
    warn_of_strays(root);
    let auth = root.section("auth");
    let automatic = auth.parsed("challenge", challenge).unwrap_or_else(|| !auth.has("challenge"));
    match (&rules.anonymous, credentials::login_key(root)) {
        (Some(anonymous), Some(login)) if automatic => anonymous.wrong(ValueError::Value(format!(
            "beside {login} needs the bearer challenge, which is not available in this version; {}",
            auth.advice("challenge = \"basic\"")
        ))),
        (None, None) if !rules.has_mistakes && !root.is_broken("auth") => root.wrong("auth", no_login(&auth)),
        _ => {}
    }
}

/// Warns that forwarding sends local passwords away: those of removed users, and those typed with a wrong name.
fn warn_of_strays(root: &Reader<'_>) {
    let Some(credentials) = credentials::forward(root).filter(|_| root.section("auth").has("htpasswd"))
    else {
        return;
    };
    root.context.warn(format!(
        "{}: beside auth.htpasswd the password of a name that is not in that file goes to this registry: that of a user \
         who was removed from it, and a user's own under a mistyped name",
        credentials.place_of("forward")
    ));
}

fn no_login(auth: &Reader<'_>) -> String {
    let advice = auth.context.advice(
        "[auth.htpasswd] with `path = \"auth/htpasswd\"`, or an [[access]] rule with `users = [\"anonymous\"]`",
        &format!("{}=/auth/htpasswd", auth.context.variable("auth.htpasswd.path")),
    );
    format!("no user can log in, and no rule is for \"anonymous\"; {advice}")
}

fn htpasswd(table: &Reader<'_>) -> Option<PathBuf> {
    let file = table.file("path");
    if file.is_none() && !table.is_broken("path") {
        table.wrong("path", format!("a file is needed; {}", table.advice("path = \"auth/htpasswd\"")));
    }
    let file = file?;
    let path = file.path.clone();
    table.context.refer(Reference::Htpasswd(file));
    Some(path)
}

/// Checks a realm. RFC 9110 section 5.6.4 would let a quoted string hold more, but clients read it differently.
fn realm(written: &str) -> Result<String, ValueError> {
    let plain = |b: u8| b == b' ' || b.is_ascii_graphic();
    if written.is_empty() || !written.bytes().all(plain) {
        return Err(ValueError::value("is not printable ASCII; write for example \"dockgate\""));
    }
    Ok(written.to_owned())
}

/// Returns true if the challenge is "auto".
fn challenge(written: &str) -> Result<bool, ValueError> {
    match written {
        "auto" => Ok(true),
        "basic" => Ok(false),
        "bearer" => Err(ValueError::value("is not available in this version; write \"basic\"")),
        _ => Err(ValueError::value("is unknown; write \"basic\" or \"auto\"")),
    }
}
