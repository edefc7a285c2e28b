//! Writing: every flow of the specification, the handles that stand for upstream's locations, and uploads that break.

use crate::harness::{
    Answer, BodyEnd, Frames, Gate, Gateway, Reply, Request, Upstream, demo_registry, frame, noise, sha256,
};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const UPLOADS: &str = "/v2/a/blobs/uploads/";
/// Where the scripted upstream wants an upload; a query that must keep its bytes.
const SESSION: &str = "/v2/a/blobs/uploads/5e55?_state=a%2Bb%3D&x=1+2";

async fn both() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    (upstream, gateway)
}

/// In front of the demo's registry, under a prefix; only alice may use it.
async fn demo() -> (dockgate::internals::registry::Registry, Gateway) {
    let (registry, address) = demo_registry().await;
    let gateway = Gateway::builder().user("alice", "secret").upstream("demo", "reg", address).start().await;
    (registry, gateway)
}

fn alice(request: Request) -> Request {
    request.login("alice", "secret")
}

fn location(answer: &Answer) -> String {
    answer.header("location").expect("a location").to_owned()
}

fn finish(location: &str, content: &[u8]) -> Request {
    Request::put(format!("{location}?digest={}", sha256(content).replace(':', "%3A")))
}

/// Begins an upload at the scripted upstream; the answer is the client's location.
async fn begin(upstream: &Upstream, gateway: &Gateway) -> String {
    upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", SESSION));
    location(&gateway.ask(Request::post(UPLOADS)).await.is(202))
}

#[tokio::test]
async fn a_blob_goes_up_by_post_and_put() {
    let (registry, gateway) = demo().await;
    let content = noise(300_000);
    let begun = gateway.ask(alice(Request::post("/v2/reg/app/blobs/uploads/").body(""))).await.is(202);
    let put = alice(finish(&location(&begun), &content)).body(content.clone());
    let done = gateway.ask(put.header("Content-Type", "application/octet-stream")).await.is(201);
    let digest = sha256(&content);
    assert_eq!(location(&done), format!("/v2/reg/app/blobs/{digest}"));
    assert_eq!(done.header("docker-content-digest"), Some(digest.as_str()));
    let got = gateway.ask(alice(Request::get(location(&done)))).await.is(200);
    assert!(got.body == content);
    assert!(registry.blob(&dockgate::internals::Digest::parse(&digest).unwrap()).unwrap() == content);
}

#[tokio::test]
async fn a_blob_goes_up_by_a_single_post() {
    let (_, gateway) = demo().await;
    let content = noise(100_000);
    let digest = sha256(&content);
    let post = Request::post(format!("/v2/reg/app/blobs/uploads/?digest={digest}")).body(content.clone());
    let done = gateway.ask(alice(post.header("Content-Type", "application/octet-stream"))).await.is(201);
    assert_eq!(location(&done), format!("/v2/reg/app/blobs/{digest}"));
    assert!(gateway.ask(alice(Request::get(location(&done)))).await.body == content);
}

#[tokio::test]
async fn chunks_follow_the_last_upload_location() {
    let (_, gateway) = demo().await;
    let content = noise(2500);
    let mut at = location(&gateway.ask(alice(Request::post("/v2/reg/app/blobs/uploads/"))).await.is(202));
    for (start, piece) in [(0, &content[..1000]), (1000, &content[1000..2000])] {
        let range = format!("{start}-{}", start + 999);
        let patch = alice(Request::patch(&at)).header("Content-Range", range).body(piece);
        let answer = gateway.ask(patch).await.is(202);
        assert_eq!(answer.header("range"), Some(format!("0-{}", start + 999).as_str()));
        at = location(&answer);
    }
    let early = alice(Request::patch(&at)).header("Content-Range", "2400-2499").body(&content[2400..]);
    assert_eq!(gateway.ask(early).await.status, 416);
    let status = gateway.ask(alice(Request::get(&at))).await.is(204);
    assert_eq!(status.header("range"), Some("0-1999"));
    at = location(&status);
    let last = alice(finish(&at, &content)).header("Content-Range", "2000-2499").body(&content[2000..]);
    let done = gateway.ask(last).await.is(201);
    assert!(gateway.ask(alice(Request::get(location(&done)))).await.body == content);
}

