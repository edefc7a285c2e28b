//! `[auth]`: how people log in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::access::Rules;
use crate::config::address::Address;
use crate::config::credentials;
use crate::config::duration;
use crate::config::limits;
use crate::config::oidc;
use crate::config::oidc::OidcProvider;
use crate::config::reader::Reader;
use crate::config::reference::{Located, Reference};
use crate::config::schema::{Key, Kind, key};
use crate::config::server::DEFAULT_ADDRESS;
use crate::config::value_error::ValueError;
use crate::x509::NameKind;

/// The ways to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The gateway's name in the challenge; printable ASCII.
    pub realm: String,
    /// The file of names and bcrypt hashes. `None`: no user can log in, unless an upstream judges
    /// passwords ([`CredentialSource::Forward`](super::CredentialSource::Forward)).
    pub htpasswd: Option<PathBuf>,
    /// True if clients are asked for a token of the gateway's own service, false if for a name and password. Both are always
    /// taken.
    pub bearer: bool,
    /// The gateway's token service; there is one wherever [`bearer`](Self::bearer) is true.
    pub token: Option<TokenService>,
    /// The platforms whose workloads log in by their tokens.
    pub oidc: Vec<OidcProvider>,
    /// The names by which clients' certificates are logins; none: they are none.
    pub client_certificate: Option<NameKind>,
}

/// `[auth.token]`: the token service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenService {
    /// The issuer of its tokens.
    pub issuer: String,
    /// The service that they are for.
    pub service: String,
    /// The file of its keys; made when it is missing.
    pub key: PathBuf,
    /// The lifetime of access tokens.
    pub ttl: Duration,
    /// The file of the ids of tokens that are revoked.
    pub revoked: Option<PathBuf>,
}

pub(super) const KEYS: &[Key] = &[
    key("realm", Kind::Text),
    key("challenge", Kind::Text),
    key("htpasswd", Kind::Table(&[key("path", Kind::Text)])),
    key("token", Kind::Table(TOKEN_KEYS)),
    key("oidc", Kind::Tables(oidc::KEYS)),
    key("client_certificate", Kind::Table(&[key("user", Kind::Text)])),
    key("groups", Kind::Lists(&Kind::Texts)),
];

const TOKEN_KEYS: &[Key] = &[
    key("issuer", Kind::Text),
    key("service", Kind::Text),
    key("key", Kind::Text),
    key("ttl", Kind::Text),
    key("revoked", Kind::Text),
];

/// Reads how people log in. Reports a configuration that no client can use, and a challenge that cannot be made. Warns of one
/// that may give local passwords away.
pub(super) fn read(root: &Reader<'_>, rules: &Rules<'_>) -> Auth {
    warn_of_strays(root);
    let auth = root.section("auth");
    let login = credentials::login_key(root);
    if rules.anonymous.is_none() && login.is_none() && !rules.has_mistakes && !root.is_broken("auth") {
        root.wrong("auth", no_login(&auth));
    }
    let bearer = wants_bearer(&auth, rules, login.is_some());
    if bearer {
        refuse_forwarding(root, &auth, rules);
        refuse_namelessness(root, &auth);
    }
    Auth {
        realm: auth.parsed("realm", plain).unwrap_or_else(|| "dockgate".to_owned()),
        htpasswd: auth.optional("htpasswd").and_then(|table| htpasswd(&table)),
        bearer,
        token: (bearer || auth.has("token")).then(|| token(root, &auth.section("token"))),
        oidc: oidc::read(&auth),
        client_certificate: auth
            .optional("client_certificate")
            .and_then(|table| client_certificate(root, &table)),
    }
}

/// Returns true if clients are to be asked for tokens: Docker takes no public content from a registry that asks for a password.
fn wants_bearer(auth: &Reader<'_>, rules: &Rules<'_>, logins: bool) -> bool {
    match auth.choice("challenge", &["auto", "basic", "bearer"]) {
        Some("bearer") => true,
        Some("basic") => false,
        Some(_) => rules.anonymous.is_some() && logins,
        None => !auth.has("challenge") && rules.anonymous.is_some() && logins,
    }
}

