//! Tests of whole configurations.

mod access;
mod bucket;
mod cache;
mod documents;
mod peers;
mod upstream;

use crate::config::access::Actions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::*;
use crate::proto::{RepositoryName, Secret};

/// The sections that most configurations need besides the tested one.
const REST: &str =
    "[auth.htpasswd]\npath = 'auth/htpasswd'\n[[upstream]]\nurl = 'http://127.0.0.1:5002'\nprefix = ''\n";

fn read(text: &str) -> Result<Config, ConfigErrors> {
    read_with(text, &Environment::default())
}

fn read_with(text: &str, environment: &Environment) -> Result<Config, ConfigErrors> {
    Config::from_toml(text, "dockgate.toml", Path::new("/etc/dockgate"), environment)
}

/// Returns the lines that a configuration is refused with.
fn refusal(text: &str) -> Vec<String> {
    lines(read(text))
}

fn lines(result: Result<Config, ConfigErrors>) -> Vec<String> {
    result
        .map(|_| Vec::new())
        .unwrap_or_else(|errors| errors.to_string().lines().map(str::to_owned).collect())
}

/// Reads a configuration from variables alone.
fn from_variables<const N: usize>(variables: [(&str, &str); N]) -> Result<Config, ConfigErrors> {
    assemble(None, &Environment::from(variables), Look::Away)
}

#[test]
fn the_least_configuration_has_every_default() {
    let config = read(REST).unwrap();
    assert_eq!(config.server.addresses, [Address::Tcp("127.0.0.1:5000".parse().unwrap())]);
    assert_eq!(config.server.header_timeout, Duration::from_secs(10));
    assert_eq!(config.server.max_connections, 10_000);
    assert_eq!(config.server.max_connections_per_client, 1250);
    assert!(config.server.tls.is_none() && config.server.secret.is_none() && !config.server.plaintext);
    assert_eq!(config.admin.unwrap().address.to_string(), "127.0.0.1:5001");
    let log = Log { json: false, level: "info".into(), access: true, audit: None, audit_pulls: false };
    assert_eq!(config.log, log);
    assert_eq!(config.auth.realm, "dockgate");
    assert_eq!(config.auth.htpasswd.as_deref(), Some(Path::new("/etc/dockgate/auth/htpasswd")));
    assert!(config.warnings.is_empty() && config.files.is_empty());
}

#[test]
fn a_client_has_an_eighth_of_the_connections() {
    let share = |lines: &str| {
        let config = read(&format!("{REST}[server]\n{lines}")).unwrap();
        config.server.max_connections_per_client
    };
    assert_eq!(share("max_connections = 801"), 101);
    assert_eq!(share("max_connections = 100"), 16, "but no fewer than a client opens at a time");
    assert_eq!(share("max_connections = 2"), 2);
    assert_eq!(share("max_connections = 100\nmax_connections_per_client = 3"), 3);
    assert_eq!(share("max_connections = 100\nmax_connections_per_client = 300"), 100);
    assert_eq!(share("max_connections_per_client = 0"), 1250);
}

#[test]
fn held_bytes_are_enough_for_the_longest_list() {
    assert_eq!(read(REST).unwrap().server.max_held_bytes, 256 << 20);
    let of = |written: &str| read(&format!("{REST}[server]\nmax_held_bytes = '{written}'"));
    assert_eq!(of("64MiB").unwrap().server.max_held_bytes, 64 << 20);
    let refusal = lines(of("63MiB")).concat();
    assert!(
        refusal.ends_with("\"63MiB\" is too little for the longest lists; write 64MiB or more"),
        "{refusal}"
    );
}

#[test]
fn without_rules_every_logged_in_user_may_do_everything() {
    let config = read(REST).unwrap();
    assert_eq!(config.access, [AccessRule::everything()]);
    let rule = &config.access[0];
    assert!(rule.users[0].matches(Some("alice")) && !rule.users[0].matches(None));
    assert!(rule.repositories[0].matches(&RepositoryName::parse("a/b").unwrap()));
    assert_eq!(rule.actions, Actions::ALL);
}

#[test]
fn an_upstream_has_its_defaults() {
    let config = read(REST).unwrap();
    let [upstream] = config.upstreams.as_slice() else { panic!() };
    assert_eq!(upstream.name, "127.0.0.1");
    assert_eq!(upstream.url.to_string(), "http://127.0.0.1:5002");
    assert_eq!((upstream.prefix.as_str(), upstream.retries, upstream.read_only), ("", 3, false));
    assert_eq!(upstream.connect_timeout, Duration::from_secs(5));
    assert_eq!(upstream.response_timeout, Duration::from_secs(30));
    assert!(!upstream.library && !upstream.insecure && upstream.ca.is_none());
}

#[test]
fn docker_hub_is_known_by_its_name_and_by_its_hosts() {
    for keys in [
        "name = 'docker.io'",
        "url = 'https://registry-1.docker.io'",
        "url = 'https://docker.io'",
        "name = 'docker.io'\nurl = 'https://mirror.example/hub'",
    ] {
        let config = read(&format!("[auth.htpasswd]\npath = 'h'\n[[upstream]]\n{keys}\n")).unwrap();
        let upstream = &config.upstreams[0];
        assert!(upstream.library, "{keys}");
        assert_eq!((upstream.name.as_str(), upstream.prefix.as_str()), ("docker.io", "docker.io"), "{keys}");
        let url = upstream.url.to_string();
        assert!(
            ["https://registry-1.docker.io", "https://mirror.example/hub"].contains(&url.as_str()),
            "{url}"
        );
    }
}

