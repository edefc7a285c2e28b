//! Tags, referrers and the catalog: names and links in the client's words.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{Answer, Gateway, Reply, Request, Upstream, sha256};

/// The target of the answer's `Link`.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let target = link.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    let (target, rest) = target.unwrap_or_else(|| panic!("{link}"));
    assert!(rest.replace(' ', "").contains("rel=\"next\""), "{link}");
    Some(target.to_owned())
}

fn names(answer: &Answer) -> Vec<String> {
    serde_json::from_value(answer.json()["repositories"].clone()).expect("names")
}

#[tokio::test]
async fn tag_lists_keep_the_clients_name_and_query() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream("up.example", "up", upstream.address).start().await;
    let list = r#"{"name":"some/app","tags":["a","b"]}"#;
    let link = "</v2/some/app/tags/list?next_page=a%2Bb%3D&n=2&last=x+y>; rel=\"next\"";
    let ways = [
        ("/v2/up/some/app/tags/list?n=2", "up/some/app", "/v2/up/some/app/tags/list"),
        ("/up/v2/some/app/tags/list?n=2", "some/app", "/up/v2/some/app/tags/list"),
        ("/v2/some/app/tags/list?n=2&ns=up.example", "up/some/app", "/v2/up/some/app/tags/list"),
    ];
    for (target, name, resource) in ways {
        upstream.expect("GET", "/v2/some/app/tags/list?n=2", Reply::ok(list).header("Link", link));
        let answer = gateway.get(target).await.is(200);
        assert_eq!(answer.json(), json!({"name": name, "tags": ["a", "b"]}), "{target}");
        assert_eq!(next(&answer).unwrap(), format!("{resource}?next_page=a%2Bb%3D&n=2&last=x+y"));
    }
    // The next page comes back to the upstream with what it put there.
    upstream.expect("GET", "/v2/some/app/tags/list?n=2&last=x%20y&next_page=a%2Bb%3D", Reply::ok(list));
    let answer = gateway.get("/v2/up/some/app/tags/list?next_page=a%2Bb%3D&n=2&last=x+y").await.is(200);
    assert_eq!(next(&answer), None);
}

#[tokio::test]
async fn an_absolute_link_loses_the_upstreams_host() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let reply = Reply::ok(r#"{"name":"a","tags":[]}"#);
    let reply = reply.header("Link", "<https://internal.example:5000/v2/a/tags/list?n=1&last=b>; rel=next");
    upstream.expect("GET", "/v2/a/tags/list?n=1", reply);
    let answer = gateway.get("/v2/a/tags/list?n=1").await.is(200);
    assert_eq!(next(&answer).unwrap(), "/v2/a/tags/list?n=1&last=b");
}

#[tokio::test]
async fn a_malformed_tag_list_is_502() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream("up", "up", upstream.address).start().await;
    upstream.expect("GET", "/v2/a/tags/list", Reply::ok("<html>"));
    gateway.get("/v2/up/a/tags/list").await.refuses(502, "UNAVAILABLE");
    let long = format!(r#"{{"name":"a","tags":["{}"]}}"#, "x".repeat(5 << 20));
    upstream.expect("GET", "/v2/a/tags/list", Reply::ok(long).then_close());
    gateway.get("/v2/up/a/tags/list").await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn referrers_come_through_with_their_filter_and_link() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream("up", "up", upstream.address).start().await;
    let digest = sha256(b"x");
    let body = r#"{"schemaVersion":2,"manifests":[]}"#;
    let reply = Reply::ok(body)
        .header("Content-Type", "application/vnd.oci.image.index.v1+json")
        .header("OCI-Filters-Applied", "artifactType")
        .header("Link", &format!("</v2/a/referrers/{digest}?artifactType=x%2By&page=2>; rel=\"next\""));
    upstream.expect("GET", format!("/v2/a/referrers/{digest}?artifactType=x%2By"), reply);
    let answer = gateway.get(&format!("/v2/up/a/referrers/{digest}?artifactType=x%2By")).await.is(200);
    assert_eq!(answer.text(), body);
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(next(&answer).unwrap(), format!("/v2/up/a/referrers/{digest}?artifactType=x%2By&page=2"));
}

/// A catalog of these names.
fn catalog(names: &[&str]) -> Reply {
    Reply::ok(json!({ "repositories": names }).to_string()).header("Content-Type", "application/json")
}

#[tokio::test]
async fn the_catalog_merges_all_upstreams() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .upstream("one", "one", first.address)
        .upstream("two", "", second.address)
        .start()
        .await;
    first.expect("GET", "/v2/_catalog?n=100", catalog(&["a", "b/c", "NOT/valid"]));
    second.expect("GET", "/v2/_catalog?n=100", catalog(&["d"]));
    let answer = gateway.get("/v2/_catalog").await.is(200);
    assert_eq!(names(&answer), ["one/a", "one/b/c", "d"]);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(next(&answer), None);

    first.expect("GET", "/v2/_catalog?n=100", catalog(&["a"]));
    assert_eq!(names(&gateway.get("/one/v2/_catalog").await.is(200)), ["a"]);
}

