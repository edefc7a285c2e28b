//! `dockgate check`: validates a configuration, every mistake at once.

use std::io::{self, Write};
use std::path::Path;

use crate::admin::configuration;
use crate::bucket::try_bucket;
use crate::config::{Bucket, Config, ConfigErrors, Environment, Peers};
use crate::peers::try_members;

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
    for (what, how) in configuration::lines(config) {
        writeln!(out, "  {what:<12}{how}")?;
    }
    config.store.as_ref().map_or(Ok(()), |bucket| store(bucket, out))?;
    config.peers.as_ref().map_or(Ok(()), |peers| members(peers, out))
}

/// Says whether the object store can be used. It may not run yet, so that none of it is a mistake.
fn store(bucket: &Bucket, out: &mut dyn Write) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(try_bucket(bucket)) {
        Err(problem) => writeln!(out, "  {:<12}cannot be used: {problem}", "store"),
        Ok(is_versioned) => {
            writeln!(out, "  {:<12}takes, lists, sends parts and deletes", "store")?;
            if is_versioned {
                let told = "keeps versions: what is deleted there goes on to take room; turn versioning off";
                writeln!(out, "  {:<12}{told}", "store")?;
            }
            Ok(())
        }
    }
}

/// Says which of the other replicas answer: they may not run yet, so that none of it is a mistake.
fn members(peers: &Peers, out: &mut dyn Write) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(try_members(peers)) {
        Err(problem) => writeln!(out, "  {:<12}cannot be looked up: {problem}", "members"),
        Ok(members) => members.iter().try_for_each(|(name, problem)| {
            let answer = problem.as_deref().map_or_else(
                || "answers, and has the same secret".to_owned(),
                |problem| format!("does not answer: {problem}"),
            );
            writeln!(out, "  {:<12}{name} {answer}", "member")
        }),
    }
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
    fn members_are_resolved_and_tried() {
        let folder = folder();
        let secret = "[server]\nsecret = '0123456789abcdef0123456789abcdef'\n";
        // Taken, and silent.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let name = silent.local_addr().unwrap();
        let text = format!("{secret}{LOGIN}[upstream.cache]\n[peers]\nmembers = ['{name}', '127.0.0.1:1']\n");
        let (code, out, err) = check_text(folder.path(), &text);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains(&format!("  peers       {name}, 127.0.0.1:1, at :5003\n")), "{out}");
        assert!(out.contains(&format!("  member      {name} does not answer: no connection")), "{out}");
        assert!(out.contains("  member      127.0.0.1:1 does not answer: cannot connect"), "{out}");
        let unknown = "[peers]\nmembers = 'dns://none.invalid:5003'\n";
        let (code, out, _) =
            check_text(folder.path(), &format!("{secret}{LOGIN}[upstream.cache]\n{unknown}"));
        assert!(code == 0 && out.contains("  members     cannot be looked up: "), "{out}");
    }

    #[test]
    fn a_store_that_does_not_answer_is_told() {
        let folder = folder();
        let secret = "[server]\nsecret = '0123456789abcdef0123456789abcdef'\n";
        let keys = "credentials = { access_key = 'me', secret_key = 'hunter2' }\ntimeout = '1s'\n";
        let store = format!("[cache.store]\nurl = 's3://bucket/a'\nendpoint = 'http://127.0.0.1:1'\n{keys}");
        let (code, out, err) =
            check_text(folder.path(), &format!("{secret}{LOGIN}[upstream.cache]\n{store}"));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains("  store       s3://bucket/a at http://127.0.0.1:1\n"), "{out}");
        assert!(out.contains("  store       cannot be used: "), "{out}");
        assert!(!out.contains("hunter2"), "{out}");
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
