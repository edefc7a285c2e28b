use std::sync::Arc;

use crate::config::{Config, Environment, Glob, UserPattern};
use crate::proto::Secret;
use crate::proto::identity::UserName;
use crate::upstream::auth::credentials::program::tests::install;
use crate::upstream::auth::credentials::source::*;

fn credentials(source: CredentialSource, users: &[(UserPattern, &str)]) -> Credentials {
    let toml =
        "[auth.htpasswd]\npath = \"users\"\n[[upstream]]\nname = \"internal\"\nurl = \"https://r.example\"\n";
    let config = Config::from_toml(toml, "x.toml", Path::new("/"), &Environment::default()).unwrap();
    let mut settings = config.upstreams[0].clone();
    let users = users.iter().map(|(pattern, name)| UserCredentials {
        groups: Vec::new(),
        users: vec![pattern.clone()],
        login: Login { username: (*name).into(), password: Secret::new(format!("hunter2-{name}")) },
    });
    settings.credentials = config::Credentials { source, users: users.collect() };
    Credentials::new(&settings)
}

fn robot() -> CredentialSource {
    CredentialSource::Login(Login { username: "robot".into(), password: Secret::new("hunter2") })
}

fn user(name: &str) -> Identity {
    Identity::User(UserName::parse(name).unwrap())
}

fn client(upstream: &str) -> Arc<Forwarded> {
    Arc::new(Forwarded::new(upstream, "carol".into(), Secret::new("hunter2")))
}

async fn shown(credentials: &Credentials, who: &UpstreamIdentity) -> String {
    match credentials.credential(who).await.unwrap() {
        Credential::Nothing => "nothing".into(),
        Credential::Password(login) => format!("{}:{}", login.username, login.password.expose()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_an_entry_the_source_gives_the_identity() {
    for (source, expected) in [
        (CredentialSource::Anonymous, UpstreamIdentity::Anonymous),
        (CredentialSource::Forward, UpstreamIdentity::Anonymous),
        (robot(), UpstreamIdentity::Gateway),
        (CredentialSource::Helper("x".into()), UpstreamIdentity::Gateway),
        (CredentialSource::DockerConfig("/x".into()), UpstreamIdentity::Gateway),
    ] {
        let credentials = credentials(source, &[]);
        assert_eq!(credentials.identify(&Identity::Anonymous, &[]), expected);
        assert_eq!(credentials.identify(&user("alice"), &[]), expected);
    }
}

#[test]
fn the_first_matching_entry_decides() {
    let glob = |pattern| UserPattern::Glob(Glob::new(pattern));
    let users = [
        (glob("build-*"), "builders"),
        (glob("alice"), "alice"),
        (UserPattern::Anonymous, "guests"),
        (glob("build-7"), "never"),
    ];
    let credentials = credentials(robot(), &users);
    for (identity, expected) in [
        (user("build-7"), UpstreamIdentity::User(0)),
        (user("alice"), UpstreamIdentity::User(1)),
        (Identity::Anonymous, UpstreamIdentity::User(2)),
        (user("bob"), UpstreamIdentity::Gateway),
    ] {
        assert_eq!(credentials.identify(&identity, &[]), expected, "{identity}");
    }
}

#[test]
fn a_forwarded_client_is_anonymous_at_other_upstreams() {
    let everyone = [(UserPattern::Anyone, "all")];
    let own = Identity::Forwarded(client("internal"));
    let other = Identity::Forwarded(client("elsewhere"));
    let forwards = credentials(CredentialSource::Forward, &everyone);
    assert_eq!(forwards.identify(&own, &[]), UpstreamIdentity::Client(client("internal")));
    assert_eq!(forwards.identify(&other, &[]), UpstreamIdentity::Anonymous);
    let keeps = credentials(robot(), &everyone);
    assert_eq!(
        (keeps.identify(&own, &[]), keeps.identify(&other, &[])),
        (UpstreamIdentity::Gateway, UpstreamIdentity::Gateway)
    );
    assert_eq!(keeps.identify(&user("alice"), &[]), UpstreamIdentity::User(0));
}

#[tokio::test]
async fn every_identity_has_its_own_credential() {
    let users = [(UserPattern::Anyone, "all")];
    let keeps = credentials(robot(), &users);
    assert_eq!(shown(&keeps, &UpstreamIdentity::Anonymous).await, "nothing");
    assert_eq!(shown(&keeps, &UpstreamIdentity::Gateway).await, "robot:hunter2");
    assert_eq!(shown(&keeps, &UpstreamIdentity::User(0)).await, "all:hunter2-all");
    assert_eq!(shown(&keeps, &UpstreamIdentity::User(1)).await, "nothing");
    let forwards = credentials(CredentialSource::Forward, &users);
    assert_eq!(shown(&forwards, &UpstreamIdentity::Client(client("internal"))).await, "carol:hunter2");
    assert_eq!(shown(&forwards, &UpstreamIdentity::Gateway).await, "nothing");
}

#[tokio::test]
async fn a_missing_helper_is_reported_with_its_key() {
    let credentials = credentials(CredentialSource::Helper("no-such-helper".into()), &[]);
    let error = credentials.credential(&UpstreamIdentity::Gateway).await.unwrap_err();
    let expected =
        "upstream.credentials.helper: docker-credential-no-such-helper: there is no such program on PATH";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn refusals_reach_the_helper_alone() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"echo >>"$(dirname "$0")/runs"; echo '{"Username":"robot","Secret":"hunter2"}'"#;
    let program = install(directory.path(), "test", script);
    let mut credentials = credentials(robot(), &[(UserPattern::Anyone, "all")]);
    credentials.source = Source::Helper(CredentialHelper::new(program, "r.example"));
    let runs = || std::fs::read_to_string(directory.path().join("runs")).unwrap().lines().count();
    shown(&credentials, &UpstreamIdentity::Gateway).await;
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    tokio::time::resume();
    credentials.refused(&UpstreamIdentity::User(0));
    credentials.refused(&UpstreamIdentity::Anonymous);
    shown(&credentials, &UpstreamIdentity::Gateway).await;
    assert_eq!(runs(), 1);
    credentials.refused(&UpstreamIdentity::Gateway);
    assert_eq!(shown(&credentials, &UpstreamIdentity::Gateway).await, "robot:hunter2");
    assert_eq!(runs(), 2);
}

#[tokio::test]
async fn no_secret_shows_in_debug_output() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let json = r#"{"auths":{"r.example":{"username":"robot","password":"hunter2"}}}"#;
    std::fs::write(&file, json).unwrap();
    let script = r#"echo '{"Username":"robot","Secret":"hunter2"}'"#;
    let mut helper = credentials(robot(), &[]);
    let program = install(directory.path(), "test", script);
    helper.source = Source::Helper(CredentialHelper::new(program, "r.example"));
    let users = [(UserPattern::Anyone, "all")];
    for credentials in
        [credentials(robot(), &users), credentials(CredentialSource::DockerConfig(file), &users), helper]
    {
        assert_eq!(shown(&credentials, &UpstreamIdentity::Gateway).await, "robot:hunter2");
        let shown_all = (
            credentials.credential(&UpstreamIdentity::Gateway).await,
            credentials.credential(&UpstreamIdentity::User(0)).await,
        );
        let seen =
            format!("{credentials:?} {shown_all:?} {:?}", UpstreamIdentity::Client(client("internal")));
        assert!(seen.contains("robot") && !seen.contains("hunter2"), "{seen}");
    }
}