#[tokio::test]
async fn an_upstream_without_a_catalog_has_none_to_add() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .upstream("one", "one", first.address)
        .upstream("two", "two", second.address)
        .start()
        .await;
    first.expect("GET", "/v2/_catalog?n=100", Reply::status(404));
    second.expect("GET", "/v2/_catalog?n=100", catalog(&["a"]));
    assert_eq!(names(&gateway.get("/v2/_catalog").await.is(200)), ["two/a"]);
}

#[tokio::test]
async fn the_catalog_lists_what_its_reader_may_pull() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder()
        .user("alice", "secret")
        .user("bob", "hunter2")
        .rule(&["alice", "bob"], &["**"], &["catalog"])
        .rule(&["alice"], &["team/**"], &["pull"])
        .rule(&["bob"], &["team/**"], &["push"])
        .upstream("up", "", upstream.address)
        .start()
        .await;
    upstream.expect("GET", "/v2/_catalog?n=100", catalog(&["secret/x", "team/app", "teamx/app"]));
    let answer = gateway.ask(Request::get("/v2/_catalog").login("alice", "secret")).await.is(200);
    assert_eq!(names(&answer), ["team/app"]);
    upstream.expect("GET", "/v2/_catalog?n=100", catalog(&["secret/x", "team/app"]));
    let answer = gateway.ask(Request::get("/v2/_catalog").login("bob", "hunter2")).await.is(200);
    assert_eq!(names(&answer), Vec::<String>::new());
}

#[tokio::test]
async fn catalog_pages_continue_where_the_last_ended() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .upstream("one", "one", first.address)
        .upstream("two", "two", second.address)
        .start()
        .await;
    let link = "</v2/_catalog?n=2&last=b&x=a%2Bb>; rel=\"next\"";
    first.expect("GET", "/v2/_catalog?n=2", catalog(&["a", "b"]).header("Link", link));
    let page = gateway.get("/v2/_catalog?n=2").await.is(200);
    assert_eq!(names(&page), ["one/a", "one/b"]);
    let target = next(&page).unwrap();
    let cursor = target.strip_prefix("/v2/_catalog?n=2&last=").unwrap();
    assert!(cursor.len() > 40 && !cursor.contains(['&', '=', '%']), "the cursor is sealed: {target}");

    first.expect("GET", "/v2/_catalog?n=2&last=b&x=a%2Bb", catalog(&["c"]));
    second.expect("GET", "/v2/_catalog?n=2", catalog(&["d", "e"]));
    let page = gateway.get(&target).await.is(200);
    assert_eq!(names(&page), ["one/c", "two/d"]);
    // The page of the second upstream was not used up.
    let target = next(&page).unwrap();
    second.expect("GET", "/v2/_catalog?n=2&last=d", catalog(&["e"]));
    let page = gateway.get(&target).await.is(200);
    assert_eq!(names(&page), ["two/e"]);
    assert_eq!(next(&page), None);
}

#[tokio::test]
async fn a_catalog_page_costs_limited_upstream_pages() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder()
        .user("alice", "secret")
        .rule(&["alice"], &["**"], &["catalog"])
        .rule(&["alice"], &["none"], &["pull"])
        .upstream("up", "", upstream.address)
        .start()
        .await;
    let page = || catalog(&["secret"]).header("Link", "</v2/_catalog?n=100&last=secret>; rel=\"next\"");
    upstream.expect("GET", "/v2/_catalog?n=100", page());
    for _ in 1..dockgate::internals::limits::CATALOG_UPSTREAM_PAGES {
        upstream.expect("GET", "/v2/_catalog?n=100&last=secret", page());
    }
    let answer = gateway.ask(Request::get("/v2/_catalog").login("alice", "secret")).await.is(200);
    assert_eq!(names(&answer), Vec::<String>::new());
    assert!(next(&answer).is_some(), "the rest is to be asked for");
}

#[tokio::test]
async fn an_invented_cursor_is_an_ordinary_name() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream("up", "up", upstream.address).start().await;
    upstream.expect("GET", "/v2/_catalog?n=5&last=m", catalog(&["n", "o"]));
    assert_eq!(names(&gateway.get("/v2/_catalog?n=5&last=up/m").await.is(200)), ["up/n", "up/o"]);
    assert_eq!(names(&gateway.get("/v2/_catalog?n=0").await.is(200)), Vec::<String>::new());
}

#[tokio::test]
async fn the_demo_catalog_lists_every_name_once() {
    let (registry, address) = crate::harness::demo_registry().await;
    let all: BTreeSet<_> = (0..23).map(|number| format!("team/app{number}")).collect();
    for name in &all {
        registry.push_blob(name, "x".into()).unwrap();
        let body =
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let kind = "application/vnd.oci.image.index.v1+json";
        registry.push_manifest(name, "v1", kind, body.into()).unwrap();
    }
    let gateway = Gateway::builder().upstream("demo", "reg", address).start().await;
    let mut found = Vec::new();
    let mut target = Some("/v2/_catalog?n=4".to_owned());
    while let Some(at) = target {
        let page = gateway.get(&at).await.is(200);
        assert!(names(&page).len() <= 4);
        found.extend(names(&page));
        target = next(&page);
    }
    assert_eq!(found.len(), 23);
    assert_eq!(
        found.into_iter().collect::<BTreeSet<_>>(),
        all.iter().map(|name| format!("reg/{name}")).collect()
    );
}
