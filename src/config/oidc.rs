//! `[[auth.oidc]]`: platforms whose workloads log in by the tokens that the platform gives them.

use std::path::PathBuf;

use crate::config::context::Context;
use crate::config::environment::Environment;
use crate::config::host::is_dialled;
use crate::config::pattern::Glob;
use crate::config::reader::Reader;
use crate::config::reference::Reference;
use crate::config::schema::{Key, Kind, key};
use crate::config::upstream;
use crate::config::upstream::Upstream;
use crate::config::value_error::ValueError;
use crate::proto::ClaimTemplate;
use crate::proto::identity::UserName;

/// A platform, and what its tokens mean here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcProvider {
    /// Its name, which is the user name beside a token that is sent as a password.
    pub name: String,
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The `aud` that its tokens must have.
    pub audience: String,
    /// The place of its keys.
    pub keys: IssuerKeys,
    /// The name of a workload.
    pub user: ClaimTemplate,
    /// The groups of a workload.
    pub groups: Vec<ClaimTemplate>,
    /// The claims that must match.
    pub require: Vec<RequiredClaim>,
}

/// The place of a provider's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerKeys {
    /// Where the issuer's discovery document says (OpenID Connect Discovery 1.0 section 4).
    Discovered {
        /// The issuer's host.
        server: Box<Upstream>,
    },
    /// A JWKS at this URL.
    Url {
        /// The URL.
        url: String,
        /// Its host.
        server: Box<Upstream>,
    },
    /// A JWKS in this file.
    File(PathBuf),
}

/// A claim, and the patterns of which it must match one. `*` stands for any characters, `/` too: branches have some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiredClaim {
    /// The claim, or a member of one.
    pub path: Vec<String>,
    /// The patterns.
    pub patterns: Vec<Glob>,
}

pub(super) const KEYS: &[Key] = &[
    key("name", Kind::Text),
    key("issuer", Kind::Text),
    key("audience", Kind::Text),
    key("jwks", Kind::Text),
    key("ca", Kind::Text),
    key("user", Kind::Text),
    key("groups", Kind::Texts),
    key("require", Kind::Lists(&Kind::OneOrMore)),
    key("open", Kind::Flag),
];

/// The words before the colon in the names of robots, of clients' certificates, and of clients that upstreams judge: a platform
/// must not speak for them.
const RESERVED: &[&str] = &["robot", "cn", "dns", "uri", "email", "forward", "anonymous"];

/// Has the issuers' hosts asked by way of the proxy that the variables name.
pub(super) fn take_proxy(providers: &mut [OidcProvider], environment: &Environment, context: &Context) {
    for provider in providers {
        if let IssuerKeys::Discovered { server } | IssuerKeys::Url { server, .. } = &mut provider.keys {
            upstream::take_proxy(std::slice::from_mut(server), environment, context);
        }
    }
}

/// Reads all providers. Mistakes are reported; a provider that has some is left out.
pub(super) fn read(auth: &Reader<'_>) -> Vec<OidcProvider> {
    let mut providers: Vec<OidcProvider> = Vec::new();
    for table in auth.tables("oidc") {
        let Some(provider) = provider(&table) else { continue };
        let prefix = provider.user.provider();
        if RESERVED.contains(&prefix) {
            let text = format!("begins as the names of other logins; write another word than \"{prefix}\"");
            table.wrong("user", text);
        } else if providers.iter().any(|other| other.name == provider.name) {
            table.wrong("name", format!("\"{}\" is the name of a provider above", provider.name));
        } else if providers
            .iter()
            .any(|other| other.issuer == provider.issuer && other.audience == provider.audience)
        {
            table.wrong("issuer", "a provider above has the same issuer and audience");
        } else if providers.iter().any(|other| other.user.provider() == prefix) {
            let text =
                format!("begins as the names of a provider above; write another word than \"{prefix}\"");
            table.wrong("user", text);
        } else {
            table.context.add_provider(&provider.name);
            providers.push(provider);
        }
    }
    providers
}

fn provider(table: &Reader<'_>) -> Option<OidcProvider> {
    let name = required(table, "name", "github", name);
    let issuer = required(table, "issuer", "https://token.actions.githubusercontent.com", |written| {
        issuer(written, table.text("jwks").is_none())
    });
    let keys = keys(table, issuer.as_deref());
    let audience = required(table, "audience", "dockgate", plain);
    let user = required(table, "user", "repo:{repository}", template);
    let groups = table.texts("groups");
    let groups: Vec<_> = groups.iter().map(|item| item.parsed(template)).collect();
    let require = require(table);
    let open = table.flag("open", false);
    if require.as_ref().is_some_and(Vec::is_empty) && !open && !table.is_broken("require") {
        let text = "everyone who can get a token of this issuer could log in; write for example \
                    require = { repository_owner = \"acme\" }, or open = true if that is meant";
        table.wrong("require", text);
        return None;
    }
    Some(OidcProvider {
        name: name?,
        issuer: issuer?,
        audience: audience?,
        keys: keys?,
        user: user?,
        groups: groups.into_iter().collect::<Option<_>>()?,
        require: require?,
    })
}

fn required<T>(
    table: &Reader<'_>,
    name: &str,
    example: &str,
    parse: impl FnOnce(&str) -> Result<T, ValueError>,
) -> Option<T> {
    if table.text(name).is_none() {
        if !table.is_broken(name) {
            table.wrong(name, format!("is needed; {}", table.advice(&format!("{name} = \"{example}\""))));
        }
        return None;
    }
    table.parsed(name, parse)
}