/// Refuses tokens where an upstream needs each client's own password with every request.
fn refuse_forwarding(root: &Reader<'_>, auth: &Reader<'_>, rules: &Rules<'_>) {
    if credentials::forward(root).is_none() {
        return;
    }
    let why = "the upstream needs each client's own password with every request, which no token holds";
    match &rules.anonymous {
        _ if auth.has("challenge") && auth.text("challenge").is_some_and(|item| item.value() == "bearer") => {
            auth.wrong("challenge", format!("beside upstream.credentials.forward: {why}; write \"basic\""));
        }
        Some(anonymous) => anonymous.wrong(ValueError::Value(format!(
            "beside upstream.credentials.forward asks for the bearer challenge, but {why}; {}",
            auth.advice("challenge = \"basic\"")
        ))),
        None => {}
    }
}

/// Refuses a challenge that could not say where the tokens are to be had.
fn refuse_namelessness(root: &Reader<'_>, auth: &Reader<'_>) {
    let server = root.section("server");
    let named = server.text("external_url").is_some()
        || server.has("tls")
        || root.tables("upstream").iter().any(|upstream| !upstream.texts("hosts").is_empty());
    let addresses = server.texts("address");
    let local = |written: &str| Address::parse(written).map_or(true, |address| address.is_local());
    let local = if addresses.is_empty() {
        local(DEFAULT_ADDRESS)
    } else {
        addresses.iter().all(|item| local(item.value()))
    };
    if !named && !local && !server.is_broken("address") {
        let advice = server.advice("external_url = \"https://registry.example.com\"");
        let basic =
            if auth.has("challenge") { "or write \"basic\"" } else { "or `challenge = \"basic\"` to [auth]" };
        let text = format!(
            "the bearer challenge tells clients the URL of the token service, and no name of this gateway is known; {advice}, {basic}"
        );
        auth.wrong("challenge", text);
    }
}

/// Reads the token service, which has a default for everything.
fn token(root: &Reader<'_>, table: &Reader<'_>) -> TokenService {
    let name = |key| table.parsed(key, plain).unwrap_or_else(|| "dockgate".to_owned());
    let key = table.file("key").unwrap_or_else(|| Located {
        path: root.context.folder.join(Path::new(DEFAULT_KEY)),
        place: table.place_of("key").clone(),
        key: "auth.token.key".to_owned(),
    });
    let service = TokenService {
        issuer: name("issuer"),
        service: name("service"),
        key: key.path.clone(),
        ttl: table.parsed("ttl", ttl).unwrap_or(limits::TOKEN_TTL),
        revoked: table.file("revoked").map(|file| {
            let path = file.path.clone();
            table.context.refer(Reference::Revoked(file));
            path
        }),
    };
    table.context.refer(Reference::TokenKey(key));
    service
}

/// Reads by which name a client's certificate is a login.
fn client_certificate(root: &Reader<'_>, table: &Reader<'_>) -> Option<NameKind> {
    if root.section("server").section("tls").text("client_ca").is_none() {
        let advice = root.section("server").section("tls").advice("client_ca = \"certs/clients-ca.crt\"");
        table.wrong_itself(format!("no client is asked for a certificate; {advice}"));
    }
    match table.choice("user", &["cn", "san:dns", "san:uri", "san:email"]) {
        Some("cn") => Some(NameKind::Common),
        Some("san:dns") => Some(NameKind::Dns),
        Some("san:uri") => Some(NameKind::Uri),
        Some(_) => Some(NameKind::Email),
        None => {
            if !table.has("user") {
                table.wrong("user", format!("is needed; {}", table.advice("user = \"san:dns\"")));
            }
            None
        }
    }
}

fn ttl(written: &str) -> Result<Duration, ValueError> {
    let ttl = duration::parse_positive(written)?;
    if !(limits::TOKEN_TTL_LEAST..=limits::TOKEN_TTL_MOST).contains(&ttl) {
        return Err(ValueError::value(
            "is out of range; write at least \"1m\", which clients rely on, and at most \"24h\"",
        ));
    }
    Ok(ttl)
}

/// The file of the keys, from the folder of the configuration.
const DEFAULT_KEY: &str = "auth/token-key.pem";

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

/// Checks a realm, an issuer or a service. RFC 9110 section 5.6.4 would let a quoted string hold more, but clients read it
/// differently.
fn plain(written: &str) -> Result<String, ValueError> {
    let plain = |b: u8| b == b' ' || b.is_ascii_graphic();
    if written.is_empty() || !written.bytes().all(plain) {
        return Err(ValueError::value("is not printable ASCII; write for example \"dockgate\""));
    }
    Ok(written.to_owned())
}
