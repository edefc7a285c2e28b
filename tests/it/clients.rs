//! What real clients, health checks and operators do, and other registries put up with.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};

use crate::harness::{Client, EMPTY_INDEX, Gateway, Process, Reply, Request, Upstream, htpasswd, soon};

async fn closed(upstream: &Upstream) -> Gateway {
    let builder = Gateway::builder().user("alice", "secret").admin_listener();
    let builder = builder.server("external_url = \"https://registry.example.com\"");
    builder.upstream("up", "", upstream.address).start().await
}

#[tokio::test]
async fn a_health_check_of_http_1_0_without_host_is_answered() {
    let upstream = Upstream::start().await;
    let gateway = closed(&upstream).await;
    for head in
        ["GET /v2/ HTTP/1.0\r\n\r\n", "OPTIONS / HTTP/1.0\r\n\r\n", "GET /v2/ HTTP/1.0\r\nHost:\r\n\r\n"]
    {
        let mut client = gateway.connect().await;
        client.send(head).await;
        let answer = client.answer().await;
        let expected = if head.starts_with("GET") { 401 } else { 404 };
        assert_eq!(answer.status, expected, "{head}: {answer:?}");
        client.ends().await;
    }
    let mut client = gateway.connect().await;
    client.send("GET /v2/ HTTP/1.0\r\nHost: evil.example\r\n\r\n").await;
    client.answer().await.refuses(421, "NAME_UNKNOWN");
}

