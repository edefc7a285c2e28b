//! `dockgate check`: validates a configuration, every mistake at once.

use std::io::{self, Write};
use std::path::Path;

use crate::budget::plan;
use crate::config::{
    AccessRule, Address, Admin, Config, ConfigErrors, CredentialSource, Credentials, Environment, Proxy,
    PullAuthorization, Upstream,
};

/// Says on `out` what the configuration amounts to, or on `err` everything that is wrong with it.
///
/// The answer is the exit code: 0, or 2 where the configuration is wrong, or 1 where it could not be said.
pub(crate) fn run(
    path: Option<&Path>,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let told = match Config::check(path, environment) {
        Ok(config) => summary(&config, out, err).map(|()| 0),
        Err(errors) => complain(&errors, err).map(|()| 2),
    };
    told.unwrap_or(1)
}

fn complain(errors: &ConfigErrors, err: &mut dyn Write) -> io::Result<()> {
    writeln!(err, "{errors}")?;
    match errors.count() {
        1 => writeln!(err, "1 mistake"),
        count => writeln!(err, "{count} mistakes"),
    }
}

fn summary(config: &Config, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
    for warning in &config.warnings {
        writeln!(err, "warning: {warning}")?;
    }
    match &config.file {
        Some(file) => writeln!(out, "{} is valid", file.display())?,
        None => writeln!(out, "the variables are a valid configuration")?,
    }
    for (what, how) in lines(config) {
        writeln!(out, "  {what:<12}{how}")?;
    }
    Ok(())
}

fn lines(config: &Config) -> Vec<(&'static str, String)> {
    let mut lines = vec![("listens on", listeners(config))];
    lines.push(("admin", config.admin.as_ref().map_or_else(|| "off".to_owned(), admin)));
    lines.push(("users", users(config)));
    let effect = |rule: &AccessRule| if rule.allows() { "allows" } else { "denies" };
    lines.extend(config.access.iter().map(|rule| (effect(rule), rule.to_string())));
    lines.extend(config.upstreams.iter().map(|upstream| ("upstream", describe(upstream))));
    lines.extend(config.cache.iter().map(|cache| ("cache", cache.to_string())));
    lines.extend(plan::all(config).iter().map(|plan| ("budget", plan.to_string())));
    lines
}

fn admin(admin: &Admin) -> String {
    let mode = match &admin.address {
        Address::Unix(socket) => socket.mode.map(|mode| format!(", mode {mode:04o}")).unwrap_or_default(),
        Address::Tcp(_) | Address::Any(_) => String::new(),
    };
    let login = admin.htpasswd.as_ref().map(|path| format!(", for the users of {}", path.display()));
    format!("{}{mode}{}", admin.address, login.unwrap_or_default())
}

fn listeners(config: &Config) -> String {
    let addresses: Vec<String> = config.server.addresses.iter().map(Address::to_string).collect();
    let how = if config.server.tls.is_some() { "TLS" } else { "plain HTTP" };
    format!("{} ({how})", addresses.join(", "))
}

fn users(config: &Config) -> String {
    let forwards = |upstream: &&Upstream| upstream.credentials.source == CredentialSource::Forward;
    let known =
        config.upstreams.iter().filter(forwards).map(|upstream| format!("who {} knows", upstream.name));
    let file = config.auth.htpasswd.iter().map(|path| path.display().to_string());
    let all: Vec<String> = file.chain(known).collect();
    if all.is_empty() { "none: no user can log in".to_owned() } else { all.join(", ") }
}

fn describe(upstream: &Upstream) -> String {
    let names = if upstream.prefix.is_empty() { "every other name" } else { &upstream.prefix };
    let below = if upstream.prefix.is_empty() { "" } else { "/..." };
    let mode = upstream.read_only.then(|| "read only".to_owned());
    let proxy = upstream.proxy.as_ref().filter(|proxy| !is_direct(proxy, upstream)).map(through);
    let how = mode.into_iter().chain(cache(upstream)).chain(credentials(&upstream.credentials)).chain(proxy);
    let how: String = how.map(|how| format!(", {how}")).collect();
    format!("{names}{below} -> {} ({}{how})", upstream.url, upstream.name)
}

fn cache(upstream: &Upstream) -> Option<String> {
    let cache = upstream.cache.as_ref()?;
    let each = match cache.pull_authorization {
        PullAuthorization::Shared => "",
        PullAuthorization::Each => " for each client alone",
    };
    Some(format!("{}{each}", if cache.offline { "from the cache alone" } else { "cached" }))
}

