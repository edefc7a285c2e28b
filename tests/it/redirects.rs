//! Redirects: followed without the client's identity, and only to public or named hosts.

use crate::harness::{
    Answer, EMPTY_INDEX, Gate, Gateway, Headers, MARK, OCI_INDEX, PASSWORD, ROBOT, Reply, Request, Upstream,
    account, basic, noise, refusal, sha256,
};

const MANIFEST: &str = "/v2/a/manifests/x";
const UPLOADS: &str = "/v2/a/blobs/uploads/";

fn blob() -> String {
    format!("/v2/a/blobs/{}", sha256(b"{}"))
}

fn to(location: &str) -> Reply {
    Reply::status(307).header("Location", location).header("Set-Cookie", "session=t0psecret")
}

/// A registry that wants a password, a CDN that it may send us to, and a gateway before both.
async fn world(lines: &str) -> (Upstream, Upstream, Gateway) {
    let (registry, cdn) = (Upstream::start().await, Upstream::start().await);
    let lines = format!("redirect_hosts = [\"{}\"]\n{lines}\n{}", cdn.address, account());
    let gateway = Gateway::builder().upstream_with("up", "", registry.address, &lines).start().await;
    registry.expect("GET", "/v2/warm/manifests/x", refusal("Basic realm=\"x\""));
    registry.expect("GET", "/v2/warm/manifests/x", Reply::ok(EMPTY_INDEX));
    gateway.get("/v2/warm/manifests/x").await.is(200);
    (registry, cdn, gateway)
}

#[tokio::test]
async fn redirects_are_followed_without_credentials_cookies_or_ns() {
    let (registry, cdn, gateway) = world("").await;
    for status in [301, 302, 303, 307, 308] {
        for method in ["GET", "HEAD"] {
            for target in [MANIFEST.to_owned(), blob()] {
                let reply = Reply::status(status).header("Location", &cdn.url("/signed?X-Sig=t0psecret"));
                let mut asked = registry.expect(method, target.as_str(), reply);
                cdn.expect(
                    method,
                    "/signed?X-Sig=t0psecret",
                    Reply::ok(EMPTY_INDEX).header("Content-Type", OCI_INDEX).header("Set-Cookie", "a=b"),
                );
                let request = Request::new(method, format!("{target}?ns=up"));
                let answer = gateway.ask(request.header("Cookie", "session=1")).await;
                assert_eq!(answer.status, 200, "{status} {method} {target}");
                assert_eq!(answer.header("location"), None);
                let shown = asked.done().await.headers.get("authorization").map(str::to_owned);
                assert_eq!(shown, Some(basic(ROBOT, PASSWORD)));
            }
        }
    }
    assert!(cdn.heard_of("authorization").iter().all(Option::is_none));
    assert_eq!(cdn.heard_of("host")[0], Some(cdn.address.to_string()));
}

#[tokio::test]
async fn a_signed_url_arrives_to_the_byte() {
    let (registry, cdn, gateway) = world("").await;
    for target in [
        "/a%2Fb%2fc/~x+y/!$'()*,;:@?X-Amz=t0psecret%2B%2b+c%7e~&&d=e==&f=",
        "//double//slash/./dot/../dots?a=/../b?c",
        "/?",
        "/x?a=%zz&b=%&c=[]{}|^`",
    ] {
        registry.expect("GET", blob(), to(&cdn.url(target)));
        cdn.expect("GET", target, Reply::ok(EMPTY_INDEX));
        assert_eq!(gateway.get(&blob()).await.status, 200, "{target}");
    }
    registry.expect("GET", blob(), to(&cdn.url("/x?sig=t0psecret#fragment")));
    cdn.expect("GET", "/x?sig=t0psecret", Reply::ok(EMPTY_INDEX));
    gateway.get(&blob()).await.is(200);
}

