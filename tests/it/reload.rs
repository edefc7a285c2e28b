//! Files that change while the gateway runs.

use crate::harness::{EMPTY_INDEX, Gateway, Reply, Request, Upstream, htpasswd, soon};

fn users(users: &[(&str, &str)]) -> String {
    let own: Vec<_> = users.iter().map(|(name, password)| (name.to_string(), password.to_string())).collect();
    htpasswd(&own)
}

async fn closed(upstream: &Upstream) -> Gateway {
    let builder = Gateway::builder().user("alice", "secret").admin_listener();
    builder.upstream("up", "", upstream.address).start().await
}

async fn status(gateway: &Gateway, user: &str, password: &str) -> u16 {
    gateway.ask(Request::get("/v2/").login(user, password)).await.status
}

async fn problems(gateway: &Gateway) -> Vec<String> {
    let json = gateway.admin("/readyz").await.is(200).json();
    let problems = json["problems"].as_array().expect("problems").iter();
    problems.map(|problem| problem.as_str().expect("text").to_owned()).collect()
}

#[tokio::test]
async fn users_come_go_and_change_their_passwords() {
    let upstream = Upstream::start().await;
    let gateway = closed(&upstream).await;
    assert_eq!(status(&gateway, "alice", "secret").await, 200);
    gateway.rewrite("htpasswd", &users(&[("alice", "changed"), ("bob", "hunter2")]));
    assert_eq!(status(&gateway, "alice", "secret").await, 401, "a remembered password is forgotten");
    assert_eq!(status(&gateway, "alice", "changed").await, 200);
    assert_eq!(status(&gateway, "bob", "hunter2").await, 200);
    gateway.rewrite("htpasswd", &users(&[("bob", "hunter2")]));
    assert_eq!(status(&gateway, "alice", "changed").await, 401);
    assert_eq!(status(&gateway, "bob", "hunter2").await, 200);
}

#[tokio::test]
async fn a_broken_htpasswd_file_changes_nothing() {
    let upstream = Upstream::start().await;
    let gateway = closed(&upstream).await;
    std::fs::remove_file(gateway.path("htpasswd")).unwrap();
    gateway.app.reload();
    assert_eq!(status(&gateway, "alice", "secret").await, 200);
    let said = problems(&gateway).await;
    assert!(said.iter().any(|problem| problem.starts_with("htpasswd:")), "{said:?}");
    gateway.rewrite("htpasswd", &users(&[("alice", "secret")]));
    assert_eq!(problems(&gateway).await, Vec::<String>::new());
    assert_eq!(status(&gateway, "alice", "secret").await, 200);
}

#[tokio::test]
async fn an_unusable_line_leaves_the_others() {
    let upstream = Upstream::start().await;
    let gateway = closed(&upstream).await;
    let text = format!("# people\n\ncarol:$apr1$x$y\n{}", users(&[("alice", "secret")]));
    gateway.rewrite("htpasswd", &text);
    assert_eq!(status(&gateway, "alice", "secret").await, 200);
    assert_eq!(status(&gateway, "carol", "$apr1$x$y").await, 401);
}

#[tokio::test]
async fn other_rules_and_upstreams_are_taken_over() {
    let (upstream, second) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .user("alice", "secret")
        .rule(&["alice"], &["team/**"], &["pull"])
        .upstream("up", "", upstream.address)
        .start()
        .await;
    let get = |target: &str| gateway.ask(Request::get(target).login("alice", "secret"));
    get("/v2/other/app/manifests/x").await.refuses(403, "DENIED");
    gateway.reconfigure("team/**", "other/**");
    upstream.expect("GET", "/v2/other/app/manifests/x", Reply::ok(EMPTY_INDEX));
    get("/v2/other/app/manifests/x").await.is(200);
    get("/v2/team/app/manifests/x").await.refuses(403, "DENIED");
    gateway.reconfigure(&upstream.address.to_string(), &second.address.to_string());
    second.expect("GET", "/v2/other/app/manifests/x", Reply::ok(EMPTY_INDEX));
    get("/v2/other/app/manifests/x").await.is(200);
}

#[tokio::test]
async fn a_broken_configuration_changes_nothing_and_readyz_says_so() {
    let upstream = Upstream::start().await;
    let gateway = closed(&upstream).await;
    let good = std::fs::read_to_string(gateway.path("dockgate.toml")).unwrap();
    for bad in ["nonsense", "[server]\naddres = \"127.0.0.1:0\"\n", ""] {
        gateway.rewrite("dockgate.toml", bad);
        let said = problems(&gateway).await;
        assert!(said.len() == 1 && said[0].starts_with("configuration:"), "{said:?}");
        assert_eq!(status(&gateway, "alice", "secret").await, 200);
    }
    gateway.rewrite("dockgate.toml", &good);
    assert_eq!(problems(&gateway).await, Vec::<String>::new());
}

#[tokio::test]
async fn connections_and_uploads_survive_a_reload() {
    let upstream = Upstream::start().await;
    let gateway = closed(&upstream).await;
    let mut client = gateway.connect().await;
    let alice = |request: Request| request.login("alice", "secret");
    let begun = Reply::status(202).header("Location", "/v2/a/blobs/uploads/1");
    upstream.expect("POST", "/v2/a/blobs/uploads/", begun);
    let answer = client.ask(&alice(Request::post("/v2/a/blobs/uploads/"))).await.is(202);
    gateway.reconfigure("challenge = \"basic\"", "challenge = \"basic\"\nrealm = \"other\"");
    upstream.expect("PATCH", "/v2/a/blobs/uploads/1", Reply::status(202));
    client.ask(&alice(Request::patch(answer.header("location").unwrap()).body("x"))).await.is(202);
    assert_eq!(upstream.connections(), 1, "the upstream's connections are kept");
    let asked = client.ask(&Request::get("/v2/")).await.is(401);
    assert_eq!(asked.header("www-authenticate"), Some("Basic realm=\"other\""));
}

#[tokio::test]
async fn changes_are_noticed_without_being_told() {
    let upstream = Upstream::start().await;
    let gateway = closed(&upstream).await;
    let noticing = async {
        let both = users(&[("alice", "secret"), ("bob", "hunter2")]);
        std::fs::write(gateway.path("htpasswd"), both).unwrap();
        soon("bob to be let in", async {
            // Each try with another wrong name first would count as guessing; bob's own is right in the end.
            while problems(&gateway).await.is_empty() && !bob_is_in(&gateway).await {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        })
        .await;
    };
    tokio::select! {
        () = gateway.app.watch() => panic!("watching has ended"),
        () = noticing => {}
    }
}

async fn bob_is_in(gateway: &Gateway) -> bool {
    status(gateway, "bob", "hunter2").await == 200
}
