//! Registry user interfaces in a browser.

use crate::harness::{Answer, Builder, EMPTY_INDEX, Gateway, Reply, Request, Upstream};

const UI: &str = "https://ui.example";

fn closed(origins: &str) -> Builder {
    let builder =
        Gateway::builder().user("alice", "secret").server("external_url = \"https://registry.example\"");
    builder.server(&format!("[server.cors]\norigins = {origins}"))
}

fn from(page: &str, request: Request) -> Request {
    request.header("Origin", page)
}

fn preflight(page: &str, target: &str) -> Request {
    let request =
        from(page, Request::new("OPTIONS", target)).header("Access-Control-Request-Method", "DELETE");
    request.header("Access-Control-Request-Headers", "authorization,accept")
}

#[track_caller]
fn is_allowed(answer: &Answer, page: &str) {
    assert_eq!(answer.header("access-control-allow-origin"), Some(page), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    let shown = answer.header("access-control-expose-headers").unwrap();
    assert!(shown.contains("Docker-Content-Digest") && shown.contains("WWW-Authenticate"), "{shown}");
    assert_eq!(answer.header("vary"), Some("Origin"));
}

fn fields(answer: &Answer) -> Vec<&str> {
    let names = answer.headers.0.iter().map(|(name, _)| name.as_str());
    names.filter(|name| name.starts_with("access-control")).collect()
}

#[tokio::test]
async fn a_preflight_needs_no_login() {
    let upstream = Upstream::start().await;
    let gateway = closed("[\"https://ui.example\"]").upstream("up", "", upstream.address).start().await;
    for target in ["/v2/", "/v2/_catalog", "/v2/team/app/manifests/sha256:x", "/elsewhere"] {
        let answer = gateway.ask(preflight(UI, target)).await.is(204);
        is_allowed(&answer, UI);
        assert!(answer.header("access-control-allow-methods").unwrap().contains("DELETE"));
        assert!(answer.header("access-control-allow-headers").unwrap().contains("Authorization"));
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
    }
    let private = preflight(UI, "/v2/").header("Access-Control-Request-Private-Network", "true");
    let answer = gateway.ask(private).await.is(204);
    assert_eq!(answer.header("access-control-allow-private-network"), Some("true"));
}

#[tokio::test]
async fn every_answer_can_be_read_by_the_page() {
    let upstream = Upstream::start().await;
    let gateway = closed("[\"http://other\", \"https://ui.example\"]")
        .upstream("up", "", upstream.address)
        .start()
        .await;
    let get = |target: &str| from(UI, Request::get(target));
    is_allowed(&gateway.ask(get("/v2/")).await.is(401), UI);
    is_allowed(&gateway.ask(get("/v2/").header("Host", "evil")).await.is(421), UI);
    is_allowed(&gateway.ask(get("/v2/A/tags/list").login("alice", "secret")).await.is(400), UI);
    is_allowed(&gateway.ask(get("/v2/").login("alice", "secret")).await.is(200), UI);
    let upstreams_own = Reply::ok(EMPTY_INDEX).header("Access-Control-Allow-Origin", "https://evil.example");
    upstream.expect("GET", "/v2/a/manifests/x", upstreams_own);
    is_allowed(&gateway.ask(get("/v2/a/manifests/x").login("alice", "secret")).await.is(200), UI);
    upstream.expect("DELETE", "/v2/a/manifests/x", Reply::status(202));
    let delete = from(UI, Request::delete("/v2/a/manifests/x")).login("alice", "secret");
    is_allowed(&gateway.ask(delete).await.is(202), UI);
}

#[tokio::test]
async fn other_pages_are_told_nothing() {
    let upstream = Upstream::start().await;
    let gateway = closed("[\"https://ui.example\"]").upstream("up", "", upstream.address).start().await;
    for page in [
        "https://evil.example",
        "http://ui.example",
        "https://ui.example:8443",
        "https://x.ui.example",
        "null",
        "",
    ] {
        let answer = gateway.ask(preflight(page, "/v2/")).await.is(405);
        assert_eq!((fields(&answer), answer.header("vary")), (vec![], Some("Origin")), "{page}");
        assert!(fields(&gateway.ask(from(page, Request::get("/v2/"))).await.is(401)).is_empty());
    }
    let none = Gateway::builder().user("alice", "secret").upstream("up", "", upstream.address).start().await;
    let answer = none.ask(preflight(UI, "/v2/_catalog")).await;
    assert!(answer.status == 405 && fields(&answer).is_empty(), "{answer:?}");
    assert_eq!(answer.header("vary"), None);
}

#[tokio::test]
async fn any_page_gets_no_credentials() {
    let upstream = Upstream::start().await;
    let gateway = closed("\"*\"").upstream("up", "", upstream.address).start().await;
    for request in [preflight(UI, "/v2/"), from("null", Request::get("/v2/"))] {
        let answer = gateway.ask(request).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{answer:?}");
        assert_eq!((answer.header("access-control-allow-credentials"), answer.header("vary")), (None, None));
    }
}