#[test]
fn everything_written_is_read() {
    let config = read(
        r#"
        [server]
        address = ["127.0.0.1:443", "[::1]:443", "unix:run/d.sock"]
        external_url = "https://Registry.example.com:443/"
        secret = "0123456789abcdef0123456789abcdef"
        trusted_proxies = ["10.0.0.0/8", "::1"]
        proxy_protocol = true
        drain_timeout = "0s"
        [server.tls]
        certificate = "certs/domain.crt"
        key = "/keys/domain.key"
        [[server.tls.sni]]
        certificate = "other.crt"
        key = "other.key"
        [admin]
        address = ""
        [auth]
        challenge = "basic"
        htpasswd.path = "h"
        [[access]]
        users = ["anonymous", "*", "ci-?"]
        repositories = ["a/*", "**"]
        actions = ["pull", "catalog"]
        [[upstream]]
        name = "internal"
        url = "https://[::1]:5001/sub/"
        prefix = "team/internal"
        hosts = ["Internal.example:5000"]
        ca = "ca.pem"
        retries = 0
        redirect_hosts = ["cdn.example"]
        "#,
    )
    .unwrap();
    let server = &config.server;
    let shown: Vec<String> = server.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["127.0.0.1:443", "[::1]:443", "unix:/etc/dockgate/run/d.sock"]);
    assert_eq!(server.external_url.as_ref().unwrap().origin(), "https://registry.example.com");
    assert_eq!(server.secret.as_ref().unwrap().expose(), "0123456789abcdef0123456789abcdef");
    assert_eq!(server.trusted_proxies, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert!(server.proxy_protocol && server.drain_timeout.is_zero());
    let tls = server.tls.as_ref().unwrap();
    assert_eq!(tls.default.certificate, Path::new("/etc/dockgate/certs/domain.crt"));
    assert_eq!(tls.default.key, Path::new("/keys/domain.key"));
    assert_eq!(tls.sni.len(), 1);
    assert!(config.admin.is_none());
    assert_eq!(config.access[0].to_string(), "anonymous, *, ci-?: pull, catalog in a/*, **");
    let upstream = &config.upstreams[0];
    assert_eq!(
        (upstream.url.host.as_str(), upstream.url.port, upstream.url.path.as_str()),
        ("::1", 5001, "/sub")
    );
    assert_eq!(upstream.url.authority(), "[::1]:5001");
    assert_eq!((upstream.prefix.as_str(), upstream.retries), ("team/internal", 0));
    assert_eq!(upstream.hosts, ["internal.example:5000"]);
    assert_eq!(upstream.ca.as_deref(), Some(Path::new("/etc/dockgate/ca.pem")));
}

