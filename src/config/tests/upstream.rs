//! Tests of what an upstream is asked with, and by which way.

use crate::config::tests::*;

const LOGIN: &str = "[auth.htpasswd]\npath = 'auth/htpasswd'\n";
const RULES: &str = "[[access]]\nusers = ['*']\nrepositories = ['**']\nactions = ['pull']\n";
const HUB: &str = "[[upstream]]\nname = 'docker.io'\n";

/// Returns the upstream of a configuration with these keys for Docker Hub.
fn upstream(keys: &str) -> Upstream {
    upstream_with(keys, &Environment::default())
}

fn upstream_with(keys: &str, environment: &Environment) -> Upstream {
    read_with(&format!("{LOGIN}{HUB}{keys}"), environment).unwrap().upstreams.remove(0)
}

/// Returns the errors of Docker Hub's keys, which begin at line 3.
fn wrong(keys: &str) -> Vec<String> {
    refusal(&format!("{HUB}{keys}\n{LOGIN}"))
}

fn login(source: &CredentialSource) -> (&str, &str) {
    let CredentialSource::Login(login) = source else { panic!("{source:?}") };
    (&login.username, login.password.expose())
}

#[test]
fn an_upstream_is_asked_anonymously_unless_credentials_are_written() {
    let upstream = upstream("");
    assert_eq!(upstream.credentials, Credentials::default());
    assert_eq!(upstream.credentials.source, CredentialSource::Anonymous);
    assert_eq!(
        (upstream.redirects, &upstream.proxy, &upstream.client_certificate),
        (Redirects::Follow, &None, &None)
    );
    assert!(upstream.realm_hosts.is_empty() && upstream.redirect_hosts.is_empty());
}

#[test]
fn an_upstream_has_a_limit_of_connections() {
    assert_eq!((upstream("").max_connections, upstream("max_connections = 7").max_connections), (256, 7));
    assert_eq!(
        wrong("max_connections = 0"),
        ["dockgate.toml:3: upstream[0].max_connections: 0 is out of range; write a number from 1 to 65535"]
    );
}