#[tokio::test]
async fn an_empty_basic_login_is_anonymous() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret").rule(&["anonymous"], &["public/**"], &["pull"]);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let blank = |target: &str| Request::get(target).header("Authorization", "Basic Og==");
    upstream.expect("GET", "/v2/public/app/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.ask(blank("/v2/public/app/manifests/x")).await.is(200);
    // No failed login, however often.
    for _ in 0..20 {
        let answer = gateway.ask(blank("/v2/")).await.refuses(401, "UNAUTHORIZED");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Basic "), "{answer:?}");
        gateway.ask(blank("/v2/private/app/manifests/x")).await.refuses(401, "UNAUTHORIZED");
    }
}

#[tokio::test]
async fn the_last_user_is_out_when_removed() {
    let upstream = Upstream::start().await;
    let gateway = closed(&upstream).await;
    let alice = || Request::get("/v2/").login("alice", "secret").header("Host", "localhost");
    gateway.ask(alice()).await.is(200);
    let users = std::fs::read_to_string(gateway.path("htpasswd")).unwrap();
    for left in [String::new(), "# nobody\n".to_owned(), format!("{users}alice:!locked\n")] {
        gateway.rewrite("htpasswd", &left);
        gateway.ask(alice()).await.is(401);
        let problems = gateway.admin("/readyz").await.is(200).json()["problems"].to_string();
        assert!(problems.contains("htpasswd: no user can log in"), "{problems}");
        gateway.rewrite("htpasswd", &users);
        gateway.ask(alice()).await.is(200);
    }
    // Not an htpasswd file: most likely half of one, or another.
    gateway.rewrite("htpasswd", "<html>\n");
    gateway.ask(alice()).await.is(200);
    gateway.rewrite("htpasswd", &users.replace('\n', ":since 2019\n"));
    gateway.ask(alice()).await.is(200);
}

fn dockgate(dir: &std::path::Path, command: &str) -> Output {
    let mut dockgate = Command::new(env!("CARGO_BIN_EXE_dockgate"));
    dockgate.arg(command).env_clear().current_dir(dir).output().unwrap()
}

#[test]
fn check_and_serve_refuse_an_htpasswd_without_users() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[server]\naddress = \"127.0.0.1:0\"\n[auth.htpasswd]\npath = \"htpasswd\"\n\
                  [[upstream]]\nurl = \"http://127.0.0.1:9\"\nprefix = \"\"\n";
    std::fs::write(dir.path().join("dockgate.toml"), config).unwrap();
    std::fs::write(dir.path().join("htpasswd"), "# people\nalice:$apr1$x$y\n").unwrap();
    for command in ["check", "serve"] {
        let output = dockgate(dir.path(), command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        for part in ["dockgate.toml:4:", "htpasswd", "line 2: not a bcrypt hash", "dockgate user add"] {
            assert!(said.contains(part), "{command}: {part} is not in {said}");
        }
    }
}

#[test]
fn check_names_docker_hubs_registry() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("htpasswd"), htpasswd(&[("a".to_owned(), "b".to_owned())])).unwrap();
    for url in ["https://docker.io/library", "https://hub.docker.com", "https://index.docker.io/v1/"] {
        let config =
            format!("[auth.htpasswd]\npath = \"htpasswd\"\n[[upstream]]\nname = \"hub\"\nurl = \"{url}\"\n");
        std::fs::write(dir.path().join("dockgate.toml"), config).unwrap();
        let output = dockgate(dir.path(), "check");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        let expected = "is not a registry's URL; write \"https://registry-1.docker.io\"";
        assert!(said.contains("dockgate.toml:5: upstream[0].url:") && said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn a_unix_socket_gets_its_mode_and_group() {
    let upstream = Upstream::start().await;
    let group = tempfile::tempdir().unwrap().path().metadata().unwrap().gid();
    let address = format!("unix:a.sock?mode=0666&group={group}");
    let builder = Gateway::builder().address(&address).address("unix:b.sock?mode=600");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    for (name, mode) in [("a.sock", 0o666), ("b.sock", 0o600)] {
        let file = std::fs::metadata(gateway.path(name)).unwrap();
        assert_eq!((file.permissions().mode() & 0o7777, file.gid()), (mode, group), "{name}");
        Client::unix(&gateway.path(name)).await.ask(&Request::get("/v2/")).await.is(200);
    }
}

#[tokio::test]
async fn a_misdirected_requests_host_is_logged() {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().unwrap();
    let builder = Gateway::builder().server("external_url = \"https://registry.example.com\"");
    let process = Process::start(builder.upstream("up", "", upstream.address), dir.path()).await;
    let long = "x".repeat(1000);
    for host in ["10.1.2.3:5000", "a=b", &long] {
        let request = Request::get("/v2/").header("Host", host);
        process.connect().await.ask(&request).await.refuses(421, "NAME_UNKNOWN");
    }
    let long = format!(" host={} ", "x".repeat(200));
    let expected = [" host=10.1.2.3:5000 ", " host=\"a=b\" ", &long];
    soon("the lines of the access log", async {
        while !expected.iter().all(|part| process.log().contains(part)) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let log = process.log();
    assert!(log.matches(" 421 ").count() == 3 && !log.contains(&"x".repeat(201)), "{log}");
}

#[tokio::test]
async fn an_address_that_most_logins_come_from_is_warned_of() {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().unwrap();
    let users: Vec<_> = (0..12).map(|number| (format!("user{number}"), "secret".to_owned())).collect();
    std::fs::write(dir.path().join("htpasswd"), htpasswd(&users)).unwrap();
    let builder =
        users.iter().fold(Gateway::builder(), |builder, (name, password)| builder.user(name, password));
    let process = Process::start(builder.upstream("up", "", upstream.address), dir.path()).await;
    for (name, password) in &users {
        assert!(!process.log().contains("most users log in") || name != "user8");
        process.connect().await.ask(&Request::get("/v2/").login(name, password)).await.is(200);
    }
    soon("the warning", async {
        while !process.log().contains("most users log in from one address") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let log = process.log();
    assert_eq!(log.matches("most users log in from one address").count(), 1, "{log}");
    assert!(log.contains("address=127.0.0.1") && log.contains("server.trusted_proxies"), "{log}");
}

#[tokio::test]
async fn the_handle_of_a_long_upload_location_is_taken_back() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    for length in [100, 12 * 1024, 16_000] {
        let path = "/v2/a/blobs/uploads/1?_state=";
        let location = format!("{path}{}", "x".repeat(length - path.len()));
        let begun = Reply::status(202).header("Location", &location);
        upstream.expect("POST", "/v2/a/blobs/uploads/", begun);
        let answer = gateway.ask(Request::post("/v2/a/blobs/uploads/")).await.is(202);
        let handle = answer.header("location").unwrap().to_owned();
        upstream.expect("PATCH", location.as_str(), Reply::status(202));
        gateway.ask(Request::patch(handle).body("x")).await.is(202);
    }
    let endless = format!("/v2/a/blobs/uploads/1?_state={}", "x".repeat(16_300));
    upstream.expect("POST", "/v2/a/blobs/uploads/", Reply::status(202).header("Location", &endless));
    gateway.ask(Request::post("/v2/a/blobs/uploads/")).await.refuses(502, "UNAVAILABLE");
}