/// Each is put in front of [`REST`], and refused with exactly these lines.
const WRONG: &[(&str, &[&str])] = &[
    (
        "[server]\nheader_timeout = \"10 parsecs\"",
        &[
            r#"dockgate.toml:2: server.header_timeout: "10 parsecs" is not a duration; write for example "10s", "5m" or "1h30m""#,
        ],
    ),
    (
        "[server]\nheader_timeout = 10\nadress = ':5000'\nplaintext = 'yes'",
        &[
            "dockgate.toml:2: server.header_timeout: this is a number; write a string in quotes",
            "dockgate.toml:3: server.adress: unknown key; the nearest is \"address\"",
            "dockgate.toml:4: server.plaintext: this is a string; write true or false",
        ],
    ),
    ("[sever]\n", &[r#"dockgate.toml:1: sever: unknown key; the nearest is "server""#]),
    (
        "[server]\naddress = '0.0.0.0:5000'",
        &[concat!(
            r#"dockgate.toml:2: server.address: "0.0.0.0:5000" without TLS would send passwords over the network in the clear; "#,
            "add [server.tls] with `certificate` and `key`, or `plaintext = true` to [server]"
        )],
    ),
    (
        "[server]\naddress = ['127.0.0.1:5000', 'localhost:5000', 'example.com:80']",
        &[
            r#"dockgate.toml:2: server.address[1]: "localhost:5000" is 127.0.0.1:5000 again; remove one of them"#,
            concat!(
                r#"dockgate.toml:2: server.address[2]: "example.com:80" is not an address; write for example "#,
                r#""127.0.0.1:5000", "[::1]:5000", ":5000" or "unix:/run/dockgate.sock""#
            ),
        ],
    ),
    (
        "[server]\naddress = []\nmax_connections = 0\nexternal_url = 'https://a/b'",
        &[
            r#"dockgate.toml:2: server.address: there is nowhere to listen; write for example "127.0.0.1:5000""#,
            "dockgate.toml:3: server.max_connections: 0 is out of range; write a number from 1 to 1000000",
            r#"dockgate.toml:4: server.external_url: "https://a/b" has a path; a registry is at the root of its host: write it without"#,
        ],
    ),
    (
        "[server]\nproxy_protocol = true",
        &[
            "dockgate.toml:2: server.proxy_protocol: no proxy is trusted to send it; add `trusted_proxies = [\"10.0.0.0/24\"]` to [server]",
        ],
    ),
    (
        "[server]\ntrusted_proxies = ['10.0.0.0/33']",
        &[
            r#"dockgate.toml:2: server.trusted_proxies[0]: "10.0.0.0/33" is not a network; write for example "10.0.0.0/24""#,
        ],
    ),
    (
        "[server.tls]\ncertificate = 'a.crt'\nclient_ca = 'ca.pem'\n[[server.tls.sni]]\nkey = 'b.key'",
        &[
            "dockgate.toml:1: server.tls.key: a file is needed; add `key = \"certs/domain.key\"` to [server.tls]",
            "dockgate.toml:4: server.tls.sni[0].certificate: a file is needed; add `certificate = \"certs/domain.crt\"` to [[server.tls.sni]]",
        ],
    ),
    (
        "[server.tls]\nkey = 'b.key'\n[server.tls.acme]\ndirectory = 'http://ca.example/dir'",
        &[
            "dockgate.toml:2: server.tls.key: stands beside [server.tls.acme], which makes its own; remove one of them",
            "dockgate.toml:3: server.tls.acme.domains: a certificate needs a name; add `domains = [\"registry.example.com\"]` to [server.tls.acme]",
            concat!(
                r#"dockgate.toml:4: server.tls.acme.directory: "http://ca.example/dir" is no https:// URL; "#,
                r#"write for example "https://acme-v02.api.letsencrypt.org/directory""#
            ),
        ],
    ),
    (
        "[admin]\naddress = 'unix:/run/x?mode=rw'\nhtpasswd = 7",
        &[
            r#"dockgate.toml:2: admin.address: "unix:/run/x?mode=rw" has a mode that is none; write three octal digits, for example mode=0660"#,
            r#"dockgate.toml:3: admin.htpasswd: this is a number; write a string in quotes"#,
        ],
    ),
    (
        "[admin]\naddress = '5001'",
        &[
            r#"dockgate.toml:2: admin.address: "5001" is not an address and port; write for example "127.0.0.1:5001", ":5001" or "unix:/run/dockgate/admin.sock?mode=0600""#,
        ],
    ),
    (
        "[server]\naddress = 'unix:/run/x'\n[admin]\naddress = 'unix:/run/x'",
        &[
            r#"dockgate.toml:4: admin.address: "unix:/run/x" is taken by server.address, unix:/run/x; write another port, or "" for none"#,
        ],
    ),
    (
        "[admin]\naddress = '127.0.0.1:5000'",
        &[
            r#"dockgate.toml:2: admin.address: "127.0.0.1:5000" is taken by server.address, 127.0.0.1:5000; write another port, or "" for none"#,
        ],
    ),
    (
        "[server]\naddress = '127.0.0.1:5000'\n[admin]\naddress = ':5000'",
        &[
            r#"dockgate.toml:4: admin.address: ":5000" is taken by server.address, 127.0.0.1:5000; write another port, or "" for none"#,
        ],
    ),
    (
        "[log]\nformat = 'yaml'\nlevel = 'inof'\naudit_pulls = true",
        &[
            r#"dockgate.toml:2: log.format: "yaml" is unknown; write "text" or "json""#,
            r#"dockgate.toml:3: log.level: "inof" is not a log level; write for example "info" or "info,hyper=debug""#,
            "dockgate.toml:4: log.audit_pulls: needs log.audit, the file to write them to",
        ],
    ),
    (
        "[auth]\nchallenge = 'digest'\nrealm = 'Für uns'\n[auth.token]\nttl = '59s'\nservice = ''\n[[auth.oidc]]\nname = 'x'\n[auth.client_certificate]\nuser = 'cn'",
        &[
            r#"dockgate.toml:2: auth.challenge: "digest" is unknown; write "auto" or "basic" or "bearer""#,
            r#"dockgate.toml:3: auth.realm: "Für uns" is not printable ASCII; write for example "dockgate""#,
            r#"dockgate.toml:5: auth.token.ttl: "59s" is out of range; write at least "1m", which clients rely on, and at most "24h""#,
            r#"dockgate.toml:6: auth.token.service: "" is not printable ASCII; write for example "dockgate""#,
            r#"dockgate.toml:7: auth.oidc[0].issuer: is needed; add `issuer = "https://token.actions.githubusercontent.com"` to [[auth.oidc]]"#,
            r#"dockgate.toml:7: auth.oidc[0].audience: is needed; add `audience = "dockgate"` to [[auth.oidc]]"#,
            r#"dockgate.toml:7: auth.oidc[0].user: is needed; add `user = "repo:{repository}"` to [[auth.oidc]]"#,
            concat!(
                "dockgate.toml:7: auth.oidc[0].require: everyone who can get a token of this issuer could log in; write for ",
                r#"example require = { repository_owner = "acme" }, or open = true if that is meant"#
            ),
            r#"dockgate.toml:9: auth.client_certificate: no client is asked for a certificate; add `client_ca = "certs/clients-ca.crt"` to [server.tls]"#,
        ],
    ),
    (
        "[server]\naddress = ':5000'\nplaintext = true\n[[access]]\nusers = ['anonymous']\nrepositories = ['**']\nactions = ['pull']",
        &[concat!(
            "dockgate.toml:8: auth.challenge: the bearer challenge tells clients the URL of the token service, and no name of ",
            "this gateway is known; add `external_url = \"https://registry.example.com\"` to [server], or `challenge = ",
            "\"basic\"` to [auth]"
        )],
    ),
    (
        "[[access]]\nusers = 'alice'\nrepositories = ['home/x{user}/**', 'Team/*', 'a/**b']\nactions = ['pull', 'fetch', 'write', 'Pull']\ngroups = ['ci']\nnetworks = ['10.0.0.0/33']\neffect = 'forbid'",
        &[
            "dockgate.toml:2: access[0].users: this is a string; write a list of strings, for example [\"a\", \"b\"]",
            r#"dockgate.toml:3: access[0].repositories[0]: "home/x{user}/**" has {user} within a component; write it as a component of its own, as in "home/{user}/**""#,
            r#"dockgate.toml:3: access[0].repositories[1]: "Team/*" can match no repository: their names are lower-case letters, digits and . _ - between slashes"#,
            r#"dockgate.toml:3: access[0].repositories[2]: "a/**b" has ** within a component; write it as a component of its own, as in "team/**""#,
            r#"dockgate.toml:4: access[0].actions[2]: "write" is unknown; write "pull", "push", "delete", "catalog", "fetch" or "*""#,
            r#"dockgate.toml:4: access[0].actions[3]: "Pull" is unknown; write "pull", "push", "delete", "catalog", "fetch" or "*""#,
            r#"dockgate.toml:5: access[0].groups[0]: "ci" is no group; write it to [auth.groups]"#,
            r#"dockgate.toml:6: access[0].networks[0]: "10.0.0.0/33" is not a network; write for example "10.0.0.0/24""#,
            r#"dockgate.toml:7: access[0].effect: "forbid" is unknown; write "allow" or "deny""#,
        ],
    ),
    (
        "[[access]]\nusers = ['a[bc]', '*:acme']\nactions = ['pull']",
        &[
            "dockgate.toml:1: access[0].repositories: a rule without repositories matches nothing; add `repositories = [\"team/**\"]` to [[access]]",
            r#"dockgate.toml:2: access[0].users[0]: "a[bc]" has brackets or braces; only * and ? stand for other characters"#,
            r#"dockgate.toml:2: access[0].users[1]: "*:acme" does not say whose names it is over: write the provider before the ":", as in "repo:acme/*""#,
        ],
    ),
    (
        "[auth.groups]\nci = ['anonymous']\nnone = []\n[[access]]\ngroups = []\nrepositories = ['**']\nactions = ['pull']",
        &[
            r#"dockgate.toml:2: auth.groups.ci[0]: "anonymous" is no member of a group; name it in the rule's `users`"#,
            r#"dockgate.toml:3: auth.groups.none: a group without none matches nothing; add `none = ["builder-*"]` to [auth.groups]"#,
            "dockgate.toml:4: access[0].users: a rule without users matches nothing; add `users = [\"alice\"]` to [[access]]",
        ],
    ),
    (
        "access = []",
        &[
            "dockgate.toml:1: access: without any rule no client may do anything; write [[access]] rules, or remove it",
        ],
    ),
    (
        "[[upstream]]\nname = 'a'\nurl = 'https://a'\n[[upstream.credentials.users]]\nusers = ['a']\ngroups = ['ci']\nusername = 'x'\npassword = 'y'",
        &[
            r#"dockgate.toml:6: upstream[0].credentials.users[0].groups[0]: "ci" is no group; write it to [auth.groups]"#,
        ],
    ),
    (
        "[[upstream]]\nname = 'internal'\n[[upstream]]\nurl = 'https://me:pass@a'\n[[upstream]]\nname = 'b:1'\nurl = 'https://b'\n[[upstream]]\nname = 'C'\nurl = 'c:5000'\nretries = 99",
        &[
            "dockgate.toml:1: upstream[0].url: where is this registry? add `url = \"https://registry.example.com\"` to [[upstream]]",
            "dockgate.toml:4: upstream[1].url: a URL with a user name or password in it is refused; write it without",
            r#"dockgate.toml:5: upstream[2].prefix: "b:1" cannot be the path of repositories; add `prefix = "internal"` to [[upstream]], or "" for the root"#,
            r#"dockgate.toml:9: upstream[3].name: "C" is no name; write it as a host in lower case, for example "docker.io" or "internal""#,
            r#"dockgate.toml:10: upstream[3].url: "c:5000" is not a URL; write for example "https://registry.example.com""#,
            "dockgate.toml:11: upstream[3].retries: 99 is out of range; write a number from 0 to 10",
        ],
    ),
    (
        "[[upstream]]\nurl = 'https://a'\nprefix = 'x'\nhosts = ['h']\n[[upstream]]\nurl = 'http://a'\nprefix = 'x'\nhosts = ['H']\ninsecure = true\nca = 'c'",
        &[
            r#"dockgate.toml:5: upstream[1].name: "a" is taken by the upstream at dockgate.toml:1; write another name"#,
            r#"dockgate.toml:7: upstream[1].prefix: "x" is taken by the upstream at dockgate.toml:3; write another prefix"#,
            r#"dockgate.toml:8: upstream[1].hosts: "h" is taken by the upstream at dockgate.toml:4; write another host"#,
            "dockgate.toml:9: upstream[1].insecure: says not to verify what ca is there to verify; remove one of them",
        ],
    ),
    (
        "[auth]\nrealm = '${env:NOBODY}'\n[server]\nsecret = '${file:/none/here}'",
        &[
            "dockgate.toml:2: auth.realm: the variable NOBODY is not set",
            "dockgate.toml:4: server.secret: /none/here cannot be read: No such file or directory (os error 2)",
        ],
    ),
];

#[test]
fn every_mistake_is_reported_with_its_line_and_what_to_write() {
    for (text, expected) in WRONG {
        assert_eq!(refusal(&with_rest(text)), *expected, "{text}");
    }
}

/// Completes a configuration with the sections that it lacks, so that only its mistakes are refused.
fn with_rest(text: &str) -> String {
    let (auth, upstream) = REST.split_at(REST.find("[[upstream]]").unwrap());
    let upstream = if text.contains("[[upstream]]") { "" } else { upstream };
    format!("{text}\n{auth}{upstream}")
}

#[test]
fn a_configuration_without_an_upstream_or_a_login_is_refused() {
    assert_eq!(
        refusal("[server]\n"),
        [
            concat!(
                "dockgate.toml: auth: no user can log in, and no rule is for \"anonymous\"; add [auth.htpasswd] with ",
                "`path = \"auth/htpasswd\"`, or an [[access]] rule with `users = [\"anonymous\"]`"
            ),
            concat!(
                "dockgate.toml: upstream: there is no registry to stand in front of; add [[upstream]] with ",
                "`url = \"https://registry-1.docker.io\"` or another registry's"
            ),
        ]
    );
    assert_eq!(
        refusal(&REST.replace("path", "# path"))[0],
        "dockgate.toml:1: auth.htpasswd.path: a file is needed; add `path = \"auth/htpasswd\"` to [auth.htpasswd]"
    );
}

#[test]
fn syntax_errors_have_lines_and_hide_the_rest() {
    let lines = refusal("[server\naddress = ':5000'\n\n[admin]\naddress == 1\n");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("dockgate.toml:1: ") && lines[1].starts_with("dockgate.toml:5: "),
        "{lines:?}"
    );
}

#[test]
fn keys_of_later_versions_may_say_what_is_so_anyway() {
    let text = "[server.tls]\ncertificate = 'c'\nkey = 'k'\nclient_ca = ''\n[admin]\nhtpasswd = ''\n[log]\naudit = ''\n\
        audit_pulls = false\n[auth]\nhtpasswd.path = 'h'\noidc = []\n[[access]]\nusers = ['*']\ngroups = []\nnetworks = []\n\
        repositories = ['**']\nactions = ['*']\neffect = 'allow'\n[[upstream]]\nname = 'docker.io'\nclient_certificate = ''\n\
        client_key = ''\nproxy = ''\nredirects = 'follow'\nrealm_hosts = []\n";
    assert_eq!(refusal(text), [""; 0]);
}

#[test]
fn anonymous_pulls_beside_passwords_ask_for_tokens() {
    let rule = "[[access]]\nusers = ['anonymous']\nrepositories = ['**']\nactions = ['pull']\n";
    let auth = |lines: &str| read(&format!("[auth]\n{lines}\n{rule}{REST}")).unwrap().auth;
    assert!(!auth("challenge = 'basic'").bearer && auth("challenge = 'basic'").token.is_none());
    for lines in ["challenge = 'auto'", "challenge = 'bearer'", ""] {
        assert!(auth(lines).bearer, "{lines}");
    }
    let token = auth("").token.unwrap();
    assert_eq!(
        (token.issuer.as_str(), token.service.as_str(), token.ttl.as_secs()),
        ("dockgate", "dockgate", 300)
    );
    assert!(token.key.ends_with("auth/token-key.pem") && token.revoked.is_none());
    assert!(!read(REST).unwrap().auth.bearer, "no rule is for anonymous clients");
    let alone = format!("{rule}[[upstream]]\nname = 'docker.io'\n");
    let config = read(&alone).unwrap();
    assert!(config.auth.htpasswd.is_none() && !config.auth.bearer && config.auth.token.is_none());
}

#[test]
fn a_rule_for_users_is_warned_about_without_logins() {
    let rule = |who| format!("[[access]]\nusers = ['{who}']\nrepositories = ['**']\nactions = ['pull']\n");
    let config =
        read(&format!("{}{}[[upstream]]\nname = 'docker.io'\n", rule("anonymous"), rule("alice"))).unwrap();
    assert_eq!(
        config.warnings,
        ["dockgate.toml:6: this rule matches no client, since no user can log in without [auth.htpasswd]"]
    );
}

#[test]
fn interpolated_secrets_appear_in_no_error() {
    let environment = Environment::from([("HIDDEN", "hunter2")]);
    let text = format!(
        "[server]\nexternal_url = '${{env:HIDDEN}}'\naddress = '${{env:HIDDEN}}'\nheader_timeout = '${{env:HIDDEN}}'\n\
         secret = '${{env:HIDDEN}}'\n{REST}"
    );
    let shown = read_with(&text, &environment).unwrap_err().to_string();
    assert!(shown.contains("\"${env:HIDDEN}\" is not a duration"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let long = "hunter2 and 30 characters more than that";
    let environment = Environment::from([("HIDDEN", long)]);
    let config = read_with(&format!("[server]\nsecret = '${{env:HIDDEN}}'\n{REST}"), &environment).unwrap();
    assert_eq!(config.server.secret.as_ref().unwrap().expose(), long);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_secret_that_can_be_guessed_is_refused() {
    let short = "is shorter than 32 characters; make one with `dockgate secret`";
    let again = "repeats itself, and may be guessed; make one with `dockgate secret`";
    for (secret, why) in [
        ("hunter2", short),
        ("0123456789abcdef", short),
        ("just one character too few, 31.", short),
        (&"a".repeat(64), again),
        (&"password".repeat(4), again),
        (&"changeme".repeat(5)[..35], again),
        (&"0123456789".repeat(4), again),
    ] {
        let refused = refusal(&format!("[server]\nsecret = '{secret}'\n{REST}"));
        assert_eq!(refused, [format!("dockgate.toml:2: server.secret: {why}")], "{secret}");
    }
    for secret in [
        "8c1f0a7e5bd2936447aa01ce9f3d6b58",
        "correct horse battery staple, and more",
        "0123456789abcdef0123456789abcdef",
        "tXk9v3Qw7Lm2Zp8Rn4Bc6Hd1Js5Gf0Ya",
    ] {
        assert!(read(&format!("[server]\nsecret = '{secret}'\n{REST}")).is_ok(), "{secret}");
    }
}

#[test]
fn variables_override_the_file() {
    let environment = Environment::from([
        ("DOCKGATE_CONFIG", "elsewhere.toml"),
        ("DOCKGATE_SERVER__ADDRESS", "127.0.0.1:1,[::1]:2"),
        ("DOCKGATE_SERVER__MAX_CONNECTIONS", "7"),
        ("DOCKGATE_SERVER__TLS__CERTIFICATE", "c.crt"),
        ("DOCKGATE_SERVER__TLS__KEY", "c.key"),
        ("DOCKGATE_LOG__ACCESS", "false"),
        ("DOCKGATE_LOG__AUDIT", ""),
        ("DOCKGATE_AUTH__HTPASSWD__PATH", "users"),
        ("DOCKGATE_ACCESS__0__USERS", r#"["alice", "bob"]"#),
        ("DOCKGATE_ACCESS__0__REPOSITORIES", "a/**, b"),
        ("DOCKGATE_ACCESS__0__ACTIONS", "pull"),
        ("DOCKGATE_UPSTREAM__0__URL", "https://other"),
        ("DOCKGATE_UPSTREAM__1__NAME", "docker.io"),
        ("DOCKGATE_SERVICE_HOST", "10.0.0.1"),
    ]);
    let config = read_with(REST, &environment).unwrap();
    let shown: Vec<String> = config.server.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["127.0.0.1:1", "[::1]:2"]);
    assert_eq!(config.server.max_connections, 7);
    assert_eq!(config.server.tls.unwrap().default.key, PathBuf::from("c.key"));
    assert!(!config.log.access);
    assert_eq!(config.auth.htpasswd, Some(PathBuf::from("users")));
    assert_eq!(config.access[0].to_string(), "alice, bob: pull in a/**, b");
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    assert_eq!(names, ["other", "docker.io"]);
    assert_eq!(config.upstreams[0].prefix, "");
    assert_eq!(
        config.warnings,
        ["DOCKGATE_SERVICE_HOST is Kubernetes' variable for a service of that name, not a setting"]
    );
}

#[test]
fn more_than_ten_elements_are_taken_in_order() {
    let mut variables = vec![("DOCKGATE_AUTH__HTPASSWD__PATH".to_owned(), "h".to_owned())];
    variables.extend((0..12).map(|i| (format!("DOCKGATE_UPSTREAM__{i}__URL"), format!("https://r{i}"))));
    let config = assemble(None, &variables.into_iter().collect(), Look::Away).unwrap();
    assert_eq!(config.upstreams.len(), 12);
    assert_eq!(config.upstreams[11].name, "r11");
}

#[test]
fn wrong_variables_are_named() {
    let environment = Environment::from([
        ("DOCKGATE_SERVER__ADRESS", ":1"),
        ("DOCKGATE_SERVER__HEADER_TIMEOUT", "10 parsecs"),
        ("DOCKGATE_SERVER__MAX_CONNECTIONS", "many"),
        ("DOCKGATE_SERVER__SECRET", "${env:NOBODY}"),
        ("DOCKGATE_SERVER__ADDRESS__0", ":1"),
        ("DOCKGATE_UPSTREAM__3__URL", "https://a"),
        ("DOCKGATE_UPSTREAM__2__ULR", "https://a"),
        ("DOCKGATE_AUTH__TOKEN__TTL", "5d"),
        ("DOCKGATE_LOG__AUDIT_PULLS", "x"),
        ("DOCKGATE_LOG__ACCESS", "no"),
        ("DOCKGATE_WHAT", ""),
    ]);
    let expected = [
        "environment: DOCKGATE_AUTH__TOKEN__TTL: \"5d\" is out of range; write at least \"1m\", which clients rely on, and at most \"24h\"",
        "environment: DOCKGATE_LOG__ACCESS: \"no\" is not a boolean; write true or false",
        "environment: DOCKGATE_LOG__AUDIT_PULLS: \"x\" is not a boolean; write true or false",
        "environment: DOCKGATE_SERVER__ADDRESS__0: unknown variable; the nearest is DOCKGATE_SERVER__ADDRESS",
        "environment: DOCKGATE_SERVER__ADRESS: unknown variable; the nearest is DOCKGATE_SERVER__ADDRESS",
        "environment: DOCKGATE_SERVER__HEADER_TIMEOUT: \"10 parsecs\" is not a duration; write for example \"10s\", \"5m\" or \"1h30m\"",
        "environment: DOCKGATE_SERVER__MAX_CONNECTIONS: \"many\" is not a whole number; write for example 100",
        "environment: DOCKGATE_SERVER__SECRET: the variable NOBODY is not set",
        "environment: DOCKGATE_UPSTREAM__2__ULR: unknown variable; the nearest is DOCKGATE_UPSTREAM__2__URL",
        "environment: DOCKGATE_UPSTREAM__3__URL: the next one is number 1; number them from 0 without a gap",
        "environment: DOCKGATE_WHAT: unknown variable; the nearest is DOCKGATE_AUTH__REALM",
    ];
    let lines = lines(read_with(REST, &environment));
    assert_eq!(lines[..10], expected[..10]);
    assert!(lines[10].starts_with("environment: DOCKGATE_WHAT: unknown variable; the nearest is DOCKGATE_"));
}

#[test]
fn the_settings_of_the_registry_image_start_the_same_gateway() {
    let config = from_variables([
        ("REGISTRY_AUTH", "htpasswd"),
        ("REGISTRY_AUTH_FILE", "/run/user/1000/containers/auth.json"),
        ("REGISTRY_AUTH_HTPASSWD_REALM", "Registry Realm"),
        ("REGISTRY_AUTH_HTPASSWD_PATH", "/auth/htpasswd"),
        ("REGISTRY_HTTP_TLS_CERTIFICATE", "/certs/domain.crt"),
        ("REGISTRY_HTTP_TLS_KEY", "/certs/domain.key"),
        ("REGISTRY_HTTP_HOST", "https://registry.example.com"),
        ("REGISTRY_HTTP_SECRET", "literally ${env:NOTHING}, a secret"),
        ("REGISTRY_PROXY_REMOTEURL", "https://registry-1.docker.io"),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/data"),
        ("REGISTRY_STORAGE_DELETE_ENABLED", "true"),
        ("REGISTRY_PORT_5000_TCP_ADDR", "10.0.0.1"),
        ("REGISTRY_LOG_LEVEL", "warning"),
        ("REGISTRY_PROXY_TTL", ""),
    ])
    .unwrap();
    assert_eq!(config.server.addresses, [Address::Any(5000)]);
    assert_eq!(config.server.secret.as_ref().unwrap().expose(), "literally ${env:NOTHING}, a secret");
    assert_eq!(config.server.tls.unwrap().default.certificate, PathBuf::from("/certs/domain.crt"));
    assert_eq!(config.auth.realm, "Registry Realm");
    assert_eq!(config.auth.htpasswd, Some(PathBuf::from("/auth/htpasswd")));
    assert_eq!(config.log.level, "warn");
    let upstream = &config.upstreams[0];
    assert_eq!((upstream.name.as_str(), upstream.prefix.as_str(), upstream.library), ("docker.io", "", true));
    assert_eq!(
        config.warnings,
        [
            "REGISTRY_PORT_5000_TCP_ADDR has no meaning here",
            "REGISTRY_STORAGE_DELETE_ENABLED has no meaning here",
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY has no meaning without a cache",
        ]
    );
}

#[test]
fn what_the_registry_image_could_and_this_version_cannot_is_refused_by_name() {
    let result = from_variables([("REGISTRY_AUTH", "token"), ("REGISTRY_HTTP_ADDR", ":5000")]);
    assert_eq!(
        lines(result),
        [
            "environment: REGISTRY_AUTH: \"token\" is not available in this version; write htpasswd",
            concat!(
                "environment: REGISTRY_HTTP_ADDR: \":5000\" without TLS would send passwords over the network in the clear; ",
                "set REGISTRY_HTTP_TLS_CERTIFICATE and REGISTRY_HTTP_TLS_KEY, or DOCKGATE_SERVER__PLAINTEXT=true"
            ),
            concat!(
                "environment: auth: no user can log in, and no rule is for \"anonymous\"; ",
                "set REGISTRY_AUTH_HTPASSWD_PATH=/auth/htpasswd"
            ),
            concat!(
                "environment: upstream: there is no registry to stand in front of; ",
                "set REGISTRY_PROXY_REMOTEURL=https://registry-1.docker.io or another registry's"
            ),
        ]
    );
}

#[test]
fn the_registry_images_variables_of_lets_encrypt_are_read() {
    let config = from_variables([
        ("REGISTRY_AUTH", "htpasswd"),
        ("REGISTRY_AUTH_HTPASSWD_PATH", "/auth/htpasswd"),
        ("REGISTRY_HTTP_TLS_LETSENCRYPT_CACHEFILE", "/cache"),
        ("REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL", "ops@example.com"),
        ("REGISTRY_HTTP_TLS_LETSENCRYPT_HOSTS", "[registry.example.com, 'Other.example.com']"),
        ("REGISTRY_PROXY_REMOTEURL", "https://registry-1.docker.io"),
    ])
    .unwrap();
    let tls = config.server.tls.unwrap();
    let acme = tls.acme.unwrap();
    assert_eq!(acme.domains, ["registry.example.com", "other.example.com"]);
    assert_eq!(acme.email.as_deref(), Some("ops@example.com"));
    assert_eq!(acme.path, PathBuf::from("/cache"));
    assert_eq!(acme.directory, limits::ACME_DIRECTORY);
    assert_eq!(tls.default.certificate, PathBuf::from("/cache/certificate.pem"));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn only_names_that_acme_can_validate_here_are_taken() {
    let domains = |written: &str| {
        let text = format!("[server.tls.acme]\ndomains = {written}\n{REST}");
        read(&text).map(|config| config.server.tls.unwrap().acme.unwrap().domains)
    };
    assert_eq!(
        domains("['Registry.Example.com.', 'b.example']").unwrap(),
        ["registry.example.com", "b.example"]
    );
    let long = format!("['{}.example']", "a".repeat(64));
    for (written, why) in [
        ("['*.example.com']", "is a wildcard, for which an ACME server wants a DNS record"),
        ("['192.0.2.1']", "is not a domain name"),
        ("['2001:db8::1']", "is not a domain name"),
        ("['localhost']", "is not a domain name"),
        ("['a.example:443']", "is not a domain name"),
        ("['https://a.example']", "is not a domain name"),
        ("['a..example']", "is not a domain name"),
        ("['-a.example']", "is not a domain name"),
        ("['a.example', 'A.example']", "stands there twice"),
        ("[]", "a certificate needs a name"),
        (long.as_str(), "is not a domain name"),
    ] {
        let error = domains(written).expect_err(written).to_string();
        assert!(error.contains(why), "{written}: {error}");
    }
}

#[test]
fn advice_names_the_registry_images_variables_where_they_configure() {
    let tls = [
        ("REGISTRY_HTTP_TLS_CERTIFICATE", "c.crt"),
        ("REGISTRY_PROXY_REMOTEURL", "https://a"),
        ("REGISTRY_AUTH", "htpasswd"),
    ];
    let expected = [
        "environment: REGISTRY_AUTH: a file is needed; set REGISTRY_AUTH_HTPASSWD_PATH=auth/htpasswd",
        "environment: REGISTRY_HTTP_TLS_CERTIFICATE: a file is needed; set REGISTRY_HTTP_TLS_KEY=certs/domain.key",
    ];
    assert_eq!(lines(from_variables(tls)), expected);
    let own = [("DOCKGATE_SERVER__TLS__CERTIFICATE", "c.crt"), ("DOCKGATE_UPSTREAM__0__URL", "https://a")];
    assert!(lines(from_variables(own))[0].ends_with("set DOCKGATE_SERVER__TLS__KEY=certs/domain.key"));
}

#[test]
fn origins_are_written_as_browsers_write_them() {
    let configured = |origins: &str| read(&format!("[server.cors]\norigins = {origins}\n{REST}"));
    let cors = |origins: &str| configured(origins).map(|config| config.server.cors);
    assert_eq!(read(REST).unwrap().server.cors, None);
    let listed = cors("['https://UI.example:443/', 'http://localhost:8080']").unwrap();
    assert_eq!(
        listed,
        Some(Cors::Origins(vec!["https://ui.example".to_owned(), "http://localhost:8080".to_owned()]))
    );
    assert_eq!(cors("'*'").unwrap(), Some(Cors::Any));
    for (origins, why) in [
        (
            "['ui.example']",
            "server.cors.origins[0]: \"ui.example\" is not an origin; write the scheme and host",
        ),
        ("['https://ui.example/registry']", "\"https://ui.example/registry\" is not an origin"),
        ("['null']", "\"null\" is not an origin"),
        ("['https://*.example']", "is not an origin"),
        (
            "['*', 'https://ui.example']",
            "server.cors.origins[1]: \"https://ui.example\" beside \"*\" says nothing more",
        ),
        (
            "[]",
            "server.cors.origins: no page is allowed without it; add `origins = [\"https://ui.example\"]` to [server.cors]",
        ),
    ] {
        let errors = lines(configured(origins));
        assert!(errors.len() == 1 && errors[0].contains(why), "{origins}: {errors:?}");
    }
}

#[test]
fn the_registry_images_cors_headers_are_taken_over() {
    let config = from_variables([
        ("REGISTRY_AUTH_HTPASSWD_PATH", "/auth/htpasswd"),
        ("REGISTRY_HTTP_TLS_CERTIFICATE", "c"),
        ("REGISTRY_HTTP_TLS_KEY", "k"),
        ("REGISTRY_PROXY_REMOTEURL", "https://a"),
        ("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Origin", "['https://ui.example', http://localhost]"),
        ("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Methods", "['HEAD', 'GET', 'OPTIONS', 'DELETE']"),
        ("REGISTRY_HTTP_HEADERS_Access-Control-Allow-Credentials", "[true]"),
        ("REGISTRY_HTTP_HEADERS_ACCESS_CONTROL_EXPOSE_HEADERS", "['Docker-Content-Digest']"),
        ("REGISTRY_HTTP_HEADERS_X-Frame-Options", "[DENY]"),
    ])
    .unwrap();
    let origins = ["https://ui.example", "http://localhost"].map(str::to_owned);
    assert_eq!(config.server.cors, Some(Cors::Origins(origins.to_vec())));
    assert_eq!(config.warnings, ["REGISTRY_HTTP_HEADERS_X-Frame-Options has no meaning here"]);
}

#[test]
fn a_proxy_is_trusted_by_either_form_of_its_address() {
    let text = format!(
        "[server]\ntrusted_proxies = ['::ffff:10.0.0.1', '::ffff:10.1.0.0/112', '2001:db8::/32']\n{REST}"
    );
    let proxies: Vec<_> =
        read(&text).unwrap().server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.1/32", "10.1.0.0/16", "2001:db8::/32"]);
}

#[test]
fn an_admin_socket_is_for_its_own_user_unless_written() {
    let admin = |keys: &str| read(&format!("[admin]\n{keys}\n{REST}")).unwrap().admin.unwrap();
    let socket = |written: &str| match admin(&format!("address = '{written}'")).address {
        Address::Unix(socket) => (socket.path.display().to_string(), socket.mode, socket.group),
        other => panic!("{other}"),
    };
    assert_eq!(socket("unix:/run/a.sock"), ("/run/a.sock".to_owned(), Some(0o600), None));
    assert_eq!(
        socket("unix:run/a.sock?mode=0660&group=0"),
        ("/etc/dockgate/run/a.sock".to_owned(), Some(0o660), Some(0))
    );
    assert_eq!(admin("htpasswd = ''").htpasswd, None);
    assert_eq!(admin("htpasswd = 'h'").htpasswd, Some("/etc/dockgate/h".into()));
    let local = |written: &str| admin(&format!("address = '{written}'")).local_address().to_string();
    assert_eq!(local("unix:a.sock"), "unix:/etc/dockgate/a.sock");
    assert_eq!(
        [local(":5001"), local("0.0.0.0:1"), local("[::]:1")],
        ["127.0.0.1:5001", "127.0.0.1:1", "[::1]:1"]
    );
}

#[test]
fn networks_wider_than_proxies_need_are_warned_of() {
    let warnings =
        |networks: &str| read(&format!("[server]\ntrusted_proxies = [{networks}]\n{REST}")).unwrap().warnings;
    let narrow = "'10.0.0.1', '10.0.0.0/24', '::1', '2001:db8::/64', '::ffff:10.1.0.0/120', '10.0.0.0/30'";
    assert!(warnings(narrow).is_empty());
    let text = "a client in it can claim any address, which no limit of logins then counts; write the addresses of \
                the proxies alone";
    assert_eq!(
        warnings("'10.0.0.1', '10.0.0.0/8', '::/0', '2001:db8::/63', '::ffff:10.1.0.0/112', '10.0.0.0/23'"),
        [
            format!("dockgate.toml:2: trusted_proxies: 10.0.0.0/8 is wider than /24: {text}"),
            format!("dockgate.toml:2: trusted_proxies: ::/0 is wider than /64: {text}"),
            format!("dockgate.toml:2: trusted_proxies: 2001:db8::/63 is wider than /64: {text}"),
            format!("dockgate.toml:2: trusted_proxies: 10.1.0.0/16 is wider than /24: {text}"),
            format!("dockgate.toml:2: trusted_proxies: 10.0.0.0/23 is wider than /24: {text}"),
        ]
    );
}

#[test]
fn a_file_of_logins_alone_is_no_configuration() {
    let errors = lines(from_variables([("REGISTRY_AUTH_FILE", "/root/auth.json")]));
    assert!(errors.len() == 1 && errors[0].contains("there is no configuration"), "{errors:?}");
}

#[test]
fn the_file_overrules_the_registry_images_variables() {
    let environment = Environment::from([
        ("REGISTRY_PROXY_REMOTEURL", "https://elsewhere"),
        ("REGISTRY_AUTH_HTPASSWD_REALM", "From outside"),
    ]);
    let config = read_with(REST, &environment).unwrap();
    assert_eq!(config.upstreams.len(), 1);
    assert_eq!(config.upstreams[0].url.host, "127.0.0.1");
    assert_eq!(config.auth.realm, "From outside");
    assert_eq!(config.server.addresses[0].to_string(), "127.0.0.1:5000");
    assert_eq!(config.warnings, ["REGISTRY_PROXY_REMOTEURL is overruled by dockgate.toml:3"]);
}

#[test]
fn an_empty_string_stands_only_where_it_means_something() {
    let text = "[server]\nexternal_url = ''\nsecret = ''\nidle_timeout = ''\n[admin]\naddress = ''\n[log]\nlevel = ''\n\
                [auth]\nrealm = ''\nchallenge = ''\n";
    let lines = refusal(&with_rest(text));
    let keys: Vec<&str> = lines.iter().filter_map(|line| line.split(": ").nth(1)).collect();
    assert_eq!(keys, ["server.idle_timeout", "log.level", "auth.realm", "auth.challenge"]);
}

#[test]
fn nothing_at_all_is_one_mistake() {
    let lines = lines(from_variables([("PATH", "/bin")]));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("environment: there is no configuration: "), "{lines:?}");
}

#[test]
fn a_file_that_is_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.toml");
    let named = lines(Config::load(Some(&path), &Environment::default()));
    let variable = Environment::from([("DOCKGATE_CONFIG", path.to_str().unwrap())]);
    assert_eq!(
        named,
        [format!("{}: cannot be read: No such file or directory (os error 2)", path.display())]
    );
    assert_eq!(lines(Config::load(None, &variable)), named);
}