#[test]
fn every_source_of_credentials_is_read() {
    let environment = Environment::from([("HOME", "/root"), ("TOKEN", "hunter2")]);
    let source = |keys: &str| {
        upstream_with(&format!("[upstream.credentials]\n{keys}"), &environment).credentials.source
    };
    assert_eq!(login(&source("username = 'robot'\npassword = '${env:TOKEN}'")), ("robot", "hunter2"));
    assert_eq!(
        source("helper = 'ecr-login'\nforward = false"),
        CredentialSource::Helper("ecr-login".to_owned())
    );
    for (written, path) in [
        ("~/.docker/config.json", "/root/.docker/config.json"),
        ("docker/config.json", "/etc/dockgate/docker/config.json"),
        ("/config.json", "/config.json"),
    ] {
        let expected = CredentialSource::DockerConfig(path.into());
        assert_eq!(source(&format!("docker_config = '{written}'")), expected, "{written}");
    }
    let config = read(&format!("{RULES}{HUB}[upstream.credentials]\nforward = true")).unwrap();
    assert_eq!(config.upstreams[0].credentials.source, CredentialSource::Forward);
    assert!(config.auth.htpasswd.is_none() && config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn some_users_may_have_credentials_of_their_own() {
    let users = "[[upstream.credentials.users]]\nusers = ['ci-*', 'anonymous']\nusername = 'ci'\npassword = 'hunter2'\n\
                 [[upstream.credentials.users]]\nusers = ['*']\nusername = 'all'\npassword = 'p'\ngroups = []\n";
    let alone = upstream(users).credentials;
    assert_eq!((alone.source, alone.users.len()), (CredentialSource::Anonymous, 2));
    let beside = upstream(&format!("[upstream.credentials]\nhelper = 'gcr'\n{users}")).credentials;
    assert_eq!(beside.source, CredentialSource::Helper("gcr".to_owned()));
    let [first, second] = beside.users.as_slice() else { panic!("{beside:?}") };
    assert!(first.users[0].matches(Some("ci-7")) && first.users[1].matches(None));
    assert_eq!((first.login.username.as_str(), first.login.password.expose()), ("ci", "hunter2"));
    assert!(second.users[0].matches(Some("bob")) && second.login.username == "all");
}

#[test]
fn a_password_may_be_a_file_of_several_lines() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key.json"), "{\n  \"type\": \"service_account\"\n}\n").unwrap();
    let text =
        format!("{LOGIN}{HUB}credentials = {{ username = '_json_key', password = '${{file:key.json}}' }}");
    let config = Config::from_toml(&text, "d.toml", folder.path(), &Environment::default()).unwrap();
    assert_eq!(
        login(&config.upstreams[0].credentials.source),
        ("_json_key", "{\n  \"type\": \"service_account\"\n}")
    );
}

/// Keys of Docker Hub's table, from line 3 on, and the lines that they are refused with.
const MISTAKES: &[(&str, &[&str])] = &[
    (
        "[upstream.credentials]",
        &[concat!(
            "dockgate.toml:3: upstream[0].credentials: this names no credentials; write `username` and `password`, ",
            "`helper`, `docker_config` or `forward = true` in it, or remove it"
        )],
    ),
    (
        "[upstream.credentials]\nforward = false\nusers = []",
        &[concat!(
            "dockgate.toml:3: upstream[0].credentials: this names no credentials; write `username` and `password`, ",
            "`helper`, `docker_config` or `forward = true` in it, or remove it"
        )],
    ),
    (
        "[upstream.credentials]\nforward = 'yes'",
        &["dockgate.toml:4: upstream[0].credentials.forward: this is a string; write true or false"],
    ),
    (
        "[upstream.credentials]\nusername = 'robot'",
        &[concat!(
            "dockgate.toml:3: upstream[0].credentials.password: a name and a password belong together; ",
            "add `password = \"${file:/run/secrets/password}\"` to [upstream.credentials]"
        )],
    ),
    (
        "[upstream.credentials]\npassword = 'hunter2'",
        &[concat!(
            "dockgate.toml:3: upstream[0].credentials.username: a name and a password belong together; ",
            "add `username = \"robot\"` to [upstream.credentials]"
        )],
    ),
    (
        "[upstream.credentials]\nusername = ''\npassword = ''",
        &[
            "dockgate.toml:4: upstream[0].credentials.username: this is empty; write for example \"robot\"",
            concat!(
                "dockgate.toml:5: upstream[0].credentials.password: this is empty; ",
                "write for example \"${file:/run/secrets/password}\""
            ),
        ],
    ),
    (
        "[upstream.credentials]\nusername = 'robot:hunter2'\npassword = 'hunter2'",
        &[concat!(
            "dockgate.toml:4: upstream[0].credentials.username: a user name with \":\" in it ",
            "cannot be sent; write it without"
        )],
    ),
    (
        "[upstream.credentials]\nhelper = '../../bin/sh'",
        &[concat!(
            r#"dockgate.toml:4: upstream[0].credentials.helper: "../../bin/sh" is no helper's name; of the program "#,
            r#"docker-credential-ecr-login write "ecr-login""#
        )],
    ),
    (
        "[upstream.credentials]\nhelper = ''",
        &[concat!(
            r#"dockgate.toml:4: upstream[0].credentials.helper: "" is no helper's name; of the program "#,
            r#"docker-credential-ecr-login write "ecr-login""#
        )],
    ),
    (
        "[upstream.credentials]\ndocker_config = ''",
        &[concat!(
            "dockgate.toml:4: upstream[0].credentials.docker_config: this names no file; ",
            "write for example \"~/.docker/config.json\""
        )],
    ),
    (
        "[upstream.credentials]\ndocker_config = '~/config.json'",
        &[concat!(
            r#"dockgate.toml:4: upstream[0].credentials.docker_config: "~/config.json" begins at a home, but HOME is "#,
            "not set; write the whole path"
        )],
    ),
    (
        "[upstream.credentials]\nusername = 'robot'\npassword = 'hunter2'\nhelper = 'gcr'\ndocker_config = 'c'",
        &[
            concat!(
                r#"dockgate.toml:6: upstream[0].credentials.helper: "helper" beside "username" is a second source of "#,
                "credentials; remove one of them"
            ),
            concat!(
                r#"dockgate.toml:7: upstream[0].credentials.docker_config: "docker_config" beside "username" is a "#,
                "second source of credentials; remove one of them"
            ),
        ],
    ),
    (
        "[[upstream.credentials.users]]\nusers = ['a[b]']\nusername = 'a'",
        &[
            concat!(
                "dockgate.toml:3: upstream[0].credentials.users[0].password: a name and a password belong together; ",
                "add `password = \"${file:/run/secrets/password}\"` to [[upstream.credentials.users]]"
            ),
            concat!(
                r#"dockgate.toml:4: upstream[0].credentials.users[0].users[0]: "a[b]" has brackets or braces; "#,
                "only * and ? stand for other characters"
            ),
        ],
    ),
    (
        "[[upstream.credentials.users]]\nusername = 'a'\npassword = 'hunter2'",
        &[concat!(
            "dockgate.toml:3: upstream[0].credentials.users[0].users: an entry without users matches nothing; ",
            "add `users = [\"alice\"]` to [[upstream.credentials.users]]"
        )],
    ),
    (
        "client_key = 'k'",
        &[concat!(
            "dockgate.toml:1: upstream[0].client_certificate: a file is needed; ",
            "add `client_certificate = \"certs/client.crt\"` to [[upstream]]"
        )],
    ),
    (
        "client_certificate = 'c'",
        &[concat!(
            "dockgate.toml:1: upstream[0].client_key: a file is needed; ",
            "add `client_key = \"certs/client.key\"` to [[upstream]]"
        )],
    ),
    (
        "url = 'http://hub'\nclient_certificate = 'c'\nclient_key = 'k'",
        &[concat!(
            "dockgate.toml:4: upstream[0].client_certificate: can be shown by TLS alone, and the URL says http; ",
            "write https in the URL, or remove it"
        )],
    ),
    (
        "proxy = 'http://me:hunter2@proxy'",
        &[concat!(
            "dockgate.toml:3: upstream[0].proxy: the proxy's port is missing; ",
            "write for example \"http://proxy.example.com:3128\""
        )],
    ),
    (
        "http2 = 'off'",
        &[r#"dockgate.toml:3: upstream[0].http2: "off" is unknown; write "auto" or "always" or "never""#],
    ),
    (
        "redirects = 'allow'",
        &[r#"dockgate.toml:3: upstream[0].redirects: "allow" is unknown; write "follow" or "pass""#],
    ),
    (
        "realm_hosts = ['*']\nredirect_hosts = ['*.com', 'https://cdn.example']",
        &[
            concat!(
                r#"dockgate.toml:3: upstream[0].realm_hosts[0]: "*" is no host; write for example "auth.example.com", "#,
                r#""auth.example.com:8443" or "*.example.com""#
            ),
            concat!(
                r#"dockgate.toml:4: upstream[0].redirect_hosts[0]: "*.com" lets in hosts of anyone; "#,
                "write a longer domain behind the star"
            ),
            concat!(
                r#"dockgate.toml:4: upstream[0].redirect_hosts[1]: "https://cdn.example" is no host; write for example "#,
                r#""auth.example.com", "auth.example.com:8443" or "*.example.com""#
            ),
        ],
    ),
];

#[test]
fn what_an_upstream_cannot_be_asked_with_is_refused() {
    for (keys, expected) in MISTAKES {
        let lines = wrong(keys);
        assert_eq!(lines, *expected, "{keys}");
        assert!(!lines.concat().contains("hunter2"), "{keys}");
    }
}

#[test]
fn no_password_is_shown_in_debug_output() {
    let environment = Environment::from([("HTTPS_PROXY", "me:hunter2@env:1")]);
    for keys in [
        "[upstream.credentials]\nusername = 'robot'\npassword = 'hunter2'",
        "[[upstream.credentials.users]]\nusers = ['a']\nusername = 'robot'\npassword = 'hunter2'",
        "proxy = 'http://robot:hunter2@proxy:1'",
    ] {
        let config = read_with(&format!("{LOGIN}{HUB}{keys}"), &environment).unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("[secret]") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn forwarding_needs_rules_and_is_a_way_to_log_in() {
    let forward = format!("{HUB}[upstream.credentials]\nforward = true\n");
    assert_eq!(
        refusal(&forward),
        [concat!(
            "dockgate.toml:4: upstream[0].credentials.forward: every account at this registry could do ",
            "everything here; add [[access]] rules, in which `users = [\"*\"]` is anyone who has logged in"
        )]
    );
    assert_eq!(refusal(&format!("{forward}{LOGIN}")).len(), 1);
    let anonymous = RULES.replace('*', "anonymous").replace("anonymousanonymous", "**");
    assert_eq!(
        refusal(&format!("{anonymous}{forward}")),
        [concat!(
            r#"dockgate.toml:2: access[0].users[0]: "anonymous" beside upstream.credentials.forward asks for the bearer "#,
            "challenge, but the upstream needs each client's own password with every request, which no token holds; ",
            "add `challenge = \"basic\"` to [auth]"
        )]
    );
    assert!(read(&format!("auth.challenge = 'basic'\n{anonymous}{forward}")).is_ok());
}

#[test]
fn among_several_upstreams_one_that_forwards_needs_hosts_of_its_own() {
    let forward = "[upstream.credentials]\nforward = true\n";
    let other = "[[upstream]]\nurl = 'https://other'\n";
    assert_eq!(
        refusal(&format!("{RULES}{HUB}{forward}{other}")),
        [concat!(
            "dockgate.toml:8: upstream[0].credentials.forward: which upstream a client's password is for must be plain ",
            "where there are several; add `hosts = [\"hub.example.com\"]` to [[upstream]]"
        )]
    );
    let two = format!("{RULES}{HUB}hosts = ['a']\n{forward}{other}hosts = ['b']\n{forward}");
    let config = read(&two).unwrap();
    assert!(config.upstreams.iter().all(|upstream| upstream.credentials.source == CredentialSource::Forward));
    assert_eq!(refusal(&two.replace("'b'", "'a'")).len(), 1);
}

#[test]
fn beside_forwarding_there_are_no_other_credentials() {
    let users = "[[upstream.credentials.users]]\nusers = ['a']\nusername = 'a'\npassword = 'p'\n";
    assert_eq!(
        refusal(&format!("{RULES}{HUB}[upstream.credentials]\nhelper = 'gcr'\nforward = true\n{users}")),
        [
            concat!(
                r#"dockgate.toml:9: upstream[0].credentials.forward: "forward" beside "helper" is a second source of "#,
                "credentials; remove one of them"
            ),
            concat!(
                r#"dockgate.toml:10: upstream[0].credentials.users: beside "forward" every client goes as itself "#,
                "already; remove one of them"
            ),
        ]
    );
}

#[test]
fn rules_may_name_users_of_an_upstream() {
    let rules = RULES.replace("'*'", "'forward/docker.io:alice', 'forward/docker.io:ci-*'");
    let config = read(&format!("{rules}{HUB}[upstream.credentials]\nforward = true")).unwrap();
    let users = &config.access[0].users;
    assert!(users[0].matches(Some("forward/docker.io:alice")) && !users[0].matches(Some("alice")));
    assert!(users[1].matches(Some("forward/docker.io:ci-7")) && config.warnings.is_empty());
}

#[test]
fn names_that_no_user_can_have_are_warned_about() {
    let forward = "[upstream.credentials]\nforward = true\n";
    let warnings = |users: &str, rest: &str| {
        let rules = RULES.replace("'*'", users);
        read(&format!("{rules}{HUB}{rest}")).unwrap().warnings
    };
    assert_eq!(
        warnings("'alice', 'forward/quay.io:alice', 'forward/*:bob', 'al*', '*'", forward),
        [
            r#"dockgate.toml:2: no user is called "alice": users of an upstream are called "forward/docker.io:NAME""#,
            concat!(
                r#"dockgate.toml:2: no user is called "forward/quay.io:alice": no upstream of that name has credentials "#,
                "with `forward = true`"
            ),
        ]
    );
    assert_eq!(
        warnings("'*-admin'", forward),
        [
            r#"dockgate.toml:2: no user is called "*-admin": users of an upstream are called "forward/docker.io:NAME""#
        ]
    );
    assert_eq!(
        warnings("'alice', 'forward/docker.io:alice'", &format!("{forward}{LOGIN}")),
        [concat!(
            "dockgate.toml:8: beside auth.htpasswd the password of a name that is not in that file goes to this registry: ",
            "that of a user who was removed from it, and a user's own under a mistyped name"
        )]
    );
    assert_eq!(warnings("'alice', 'forward/docker.io:alice'", LOGIN).len(), 1);
}

#[test]
fn passwords_over_plain_http_are_warned_about_off_this_machine() {
    let credentials = "[upstream.credentials]\nusername = 'robot'\npassword = 'hunter2'";
    let users = "[[upstream.credentials.users]]\nusers = ['a']\nusername = 'robot'\npassword = 'hunter2'";
    for keys in [credentials, users] {
        let warnings = |url: &str| read(&format!("{LOGIN}{HUB}url = '{url}'\n{keys}")).unwrap().warnings;
        assert_eq!(
            warnings("http://registry:5000"),
            ["dockgate.toml:6: passwords for this upstream travel unencrypted, since its URL says http"]
        );
        for url in ["https://registry:5000", "http://localhost:5000", "http://127.0.0.1:5000", "http://[::1]"]
        {
            assert!(warnings(url).is_empty(), "{url}");
        }
    }
    assert!(read(&format!("{LOGIN}{HUB}url = 'http://registry'")).unwrap().warnings.is_empty());
}

#[test]
fn the_way_to_an_upstream_is_read() {
    let upstream = upstream(
        "client_certificate = 'c.crt'\nclient_key = '/c.key'\nproxy = 'http://me:p%40ss@Proxy:3128'\nredirects = 'pass'\n\
         http2 = 'never'\nrealm_hosts = ['auth.example:8443']\nredirect_hosts = ['*.cdn.example', '10.0.0.7']",
    );
    let pair = upstream.client_certificate.unwrap();
    assert_eq!(pair.certificate, Path::new("/etc/dockgate/c.crt"));
    assert_eq!(pair.key, Path::new("/c.key"));
    let proxy = upstream.proxy.unwrap();
    assert_eq!((proxy.host.as_str(), proxy.port), ("proxy", 3128));
    assert_eq!(proxy.login.unwrap().password.expose(), "p@ss");
    assert_eq!(upstream.redirects, Redirects::Pass);
    assert_eq!(upstream.http2, Http2::Never);
    assert!(upstream.realm_hosts[0].matches("auth.example", 8443, true));
    let shown: Vec<String> = upstream.redirect_hosts.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["*.cdn.example", "10.0.0.7"]);
}

#[test]
fn the_environments_proxy_is_for_https_upstreams_that_name_none() {
    let environment = Environment::from([
        ("HTTPS_PROXY", "http://upper:1"),
        ("https_proxy", "lower:3128"),
        ("NO_PROXY", "upper.example"),
        ("no_proxy", "registry-1.docker.io"),
        ("HTTP_PROXY", "http://never:1"),
    ]);
    let proxy = |keys: &str| upstream_with(keys, &environment).proxy;
    let named = proxy("proxy = ''").unwrap();
    assert_eq!((named.host.as_str(), named.port), ("lower", 3128));
    assert!(named.except.covers("registry-1.docker.io", 443) && !named.except.covers("upper.example", 443));
    let own = proxy("proxy = 'http://own:1'").unwrap();
    assert_eq!((own.host.as_str(), own.except), ("own", NoProxy::default()));
    assert_eq!(proxy("url = 'http://registry:5000'"), None);
    let upper = Environment::from([("HTTPS_PROXY", " http://upper:1 "), ("https_proxy", "")]);
    assert_eq!(upstream_with("", &upper).proxy.unwrap().host, "upper");
}

#[test]
fn a_variable_that_names_no_proxy_is_a_mistake_where_it_would_be_used() {
    let environment = Environment::from([("HTTPS_PROXY", "socks5://me:hunter2@proxy:1080")]);
    let refused = |text: &str| lines(read_with(text, &environment));
    assert_eq!(
        refused(&format!("{LOGIN}{HUB}[[upstream]]\nurl = 'https://other'")),
        [concat!(
            "environment: HTTPS_PROXY: only a proxy that is asked by plain HTTP can be used; ",
            "write for example \"http://proxy.example.com:3128\""
        )]
    );
    assert_eq!(refused(REST), [""; 0]);
    assert_eq!(refused(&format!("{LOGIN}{HUB}proxy = 'http://own:1'")), [""; 0]);
}

#[test]
fn variables_reach_everything_below_an_upstream() {
    let config = from_variables([
        ("DOCKGATE_AUTH__HTPASSWD__PATH", "h"),
        ("DOCKGATE_UPSTREAM__0__NAME", "docker.io"),
        ("DOCKGATE_UPSTREAM__0__PROXY", "http://proxy:3128"),
        ("DOCKGATE_UPSTREAM__0__REALM_HOSTS", "a.example,*.b.example"),
        ("DOCKGATE_UPSTREAM__0__CREDENTIALS__DOCKER_CONFIG", "config.json"),
        ("DOCKGATE_UPSTREAM__0__CREDENTIALS__USERS__0__USERS", "alice"),
        ("DOCKGATE_UPSTREAM__0__CREDENTIALS__USERS__0__USERNAME", "robot"),
        ("DOCKGATE_UPSTREAM__0__CREDENTIALS__USERS__0__PASSWORD", "hunter2"),
    ])
    .unwrap();
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.proxy.as_ref().unwrap().host, "proxy");
    assert_eq!(upstream.realm_hosts.len(), 2);
    assert_eq!(upstream.credentials.source, CredentialSource::DockerConfig("config.json".into()));
    assert_eq!(upstream.credentials.users[0].login.password.expose(), "hunter2");
    assert_eq!((config.file, config.files), (None, vec![PathBuf::from("config.json")]));
}

#[test]
fn variables_that_are_missing_are_named() {
    let result = from_variables([
        ("DOCKGATE_AUTH__HTPASSWD__PATH", "h"),
        ("DOCKGATE_UPSTREAM__0__NAME", "docker.io"),
        ("DOCKGATE_UPSTREAM__0__CREDENTIALS__USERNAME", "robot"),
    ]);
    assert_eq!(
        lines(result),
        [concat!(
            "environment: DOCKGATE_UPSTREAM__0__CREDENTIALS__USERNAME: a name and a password belong together; ",
            "set DOCKGATE_UPSTREAM__0__CREDENTIALS__PASSWORD=${file:/run/secrets/password}"
        )]
    );
}

/// Returns the registry's variables for a mirror of Docker Hub, with these besides.
fn mirror(variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let least = [("REGISTRY_AUTH_HTPASSWD_PATH", "h"), ("DOCKGATE_SERVER__PLAINTEXT", "true")];
    assemble(None, &least.iter().chain(variables).copied().collect(), Look::Away)
}

#[test]
fn the_registry_images_credentials_go_to_its_upstream() {
    let url = ("REGISTRY_PROXY_REMOTEURL", "https://registry-1.docker.io");
    let name = ("REGISTRY_PROXY_USERNAME", "robot");
    let config = mirror(&[url, name, ("REGISTRY_PROXY_PASSWORD", "literally ${env:HOME}")]).unwrap();
    assert_eq!(login(&config.upstreams[0].credentials.source), ("robot", "literally ${env:HOME}"));
    let config = mirror(&[url, ("REGISTRY_PROXY_USERNAME", ""), ("REGISTRY_PROXY_PASSWORD", "")]).unwrap();
    assert_eq!(config.upstreams[0].credentials, Credentials::default());
    assert_eq!(
        lines(mirror(&[url, name])),
        [concat!(
            "environment: REGISTRY_PROXY_USERNAME: a name and a password belong together; ",
            "set REGISTRY_PROXY_PASSWORD too, or unset it"
        )]
    );
    assert_eq!(
        lines(mirror(&[url, ("REGISTRY_PROXY_PASSWORD", "hunter2")])),
        [concat!(
            "environment: REGISTRY_PROXY_PASSWORD: a name and a password belong together; ",
            "set REGISTRY_PROXY_USERNAME too, or unset it"
        )]
    );
    assert_eq!(
        lines(mirror(&[url, ("REGISTRY_PROXY_USERNAME", "a:b"), ("REGISTRY_PROXY_PASSWORD", "hunter2")])),
        [concat!(
            "environment: REGISTRY_PROXY_USERNAME: a user name with \":\" in it cannot be sent; ",
            "write it without"
        )]
    );
}

#[test]
fn the_registry_images_credentials_mean_nothing_without_its_upstream() {
    let environment =
        Environment::from([("REGISTRY_PROXY_USERNAME", "robot"), ("REGISTRY_PROXY_PASSWORD", "hunter2")]);
    let config = read_with(REST, &environment).unwrap();
    assert_eq!(config.upstreams[0].credentials, Credentials::default());
    assert_eq!(
        config.warnings,
        [
            "REGISTRY_PROXY_PASSWORD has no meaning without REGISTRY_PROXY_REMOTEURL",
            "REGISTRY_PROXY_USERNAME has no meaning without REGISTRY_PROXY_REMOTEURL",
        ]
    );
}

#[test]
fn files_that_make_a_configuration_are_listed_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("hub"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let text = format!(
        "[server]\nsecret = '${{file:hub}}'\n{LOGIN}{HUB}ca = 'ca.pem'\nclient_certificate = 'c.crt'\nclient_key = 'c.key'\n\
         [upstream.credentials]\nusername = 'robot'\npassword = '${{file:hub}}'\n\
         [[upstream]]\nurl = 'https://other'\ncredentials.docker_config = 'config.json'\n"
    );
    std::fs::write(path("dockgate.toml"), text).unwrap();
    let config = Config::load(Some(&path("dockgate.toml")), &Environment::default()).unwrap();
    let names = ["dockgate.toml", "hub", "ca.pem", "c.crt", "c.key", "config.json"];
    assert_eq!(config.files, names.map(path));
    assert_eq!(config.file, Some(path("dockgate.toml")));
}

#[test]
fn every_key_stands_in_the_sample_that_has_them_all() {
    let sample = include_str!("../../../config/dockgate.toml");
    let mut missing = Vec::new();
    missing_keys(KEYS, sample, &mut missing);
    assert_eq!(missing, [""; 0]);
}

fn missing_keys(keys: &[Key], sample: &str, missing: &mut Vec<&'static str>) {
    for key in keys {
        if let Kind::Table(keys) | Kind::Tables(keys) | Kind::Switch(keys) | Kind::TextOrTable(keys) =
            &key.kind
        {
            missing_keys(keys, sample, missing);
        }
        let is_there = |line: &str| {
            let line = line.trim_start_matches(['#', ' ']);
            let value = line.strip_prefix(key.name).is_some_and(|rest| rest.starts_with(" = "));
            value || line.starts_with('[') && line.split([']', '.', '[']).any(|word| word == key.name)
        };
        if !sample.lines().any(is_there) {
            missing.push(key.name);
        }
    }
}
