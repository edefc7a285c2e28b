//! The dashboard of the admin listener.

use std::time::Duration;

use crate::harness::{Client, Gateway, Origin, Request, Upstream, soon};

async fn simple() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().admin_listener().upstream("up", "", upstream.address).start().await;
    (upstream, gateway)
}

/// Waits until the page has all of `parts`: a request is counted when its response has been sent, which its client may see
/// first.
async fn shows(gateway: &Gateway, target: &str, parts: &[&str]) -> String {
    let mut page = String::new();
    soon("the page to show it", async {
        loop {
            page = gateway.admin(target).await.is(200).text();
            if parts.iter().all(|part| page.contains(part)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    page
}

#[tokio::test]
async fn the_page_loads_nothing_but_its_own_files() {
    let (_upstream, gateway) = simple().await;
    let page = gateway.admin("/").await.is(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    let text = page.text();
    for id in ["figures", "charts", "transfers", "upstreams", "problems", "cache", "configuration"] {
        assert!(text.contains(&format!(" id=\"{id}\"")), "{id} is not in {text}");
    }
    assert!(!text.contains("style=") && !text.contains("onclick") && !text.contains("<style"), "{text}");
    for (path, kind) in [("/dashboard/style.css", "text/css"), ("/dashboard/script.js", "text/javascript")] {
        assert!(text.contains(&format!("\"{path}\"")), "{path} is not in {text}");
        let file = gateway.admin(path).await.is(200);
        assert!(file.header("content-type").unwrap().starts_with(kind), "{file:?}");
    }
}

#[tokio::test]
async fn the_page_is_on_the_admin_port_alone() {
    let (_upstream, gateway) = simple().await;
    for path in ["/", "/dashboard/events", "/dashboard/script.js"] {
        gateway.get(path).await.refuses(404, "NAME_UNKNOWN");
    }
    let mut client = Client::tcp(gateway.app.admin_address().unwrap()).await;
    client.ask(&Request::post("/").body("")).await.is(405);
    client.ask(&Request::get("/").header("Host", "evil.example")).await.is(403);
    let page = Request::get("/dashboard/events").header("Origin", "http://evil.example");
    client.ask(&page).await.is(403);
}

#[tokio::test]
async fn events_bring_all_sections_up_to_date() {
    let (_upstream, gateway) = simple().await;
    let mut client = Client::tcp(gateway.app.admin_address().unwrap()).await;
    client.send("GET /dashboard/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let head = client.head().await.is(200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let mut bytes = Vec::new();
    soon("an event for each section", async {
        while !bytes.ends_with(b"\"id\":\"configuration\"") {
            bytes.extend(client.read_up_to(1).await);
        }
    })
    .await;
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("event: section\ndata: {"), "{text}");
    assert!(text.contains("\"id\":\"upstreams\""), "{text}");
}

#[tokio::test]
async fn a_denial_is_shown_with_its_rule() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().admin_listener().user("alice", "secret");
    let builder =
        builder.denial(&["alice"], &["team/**"], &["push"]).rule(&["*"], &["**"], &["pull", "push"]);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let push = Request::post("/v2/team/app/blobs/uploads/").login("alice", "secret").body("");
    gateway.ask(push).await.is(403);
    gateway.ask(Request::get("/v2/").login("alice", "wrong")).await.is(401);
    let denied = ["alice may not push team/app", "Rule: ", "push in team/**"];
    let page = shows(&gateway, "/", &denied).await;
    assert!(!page.contains("secret"), "{page}");
    shows(&gateway, "/", &["wrong name or password"]).await;
}

#[tokio::test]
async fn a_search_tells_who_pulled_an_image_last() {
    let origin = Origin::start().await;
    origin.image("team/app", "1.0", &[b"layer".to_vec()]);
    let builder = Gateway::builder().admin_listener().user("alice", "secret").cache("prefetch = false");
    let lines = "retries = 0\n[upstream.cache]\n";
    let gateway = builder.upstream_with("up", "", origin.address(), lines).start().await;
    let pull = Request::get("/v2/team/app/manifests/1.0").login("alice", "secret");
    gateway.ask(pull).await.is(200);
    for target in ["/?q=app", "/?q=team/app:1.0", "/?q=team%2F**"] {
        shows(&gateway, target, &["1 image is in the cache.", "team/app", "alice, "]).await;
    }
    shows(&gateway, "/?q=other", &["Nothing of that is in the cache."]).await;
}

#[tokio::test]
async fn hostile_text_stays_text() {
    let (_upstream, gateway) = simple().await;
    let page = gateway.admin("/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E").await.is(200).text();
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>alert"), "{page}");
    gateway.admin("/?q=%").await.is(400);
    let named = Request::get("/v2/").login("<img src=x>", "wrong");
    gateway.ask(named).await;
    let page = gateway.admin("/").await.is(200).text();
    assert!(!page.contains("<img"), "{page}");
}
