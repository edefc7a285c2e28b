//! Tags, referrers and the catalog: names and links in the client's words.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{Answer, BodyEnd, Gateway, Heard, Reply, Request, Upstream, sha256};

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
async fn what_is_no_tag_list_is_502() {
    for lines in WAYS {
        let upstream = Upstream::start().await;
        let gateway = listing_gateway(&upstream, lines).await;
        for body in ["<html>", "", "[]", "null", "{}", r#"{"errors":[{"code":"UNKNOWN"}]}"#, r#"{"na"#] {
            upstream.expect("GET", "/v2/a/tags/list", Reply::ok(body));
            gateway.get("/v2/up/a/tags/list").await.refuses(502, "UNAVAILABLE");
        }
    }
}

/// Without a cache, and with one.
const WAYS: [&str; 2] = ["retries = 0", "retries = 0\n[upstream.cache]"];

async fn listing_gateway(upstream: &Upstream, lines: &str) -> Gateway {
    let builder = Gateway::builder().upstream_with("up", "up", upstream.address, lines);
    if lines.contains("cache") { builder.cache("prefetch = false") } else { builder }.start().await
}

#[tokio::test]
async fn a_list_of_85000_tags_gets_the_clients_name() {
    // skopeo#907: 85,196 tags, 4.3 MB.
    let tags: Vec<_> =
        (0..85_196).map(|number| format!("v{number}-0123456789abcdef0123456789abcdef01234567")).collect();
    for lines in WAYS {
        let upstream = Upstream::start().await;
        let gateway = listing_gateway(&upstream, lines).await;
        for list in [json!({ "name": "a", "tags": tags }).to_string(), json!({ "tags": tags }).to_string()] {
            assert!(list.len() > 4_000_000);
            for reply in [Reply::ok(&list), Reply::ok(&list).chunked(70_000)] {
                upstream.expect("GET", "/v2/a/tags/list", reply);
                let answer = gateway.get("/v2/up/a/tags/list").await.is(200);
                assert_eq!(answer.header("content-type"), Some("application/json"));
                let list = answer.json();
                assert_eq!(list["name"], "up/a");
                assert!(list["tags"] == json!(tags));
            }
        }
    }
}

#[tokio::test]
async fn a_cut_tag_list_never_ends_well() {
    for lines in WAYS {
        let upstream = Upstream::start().await;
        let gateway = listing_gateway(&upstream, lines).await;
        let list = format!(r#"{{"name":"a","tags":["{}"]}}"#, "x".repeat(200_000));
        for reply in [Reply::ok(&list[..150_000]), Reply::ok(format!("{list}x"))] {
            upstream.expect("GET", "/v2/a/tags/list", reply);
            let mut client = gateway.connect().await;
            client.send(Request::get("/v2/up/a/tags/list").bytes("localhost")).await;
            let head = client.head().await;
            let (_, end) = client.rest(head).await;
            assert_ne!(end, BodyEnd::Complete);
        }
    }
}

#[tokio::test]
async fn a_link_is_followed_however_it_is_written() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream("up", "up", upstream.address).start().await;
    let list = r#"{"name":"a","tags":["a"]}"#;
    for (link, asked) in [
        ("/v2/a/tags/list?n=1&last=a; rel=\"next\"", "n=1&last=a"),
        ("<?n=1&last=a>; rel='next'", "n=1&last=a"),
        ("<list?last=a&n=1>; rel=next", "n=1&last=a"),
        ("< /v2/a/tags/list?last=a b >; rel=\"next\"", "last=a%20b"),
        ("<https://elsewhere.example/v2/a/tags/list?last=%C3%A9#x>; rel=next", "last=%C3%A9"),
        // These could not come back as they are.
        ("</v2/a/tags/list?n=-1&next=x>; rel=next", "n=-1&next=x"),
        ("</v2/a/tags/list?n=1&n=2&last=%ff>; rel=next", "n=1&n=2&last=%ff"),
        ("</v2/a/tags/list?cursor=100%>; rel=next", "cursor=100%"),
        ("</v2/a/tags/list?last=a&from=up>; rel=next", "last=a&from=up"),
    ] {
        upstream.expect("GET", "/v2/a/tags/list", Reply::ok(list).header("Link", link));
        let first = gateway.get("/v2/up/a/tags/list").await.is(200);
        let target = next(&first).unwrap_or_else(|| panic!("{link}"));
        assert!(target.starts_with("/v2/up/a/tags/list?"), "{target}");
        upstream.expect("GET", format!("/v2/a/tags/list?{asked}"), Reply::ok(list));
        gateway.get(&target).await.is(200);
    }
}

