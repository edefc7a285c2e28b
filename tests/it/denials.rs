//! The message of a 403: the sentence of `dockgate explain`, and nothing that the client should not know.

use std::process::Command;

use crate::harness::{Answer, Gateway, Origin, Reply, Request, Upstream};

const DENIED: &str = "requested access to the resource is denied: ";

/// The message of a denial.
#[track_caller]
fn message(answer: Answer) -> String {
    let body = answer.refuses(403, "DENIED").json();
    body["errors"][0]["message"].as_str().expect("a message").to_owned()
}

/// The sentence of `dockgate explain`, for a client at the same address.
fn explained(gateway: &Gateway, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dockgate"));
    command
        .args(["explain", "--from", "127.0.0.1"])
        .args(words)
        .arg("--config")
        .arg(gateway.path("dockgate.toml"));
    let output = command.env_clear().output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().next().and_then(|line| line.strip_prefix("denied: ")).expect("a denial").to_owned()
}

#[tokio::test]
async fn a_denial_has_the_sentence_of_explain() {
    let origin = Origin::start().await;
    let builder = Gateway::builder().user("alice", "secret").denial(&["alice"], &["team/**"], &["fetch"]);
    let builder = builder.rule(&["alice"], &["team/**"], &["pull"]).cache("");
    let gateway = builder.upstream_with("up", "", origin.address(), "[upstream.cache]").start().await;
    origin.image("team/app", "x", &[]);
    for (request, words) in [
        (Request::get("/v2/other/app/manifests/x"), vec!["pull", "other/app"]),
        (Request::get("/v2/other/app/tags/list"), vec!["pull", "other/app"]),
        (Request::put("/v2/team/app/manifests/x").body("{}"), vec!["push", "team/app"]),
        (Request::post("/v2/other/app/blobs/uploads/"), vec!["push", "other/app"]),
        (Request::delete("/v2/team/app/manifests/x"), vec!["delete", "team/app"]),
        (Request::get("/v2/_catalog"), vec!["catalog"]),
    ] {
        let sentence = explained(&gateway, &[["--user", "alice"].as_slice(), words.as_slice()].concat());
        let told = message(gateway.ask(request.login("alice", "secret")).await);
        assert_eq!(told, format!("{DENIED}{sentence}"));
    }
    let sentence = explained(&gateway, &["--user", "alice", "fetch", "team/app"]);
    assert_eq!(sentence, "alice may not fetch team/app");
    let told = message(gateway.ask(Request::get("/v2/team/app/manifests/x").login("alice", "secret")).await);
    assert_eq!(told, format!("{DENIED}{sentence}; what is in the cache already may be pulled"));
}

#[tokio::test]
async fn a_denial_names_only_what_the_client_has_named() {
    let origin = Origin::start().await;
    let groups = "challenge = \"basic\"\n[auth.groups]\nwizards = [\"merlin\"]";
    let builder = Gateway::builder().auth(groups).user("alice", "secret").user("merlin", "secret");
    let builder = builder
        .rule_of_groups(&["wizards"], &["spells/**", "inner/**"], &["*"])
        .denial(&["alice", "gandalf"], &["spells/**", "inner/library/late"], &["*"])
        .denial(&["alice"], &["inner/library/cold"], &["fetch"])
        .rule(&["alice"], &["inner/library/cold"], &["pull"])
        .cache("");
    let lines = "hosts = [\"mirror.example\"]\n[upstream.cache]";
    // Its name has the meaning of Docker Hub, whose names of one word are in `library/`.
    let gateway = builder
        .upstream_with("docker.io", "inner", origin.address(), lines)
        .upstream("crypt", "spells", origin.address())
        .start()
        .await;
    origin.image("library/cold", "x", &[]);
    let at_host = |target: &str| Request::get(target).header("Host", "mirror.example");
    for (request, sentence) in [
        (Request::get("/v2/spells/fire/manifests/x"), "alice may not pull spells/fire"),
        (Request::delete("/v2/spells/fire/manifests/x"), "alice may not delete spells/fire"),
        (Request::get("/v2/absent/a/manifests/x"), "alice may not pull absent/a"),
        (at_host("/v2/late/manifests/x"), "alice may not pull late"),
        (
            at_host("/v2/cold/manifests/x"),
            "alice may not fetch cold; what is in the cache already may be pulled",
        ),
        (Request::get("/v2/late/manifests/x?ns=docker.io"), "alice may not pull docker.io/late"),
        (
            Request::get("/v2/cold/manifests/x?ns=docker.io"),
            "alice may not fetch docker.io/cold; what is in the cache already may be pulled",
        ),
    ] {
        let answer = gateway.ask(request.login("alice", "secret")).await;
        let whole = format!("{:?}{}", answer.headers, answer.text());
        assert_eq!(message(answer), format!("{DENIED}{sentence}"));
        for word in
            ["dockgate.toml", "merlin", "gandalf", "wizards", "inner", "library", "crypt", "127.0.0.1"]
        {
            assert!(!whole.contains(word), "{word} in {whole}");
        }
    }
}

#[tokio::test]
async fn a_forwarded_client_is_told_its_own_name() {
    let upstream = Upstream::start().await;
    let lines = "credentials.forward = true\nretries = 0";
    let builder = Gateway::builder().rule(&["forward/vault:*"], &["team/**"], &["pull"]);
    let gateway = builder.upstream_with("vault", "", upstream.address, lines).start().await;
    let basic = || Reply::status(401).header("WWW-Authenticate", "Basic realm=\"r\"");
    upstream.expect("GET", "/v2/", basic());
    upstream.expect("GET", "/v2/", Reply::ok("{}"));
    upstream.always("GET", "/v2/", move |_| basic());
    let answer = gateway.ask(Request::get("/v2/other/app/manifests/x").login("alice", "secret")).await;
    let text = answer.text();
    assert_eq!(message(answer), format!("{DENIED}alice may not pull other/app"));
    assert!(!text.contains("vault"), "{text}");
}