#[tokio::test]
async fn relative_redirects_are_resolved_against_where_they_came_from() {
    let (registry, cdn, gateway) = world("").await;
    let host = cdn.address.to_string();
    for (location, at_cdn, target) in [
        ("/x?y=%2f".to_owned(), false, "/x?y=%2f"),
        ("x".to_owned(), false, "/v2/a/blobs/x"),
        ("../x".to_owned(), false, "/v2/a/x"),
        ("?x=1".to_owned(), false, &*format!("{}?x=1", blob())),
        (format!("//{host}/x"), true, "/x"),
    ] {
        registry.expect("GET", blob(), to(&location));
        let there = if at_cdn { &cdn } else { &registry };
        there.expect("GET", target, Reply::ok(EMPTY_INDEX));
        assert_eq!(gateway.get(&blob()).await.status, 200, "{location}");
    }
    registry.expect("GET", blob(), to(&cdn.url("/one/two")));
    cdn.expect("GET", "/one/two", to("three?sig=t0psecret"));
    cdn.expect("GET", "/one/three?sig=t0psecret", Reply::ok(EMPTY_INDEX));
    gateway.get(&blob()).await.is(200);
}

#[tokio::test]
async fn a_range_goes_along_and_its_part_comes_back() {
    let (registry, cdn, gateway) = world("").await;
    registry.expect("GET", blob(), to(&cdn.url("/x")));
    let part = Reply::status(206).body("23").header("Content-Range", "bytes 2-3/9");
    let mut asked = cdn.expect("GET", "/x", part);
    let answer = gateway.ask(Request::get(blob()).header("Range", "bytes=2-3")).await.is(206);
    assert_eq!((answer.text().as_str(), answer.header("content-range")), ("23", Some("bytes 2-3/9")));
    assert_eq!(asked.done().await.headers.get("range"), Some("bytes=2-3"));
}