#[tokio::test]
async fn a_registry_without_referrers_is_404_unsupported() {
    let target = |prefix: &str| format!("/v2/{prefix}a/referrers/{}", sha256(b"x"));
    let own = |code: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#);
    for lines in WAYS {
        let upstream = Upstream::start().await;
        let gateway = listing_gateway(&upstream, lines).await;
        for reply in [
            Reply::status(404).body("404 page not found\n").header("Content-Type", "text/plain"),
            Reply::status(404),
            Reply::status(404).body("{}"),
            Reply::status(405).body(own("UNSUPPORTED")),
            Reply::status(501),
            Reply::ok("<!DOCTYPE html>").header("Content-Type", "text/html"),
            Reply::ok("<!DOCTYPE html>").header("Content-Type", "application/vnd.oci.image.index.v1+json"),
            Reply::ok("{}"),
            Reply::ok(own("NAME_UNKNOWN")),
            Reply::ok(r#"{"schemaVersion":2,"manifests":{}}"#),
            Reply::ok(""),
            Reply::status(204),
        ] {
            upstream.expect("GET", target(""), reply);
            gateway.get(&target("up/")).await.refuses(404, "UNSUPPORTED");
        }
        upstream.expect("GET", target(""), Reply::status(404).body(own("NAME_UNKNOWN")));
        gateway.get(&target("up/")).await.refuses(404, "NAME_UNKNOWN");
        upstream.expect("GET", target(""), Reply::status(500));
        gateway.get(&target("up/")).await.refuses(502, "UNAVAILABLE");
        upstream.expect("GET", target(""), Reply::ok(r#"{"schemaVersion":2,"manifests":null}"#));
        let answer = gateway.get(&target("up/")).await.is(200);
        assert_eq!(answer.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    }
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

/// Answers as a registry whose names have an order of their own, as docker-registry's have (distribution#1854).
fn lists(upstream: &Upstream, names: &'static [&'static str]) {
    upstream.otherwise(move |Heard { target, .. }: &Heard| {
        let query = target.strip_prefix("/v2/_catalog")?.trim_start_matches('?');
        let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let last = value("last").map(|last| last.replace("%2F", "/"));
        let begin = last.map_or(0, |last| names.iter().position(|name| *name == last).map_or(0, |at| at + 1));
        let end = (begin + value("n").map_or(names.len(), |n| n.parse().unwrap())).min(names.len());
        let reply = catalog(&names[begin..end]);
        let link = || format!("</v2/_catalog?last={}&n={}>; rel=\"next\"", names[end - 1], end - begin);
        Some(if end < names.len() { reply.header("Link", &link()) } else { reply })
    });
}

const TEAMS: [&str; 5] =
    ["team/image1", "team/image2", "team-dev/image1", "team-dev/image2", "test/imagetest"];

#[tokio::test]
async fn catalog_names_keep_the_upstreams_order() {
    let upstream = Upstream::start().await;
    lists(&upstream, &TEAMS);
    let gateway = Gateway::open(&upstream).await;
    let page = gateway.get("/v2/_catalog?n=2&last=team/image2").await.is(200);
    assert_eq!(names(&page), ["team-dev/image1", "team-dev/image2"]);
    for n in 1..7 {
        assert_eq!(walked(&gateway, n).await, TEAMS, "{n}");
    }
}

/// Follows the links of the catalog. Returns the names of all pages.
async fn walked(gateway: &Gateway, n: usize) -> Vec<String> {
    let (mut found, mut target) = (Vec::new(), Some(format!("/v2/_catalog?n={n}")));
    while let Some(at) = target {
        let page = gateway.get(&at).await.is(200);
        assert!(names(&page).len() <= n);
        found.extend(names(&page));
        target = next(&page);
    }
    found
}

#[tokio::test]
async fn catalog_pages_of_two_upstreams_lose_no_name() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    lists(&first, &TEAMS);
    // The second has a name that leads to the first.
    lists(&second, &["b", "a", "one/team/image1", "B/invalid", "c"]);
    let gateway = Gateway::builder()
        .upstream("one", "one", first.address)
        .upstream("two", "", second.address)
        .start()
        .await;
    let all: Vec<_> =
        TEAMS.iter().map(|name| format!("one/{name}")).chain(["b", "a", "c"].map(str::to_owned)).collect();
    for n in 1..10 {
        assert_eq!(walked(&gateway, n).await, all, "{n}");
    }
}

#[tokio::test]
async fn a_catalog_without_pages_is_cut_into_them() {
    let upstream = Upstream::start().await;
    upstream.always("GET", "/v2/_catalog*", |_| catalog(&TEAMS));
    let gateway = Gateway::open(&upstream).await;
    for n in 1..7 {
        assert_eq!(walked(&gateway, n).await, TEAMS, "{n}");
    }
    assert_eq!(names(&gateway.get("/v2/_catalog?n=9&last=team/image2").await.is(200)), TEAMS[2..]);
}

#[tokio::test]
async fn a_registry_that_limits_n_is_asked_with_less() {
    let upstream = Upstream::start().await;
    // docker-registry with `catalog.maxentries: 50`.
    upstream.otherwise(|Heard { target, .. }: &Heard| {
        let n = target.strip_prefix("/v2/_catalog?n=").and_then(|n| n.split('&').next()?.parse().ok());
        let many = n.is_some_and(|n: u64| n > 50);
        let refusal = Reply::status(400).body(r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}"#);
        Some(if many { refusal } else { catalog(&TEAMS) })
    });
    let gateway = Gateway::open(&upstream).await;
    for target in ["/v2/_catalog", "/v2/_catalog?n=50", "/v2/_catalog?n=80", "/v2/_catalog?n=5000"] {
        assert_eq!(names(&gateway.get(target).await.is(200)), TEAMS, "{target}");
    }
    assert_eq!(names(&gateway.get("/v2/_catalog?n=2").await.is(200)), TEAMS[..2]);
}

#[tokio::test]
async fn the_only_upstreams_no_is_the_catalogs() {
    let own = r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#;
    for (status, told, code) in [
        (400, 400, "DENIED"),
        (403, 403, "DENIED"),
        (410, 410, "DENIED"),
        (429, 429, "TOOMANYREQUESTS"),
        (500, 502, "UNAVAILABLE"),
        (502, 502, "UNAVAILABLE"),
        (503, 502, "UNAVAILABLE"),
    ] {
        let upstream = Upstream::start().await;
        let gateway =
            Gateway::builder().upstream_with("up", "", upstream.address, "retries = 0").start().await;
        upstream.always("GET", "/v2/_catalog*", move |_| Reply::status(status).body(own));
        let answer = gateway.get("/v2/_catalog").await.refuses(told, code);
        assert!(answer.text().contains("not for you"), "{status}");
    }
    for status in [404, 405] {
        let upstream = Upstream::start().await;
        let gateway = Gateway::open(&upstream).await;
        upstream.always("GET", "/v2/_catalog*", move |_| Reply::status(status));
        assert_eq!(names(&gateway.get("/v2/_catalog").await.is(200)), [""; 0]);
    }
    for body in ["<html>", "{}", r#"{"repositories":{}}"#] {
        let upstream = Upstream::start().await;
        let gateway = Gateway::open(&upstream).await;
        upstream.always("GET", "/v2/_catalog*", move |_| Reply::ok(body));
        gateway.get("/v2/_catalog").await.refuses(502, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn a_missing_upstream_is_named_in_a_warning() {
    for status in [400, 403, 410, 429, 500, 503] {
        let (first, second) = (Upstream::start().await, Upstream::start().await);
        let gateway = Gateway::builder()
            .upstream_with("one.example", "one", first.address, "retries = 0")
            .upstream("two", "two", second.address)
            .start()
            .await;
        first.always("GET", "/v2/_catalog*", move |_| Reply::status(status));
        second.always("GET", "/v2/_catalog*", |_| catalog(&["a"]));
        let answer = gateway.get("/v2/_catalog").await.is(200);
        assert_eq!(names(&answer), ["two/a"], "{status}");
        let warning = answer.header("warning").unwrap();
        assert!(warning.starts_with("299 - \"one.example: "), "{warning}");
        second.forget("GET", "/v2/_catalog*");
        second.always("GET", "/v2/_catalog*", |_| Reply::status(403));
        let answer = gateway.get("/v2/_catalog").await;
        assert!(answer.status >= 400, "{status}: an empty list would be taken for the whole");
    }
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
    upstream.expect("GET", "/v2/_catalog?n=1000", catalog(&["secret/x", "team/app", "teamx/app"]));
    let answer = gateway.ask(Request::get("/v2/_catalog").login("alice", "secret")).await.is(200);
    assert_eq!(names(&answer), ["team/app"]);
    // Bob sees nothing at any upstream: none is asked.
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
    second.expect("GET", "/v2/_catalog?n=2", catalog(&["d", "e"]));
    let page = gateway.get(&target).await.is(200);
    assert_eq!(names(&page), ["two/e"]);
    assert_eq!(next(&page), None);
}

/// A gateway where alice may see `team/**` and `*/public` of what `upstream` lists.
async fn restricted(upstream: &Upstream) -> Gateway {
    Gateway::builder()
        .user("alice", "secret")
        .rule(&["alice"], &["**"], &["catalog"])
        .denial(&["alice"], &["team/closed/**"], &["pull"])
        .rule(&["alice"], &["team/**", "*/public"], &["pull"])
        .upstream("up", "", upstream.address)
        .start()
        .await
}

/// Asks as alice. Returns the names, and the target of the next page.
async fn page_of(gateway: &Gateway, target: &str) -> (Vec<String>, Option<String>) {
    let answer = gateway.ask(Request::get(target).login("alice", "secret")).await.is(200);
    (names(&answer), next(&answer))
}

#[tokio::test]
async fn a_catalog_page_costs_limited_upstream_pages() {
    let upstream = Upstream::start().await;
    let gateway = restricted(&upstream).await;
    // Pages without end, on which nothing is to be seen.
    upstream.otherwise(|Heard { target, .. }: &Heard| {
        let last: usize = target.split("last=").nth(1).map_or(0, |last| last.parse().unwrap());
        let link = format!("</v2/_catalog?last={}>; rel=\"next\"", last + 1);
        Some(catalog(&["secret"]).header("Link", &link))
    });
    let (listed, next) = page_of(&gateway, "/v2/_catalog").await;
    assert_eq!(listed, [""; 0]);
    assert_eq!(upstream.heard().len(), dockgate::internals::limits::CATALOG_UPSTREAM_PAGES);
    // The rest is to be asked for, and the way there begins where this page ended.
    page_of(&gateway, &next.unwrap()).await;
    let asked = upstream.heard();
    assert_eq!(asked.len(), 2 * dockgate::internals::limits::CATALOG_UPSTREAM_PAGES);
    assert_eq!(asked.last().unwrap().target, "/v2/_catalog?last=127");
}

#[tokio::test]
async fn a_catalog_that_links_to_itself_ends() {
    let upstream = Upstream::start().await;
    let gateway = restricted(&upstream).await;
    upstream.always("GET", "/v2/_catalog*", |_| {
        catalog(&["team/a"]).header("Link", "</v2/_catalog?last=x>; rel=\"next\"")
    });
    assert_eq!(page_of(&gateway, "/v2/_catalog").await, (vec!["team/a".to_owned()], None));
    assert_eq!(upstream.heard().len(), 2);
}

/// The names that an upstream lists, and what alice is shown of them.
const OPEN: [&str; 6] =
    ["a/public", "finance/public", "team/a", "team/b", "team-x/public", "team/closed-not"];

/// Lists names in pages of 1000 at most, as distribution does, or of fewer.
fn pages(upstream: &Upstream, names: Vec<String>, most: usize) {
    upstream.otherwise(move |Heard { target, .. }: &Heard| {
        let query = target.strip_prefix("/v2/_catalog")?.trim_start_matches('?');
        let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let last = value("last").map(|last| last.replace("%2F", "/"));
        let begin = last.map_or(0, |last| names.partition_point(|name| *name <= last));
        let wanted = value("n").map_or(most, |n| n.parse::<usize>().unwrap().min(most));
        let end = (begin + wanted).min(names.len());
        let listed: Vec<_> = names[begin..end].iter().map(String::as_str).collect();
        let reply = catalog(&listed);
        let link = || format!("</v2/_catalog?last={}&n={wanted}>; rel=\"next\"", names[end - 1]);
        Some(if end < names.len() { reply.header("Link", &link()) } else { reply })
    });
}

/// The visible names among `hidden` ones, as an upstream sorts them.
fn among(hidden: &[&str]) -> Vec<String> {
    let mut names: Vec<_> = OPEN.iter().chain(hidden).map(ToString::to_string).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_catalog_tells_nothing_of_hidden_names() {
    let hidden: [&[&str]; 5] = [
        &[],
        &["finance/layoffs-2027"],
        &["0", "finance/layoffs-2027", "team/closed/x", "zz/last", "zz/laster"],
        &["zz/last"],
        &["0/a", "0/b", "0/c", "0/d"],
    ];
    let mut lasts = vec![String::new()];
    for name in
        among(&["finance/layoffs-2027", "finance/layoffs-2026", "finance", "team/closed/x", "zz", "0"])
    {
        // Each prefix of each name: as one reads a name letter by letter.
        lasts.extend((1..=name.len()).map(|end| name[..end].to_owned()));
    }
    lasts.sort();
    lasts.dedup();
    let mut seen = Vec::new();
    for hidden in hidden {
        let upstream = Upstream::start().await;
        pages(&upstream, among(hidden), 1000);
        let gateway = restricted(&upstream).await;
        let mut client = gateway.connect().await;
        let mut answers = Vec::new();
        for n in [1, 2, 5, 6, 7, 100] {
            for last in &lasts {
                let before = upstream.heard().len();
                let target = format!("/v2/_catalog?n={n}&last={last}");
                let answer = client.ask(&Request::get(&target).login("alice", "secret")).await.is(200);
                let cost = upstream.heard().len() - before;
                let cursor = next(&answer).map(|next| next.len());
                answers.push((target, names(&answer), cursor, cost));
            }
            let mut target = Some(format!("/v2/_catalog?n={n}"));
            for step in 0.. {
                let Some(at) = target else { break };
                let before = upstream.heard().len();
                let (listed, next) = page_of(&gateway, &at).await;
                let cost = upstream.heard().len() - before;
                answers.push((format!("step {step} of {n}"), listed, next.as_ref().map(String::len), cost));
                target = next;
            }
        }
        seen.push(answers);
    }
    for other in &seen[1..] {
        for (one, other) in seen[0].iter().zip(other) {
            assert_eq!(one, other, "a hidden name changes the answer");
        }
    }
}

#[tokio::test]
async fn a_restricted_catalog_loses_no_name() {
    let far: Vec<_> = (0..150).map(|number| format!("m{number:03}/hidden")).collect();
    let far: Vec<_> = far.iter().map(String::as_str).collect();
    let sorted = among(&[]);
    for most in [1, 7, 1000] {
        let upstream = Upstream::start().await;
        pages(&upstream, among(&far), most);
        let gateway = restricted(&upstream).await;
        for n in 1..8 {
            let (mut found, mut target) = (Vec::new(), Some(format!("/v2/_catalog?n={n}")));
            while let Some(at) = target {
                let (listed, next) = page_of(&gateway, &at).await;
                assert!(listed.len() <= n);
                found.extend(listed);
                target = next;
            }
            assert_eq!(found, sorted, "{n} of {most}");
        }
        if most == 1 {
            continue;
        }
        // As tools do that page by the last name, and from names that are not there or not to be seen.
        for (at, name) in sorted.iter().enumerate() {
            let after = page_of(&gateway, &format!("/v2/_catalog?n=100&last={name}")).await.0;
            assert_eq!(after, sorted[at + 1..], "after {name}");
        }
        for (last, expected) in [("b", &sorted[1..]), ("m007/hidden", &sorted[2..]), ("zz", &[])] {
            let after = page_of(&gateway, &format!("/v2/_catalog?n=100&last={last}")).await.0;
            assert_eq!(after, *expected, "after {last}");
        }
    }
}

#[tokio::test]
async fn a_restricted_catalog_keeps_the_upstreams_order() {
    let upstream = Upstream::start().await;
    upstream.always("GET", "/v2/_catalog*", |_| {
        catalog(&["team/image1", "team/image2", "hidden/x", "team-dev/public", "a/public"])
    });
    let gateway = restricted(&upstream).await;
    let after = async |last: &str| page_of(&gateway, &format!("/v2/_catalog?last={last}")).await.0;
    assert_eq!(after("team/image2").await, ["team-dev/public", "a/public"]);
    assert_eq!(after("a/public").await, [""; 0]);
    // A hidden name is answered as one that does not exist.
    assert_eq!(after("hidden/x").await, after("hidden/y").await);
}

#[tokio::test]
async fn hidden_upstreams_are_neither_asked_nor_named() {
    let (open, hidden) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .user("alice", "secret")
        .rule(&["alice"], &["**"], &["catalog"])
        .rule(&["alice"], &["one/team/**"], &["pull"])
        .upstream("one", "one", open.address)
        .upstream_with("hidden.example", "hidden", hidden.address, "retries = 0")
        .upstream("rest", "", hidden.address)
        .start()
        .await;
    open.always("GET", "/v2/_catalog*", |_| catalog(&["team/a", "b"]));
    let answer = gateway.ask(Request::get("/v2/_catalog").login("alice", "secret")).await.is(200);
    assert_eq!((names(&answer), answer.header("warning")), (vec!["one/team/a".to_owned()], None));
    assert_eq!(page_of(&gateway, "/one/v2/_catalog").await.0, ["team/a"]);
    assert_eq!(page_of(&gateway, "/v2/_catalog?ns=one").await.0, ["team/a"]);
    // The same bytes for what is configured and what is not.
    let body = async |target: &str, status: u16, code: &str| {
        let answer = gateway.ask(Request::get(target).login("alice", "secret")).await.refuses(status, code);
        answer.text().to_owned()
    };
    let pairs: [(&str, &str); 5] = [
        ("/hidden/v2/_catalog", "/absent/v2/_catalog"),
        ("/v2/_catalog?ns=hidden.example", "/v2/_catalog?ns=absent.example"),
        ("/v2/_catalog?ns=rest", "/v2/_catalog?ns=absent"),
        ("/one/v2/_catalog?ns=hidden.example", "/one/v2/_catalog?ns=absent.example"),
        ("/hidden/v2/_catalog?ns=hidden.example", "/absent/v2/_catalog?ns=absent.example"),
    ];
    for (configured, absent) in pairs {
        assert_eq!(body(configured, 404, "NAME_UNKNOWN").await, body(absent, 404, "NAME_UNKNOWN").await);
    }
    let disagreeing = ["/hidden/v2/_catalog?ns=one", "/absent/v2/_catalog?ns=one"];
    let [configured, absent] = disagreeing.map(|target| body(target, 400, "NAME_INVALID"));
    assert_eq!(configured.await, absent.await);
    assert_eq!(hidden.connections(), 0);
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