fn name(written: &str) -> Result<String, ValueError> {
    let name = UserName::parse(written).map_err(|error| ValueError::Value(format!("is no name: {error}")))?;
    Ok(name.as_str().to_owned())
}

/// Checks an issuer: a text of the token, which is also where the keys are if no other place is named.
fn issuer(written: &str, dialled: bool) -> Result<String, ValueError> {
    if dialled && !is_dialled(written) {
        return Err(ValueError::value(
            "is no https:// URL; write one, or where its keys are: jwks = \"FILE-OR-URL\"",
        ));
    }
    plain(written)
}

fn keys(table: &Reader<'_>, issuer: Option<&str>) -> Option<IssuerKeys> {
    let ca = table.file("ca").map(|file| {
        let path = file.path.clone();
        table.context.refer(Reference::Ca(file));
        path
    });
    let Some(item) = table.text("jwks") else {
        let server = Upstream::of_documents(issuer?, ca, table)?;
        return Some(IssuerKeys::Discovered { server: Box::new(server) });
    };
    match item.value() {
        url if is_dialled(url) => {
            let server = Box::new(Upstream::of_documents(url, ca, table)?);
            Some(IssuerKeys::Url { url: url.to_owned(), server })
        }
        url if url.contains("://") => {
            item.wrong(ValueError::value("is no https:// URL, and no file"));
            None
        }
        _ => {
            table.context.refer(Reference::KeySet(item.located(item.path())));
            Some(IssuerKeys::File(item.path()))
        }
    }
}

fn plain(written: &str) -> Result<String, ValueError> {
    if written.trim() != written || written.contains(char::is_control) {
        return Err(ValueError::value("has blanks around it, or control characters"));
    }
    Ok(written.to_owned())
}

fn template(written: &str) -> Result<ClaimTemplate, ValueError> {
    ClaimTemplate::parse(written)
        .map_err(|error| ValueError::Value(format!("{error}; write for example \"repo:{{repository}}\"")))
}

fn require(table: &Reader<'_>) -> Option<Vec<RequiredClaim>> {
    let claims = table.section("require");
    let required = claims.names().map(|claim| {
        let patterns: Vec<_> = claims.texts(claim).iter().map(|item| Glob::new(item.value())).collect();
        if patterns.is_empty() {
            claims.wrong(claim, "needs a text that the claim must match");
            return None;
        }
        Some(RequiredClaim { path: claim.split('/').map(str::to_owned).collect(), patterns })
    });
    required.collect()
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Environment, IssuerKeys};

    const PROVIDER: &str = "[[auth.oidc]]\nname = 'github'\nissuer = 'https://a.example'\naudience = 'd'\nuser = 'repo:{repository}'\n";
    const REST: &str = "[[access]]\nusers = ['repo:acme/*']\nrepositories = ['**']\nactions = ['pull']\n[[upstream]]\nurl = 'http://127.0.0.1:1'\n";

    /// Checks a configuration beside an htpasswd file.
    fn checked(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dockgate.toml");
        std::fs::write(folder.path().join("users"), "github:x\n").unwrap();
        std::fs::write(&path, format!("{text}{REST}")).unwrap();
        Config::check(Some(&path), &Environment::from([("", ""); 0])).map_err(|errors| errors.to_string())
    }

    #[test]
    fn each_mistake_of_a_provider_is_told() {
        let closed = format!("{PROVIDER}require = {{ repository_owner = 'acme' }}\n");
        for (text, told) in [
            (PROVIDER.to_owned(), "everyone who can get a token of this issuer could log in"),
            (format!("{PROVIDER}require = {{ ref = [] }}\n"), "needs a text that the claim must match"),
            (format!("{closed}jwks = 'http://a.example/keys'\n"), "is no https:// URL, and no file"),
            (
                closed.replace("https://a.example", "http://a.example"),
                "is no https:// URL; write one, or where",
            ),
            (closed.replace("repo:{repository}", "{repository}"), "does not begin with a word"),
            (closed.replace("'github'", "'a:b'"), "is no name: a name may not contain `:`"),
            (format!("{closed}{closed}"), "is the name of a provider above"),
            (format!("{closed}{}", closed.replace("github", "other")), "has the same issuer and audience"),
            (
                format!("{closed}{}", closed.replace("github", "other").replace("'d'", "'e'")),
                "begins as the names of a provider above",
            ),
            (
                format!("[auth.htpasswd]\npath = 'users'\n{closed}"),
                "has a user called \"github\" like a provider",
            ),
        ] {
            let errors = checked(&text).expect_err(&text);
            assert!(errors.contains(told), "{told:?} is not in {errors}");
        }
    }

    #[test]
    fn keys_are_where_the_configuration_says() {
        let open = format!("{PROVIDER}open = true\n");
        let keys = |text: &str| checked(text).unwrap().auth.oidc.remove(0).keys;
        assert!(matches!(keys(&open), IssuerKeys::Discovered { .. }));
        let url = keys(&format!("{open}jwks = 'https://a.example/keys'\n"));
        assert!(matches!(url, IssuerKeys::Url { url, .. } if url == "https://a.example/keys"));
        // Plain HTTP does not leave this machine.
        assert!(matches!(keys(&format!("{open}jwks = 'http://127.0.0.1:8/k'\n")), IssuerKeys::Url { .. }));
    }
}