#[tokio::test]
async fn a_blob_of_unknown_length_is_uploaded() {
    let (_, gateway) = demo().await;
    let content = noise(200_000);
    let at = location(&gateway.ask(alice(Request::post("/v2/reg/app/blobs/uploads/"))).await.is(202));
    let mut client = gateway.connect().await;
    let patch = alice(Request::patch(at)).header("Transfer-Encoding", "chunked");
    client.send(patch.bytes("localhost")).await;
    for piece in content.chunks(33_333) {
        client.send_chunk(piece).await;
    }
    client.send(b"0\r\n\r\n").await;
    let patched = client.answer().await.is(202);
    assert_eq!(patched.header("range"), Some("0-199999"));
    let done = client.ask(&alice(finish(&location(&patched), &content)).body("")).await.is(201);
    assert!(client.ask(&alice(Request::get(location(&done)))).await.body == content);
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository() {
    let (registry, gateway) = demo().await;
    let digest = registry.push_blob("base", "layer".into()).unwrap();
    let target = format!("/v2/reg/app/blobs/uploads/?mount={digest}&from=reg/base");
    let done = gateway.ask(alice(Request::post(target))).await.is(201);
    assert_eq!(location(&done), format!("/v2/reg/app/blobs/{digest}"));
    assert_eq!(gateway.ask(alice(Request::get(location(&done)))).await.text(), "layer");
}

#[tokio::test]
async fn an_upload_can_be_given_up() {
    let (_, gateway) = demo().await;
    let at = location(&gateway.ask(alice(Request::post("/v2/reg/app/blobs/uploads/"))).await.is(202));
    gateway.ask(alice(Request::delete(&at))).await.is(204);
    gateway.ask(alice(Request::get(&at))).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
    gateway.ask(alice(finish(&at, b"")).body("")).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn manifests_are_pushed_tagged_referred_to_and_deleted() {
    let (registry, gateway) = demo().await;
    let config = registry.push_blob("app", "{}".into()).unwrap();
    let descriptor =
        format!(r#"{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}}"#);
    let image = format!(r#"{{"schemaVersion":2,"mediaType":"{TYPE}","config":{descriptor},"layers":[]}}"#);
    let put = |target: &str, body: &str| alice(Request::put(target)).header("Content-Type", TYPE).body(body);
    let done = gateway.ask(put("/v2/reg/app/manifests/v1", &image)).await.is(201);
    let digest = sha256(image.as_bytes());
    assert_eq!(location(&done), format!("/v2/reg/app/manifests/{digest}"));
    assert_eq!(done.header("docker-content-digest"), Some(digest.as_str()));

    let subject = format!(r#"{{"mediaType":"{TYPE}","digest":"{digest}","size":{}}}"#, image.len());
    let referrer = image.replace("\"layers\":[]", &format!("\"layers\":[],\"subject\":{subject}"));
    let target = format!("/v2/reg/app/manifests/{}", sha256(referrer.as_bytes()));
    let done = gateway.ask(put(&target, &referrer)).await.is(201);
    assert_eq!(done.header("oci-subject"), Some(digest.as_str()));
    let list = gateway.ask(alice(Request::get(format!("/v2/reg/app/referrers/{digest}")))).await.is(200);
    assert_eq!(list.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    assert_eq!(list.json()["manifests"].as_array().unwrap().len(), 1);

    let tags = gateway.ask(alice(Request::get("/v2/reg/app/tags/list"))).await.is(200).json();
    assert_eq!(tags, serde_json::json!({"name": "reg/app", "tags": ["v1"]}));
    gateway.ask(alice(Request::delete("/v2/reg/app/manifests/v1"))).await.is(202);
    gateway.ask(alice(Request::delete(format!("/v2/reg/app/manifests/{digest}")))).await.is(202);
    gateway.ask(alice(Request::delete(format!("/v2/reg/app/blobs/{config}")))).await.is(202);
    let gone = gateway.ask(alice(Request::get("/v2/reg/app/manifests/v1"))).await;
    gone.refuses(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn the_upstream_refuses_a_manifest_under_a_wrong_digest() {
    let (_, gateway) = demo().await;
    let target = format!("/v2/reg/app/manifests/{}", sha256(b"other"));
    let put = alice(Request::put(target)).header("Content-Type", TYPE).body("{}");
    gateway.ask(put).await.refuses(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn bytes_flow_up_while_the_client_is_still_sending() {
    let (upstream, gateway) = both().await;
    let at = begin(&upstream, &gateway).await;
    let mut patch = upstream.expect("PATCH", SESSION, Reply::status(202).header("Location", SESSION));
    let mut client = gateway.connect().await;
    client.send(Request::patch(&at).header("Transfer-Encoding", "chunked").bytes("localhost")).await;
    for round in 1..=3 {
        client.send_chunk(b"some bytes").await;
        let seen = patch.until(|seen| seen.received >= 10 * round).await;
        assert_eq!((seen.received, seen.body_end), (10 * round, None));
    }
    client.send(b"0\r\n\r\n").await;
    client.answer().await.is(202);
    let seen = patch.done().await;
    assert_eq!(seen.headers.get("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.headers.get("content-length"), None);
    assert_eq!(seen.body, b"some bytes".repeat(3));
}

#[tokio::test]
async fn a_sealed_location_comes_back_byte_for_byte() {
    let (upstream, gateway) = both().await;
    let at = begin(&upstream, &gateway).await;
    assert!(at.starts_with("/v2/a/blobs/uploads/"), "{at}");
    assert!(!at.contains("5e55") && !at.contains("_state") && !at.contains('?'), "{at}");
    upstream.expect("PATCH", SESSION, Reply::status(202).header("Range", "0-0"));
    let patched = gateway.ask(Request::patch(&at).body("x")).await.is(202);
    assert_ne!(location(&patched), "", "where the upstream gives no new location, the last one counts");
    let status = Reply::status(204).header("Location", SESSION).header("Range", "0-0");
    upstream.expect("GET", SESSION, status);
    gateway.ask(Request::get(location(&patched))).await.is(204);
    let digest = sha256(b"x").replace(':', "%3A");
    upstream.expect("PUT", format!("{SESSION}&digest={digest}"), Reply::status(201));
    let done = gateway.ask(finish(&location(&patched), b"x").body("")).await.is(201);
    assert_eq!(done.header("docker-content-digest"), Some(sha256(b"x").as_str()));
    upstream.expect("DELETE", SESSION, Reply::status(204).header("Location", SESSION));
    let gone = gateway.ask(Request::delete(&at)).await.is(204);
    assert_eq!(gone.header("location"), None);
}

#[tokio::test]
async fn absolute_and_relative_upload_locations_both_work() {
    let (upstream, gateway) = both().await;
    for scheme in ["http", "https"] {
        let there = format!("{scheme}://{}{SESSION}", upstream.address);
        upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", &there));
        let at = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
        upstream.expect("PATCH", SESSION, Reply::status(202));
        gateway.ask(Request::patch(at).body("x")).await.is(202);
    }
}

#[tokio::test]
async fn a_foreign_upload_location_is_502_and_hidden() {
    let (upstream, gateway) = both().await;
    for there in ["https://evil.example/upload", "http://169.254.169.254/x", "//evil.example/x", "mailto:x"] {
        upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", there));
        let answer = gateway.ask(Request::post(UPLOADS)).await.refuses(502, "UNAVAILABLE");
        assert_eq!(answer.header("location"), None, "{there}");
    }
    upstream.expect("POST", UPLOADS, Reply::status(202));
    gateway.ask(Request::post(UPLOADS)).await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn an_upload_belongs_to_its_identity_and_repository() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret").user("bob", "secret");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", SESSION));
    let at = location(&gateway.ask(alice(Request::post(UPLOADS))).await.is(202));
    let elsewhere = at.replace("/v2/a/", "/v2/b/");
    let mut tampered = at.clone();
    let last = if tampered.pop() == Some('A') { 'B' } else { 'A' };
    tampered.push(last);
    let methods = ["GET", "PATCH", "PUT", "DELETE"];
    for method in methods {
        let ask = |at: &str| {
            let digest = if method == "PUT" { format!("?digest={}", sha256(b"")) } else { String::new() };
            Request::new(method, format!("{at}{digest}")).body("")
        };
        gateway.ask(ask(&at).login("bob", "secret")).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
        for wrong in
            [elsewhere.as_str(), tampered.as_str(), "/v2/a/blobs/uploads/5e55", "/v2/a/blobs/uploads/AAAA"]
        {
            gateway.ask(alice(ask(wrong))).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
        }
    }
    upstream.expect("PATCH", SESSION, Reply::status(202));
    gateway.ask(alice(Request::patch(&at).body("x"))).await.is(202);
}

/// Starts a gateway, or a replica of it, in front of the upstream.
async fn replica(upstream: &Upstream, secret: &str) -> Gateway {
    let builder = Gateway::builder().server(&format!("secret = \"{secret}\""));
    builder.upstream("up", "", upstream.address).start().await
}

const ONE: &str = "8c1f0a7e5bd2936447aa01ce9f3d6b5802e4c7d98f1b3a6c5d7e9f0011223344";

#[tokio::test]
async fn an_upload_handle_survives_a_restart() {
    let upstream = Upstream::start().await;
    let (first, second) = (replica(&upstream, ONE).await, replica(&upstream, ONE).await);
    let other = replica(&upstream, &ONE.replace('8', "9")).await;
    let at = begin(&upstream, &first).await;
    upstream.expect("PATCH", SESSION, Reply::status(202));
    second.ask(Request::patch(&at).body("x")).await.is(202);
    other.ask(Request::patch(&at).body("x")).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_replica_asks_where_the_upstream_has_uploads() {
    let upstream = Upstream::start().await;
    let (first, second) = (replica(&upstream, ONE).await, replica(&upstream, ONE).await);
    let begins = |there: &str| {
        upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", there));
    };
    begins("/artifacts-uploads/uploads/1");
    let at = location(&first.ask(Request::post(UPLOADS)).await.is(202));
    begins("/artifacts-uploads/uploads/2");
    upstream.expect("DELETE", "/artifacts-uploads/uploads/2", Reply::status(204));
    for _ in 0..2 {
        // The second time it knows.
        upstream.expect("PATCH", "/artifacts-uploads/uploads/1", Reply::status(202));
        second.ask(Request::patch(&at).body("x")).await.is(202);
    }
}

#[tokio::test]
async fn a_handle_leads_to_uploads_alone() {
    let upstream = Upstream::start().await;
    let (first, second) = (replica(&upstream, ONE).await, replica(&upstream, ONE).await);
    let blob = format!("/v2/private/blobs/{}", sha256(b""));
    for there in
        ["/v2/private/manifests/x", "/v2/a/blobs/uploads/../../../private/tags/list", &blob, "/api/x"]
    {
        // The upstream that names it may; a handle of it opens nothing, and less so where it was never given.
        upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", there));
        let at = location(&first.ask(Request::post(UPLOADS)).await.is(202));
        for method in ["GET", "PATCH", "DELETE", "PUT"] {
            let session = "/v2/a/blobs/uploads/2";
            upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", session));
            upstream.expect("DELETE", session, Reply::status(204));
            let digest = if method == "PUT" { format!("?digest={}", sha256(b"")) } else { String::new() };
            let request = Request::new(method, format!("{at}{digest}")).body("");
            second.ask(request).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
        }
    }
}

#[tokio::test]
async fn an_upload_status_carries_no_content() {
    let (upstream, gateway) = both().await;
    let at = begin(&upstream, &gateway).await;
    let told = Reply::ok("content").header("Range", "0-9").header("Content-Type", "text/plain");
    upstream.expect("GET", SESSION, told);
    let answer = gateway.ask(Request::get(&at)).await.is(204);
    assert_eq!((answer.text(), answer.header("range")), (String::new(), Some("0-9")));
    assert_eq!(answer.header("content-type"), None);
}

/// alice may read base and write app, at an upstream; elsewhere she may do all.
async fn mounting() -> (Upstream, Upstream, Gateway) {
    let (upstream, elsewhere) = (Upstream::start().await, Upstream::start().await);
    let gateway = Gateway::builder()
        .user("alice", "secret")
        .rule(&["alice"], &["app", "elsewhere/**"], &["*"])
        .rule(&["alice"], &["base", "pushonly"], &["pull"])
        .upstream("up", "", upstream.address)
        .upstream("elsewhere", "elsewhere", elsewhere.address)
        .start()
        .await;
    (upstream, elsewhere, gateway)
}

#[tokio::test]
async fn an_allowed_mount_is_201() {
    let (upstream, _elsewhere, gateway) = mounting().await;
    let digest = sha256(b"layer");
    let mount = format!("mount={}&from=base", digest.replace(':', "%3A"));
    let reply = Reply::status(201).header("Location", "http://internal/v2/app/blobs/x");
    upstream.expect("POST", format!("/v2/app/blobs/uploads/?{mount}"), reply);
    let post = Request::post(format!("/v2/app/blobs/uploads/?mount={digest}&from=base"));
    let done = gateway.ask(alice(post)).await.is(201);
    assert_eq!(location(&done), format!("/v2/app/blobs/{digest}"));
    assert_eq!(done.header("docker-content-digest"), Some(digest.as_str()));
}

#[tokio::test]
async fn an_impossible_mount_becomes_an_upload() {
    let (upstream, _elsewhere, gateway) = mounting().await;
    let digest = sha256(b"layer");
    let queries = [
        format!("mount={digest}&from=secret"),
        format!("mount={digest}&from=elsewhere/base"),
        format!("mount={digest}"),
        format!("mount={digest}&from=base&from=base"),
        format!("mount={digest}&mount={digest}&from=base"),
        format!("mount={digest}&from=NOT/valid"),
        "mount=nonsense&from=base".to_owned(),
    ];
    for query in queries {
        let reply = Reply::status(202).header("Location", "/v2/app/blobs/uploads/1");
        upstream.expect("POST", "/v2/app/blobs/uploads/", reply);
        let answer = gateway.ask(alice(Request::post(format!("/v2/app/blobs/uploads/?{query}")))).await;
        assert_eq!(answer.status, 202, "{query}: {}", answer.text());
        assert!(location(&answer).starts_with("/v2/app/blobs/uploads/"));
    }
}

#[tokio::test]
async fn a_refused_mount_becomes_an_upload() {
    let (upstream, _elsewhere, gateway) = mounting().await;
    let digest = sha256(b"layer");
    let mount = format!("/v2/app/blobs/uploads/?mount={}&from=base", digest.replace(':', "%3A"));
    // A 401 that does not say what is wanted: that may be said at `/v2/`.
    upstream.expect("GET", "/v2/", Reply::ok("{}"));
    for status in [400, 401, 403, 404, 405, 429, 500] {
        upstream.expect("POST", mount.as_str(), Reply::status(status));
        let reply = Reply::status(202).header("Location", "/v2/app/blobs/uploads/1");
        upstream.expect("POST", "/v2/app/blobs/uploads/", reply);
        let post = Request::post(format!("/v2/app/blobs/uploads/?mount={digest}&from=base"));
        let answer = gateway.ask(alice(post)).await;
        assert_eq!(answer.status, 202, "{status}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_mount_accepted_as_upload_is_202() {
    let (upstream, _elsewhere, gateway) = mounting().await;
    let digest = sha256(b"layer");
    let mount = format!("/v2/app/blobs/uploads/?mount={}&from=base", digest.replace(':', "%3A"));
    upstream.expect("POST", mount, Reply::status(202).header("Location", "/v2/app/blobs/uploads/1"));
    let post = Request::post(format!("/v2/app/blobs/uploads/?mount={digest}&from=base"));
    let at = location(&gateway.ask(alice(post)).await.is(202));
    upstream.expect("PATCH", "/v2/app/blobs/uploads/1", Reply::status(202));
    gateway.ask(alice(Request::patch(at).body("x"))).await.is(202);
}

#[tokio::test]
async fn a_201_without_a_digest_gets_one() {
    let (upstream, gateway) = both().await;
    let put = || Request::put("/v2/a/manifests/x").header("Content-Type", TYPE).body("{}");
    upstream.expect("PUT", "/v2/a/manifests/x", Reply::status(201).header("Location", "http://internal/m"));
    let done = gateway.ask(put()).await.is(201);
    assert_eq!(done.header("docker-content-digest"), Some(sha256(b"{}").as_str()));
    assert_eq!(location(&done), format!("/v2/a/manifests/{}", sha256(b"{}")));
    let theirs = format!("sha512:{}", "0".repeat(128));
    let mut asked = upstream.expect(
        "PUT",
        "/v2/a/manifests/x",
        Reply::status(201).header("Docker-Content-Digest", &theirs),
    );
    assert_eq!(gateway.ask(put()).await.is(201).header("docker-content-digest"), Some(theirs.as_str()));
    let seen = asked.done().await;
    assert_eq!((seen.body.as_slice(), seen.headers.get("content-type")), (b"{}".as_slice(), Some(TYPE)));
}

#[tokio::test]
async fn a_manifest_over_4_mib_is_413() {
    let (upstream, gateway) = both().await;
    let whole = vec![b' '; 4 << 20];
    let mut asked = upstream.expect("PUT", "/v2/a/manifests/x", Reply::status(201));
    gateway.ask(Request::put("/v2/a/manifests/x").body(whole.clone())).await.is(201);
    assert_eq!(asked.done().await.received, 4 << 20);

    let mut client = gateway.connect().await;
    let head = Request::put("/v2/a/manifests/x").header("Content-Length", "4194305");
    client.send(head.bytes("localhost")).await;
    client.answer().await.refuses(413, "MANIFEST_INVALID");

    let mut client = gateway.connect().await;
    let head = Request::put("/v2/a/manifests/x").header("Transfer-Encoding", "chunked");
    client.send(head.bytes("localhost")).await;
    client.send_chunk(&whole).await;
    client.send_chunk(b"x").await;
    client.answer().await.refuses(413, "MANIFEST_INVALID");
}

#[tokio::test]
async fn a_refused_upload_is_answered_before_its_body() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    for sent in [0, 512 << 10] {
        let mut client = gateway.connect().await;
        let head = Request::post(UPLOADS).login("alice", "wrong").header("Content-Length", "1073741824");
        client.send(head.bytes("localhost")).await;
        client.send(vec![0; sent]).await;
        let answer = client.answer().await.refuses(401, "UNAUTHORIZED");
        assert_eq!(answer.header("connection"), Some("close"));
        client.ends().await;
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn over_http2_a_refused_upload_ends_its_stream() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret").tls(&["localhost"]);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    client.request(1, 0, &Request::post(UPLOADS)).await;
    client.send(frame::DATA, 0, 1, &[0; 16_000]).await;
    let head = client.next_of(frame::HEADERS).await;
    assert_eq!(head.stream, 1);
    let body = client.next_of(frame::DATA).await;
    assert!(String::from_utf8_lossy(&body.payload).contains("UNAUTHORIZED"));
    client.request(3, frame::END_STREAM, &Request::get("/v2/")).await;
    loop {
        let frame = client.next_of(frame::HEADERS).await;
        if frame.stream == 3 {
            break;
        }
    }
}

#[tokio::test]
async fn with_bad_credentials_expect_gets_401_and_no_100() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let mut client = gateway.connect().await;
    let head = Request::post(UPLOADS).login("alice", "wrong").header("Expect", "100-continue");
    client.send(head.header("Content-Length", "1000").bytes("localhost")).await;
    client.answer().await.refuses(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn expect_gets_100_with_good_credentials() {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().user("alice", "secret");
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    let mut asked = upstream.expect("PUT", "/v2/a/manifests/x", Reply::status(201));
    let mut client = gateway.connect().await;
    let head = alice(Request::put("/v2/a/manifests/x")).header("Expect", "100-continue");
    client.send(head.header("Content-Length", "2").bytes("localhost")).await;
    client.head().await.is(100);
    client.send("{}").await;
    client.answer().await.is(201);
    let seen = asked.done().await;
    assert_eq!(seen.body, b"{}");
    assert_eq!(seen.headers.get("expect"), None);
}

#[tokio::test]
async fn a_dying_client_aborts_the_upstream_upload() {
    let (upstream, gateway) = both().await;
    for framing in [("Content-Length", "100000"), ("Transfer-Encoding", "chunked")] {
        let at = begin(&upstream, &gateway).await;
        let mut patch = upstream.expect("PATCH", SESSION, Reply::status(202));
        let mut client = gateway.connect().await;
        client.send(Request::patch(at).header(framing.0, framing.1).bytes("localhost")).await;
        client.send_chunk(&noise(50_000)).await;
        patch.until(|seen| seen.received >= 50_000).await;
        drop(client);
        assert_eq!(patch.body_ended().await.body_end, Some(BodyEnd::Cut), "{framing:?}");
    }
}

#[tokio::test]
async fn a_client_dying_mid_chunk_aborts_the_upload() {
    let (upstream, gateway) = both().await;
    let at = begin(&upstream, &gateway).await;
    let mut patch = upstream.expect("PATCH", SESSION, Reply::status(202));
    let mut client = gateway.connect().await;
    client.send(Request::patch(at).header("Transfer-Encoding", "chunked").bytes("localhost")).await;
    client.send(b"ffff\r\nonly this").await;
    patch.until(|seen| seen.received >= 9).await;
    drop(client);
    assert_eq!(patch.body_ended().await.body_end, Some(BodyEnd::Cut));
}

#[tokio::test]
async fn no_http2_reset_looks_like_a_clean_end() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    const NO_ERROR: u32 = 0;
    const CANCEL: u32 = 8;
    for code in [NO_ERROR, CANCEL] {
        for length in [None, Some("20000")] {
            let at = begin(&upstream, &gateway).await;
            let mut patch = upstream.expect("PATCH", SESSION, Reply::status(202));
            let mut client = Frames::over(gateway.http2_bytes().await).await;
            let mut request = Request::patch(at);
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            client.request(1, 0, &request).await;
            client.send(frame::DATA, 0, 1, &noise(10_000)).await;
            patch.until(|seen| seen.received >= 10_000).await;
            client.send(frame::RST_STREAM, 0, 1, &code.to_be_bytes()).await;
            let end = patch.body_ended().await.body_end;
            assert_eq!(end, Some(BodyEnd::Cut), "code {code}, length {length:?}");
        }
    }
}

#[tokio::test]
async fn a_broken_http2_connection_aborts_the_upload() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    let at = begin(&upstream, &gateway).await;
    let mut patch = upstream.expect("PATCH", SESSION, Reply::status(202));
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    client.request(1, 0, &Request::patch(at)).await;
    client.send(frame::DATA, 0, 1, b"some").await;
    patch.until(|seen| seen.received >= 4).await;
    drop(client);
    assert_eq!(patch.body_ended().await.body_end, Some(BodyEnd::Cut));
}

#[tokio::test]
async fn an_upload_over_http2_ends_cleanly_with_its_stream() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().tls(&["localhost"]).upstream("up", "", upstream.address).start().await;
    let at = begin(&upstream, &gateway).await;
    let mut patch = upstream.expect("PATCH", SESSION, Reply::status(202));
    let mut client = Frames::over(gateway.http2_bytes().await).await;
    client.request(1, 0, &Request::patch(at)).await;
    client.send(frame::DATA, 0, 1, b"some").await;
    client.send(frame::DATA, frame::END_STREAM, 1, b"").await;
    let seen = patch.body_ended().await;
    assert_eq!((seen.body.as_slice(), seen.body_end), (b"some".as_slice(), Some(BodyEnd::Complete)));
    client.next_of(frame::HEADERS).await;
}

#[tokio::test]
async fn an_early_answer_reaches_the_uploading_client() {
    let (upstream, gateway) = both().await;
    let at = begin(&upstream, &gateway).await;
    let reply = Reply::status(416).header("Range", "0-5").after_bytes(1000).then_hang();
    let mut patch = upstream.expect("PATCH", SESSION, reply);
    let mut client = gateway.connect().await;
    client.send(Request::patch(at).header("Content-Length", "1000000").bytes("localhost")).await;
    client.send(noise(100_000)).await;
    let answer = client.answer().await.refuses(416, "RANGE_INVALID");
    assert_eq!(answer.header("range"), Some("0-5"));
    patch.abandoned().await;
}

#[tokio::test]
async fn an_upstream_dying_in_an_upload_is_502() {
    let (upstream, gateway) = both().await;
    let at = begin(&upstream, &gateway).await;
    upstream.expect("PATCH", SESSION, Reply::reset().after_bytes(1000));
    let mut client = gateway.connect().await;
    client.send(Request::patch(at).header("Content-Length", "400000").bytes("localhost")).await;
    client.try_send(noise(400_000)).await.ok();
    client.answer().await.refuses(502, "UNAVAILABLE");
}

#[tokio::test]
async fn an_upload_is_never_sent_twice() {
    let (upstream, gateway) = both().await;
    let at = begin(&upstream, &gateway).await;
    let before = upstream.connections();
    upstream.expect("PATCH", SESSION, Reply::close());
    gateway.ask(Request::patch(at).body("once")).await.refuses(502, "UNAVAILABLE");
    assert!(upstream.connections() <= before + 1);
}

#[tokio::test]
async fn an_upload_waits_for_an_upstream_that_takes_nothing() {
    let (upstream, gateway) = both().await;
    let at = begin(&upstream, &gateway).await;
    let gate = Gate::shut();
    let mut patch = upstream.expect("PATCH", SESSION, Reply::status(202).held(&gate).before_body());
    let mut client = gateway.connect().await;
    client.send(Request::patch(at).header("Content-Length", "268435456").bytes("localhost")).await;
    let piece = noise(1 << 20);
    let mut sent = 0;
    // The sockets' buffers fill up; then nothing more may be taken.
    while sent < 256 {
        let sending = client.try_send(&piece);
        if tokio::time::timeout(std::time::Duration::from_millis(400), sending).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 64, "{sent} MiB were taken for an upstream that takes none");
    drop(client);
    gate.open();
    patch.done().await;
}

#[tokio::test]
async fn an_unsupported_single_post_becomes_a_session() {
    let (upstream, gateway) = both().await;
    let target = format!("{UPLOADS}?digest={}", sha256(b"x"));
    let reply = Reply::status(202).header("Location", SESSION);
    upstream.expect("POST", target.replace("sha256:", "sha256%3A"), reply);
    let begun = gateway.ask(Request::post(target).body("x")).await.is(202);
    let digest = sha256(b"x").replace(':', "%3A");
    upstream.expect("PUT", format!("{SESSION}&digest={digest}"), Reply::status(201));
    gateway.ask(finish(&location(&begun), b"x").body("x")).await.is(201);
}

#[tokio::test]
async fn a_manifest_by_digest_takes_its_tags_along() {
    let (upstream, gateway) = both().await;
    let digest = sha256(b"{}");
    let target = format!("/v2/a/manifests/{digest}?tag=v1&tag=latest");
    let reply = Reply::status(201).header("OCI-Tag", "v1").header("OCI-Subject", &digest);
    upstream.expect("PUT", target.as_str(), reply);
    let done = gateway.ask(Request::put(&target).header("Content-Type", TYPE).body("{}")).await.is(201);
    assert_eq!(done.header("oci-tag"), Some("v1"));
    assert_eq!(done.header("oci-subject"), Some(digest.as_str()));
    let bad = format!("/v2/a/manifests/{digest}?tag=.bad");
    gateway.ask(Request::put(bad).body("{}")).await.refuses(400, "TAG_INVALID");
}

#[tokio::test]
async fn a_refused_write_comes_through_in_the_registrys_words() {
    let (upstream, gateway) = both().await;
    upstream.expect("DELETE", "/v2/a/manifests/x", Reply::status(405).body("<html>no</html>"));
    gateway.ask(Request::delete("/v2/a/manifests/x")).await.refuses(405, "UNSUPPORTED");
    let body = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown","detail":{"d":1}}]}"#;
    upstream.expect("PUT", "/v2/a/manifests/x", Reply::status(400).body(body));
    let answer = gateway.ask(Request::put("/v2/a/manifests/x").body("{}")).await;
    assert_eq!(answer.refuses(400, "MANIFEST_BLOB_UNKNOWN").text(), body);
    upstream.expect("PUT", "/v2/a/manifests/x", Reply::status(413));
    gateway.ask(Request::put("/v2/a/manifests/x").body("{}")).await.refuses(413, "SIZE_INVALID");
}

#[tokio::test]
async fn any_2xx_is_a_success_in_the_clients_words() {
    let (upstream, gateway) = both().await;
    let internal = "http://127.0.0.1:5000/v2/a/elsewhere/x?t0psecret";
    for status in [200, 201, 202, 204] {
        for digest in [None, Some("sha256:0000"), Some("nonsense"), Some(&*sha256(b"other"))] {
            let reply = || {
                let reply = Reply::status(status).header("Location", internal);
                match digest {
                    Some(digest) => reply.header("Docker-Content-Digest", digest),
                    None => reply,
                }
            };
            for reference in ["x".to_owned(), sha256(b"{}")] {
                let target = format!("/v2/a/manifests/{reference}");
                upstream.expect("PUT", &*target, reply());
                let done =
                    gateway.ask(Request::put(&target).header("Content-Type", TYPE).body("{}")).await.is(201);
                assert_eq!(location(&done), format!("/v2/a/manifests/{}", sha256(b"{}")), "{status}");
                assert_eq!(done.header("docker-content-digest"), Some(sha256(b"{}").as_str()), "{status}");
                assert!(done.body.is_empty());
            }
            let begun = begin(&upstream, &gateway).await;
            upstream.expect("PUT", format!("{SESSION}&digest={}", sha256(b"x").replace(':', "%3A")), reply());
            let done = gateway.ask(finish(&begun, b"x").body("x")).await.is(201);
            assert_eq!(location(&done), format!("/v2/a/blobs/{}", sha256(b"x")));
            assert_eq!(done.header("docker-content-digest"), Some(sha256(b"x").as_str()));
        }
        for target in [format!("/v2/a/manifests/{}", sha256(b"{}")), format!("/v2/a/blobs/{}", sha256(b"x"))]
        {
            upstream.expect("DELETE", &*target, Reply::status(status).header("Location", internal));
            let done = gateway.ask(Request::delete(target)).await.is(202);
            assert_eq!(done.header("location"), None);
        }
        // An upload goes on, and no location but a sealed one is told.
        upstream.expect("POST", UPLOADS, Reply::status(status).header("Location", SESSION));
        let begun = location(&gateway.ask(Request::post(UPLOADS)).await.is(202));
        upstream.expect("PATCH", SESSION, Reply::status(status).header("Range", "0-1"));
        let gone_on = gateway.ask(Request::patch(begun).body("ab")).await.is(202);
        assert!(location(&gone_on).starts_with(UPLOADS), "{gone_on:?}");
        upstream.expect("GET", SESSION, Reply::status(status).header("Range", "0-1"));
        let how_far = gateway.ask(Request::get(location(&gone_on))).await.is(204);
        assert_eq!(how_far.header("range"), Some("0-1"));
    }
}

#[tokio::test]
async fn the_registrys_own_errors_stand_in_the_details() {
    let (upstream, gateway) = both().await;
    let own = r#"{"errors":[{"code":"MANIFEST_INVALID","message":"invalid URL on layer","detail":{"l":1}}]}"#;
    for (status, told, code) in [
        (500, 502, "UNAVAILABLE"),
        (503, 502, "UNAVAILABLE"),
        (403, 403, "DENIED"),
        (429, 429, "TOOMANYREQUESTS"),
    ] {
        upstream.expect("PUT", "/v2/a/manifests/x", Reply::status(status).body(own));
        let answer = gateway.ask(Request::put("/v2/a/manifests/x").body("{}")).await.refuses(told, code);
        let detail = &answer.json()["errors"][0]["detail"];
        assert_eq!(detail["code"], "MANIFEST_INVALID", "{status}");
        assert_eq!(detail["message"], "invalid URL on layer");
        upstream.expect("PUT", "/v2/a/manifests/x", Reply::status(status).body("<html>t0psecret</html>"));
        let answer = gateway.ask(Request::put("/v2/a/manifests/x").body("{}")).await.refuses(told, code);
        assert!(answer.json()["errors"][0]["detail"].is_null() && !answer.text().contains("t0psecret"));
    }
}

#[tokio::test]
async fn a_413_names_the_upstream_that_limits() {
    let (upstream, gateway) = both().await;
    let own = r#"{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":"at most 1 GiB"}]}"#;
    for (body, detail) in [("<html>nginx</html>", None), (own, Some("at most 1 GiB"))] {
        let begun = begin(&upstream, &gateway).await;
        for (method, target, request) in [
            ("PUT", "/v2/a/manifests/x", Request::put("/v2/a/manifests/x").body("{}")),
            ("PATCH", SESSION, Request::patch(begun).body("ab")),
        ] {
            upstream.expect(method, target, Reply::status(413).body(body));
            let answer = gateway.ask(request).await.refuses(413, "SIZE_INVALID");
            let error = &answer.json()["errors"][0];
            assert_eq!(error["message"], "the upstream \"up\" limits the size of what it takes");
            assert_eq!(error["detail"]["message"].as_str(), detail);
        }
    }
}