/// Returns the kind of credentials, without names: at some registries the name is the secret.
fn credentials(credentials: &Credentials) -> Option<String> {
    let own = match &credentials.source {
        CredentialSource::Anonymous => None,
        CredentialSource::Login(_) => Some("by password".to_owned()),
        CredentialSource::Helper(name) => Some(format!("by docker-credential-{name}")),
        CredentialSource::DockerConfig(path) => Some(format!("by {}", path.display())),
        CredentialSource::Forward => Some("each client as itself".to_owned()),
    };
    let some = (!credentials.users.is_empty()).then(|| "some users as others".to_owned());
    let all: Vec<String> = own.into_iter().chain(some).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn is_direct(proxy: &Proxy, upstream: &Upstream) -> bool {
    proxy.except.covers(&upstream.url.host, upstream.url.port)
}

fn through(proxy: &Proxy) -> String {
    let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
    format!("through the proxy {host}:{}", proxy.port)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use rcgen::{CertifiedKey, KeyPair};

    use super::*;

    const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

    /// Returns a folder with the files that the samples name.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["auth", "certs"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        for (name, content) in [
            ("auth/htpasswd", format!("alice:{HASH}\n")),
            ("auth/docker-hub", "hunter2\n".to_owned()),
            ("auth/secret", "0123456789abcdef0123456789abcdef\n".to_owned()),
            ("certs/domain.crt", cert.pem()),
            ("certs/domain.key", signing_key.serialize_pem()),
        ] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn check(path: &Path) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(Some(path), &Environment::default(), &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn check_text(folder: &Path, text: &str) -> (u8, String, String) {
        let path = folder.join("dockgate.toml");
        fs::write(&path, text).unwrap();
        let (code, out, err) = check(&path);
        let prefix = format!("{}/", folder.display());
        (code, out.replace(&prefix, ""), err.replace(&prefix, ""))
    }

    fn samples() -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect()
    }

    #[test]
    fn every_sample_is_valid() {
        let samples = samples();
        assert_eq!(samples.len(), 4, "{samples:?}");
        let folder = folder();
        for sample in samples {
            let copy = folder.path().join(sample.file_name().unwrap());
            fs::copy(&sample, &copy).unwrap();
            let (code, out, err) = check(&copy);
            assert_eq!((code, err.as_str()), (0, ""), "{}", sample.display());
            assert!(out.contains("is valid"), "{out}");
        }
    }

    const TLS: &str = "[server.tls]\ncertificate = 'certs/domain.crt'\nkey = 'certs/domain.key'\n";
    const LOGIN: &str = "[auth.htpasswd]\npath = 'auth/htpasswd'\n[[upstream]]\nname = 'docker.io'\n";

    #[test]
    fn a_valid_configuration_is_summed_up() {
        let folder = folder();
        let text = format!("[server]\naddress = ':5000'\n{TLS}{LOGIN}read_only = true\n");
        let (code, out, err) = check_text(folder.path(), &text);
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(
            without_budgets(&out),
            "dockgate.toml is valid\n\
             \x20 listens on  :5000 (TLS)\n\
             \x20 admin       127.0.0.1:5001\n\
             \x20 users       auth/htpasswd\n\
             \x20 allows      *: pull, push, delete, catalog in **\n\
             \x20 upstream    docker.io/... -> https://registry-1.docker.io (docker.io, read only)\n"
        );
    }

    #[test]
    fn what_is_kept_and_what_is_denied_is_told() {
        let folder = folder();
        let rule = |effect: &str, actions: &str| {
            format!(
                "[[access]]\nusers = ['*']\nrepositories = ['**']\nactions = ['{actions}']\neffect = '{effect}'\n"
            )
        };
        let rules = rule("deny", "fetch") + &rule("allow", "pull");
        let cache = "[cache]\npath = '/data'\nmax_size = '10GB'\n";
        for (keys, told) in [
            ("", "read only, cached"),
            ("pull_authorization = 'each'", "read only, cached for each client alone"),
            ("offline = true", "read only, from the cache alone"),
        ] {
            let text = format!("{rules}{LOGIN}[upstream.cache]\n{keys}\n{cache}");
            let (code, out, err) = check_text(folder.path(), &text);
            assert_eq!((code, err.as_str()), (0, ""));
            let end = format!(
                "\x20 denies      *: fetch in **\n\
                 \x20 allows      *: pull in **\n\
                 \x20 upstream    docker.io/... -> https://registry-1.docker.io (docker.io, {told})\n\
                 \x20 cache       /data (10GB at most, 5% left free)\n"
            );
            assert!(without_budgets(&out).ends_with(&end), "{out}");
        }
    }

    fn without_budgets(out: &str) -> String {
        out.split_inclusive('\n').filter(|line| !line.starts_with("  budget")).collect()
    }

    #[test]
    fn the_budgets_in_force_are_told() {
        let folder = folder();
        let text = format!(
            "{LOGIN}max_connections = 7\nresponse_timeout = '500ms'\n[server]\nmax_connections = 800\n"
        );
        let (code, out, err) = check_text(folder.path(), &text);
        assert_eq!((code, err.as_str()), (0, ""));
        for line in [
            "connections: 800, 100 a client, waits 10 s (server.max_connections, server.max_connections_per_client)",
            "held_bytes: 256MiB, 64MiB a client, waits 10 s (server.max_held_bytes)",
            "upstream_connections of docker.io: 7, 4 a client, waits 0.5 s (upstream.max_connections)",
        ] {
            assert!(out.contains(&format!("  budget      {line}\n")), "{line} is not in\n{out}");
        }
    }

    #[test]
    fn the_kind_of_an_upstreams_credentials_is_told_and_no_more() {
        let folder = folder();
        let rule = "[[access]]\nusers = ['*']\nrepositories = ['**']\nactions = ['pull']\n";
        let others = "[[upstream.credentials.users]]\nusers = ['a']\nusername = 'x'\npassword = 'hunter2'\n";
        fs::write(folder.path().join("config.json"), "{\"auths\": {}}").unwrap();
        for (keys, told) in [
            ("credentials = { username = 'robot', password = 'hunter2' }".to_owned(), "by password"),
            ("credentials.helper = 'ecr-login'".to_owned(), "by docker-credential-ecr-login"),
            ("credentials.docker_config = 'config.json'".to_owned(), "by config.json"),
            ("credentials.forward = true".to_owned(), "each client as itself"),
            (others.to_owned(), "some users as others"),
            ("proxy = 'http://me:hunter2@[::1]:3128'".to_owned(), "through the proxy [::1]:3128"),
        ] {
            let (code, out, err) = check_text(folder.path(), &format!("{rule}{LOGIN}{keys}"));
            // Local passwords may go there too.
            let warned = keys.contains("forward");
            assert_eq!((code, err.is_empty()), (0, !warned), "{keys}: {err}");
            assert_eq!(err.contains("beside auth.htpasswd"), warned, "{err}");
            let line = format!("docker.io/... -> https://registry-1.docker.io (docker.io, {told})\n");
            assert!(
                without_budgets(&out).ends_with(&line) && !out.contains("hunter2") && !out.contains("robot"),
                "{out}"
            );
        }
        let forward = format!("{rule}[[upstream]]\nname = 'docker.io'\ncredentials.forward = true");
        let (_, out, _) = check_text(folder.path(), &forward);
        assert!(out.contains("  users       who docker.io knows\n"), "{out}");
    }

    #[test]
    fn files_that_are_not_there_are_mistakes() {
        let folder = tempfile::tempdir().unwrap();
        let (code, out, err) = check_text(folder.path(), &format!("{TLS}{LOGIN}ca = 'certs'\n"));
        assert_eq!((code, out.as_str()), (2, ""));
        let none = "cannot be read: No such file or directory (os error 2)";
        assert_eq!(
            err,
            format!(
                "dockgate.toml:2: server.tls.certificate: certs/domain.crt {none}; make one with `dockgate certificate certs`\n\
                 dockgate.toml:3: server.tls.key: certs/domain.key {none}\n\
                 dockgate.toml:5: auth.htpasswd.path: auth/htpasswd {none}; make it with `dockgate user add auth/htpasswd NAME`\n\
                 dockgate.toml:8: upstream[0].ca: certs {none}\n\
                 4 mistakes\n"
            )
        );
    }

    #[test]
    fn an_htpasswd_file_needs_a_user() {
        let folder = folder();
        let add = "add one with `dockgate user add auth/htpasswd NAME`";
        let plain =
            "not a bcrypt hash ($2a$, $2b$ or $2y$); make one with `dockgate user add` or `htpasswd -B`";
        for (content, defects) in [
            (String::new(), String::new()),
            (
                "# people\nbob:hunter2\nx\n".to_owned(),
                format!("; line 2: {plain}; line 3: no `:` between a name and a hash"),
            ),
            (
                format!("alice:{HASH}\nalice:!\n"),
                format!(
                    "; line 1: the name is repeated on line 2, and the later line is used; line 2: {plain}"
                ),
            ),
        ] {
            fs::write(folder.path().join("auth/htpasswd"), content).unwrap();
            let (code, out, err) = check_text(folder.path(), LOGIN);
            let expected = format!(
                "dockgate.toml:2: auth.htpasswd.path: auth/htpasswd has no user who can log in{defects}; {add}\n1 mistake\n"
            );
            assert_eq!((code, out.as_str(), err.as_str()), (2, "", expected.as_str()));
        }
    }

    #[test]
    fn a_comment_behind_a_hash_is_no_mistake_and_a_bad_line_is_warned_of() {
        let folder = folder();
        fs::write(folder.path().join("auth/htpasswd"), format!("alice:{HASH}:since 2019\nbob:hunter2\n"))
            .unwrap();
        let (code, _, err) = check_text(folder.path(), LOGIN);
        assert_eq!(code, 0, "{err}");
        assert!(
            err.starts_with("warning: auth/htpasswd: line 2: not a bcrypt hash") && !err.contains("hunter2"),
            "{err}"
        );
    }

    #[test]
    fn a_key_must_belong_to_its_certificate() {
        let folder = folder();
        let other = KeyPair::generate().unwrap().serialize_pem();
        fs::write(folder.path().join("certs/domain.key"), other).unwrap();
        let (code, _, err) = check_text(folder.path(), &format!("{TLS}{LOGIN}"));
        let expected = "dockgate.toml:3: server.tls.key: certs/domain.key is not the key of the certificate \
                        certs/domain.crt\n1 mistake\n";
        assert_eq!((code, err.as_str()), (2, expected));
    }

    #[test]
    fn files_that_hold_something_else_are_mistakes() {
        let folder = folder();
        for name in ["domain.crt", "domain.key"] {
            fs::write(folder.path().join("certs").join(name), "hunter2").unwrap();
        }
        let (code, _, err) = check_text(folder.path(), &format!("{TLS}{LOGIN}ca = 'auth'\n"));
        assert_eq!(
            (code, err.as_str()),
            (
                2,
                "dockgate.toml:2: server.tls.certificate: certs/domain.crt is not in PEM form \
                 (-----BEGIN CERTIFICATE-----)\n\
                 dockgate.toml:3: server.tls.key: certs/domain.key is not in PEM form (-----BEGIN PRIVATE KEY-----)\n\
                 dockgate.toml:8: upstream[0].ca: auth cannot be read: it is not a file\n\
                 3 mistakes\n"
            )
        );
    }

    #[test]
    fn the_files_of_an_upstream_must_be_what_they_should_be() {
        let folder = folder();
        fs::write(folder.path().join("config.json"), "{\n\"auths\": hunter2}").unwrap();
        let keys = "client_certificate = 'none.crt'\nclient_key = 'auth/secret'\ncredentials.docker_config = 'config.json'";
        let (code, _, err) = check_text(folder.path(), &format!("{LOGIN}{keys}"));
        assert_eq!(
            (code, err.as_str()),
            (
                2,
                "dockgate.toml:5: upstream[0].client_certificate: none.crt cannot be read: No such file or directory \
                 (os error 2)\n\
                 dockgate.toml:6: upstream[0].client_key: auth/secret is not in PEM form \
                 (-----BEGIN PRIVATE KEY-----)\n\
                 dockgate.toml:7: upstream[0].credentials.docker_config: config.json holds no JSON object: see its \
                 line 2\n\
                 3 mistakes\n"
            )
        );
        let pair = "client_certificate = 'certs/domain.crt'\nclient_key = 'certs/domain.key'";
        assert_eq!(check_text(folder.path(), &format!("{LOGIN}{pair}")).0, 0);
    }

    #[test]
    fn warnings_do_not_make_a_configuration_wrong() {
        let folder = folder();
        let rule =
            |who| format!("[[access]]\nusers = ['{who}']\nrepositories = ['**']\nactions = ['pull']\n");
        let text = format!("{}{}[[upstream]]\nname = 'docker.io'\n", rule("anonymous"), rule("alice"));
        let (code, _, err) = check_text(folder.path(), &text);
        assert_eq!(code, 0);
        assert!(err.starts_with("warning: dockgate.toml:6: this rule matches no client"), "{err}");
    }
}