#[tokio::test]
async fn five_redirects_are_followed_and_no_sixth() {
    let (registry, cdn, gateway) = world("").await;
    let chain = |hops: usize| {
        registry.expect("GET", blob(), to(&cdn.url("/1")));
        for hop in 1..hops {
            cdn.expect("GET", format!("/{hop}"), to(&format!("/{}", hop + 1)));
        }
    };
    chain(5);
    cdn.expect("GET", "/5", Reply::ok(EMPTY_INDEX));
    gateway.get(&blob()).await.is(200);
    chain(6);
    gateway.get(&blob()).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn a_loop_is_502() {
    let (registry, cdn, gateway) = world("").await;
    registry.always("GET", blob(), {
        let there = cdn.url("/x");
        move |_| to(&there)
    });
    let back = registry.url(&blob());
    cdn.always("GET", "/x", move |_| to(&back));
    gateway.get(&blob()).await.refuses(502, "UNAVAILABLE");
    assert_eq!(cdn.heard().len(), 1);
}

#[tokio::test]
async fn a_cdn_cannot_redirect_back_to_the_registry() {
    for lines in ["", "redirects = \"pass\""] {
        let (registry, cdn, gateway) = world(lines).await;
        let before = registry.heard().len();
        registry.expect("GET", MANIFEST, to(&cdn.url("/x")));
        cdn.expect("GET", "/x", to("/y"));
        cdn.expect("GET", "/y", to(&registry.url("/v2/other/manifests/x")));
        gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
        assert_eq!((registry.heard().len() - before, cdn.heard().len()), (1, 2), "{lines}");
    }
}

#[tokio::test]
async fn a_moved_upload_does_not_return_to_the_registry() {
    let (registry, storage, gateway) = world("").await;
    registry.expect("POST", UPLOADS, Reply::status(202).header("Location", &storage.url("/up")));
    let begun = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
    let home = registry.url("/v2/other/blobs/uploads/1");
    storage.expect("PATCH", "/up", Reply::status(202).header("Location", &home));
    gateway.ask(Request::patch(begun).body("ab")).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn a_redirect_that_cannot_be_followed_is_502() {
    let (registry, cdn, gateway) = world("").await;
    for reply in [
        Reply::status(307),
        to(""),
        to("http://"),
        to("ftp://example.com/x"),
        to("http://user@127.0.0.1/"),
        to("http:\\\\127.0.0.1"),
        Reply::status(300).header("Location", &cdn.url("/t0psecret")),
        Reply::status(305).header("Location", &cdn.url("/t0psecret")),
    ] {
        // An empty location is the very same place.
        registry.always("GET", MANIFEST, move |_| reply.clone());
        gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
        registry.forget("GET", MANIFEST);
    }
    assert_eq!(cdn.connections(), 0);
}

#[tokio::test]
async fn storage_that_refuses_is_502_after_a_fresh_redirect() {
    for status in [400, 401, 403, 404, 410, 500, 503] {
        let (registry, cdn, gateway) = world("").await;
        for signature in ["t0psecret", "t0psecret2"] {
            let target = format!("/x?sig={signature}");
            registry.expect("GET", blob(), to(&cdn.url(&target)));
            let page = "<Error><Code>AccessDenied</Code></Error>";
            let page = Reply::status(status).body(page).header("Content-Type", "text/xml");
            cdn.expect("GET", target.as_str(), page.header("WWW-Authenticate", "Basic realm=\"http\""));
        }
        let answer = gateway.get(&blob()).await.refuses(502, "UNAVAILABLE");
        assert!(!answer.text().contains("AccessDenied"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_fresh_redirect_mends_an_expired_signature() {
    for status in [400, 403, 404, 408] {
        let (registry, cdn, gateway) = world("").await;
        registry.expect("GET", blob(), to(&cdn.url("/x?sig=expired")));
        cdn.expect("GET", "/x?sig=expired", Reply::status(status));
        registry.expect("GET", blob(), to(&cdn.url("/x?sig=fresh")));
        cdn.expect("GET", "/x?sig=fresh", Reply::status(200).body("bytes"));
        assert_eq!(gateway.get(&blob()).await.is(200).text(), "bytes", "{status}");
    }
}

#[tokio::test]
async fn storage_that_limits_the_rate_is_429() {
    let (registry, cdn, gateway) = world("").await;
    registry.expect("GET", blob(), to(&cdn.url("/x")));
    cdn.expect("GET", "/x", Reply::status(429).header("Retry-After", "7"));
    let answer = gateway.get(&blob()).await.refuses(429, "TOOMANYREQUESTS");
    assert_eq!(answer.header("retry-after"), Some("7"));
}

#[tokio::test]
async fn a_dead_storage_host_leaves_the_registry_available() {
    let (registry, cdn, gateway) = world("retries = 0").await;
    registry.always("GET", "/v2/*", {
        let location = cdn.url("/x");
        move |_| to(&location)
    });
    cdn.always("GET", "/x", |_| Reply::status(500));
    for _ in 0..3 {
        gateway.get(&blob()).await.refuses(502, "UNAVAILABLE");
    }
    let asked = cdn.connections();
    for _ in 0..5 {
        gateway.get(&blob()).await.refuses(502, "UNAVAILABLE");
    }
    assert_eq!(cdn.connections(), asked, "its circuit is open");
    registry.forget("GET", "/v2/*");
    registry.expect("GET", MANIFEST, Reply::status(404));
    gateway.get(MANIFEST).await.refuses(404, "MANIFEST_UNKNOWN");
}

/// A registry that redirects to unnamed private places, which must not be contacted.
async fn refused(lines: &str, location: impl Fn(u16) -> String) {
    let (registry, inside) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder().upstream_with("up", "", registry.address, lines).start().await;
    let location = location(inside.address.port());
    for target in [MANIFEST.to_owned(), blob()] {
        registry.expect("GET", target.as_str(), to(&location));
        let answer = gateway.get(&target).await;
        assert_eq!(answer.status, 502, "{location}: {}", answer.text());
        assert_eq!(answer.code(), "UNAVAILABLE");
    }
    assert_eq!(inside.connections(), 0, "{location}");
}

#[tokio::test]
async fn places_inside_are_refused_however_they_are_written() {
    let lines = "connect_timeout = \"2s\"\nretries = 0";
    for host in [
        "127.0.0.1:PORT",
        "127.8.8.8:PORT",
        "localhost:PORT",
        "LOCALHOST.:PORT",
        "x.localhost:PORT",
        "[::1]:PORT",
        "[::ffff:127.0.0.1]:PORT",
        "[64:ff9b::7f00:1]:PORT",
        "0.0.0.0:PORT",
        "127.1:PORT",
        "2130706433:PORT",
        "0x7f000001:PORT",
        "0177.0.0.1:PORT",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "198.51.100.1",
        "224.0.0.1",
    ] {
        refused(lines, |port| format!("http://{}/x", host.replace("PORT", &port.to_string()))).await;
    }
}

#[tokio::test]
async fn redirect_hosts_allows_only_the_named_hosts() {
    let lines = "redirect_hosts = [\"127.0.0.1:1\", \"cdn.example\", \"*.cdn.example\"]";
    for location in [
        "http://127.0.0.1:PORT/x",
        "https://other.example/x",
        "https://cdn.example:PORT/x",
        "https://xcdn.example/x",
        "https://cdn.example.evil.example/x",
    ] {
        refused(lines, |port| location.replace("PORT", &port.to_string())).await;
    }
}

/// A registry with TLS, and a gateway before it that trusts it.
async fn over_tls(lines: &str) -> (Upstream, Gateway) {
    let registry = Upstream::start_tls().await;
    let builder = Gateway::builder().file("ca.crt", registry.ca.as_ref().unwrap());
    let lines = format!("url = \"{}\"\nca = \"ca.crt\"\n{lines}", registry.url(""));
    let gateway = builder.upstream_with("up", "", registry.address, &lines).start().await;
    (registry, gateway)
}

#[tokio::test]
async fn from_https_no_redirect_leads_to_plain_http() {
    let (registry, gateway) = over_tls("").await;
    for location in ["http://cdn.example/x", "http://93.184.215.14/x"] {
        registry.expect("GET", blob(), to(location));
        gateway.get(&blob()).await.refuses(502, "UNAVAILABLE");
    }
    let plain = Upstream::start().await;
    let (registry, gateway) = over_tls(&format!("redirect_hosts = [\"{}\"]", plain.address)).await;
    registry.expect("GET", blob(), to(&plain.url("/x")));
    plain.expect("GET", "/x", Reply::ok(EMPTY_INDEX));
    gateway.get(&blob()).await.is(200);
}

#[tokio::test]
async fn a_passed_redirect_has_an_absolute_location() {
    let (registry, cdn, gateway) = world("redirects = \"pass\"").await;
    for (location, absolute) in [
        ("https://cdn.example/x?sig=t0psecret%2b+~&&", "https://cdn.example/x?sig=t0psecret%2b+~&&"),
        ("//cdn.example/x", "http://cdn.example/x"),
        ("http://10.0.0.1/x", "http://10.0.0.1/x"),
    ] {
        for method in ["GET", "HEAD"] {
            registry.expect(method, blob(), to(location));
            let answer = gateway.ask(Request::new(method, blob())).await.is(307);
            assert_eq!(answer.header("location"), Some(absolute));
        }
    }
    // What the client could not follow is followed here all the same.
    registry.expect("GET", blob(), to("/elsewhere"));
    registry.expect("GET", "/elsewhere", Reply::ok(EMPTY_INDEX));
    gateway.get(&blob()).await.is(200);
    registry.expect("GET", MANIFEST, to(&cdn.url("/m")));
    cdn.expect("GET", "/m", Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
}

#[tokio::test]
async fn writes_are_not_redirected() {
    let (registry, cdn, gateway) = world("").await;
    let there = cdn.url("/x");
    for request in [
        Request::post(UPLOADS),
        Request::put(MANIFEST).body("{}"),
        Request::delete(format!("/v2/a/manifests/{}", sha256(b"{}"))),
    ] {
        registry.expect(&request.method, request.target.as_str(), to(&there));
        gateway.ask(request).await.refuses(502, "UNAVAILABLE");
    }
    assert_eq!(cdn.connections(), 0);
}

fn location(answer: &Answer) -> String {
    answer.header("location").expect("a location").to_owned()
}

#[tokio::test]
async fn an_upload_continues_at_a_named_host_without_credentials() {
    let (registry, storage, gateway) = world("").await;
    let (one, two) = ("/up/1?sig=t0psecret%2b", "/up/2?sig=t0psecret");
    registry.expect("POST", UPLOADS, Reply::status(202).header("Location", &storage.url(one)));
    let begun = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
    assert!(begun.starts_with(UPLOADS) && !begun.contains(MARK), "{begun}");
    storage.expect("PATCH", one, Reply::status(202).header("Location", two));
    let gone_on = location(&gateway.ask(Request::patch(begun).body("ab")).await.is(202));
    let digest = sha256(b"ab");
    let last = format!("{two}&digest={}", digest.replace(':', "%3A"));
    let mut put =
        storage.expect("PUT", last, Reply::status(201).header("Location", &storage.url("/t0psecret")));
    let done = gateway.ask(Request::put(format!("{gone_on}?digest={digest}")).body("")).await.is(201);
    assert_eq!(location(&done), format!("/v2/a/blobs/{digest}"));
    assert_eq!(put.done().await.headers.get("host"), Some(storage.address.to_string().as_str()));
    assert!(storage.heard_of("authorization").iter().all(Option::is_none));

    let stranger = Upstream::start().await;
    registry.expect("POST", UPLOADS, Reply::status(202).header("Location", &stranger.url("/up")));
    gateway.ask(Request::post(UPLOADS)).await.refuses(502, "UNAVAILABLE");
    assert_eq!(stranger.connections(), 0);
}

#[tokio::test]
async fn a_401_of_the_upload_host_is_not_the_clients() {
    let (registry, storage, gateway) = world("").await;
    registry.expect("POST", UPLOADS, Reply::status(202).header("Location", &storage.url("/up")));
    let begun = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
    storage.expect("PATCH", "/up", refusal("Basic realm=\"x\""));
    gateway.ask(Request::patch(begun).body("ab")).await.refuses(502, "UNAVAILABLE");
}

/// A gateway that has a certificate to show, before a registry with TLS.
async fn certified(registry: &Upstream, roots: &str, pair: (&str, &str), lines: &str) -> Gateway {
    let builder = Gateway::builder().file("roots.crt", roots).file("client.crt", pair.0);
    let lines = format!(
        "url = \"{}\"\nca = \"roots.crt\"\nclient_certificate = \"client.crt\"\n\
         client_key = \"client.key\"\nretries = 0\n{lines}",
        registry.url("")
    );
    let builder = builder.file("client.key", pair.1);
    builder.upstream_with("up", "", registry.address, &lines).start().await
}

#[tokio::test]
async fn a_client_certificate_goes_to_the_registry_alone() {
    let (ca, pem, key) = client_certificate();
    let cdn = Upstream::start_curious_tls(&ca).await;
    let registry = Upstream::start_mutual_tls(&ca).await;
    let roots = [registry.ca.as_deref().unwrap(), cdn.ca.as_deref().unwrap()].concat();
    let named = format!("redirect_hosts = [\"localhost:{}\"]", cdn.address.port());
    let gateway = certified(&registry, &roots, (&pem, &key), &named).await;
    let content = noise(300_000);
    registry.expect("GET", blob(), to(&cdn.url("/x")));
    cdn.expect("GET", "/x", Reply::ok(&content));
    assert!(gateway.get(&blob()).await.is(200).body == content);
    assert_eq!((registry.certified(), cdn.certified()), (1, 0));

    let (_, pem, key) = client_certificate();
    let gateway = certified(&registry, &roots, (&pem, &key), &named).await;
    gateway.get(&blob()).await.refuses(502, "UNAVAILABLE");
}

/// A CA, and a certificate for a client that it signed, with its key.
fn client_certificate() -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let mut params = CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let own = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&own, &issuer).unwrap().pem();
    (ca, certificate, own.serialize_pem())
}

#[tokio::test]
async fn a_cdn_stream_is_passed_on_as_it_arrives() {
    let (registry, cdn, gateway) = world("").await;
    let content = noise(100_000);
    let gate = Gate::shut();
    registry.expect("GET", blob(), to(&cdn.url("/x")));
    cdn.expect("GET", "/x", Reply::ok(&content).pause_after(50_000, &gate));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob()).bytes("localhost")).await;
    client.head().await.is(200);
    assert!(client.read_exactly(50_000).await == content[..50_000]);
    gate.open();
    assert!(client.read_exactly(50_000).await == content[50_000..]);
}

/// A second registry, to which the first redirects: it challenges, and `tokens` give anonymous tokens.
async fn second_registry(named: &str) -> (Upstream, Upstream, Upstream, Gateway) {
    let (registry, second, tokens) =
        (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let lines = format!(
        "redirect_hosts = [\"{}\"]\n{}\n{}",
        second.address,
        named.replace("TOKENS", &tokens.address.to_string()),
        account()
    );
    let gateway = Gateway::builder().upstream_with("up", "", registry.address, &lines).start().await;
    let challenge =
        format!("Bearer realm=\"{}\",service=\"second\",scope=\"repository:b:pull\"", tokens.url("/token"));
    second.always("GET", "/v2/b/*", move |headers: &Headers| match headers.get("authorization") {
        Some("Bearer guest") => Reply::ok(EMPTY_INDEX),
        _ => refusal(&challenge),
    });
    (registry, second, tokens, gateway)
}

const GUEST_TOKEN: &str = "/token?service=second&scope=repository%3Ab%3Apull";

#[tokio::test]
async fn a_second_registrys_challenge_is_answered_anonymously() {
    let (registry, second, tokens, gateway) = second_registry("realm_hosts = [\"TOKENS\"]").await;
    tokens.expect("GET", GUEST_TOKEN, Reply::ok(r#"{"token":"guest","expires_in":300}"#));
    for target in [MANIFEST.to_owned(), blob(), MANIFEST.to_owned()] {
        let there = second.url(&target.replace("/a/", "/b/"));
        registry.expect("GET", &*target, Reply::status(302).header("Location", &there));
        assert_eq!(gateway.get(&target).await.is(200).text(), EMPTY_INDEX);
    }
    assert_eq!(tokens.heard_of("authorization"), [None]);
    let shown = second.heard_of("authorization");
    assert!(shown.iter().flatten().all(|shown| shown == "Bearer guest"), "{shown:?}");
}

#[tokio::test]
async fn a_second_registry_fills_the_cache_too() {
    let (registry, second, tokens) =
        (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let lines = format!(
        "redirect_hosts = [\"{}\"]\nrealm_hosts = [\"{}\"]\n[upstream.cache]",
        second.address, tokens.address
    );
    let builder = Gateway::builder().upstream_with("up", "", registry.address, &lines);
    let gateway = builder.cache("prefetch = false").start().await;
    let content = noise(200_000);
    let target = format!("/v2/a/blobs/{}", sha256(&content));
    for method in ["GET", "HEAD"] {
        let there = second.url("/v2/b/blobs/x");
        registry.always(method, &*target, move |_| to(&there));
        let (content, realm) = (content.clone(), tokens.url("/token"));
        second.always(method, "/v2/b/blobs/x", move |headers: &Headers| match headers.get("authorization") {
            Some("Bearer guest") => Reply::ok(&content),
            _ => refusal(&format!("Bearer realm=\"{realm}\",service=\"second\",scope=\"repository:b:pull\"")),
        });
    }
    tokens.expect("GET", GUEST_TOKEN, Reply::ok(r#"{"token":"guest","expires_in":300}"#));
    assert!(gateway.get(&target).await.is(200).body == content);
    let part = gateway.ask(Request::get(&target).header("Range", "bytes=5-9")).await.is(206);
    assert!(part.body == content[5..10]);
}

#[tokio::test]
async fn a_guest_token_goes_to_its_own_host_alone() {
    let (registry, second, tokens, gateway) = second_registry("realm_hosts = [\"TOKENS\"]").await;
    tokens.expect("GET", GUEST_TOKEN, Reply::ok(r#"{"token":"guest","expires_in":300}"#));
    second.forget("GET", "/v2/b/*");
    second.always("GET", "/v2/b/*", |_| refusal("Basic realm=\"x\""));
    // Another scheme than tokens is the storage's refusal.
    registry.always("GET", blob(), {
        let there = second.url("/v2/b/x");
        move |_| to(&there)
    });
    gateway.get(&blob()).await.refuses(502, "UNAVAILABLE");
    let challenge =
        format!("Bearer realm=\"{}\",service=\"second\",scope=\"repository:b:pull\"", tokens.url("/token"));
    second.forget("GET", "/v2/b/*");
    let cdn = second.url("/cdn?sig=1");
    second.always("GET", "/v2/b/*", move |headers: &Headers| match headers.get("authorization") {
        Some("Bearer guest") => to(&cdn),
        _ => refusal(&challenge),
    });
    let mut there = second.expect("GET", "/cdn?sig=1", Reply::ok(EMPTY_INDEX));
    gateway.get(&blob()).await.is(200);
    assert_eq!(there.done().await.headers.get("authorization"), None);
}

#[tokio::test]
async fn a_second_registrys_foreign_realm_is_never_asked() {
    for named in ["", "realm_hosts = [\"127.0.0.1:1\"]"] {
        let (registry, second, tokens, gateway) = second_registry(named).await;
        registry.always("GET", MANIFEST, {
            let there = second.url("/v2/b/manifests/x");
            move |_| to(&there)
        });
        gateway.get(MANIFEST).await.refuses(502, "UNAVAILABLE");
        assert_eq!(tokens.connections(), 0);
    }
}

#[tokio::test]
async fn a_location_with_spaces_and_umlauts_is_encoded() {
    let (registry, cdn, gateway) = world("").await;
    for (written, asked) in [
        ("/a b/x?name=c d&sig=%2b+", "/a%20b/x?name=c%20d&sig=%2b+"),
        ("/\u{fc}/\u{4e2d}?\u{e9}", "/%C3%BC/%E4%B8%AD?%C3%A9"),
    ] {
        registry.expect("GET", blob(), to(&cdn.url(written)));
        cdn.expect("GET", asked, Reply::ok(EMPTY_INDEX));
        gateway.get(&blob()).await.is(200);
        registry.expect("POST", UPLOADS, Reply::status(202).header("Location", written));
        let begun = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
        registry.expect("PATCH", asked, Reply::status(202));
        gateway.ask(Request::patch(begun).body("ab")).await.is(202);
    }
}

/// A registry that has moved from http to https on the same host.
async fn moved() -> (Upstream, Upstream, Gateway) {
    let (plain, secure) = (Upstream::start().await, Upstream::start_tls().await);
    let builder = Gateway::builder().file("ca.crt", secure.ca.as_ref().unwrap());
    let lines =
        format!("url = \"http://localhost:{}\"\nca = \"ca.crt\"\n{}", plain.address.port(), account());
    let gateway = builder.upstream_with("up", "", plain.address, &lines).start().await;
    (plain, secure, gateway)
}

#[tokio::test]
async fn a_write_follows_http_to_https() {
    for status in [307, 308] {
        let (plain, secure, gateway) = moved().await;
        secure.always("GET", "/v2/", |_| Reply::status(200));
        plain.expect("POST", UPLOADS, Reply::status(status).header("Location", &secure.url(UPLOADS)));
        secure.expect("POST", UPLOADS, Reply::status(202).header("Location", "/up/1"));
        let begun = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
        // A body that has begun could not be sent twice: it goes there at once.
        secure.expect("PATCH", "/up/1", Reply::status(202).header("Location", "/up/2"));
        let gone_on = location(&gateway.ask(Request::patch(begun).body("ab")).await.is(202));
        let digest = sha256(b"ab");
        secure.expect("PUT", format!("/up/2?digest={}", digest.replace(':', "%3A")), Reply::status(201));
        gateway.ask(Request::put(format!("{gone_on}?digest={digest}")).body("")).await.is(201);
        secure.expect("PUT", MANIFEST, Reply::status(201));
        gateway.ask(Request::put(MANIFEST).body("{}")).await.is(201);
    }
}

#[tokio::test]
async fn a_write_whose_method_would_change_is_502() {
    for status in [301, 302, 303] {
        let (plain, secure, gateway) = moved().await;
        plain.expect("PUT", MANIFEST, Reply::status(status).header("Location", &secure.url(MANIFEST)));
        gateway.ask(Request::put(MANIFEST).body("{}")).await.refuses(502, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn a_read_follows_http_to_https_with_the_credentials() {
    let (plain, secure, gateway) = moved().await;
    plain.expect("GET", MANIFEST, Reply::status(301).header("Location", &secure.url(MANIFEST)));
    secure.expect("GET", MANIFEST, refusal("Basic realm=\"x\""));
    secure.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(secure.heard_of("authorization"), [None, Some(basic(ROBOT, PASSWORD))]);
}

#[tokio::test]
async fn a_url_that_names_the_gateway_means_the_registry() {
    for (external, there) in [
        ("https://registry.example.com", "https://registry.example.com"),
        ("https://registry.example.com", "https://REGISTRY.example.com:443"),
        ("https://registry.example.com:8443", "https://registry.example.com:8443"),
        ("http://registry.example.com", "http://registry.example.com"),
    ] {
        let registry = Upstream::start().await;
        let gateway = Gateway::builder()
            .server(&format!("external_url = \"{external}\""))
            .upstream("up", "", registry.address)
            .start()
            .await;
        let session = "/v2/a/blobs/uploads/5e55?_state=a%2b";
        registry.expect("POST", UPLOADS, Reply::status(202).header("Location", &format!("{there}{session}")));
        let begun = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
        registry.expect(
            "PATCH",
            session,
            Reply::status(202).header("Location", &format!("{there}{session}2")),
        );
        gateway.ask(Request::patch(begun).body("ab")).await.is(202);
        // A redirect, too.
        registry.expect("GET", blob(), to(&format!("{there}/storage/x?sig=%2b")));
        registry.expect("GET", "/storage/x?sig=%2b", Reply::ok(EMPTY_INDEX));
        gateway.get(&blob()).await.is(200);
    }
}

#[tokio::test]
async fn the_gateways_other_names_mean_the_registry_too() {
    let registry = Upstream::start().await;
    let gateway = Gateway::builder()
        .tls(&["localhost", "cert.example.com"])
        .upstream_with("up", "", registry.address, "hosts = [\"virtual.example.com\"]")
        .start()
        .await;
    let port = gateway.address.port();
    for there in [
        "https://cert.example.com".to_owned(),
        format!("https://cert.example.com:{port}"),
        "https://virtual.example.com".to_owned(),
        format!("https://localhost:{port}"),
        format!("https://127.0.0.1:{port}"),
    ] {
        registry.expect("POST", UPLOADS, Reply::status(202).header("Location", &format!("{there}/up/1")));
        let begun = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
        registry.expect("PATCH", "/up/1", Reply::status(202));
        gateway.ask(Request::patch(begun).body("ab")).await.is(202);
    }
    // Another port of the same host is another service.
    for there in ["https://cert.example.com:9000", "https://other.example.com", "https://localhost:1"] {
        registry.expect("POST", UPLOADS, Reply::status(202).header("Location", &format!("{there}/up/1")));
        gateway.ask(Request::post(UPLOADS)).await.refuses(502, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn a_realm_that_names_the_gateway_is_at_the_registry() {
    let registry = Upstream::start().await;
    let gateway = Gateway::builder()
        .server("external_url = \"https://registry.example.com\"")
        .upstream_with("up", "", registry.address, &account())
        .start()
        .await;
    let challenge = "Bearer realm=\"https://registry.example.com/auth/token\",service=\"r\"";
    registry.expect("GET", MANIFEST, refusal(challenge));
    let token = "/auth/token?account=robot&service=r&scope=repository%3Aa%3Apull".replace("robot", ROBOT);
    registry.expect("GET", token, Reply::ok(r#"{"token":"good"}"#));
    registry.expect("GET", MANIFEST, Reply::ok(EMPTY_INDEX));
    gateway.get(MANIFEST).await.is(200);
}
