//! Registries that deviate from the specification, each as a public report describes it.

use crate::harness::{
    DOCKER_IMAGE, EMPTY_INDEX, Gate, Gateway, Guarded, Image, OCI_IMAGE, OCI_INDEX, Origin, Reply, Request,
    Upstream, basic, blob_at, gift, manifest_at, noise, refusal, sha256, soon, token,
};
use crate::harness::{PASSWORD, ROBOT};

const MANIFEST: &str = "/v2/a/manifests/x";
const PULL: &[&str] = &["repository:a:pull"];
const UPLOADS: &str = "/v2/a/blobs/uploads/";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

fn index() -> Reply {
    Reply::ok(EMPTY_INDEX).header("Content-Type", OCI_INDEX)
}

fn bearer(name: &str) -> Option<String> {
    Some(format!("Bearer {}", token(name)))
}

/// A registry with a cache before it that asks each time, and fetches nothing ahead.
async fn cached(lines: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let lines = format!("{lines}\nretries = 0\n[upstream.cache]\ntag_ttl = \"0s\"\n");
    let builder = Gateway::builder().upstream_with("up", "", origin.address(), &lines);
    let gateway = builder.cache("prefetch = false").start().await;
    (origin, gateway)
}

fn oci_error(status: u16, code: &str, message: &str) -> Reply {
    let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"{message}\",\"detail\":null}}]}}");
    Reply::status(status).body(body).header("Content-Type", "application/json")
}

/// docker.pkg.github.com challenged at `/v2/` alone, and answered 404 to all else without credentials (containerd#3291).
/// ghcr.io has answered 403 `DENIED` without a challenge (renovate#11446).
#[tokio::test]
async fn a_404_before_any_challenge_is_asked_about_at_v2() {
    for (status, code) in [(404, "NAME_UNKNOWN"), (403, "DENIED")] {
        for method in ["GET", "HEAD"] {
            let guarded = Guarded::start().await;
            let gateway = guarded.gateway().await;
            guarded.registry.expect(method, MANIFEST, oci_error(status, code, "t0psecret"));
            guarded.registry.expect("GET", "/v2/", guarded.refusal(""));
            guarded.gives(PULL, &token("one"));
            guarded.registry.expect(method, MANIFEST, index());
            gateway.ask(Request::new(method, MANIFEST)).await.is(200);
            assert_eq!(guarded.shown(), [None, None, bearer("one")], "{method} {status}");
        }
    }
}

/// A registry that wants nothing at `/v2/` either means its 404, and is asked there once.
#[tokio::test]
async fn a_404_of_an_open_registry_costs_one_question() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.registry.expect("GET", "/v2/", Reply::ok("{}"));
    for _ in 0..3 {
        guarded.registry.expect("GET", MANIFEST, oci_error(404, "MANIFEST_UNKNOWN", "none"));
        gateway.get(MANIFEST).await.refuses(404, "MANIFEST_UNKNOWN");
    }
}

/// Returns a registry behind a token server, and a gateway that has pulled from it with the token `one`.
async fn pulled_with_a_token() -> (Guarded, Gateway) {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    guarded.registry.expect("GET", MANIFEST, guarded.refusal(""));
    guarded.gives(PULL, &token("one"));
    guarded.registry.expect("GET", MANIFEST, index());
    gateway.get(MANIFEST).await.is(200);
    (guarded, gateway)
}

/// Azure answers 401 with a Basic challenge to credentials that it refuses, though it takes passwords at its token
/// endpoint alone (Azure/acr#466, Azure/acr#651, jib#2784).
#[tokio::test]
async fn a_basic_challenge_to_a_token_is_asked_about_at_v2() {
    let (guarded, gateway) = pulled_with_a_token().await;
    guarded.registry.expect("GET", MANIFEST, refusal("Basic realm=\"Azure Container Registry\""));
    guarded.registry.expect("GET", "/v2/", guarded.refusal(""));
    guarded.gives(PULL, &token("two"));
    guarded.registry.expect("GET", MANIFEST, index());
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(guarded.shown(), [None, bearer("one"), bearer("one"), None, bearer("two")]);
}

/// A registry that has changed from tokens to passwords says so at `/v2/`, too.
#[tokio::test]
async fn a_registry_may_change_from_tokens_to_passwords() {
    let (guarded, gateway) = pulled_with_a_token().await;
    guarded.registry.expect("GET", MANIFEST, refusal("Basic realm=\"x\""));
    guarded.registry.expect("GET", "/v2/", refusal("Basic realm=\"x\""));
    guarded.registry.expect("GET", MANIFEST, index());
    gateway.get(MANIFEST).await.is(200);
    assert_eq!(guarded.shown().last(), Some(&Some(basic(ROBOT, PASSWORD))));
}

/// Artifactory names no scope (containerd#3556), Google's Artifact Registry no service at `/v2/` (watchtower#1894,
/// apple/container#2274), and Gitea the scope `*` (gitea#36907).
#[tokio::test]
async fn a_challenge_need_not_name_scope_or_service() {
    for (challenge, asked) in [
        (",service=\"registry\"", "/token?account=robot&service=registry&scope=repository%3Aa%3Apull"),
        ("", "/token?account=robot&scope=repository%3Aa%3Apull"),
        (
            ",service=\"container_registry\",scope=\"*\"",
            "/token?account=robot&service=container_registry&scope=%2A",
        ),
    ] {
        let guarded = Guarded::start().await;
        let gateway = guarded.gateway().await;
        let realm = guarded.tokens.url("/token");
        guarded.registry.expect("GET", MANIFEST, refusal(&format!("Bearer realm=\"{realm}\"{challenge}")));
        guarded.tokens.expect("GET", asked, gift(&token("one"), 300));
        guarded.registry.expect("GET", MANIFEST, index());
        gateway.get(MANIFEST).await.is(200);
    }
}

/// Nexus writes `BASIC` (google/containerregistry#38), others an unquoted `realm=/` (regclient#265).
#[tokio::test]
async fn a_basic_challenge_is_understood_however_it_is_written() {
    for challenge in
        ["BASIC realm=\"Sonatype Nexus Repository Manager\"", "Basic realm=/", "basic", "Basic realm="]
    {
        let guarded = Guarded::start().await;
        let gateway = guarded.gateway().await;
        guarded.registry.expect("GET", MANIFEST, refusal(challenge));
        guarded.registry.expect("GET", MANIFEST, index());
        assert_eq!(gateway.get(MANIFEST).await.status, 200, "{challenge}");
        assert_eq!(guarded.shown(), [None, Some(basic(ROBOT, PASSWORD))], "{challenge}");
    }
}

/// GitLab's tokens were for one of two scopes (manifest-tool#53): what can't be mounted is uploaded.
#[tokio::test]
async fn a_mount_with_a_token_for_half_of_it_becomes_an_upload() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let mount = format!("{UPLOADS}?mount={}&from=base", sha256(b"layer").replace(':', "%3A"));
    let insufficient = guarded
        .refusal(",scope=\"repository:a:pull,push repository:base:pull\",error=\"insufficient_scope\"");
    guarded.gives(&["repository:a:pull,push", "repository:base:pull"], &token("half"));
    guarded.registry.always("POST", mount.as_str(), move |_| insufficient.clone());
    guarded.gives(&["repository:a:pull,push"], &token("push"));
    let begun = Reply::status(202).header("Location", "/v2/a/blobs/uploads/1");
    guarded.guards("POST", UPLOADS, &[token("push")], begun);
    gateway.ask(Request::post(mount)).await.is(202);
}

/// Harbor's proxy cache left out the type (harbor#13740), Cloudflare the length (cloudflared#500), Red Hat's registry the
/// digest (containerd#3238), and HEAD is 405 at Ollama's (oras-go#882): a GET says the rest.
#[tokio::test]
async fn a_head_that_says_too_little_is_completed() {
    let image = Image::empty("one");
    let full = |without: &str| {
        let (length, digest) = (image.manifest.len().to_string(), image.digest.clone());
        let all = [
            ("Content-Type", OCI_IMAGE),
            ("Docker-Content-Digest", digest.as_str()),
            ("Content-Length", length.as_str()),
        ];
        let head = all.iter().filter(|(name, _)| *name != without);
        let lines: String = head.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Reply::raw(format!("HTTP/1.1 200 OK\r\n{lines}\r\n"))
    };
    let heads =
        [full("Content-Type"), full("Docker-Content-Digest"), full("Content-Length"), Reply::status(405)];
    for reply in heads {
        let (origin, gateway) = cached("").await;
        origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
        origin.upstream.always("HEAD", MANIFEST, move |_| reply.clone());
        let head = gateway.ask(Request::head(MANIFEST)).await.is(200);
        assert_eq!(head.header("content-type"), Some(OCI_IMAGE));
        assert_eq!(head.header("docker-content-digest"), Some(image.digest.as_str()));
        assert_eq!(head.header("content-length"), Some(image.manifest.len().to_string().as_str()));
        assert!(gateway.get(MANIFEST).await.is(200).body == image.manifest);
    }
}

/// Ollama's registry calls manifests text and gives them in chunks, without a digest (oras-go#882).
#[tokio::test]
async fn a_manifest_called_text_is_a_manifest() {
    let image = Image::empty("one");
    let (origin, gateway) = cached("").await;
    let get = Reply::ok(&image.manifest).header("Content-Type", "text/plain; charset=utf-8").chunked(100);
    origin.upstream.always("HEAD", MANIFEST, |_| Reply::status(405));
    origin.upstream.always("GET", MANIFEST, move |_| get.clone());
    let answer = gateway.get(MANIFEST).await.is(200);
    assert_eq!(answer.header("content-type"), Some(OCI_IMAGE));
    assert_eq!(answer.header("docker-content-digest"), Some(image.digest.as_str()));
    assert!(answer.body == image.manifest);
}

/// Harbor's HEAD gave another length than its GET (oras-go#1176): the GET's is true.
#[tokio::test]
async fn another_length_in_head_than_in_get_does_no_harm() {
    let image = Image::empty("one");
    let (origin, gateway) = cached("").await;
    origin.manifest("a", "x", OCI_IMAGE, &image.manifest);
    let digest = image.digest.clone();
    origin.upstream.always("HEAD", MANIFEST, move |_| {
        Reply::status(200)
            .claim(99)
            .header("Content-Type", OCI_IMAGE)
            .header("Docker-Content-Digest", &digest)
    });
    for _ in 0..2 {
        let answer = gateway.get(MANIFEST).await.is(200);
        assert!(answer.body == image.manifest);
    }
    let by_digest = manifest_at("a", &image.digest);
    let head = gateway.ask(Request::head(by_digest)).await.is(200);
    assert_eq!(head.header("content-length"), Some(image.manifest.len().to_string().as_str()));
}

/// Harbor's cache called OCI indexes docker's lists (harbor#18170, harbor#18450), on which docker gives up.
#[tokio::test]
async fn a_manifest_goes_out_under_its_own_type() {
    let index = Image::index(&[&Image::empty("one")]);
    let (origin, gateway) = cached("").await;
    origin.manifest("a", "x", DOCKER_LIST, &index);
    for target in [MANIFEST.to_owned(), manifest_at("a", &sha256(&index))] {
        for method in ["GET", "HEAD"] {
            let answer = gateway.ask(Request::new(method, target.as_str())).await.is(200);
            assert_eq!(answer.header("content-type"), Some(OCI_INDEX), "{method} {target}");
        }
    }
}

/// Artifactory has every manifest as a blob for HEAD, and not for GET (containerd#7390).
#[tokio::test]
async fn a_manifest_that_head_calls_a_blob_stays_a_manifest() {
    let (origin, gateway) = cached("").await;
    let image = origin.image("a", "x", &[]);
    let (as_blob, length) = (blob_at("a", &image.manifest), image.manifest.len());
    origin.upstream.always("HEAD", as_blob.as_str(), move |_| {
        Reply::status(200).claim(length).header("Content-Type", "application/octet-stream")
    });
    let by_digest = manifest_at("a", &image.digest);
    for _ in 0..2 {
        gateway.ask(Request::head(as_blob.as_str())).await.is(200);
        let answer = gateway.get(&by_digest).await.is(200);
        assert_eq!(answer.header("content-type"), Some(OCI_IMAGE));
        assert!(answer.body == image.manifest);
        gateway.get(&as_blob).await.refuses(404, "BLOB_UNKNOWN");
    }
}

/// Traefik compressed for clients that do not mention codings (traefik#9734), Red Hat's registry for all that do
/// (quay's PROJQUAY-3033): all requests ask for none.
#[tokio::test]
async fn every_read_asks_for_no_coding() {
    let (origin, gateway) = cached("").await;
    let image = origin.image("a", "x", &Image::layers(&[1000]));
    gateway.ask(Request::get(MANIFEST).header("Accept-Encoding", "gzip, br")).await.is(200);
    gateway.ask(Request::get(blob_at("a", &image.layers[0])).header("Accept-Encoding", "gzip")).await.is(200);
    origin.upstream.always("GET", "/v2/a/tags/list", |_| Reply::ok("{\"name\":\"a\",\"tags\":[\"x\"]}"));
    gateway.get("/v2/a/tags/list").await.is(200);
    let asked = origin.upstream.heard_of("accept-encoding");
    assert!(asked.iter().all(|asked| asked.as_deref() == Some("identity")), "{asked:?}");
}

/// Layers of Windows are at Microsoft's alone (moby#33650, harbor#17507): the registry is not asked for them ahead.
#[tokio::test]
async fn layers_with_urls_of_their_own_are_not_prefetched() {
    let origin = Origin::start().await;
    let (own, foreign) = (noise(2000), b"elsewhere".to_vec());
    let config = b"{}".to_vec();
    origin.blob("a", &own);
    origin.blob("a", &config);
    let descriptor = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "digest": sha256(bytes), "size": bytes.len() });
    let mut elsewhere = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", &foreign);
    elsewhere["urls"] = serde_json::json!(["https://go.microsoft.com/fwlink/?linkid=837858"]);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_IMAGE,
        "config": descriptor("application/vnd.docker.container.image.v1+json", &config),
        "layers": [elsewhere, descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", &own)],
    });
    origin.manifest("a", "x", DOCKER_IMAGE, manifest.to_string().as_bytes());
    let lines = "[upstream.cache]\n";
    let gateway = Gateway::builder().upstream_with("up", "", origin.address(), lines).cache("").start().await;
    gateway.get(MANIFEST).await.is(200);
    soon("the layer to be fetched ahead", async {
        while origin.count("GET", &blob_at("a", &own)) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(origin.count("GET", &blob_at("a", &foreign)), 0);
    gateway.get(&blob_at("a", &foreign)).await.refuses(404, "BLOB_UNKNOWN");
}

/// Google's Artifact Registry continues uploads outside of `/v2/`, at long URLs that change with each answer
/// (skopeo#1101). Harbor left out the Range (harbor#9269), ECR the Docker-Upload-UUID (distribution#2927).
#[tokio::test]
async fn an_upload_goes_wherever_its_last_location_says() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let at = |step: &str| {
        format!("/artifacts-uploads/namespaces/p/repositories/r/uploads/{step}{}", "A-b_9".repeat(400))
    };
    upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", &at("1")));
    let begun = gateway.ask(Request::post(UPLOADS)).await.is(202);
    let first = begun.header("location").expect("a location").to_owned();
    let content = noise(3000);
    upstream.expect("PATCH", at("1"), Reply::status(202).header("Location", &at("2")));
    let patched = gateway.ask(Request::patch(first).body(content.clone())).await.is(202);
    let second = patched.header("location").expect("a location").to_owned();
    let digest = sha256(&content);
    let last = format!("{}?digest={}", at("2"), digest.replace(':', "%3A"));
    upstream.expect("PUT", last, Reply::status(201));
    let done = gateway.ask(Request::put(format!("{second}?digest={digest}")).body("")).await.is(201);
    assert_eq!(done.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(done.header("location"), Some(format!("/v2/a/blobs/{digest}").as_str()));
}

/// Pulp answers a chunk with 204 (pulp_container#2199), on which regctl stops.
#[tokio::test]
async fn a_taken_chunk_is_answered_with_202() {
    let session = "/v2/a/blobs/uploads/1";
    for status in [200, 201, 202, 204] {
        let upstream = Upstream::start().await;
        let gateway = Gateway::open(&upstream).await;
        upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", session));
        let begun = gateway.ask(Request::post(UPLOADS)).await.is(202);
        let location = begun.header("location").expect("a location").to_owned();
        upstream.expect(
            "PATCH",
            session,
            Reply::status(status).header("Range", "0-0").header("Location", session),
        );
        let patched = gateway.ask(Request::patch(location).body("x")).await.is(202);
        assert_eq!(patched.header("range"), Some("0-0"));
    }
}

/// A realm may have a query of its own.
#[tokio::test]
async fn a_realm_may_have_a_query() {
    let guarded = Guarded::start().await;
    let gateway = guarded.gateway().await;
    let realm = guarded.tokens.url("/token?tenant=a");
    guarded.registry.expect(
        "GET",
        MANIFEST,
        refusal(&format!("Bearer realm=\"{realm}\",service=\"registry\"")),
    );
    let asked = "/token?tenant=a&account=robot&service=registry&scope=repository%3Aa%3Apull";
    guarded.tokens.expect("GET", asked, gift(&token("one"), 300));
    guarded.registry.expect("GET", MANIFEST, index());
    gateway.get(MANIFEST).await.is(200);
}

/// Registries behind a proxy lose their port (distribution#2862) or their scheme (distribution#479): the host alone tells.
#[tokio::test]
async fn an_upload_location_may_lack_port_or_scheme() {
    for write in [
        |host: &str, _: u16| format!("http://{host}"),
        |host: &str, port: u16| format!("https://{host}:{port}"),
    ] {
        let upstream = Upstream::start().await;
        let gateway = Gateway::open(&upstream).await;
        let session = "/v2/a/blobs/uploads/1?_state=x";
        let origin = write(&upstream.address.ip().to_string(), upstream.address.port());
        upstream.expect(
            "POST",
            UPLOADS,
            Reply::status(202).header("Location", &format!("{origin}{session}")),
        );
        let begun = gateway.ask(Request::post(UPLOADS)).await.is(202);
        let location = begun.header("location").expect("a location").to_owned();
        upstream.expect("PATCH", session, Reply::status(202).header("Location", session));
        gateway.ask(Request::patch(location).body("x")).await.is(202);
    }
}

/// nginx refuses a layer with a page while it arrives, and closes (harbor#10621, gitea#33646): clients that parse JSON
/// show what happened.
#[tokio::test]
async fn a_layer_that_is_too_large_is_told_so() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::open(&upstream).await;
    let session = "/v2/a/blobs/uploads/1";
    upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", session));
    let begun = gateway.ask(Request::post(UPLOADS)).await.is(202);
    let location = begun.header("location").expect("a location").to_owned();
    let page = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n</html>\r\n";
    let page =
        Reply::status(413).header("Content-Type", "text/html").header("Connection", "close").body(page);
    upstream.expect("PATCH", session, page.after_bytes(1000).then_close());
    let mut client = gateway.connect().await;
    let mut request = Request::patch(location).header("Content-Length", "100000000");
    request.body = None;
    client.send(request.bytes("localhost")).await;
    client.send(noise(100_000)).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(!answer.text().contains('<'), "{answer:?}");
    assert_eq!(answer.json()["errors"][0]["code"], "SIZE_INVALID", "{answer:?}");
}

/// ECR and GCR say in JSON which types they do not take (buildkit#699, buildkit#1143), Quay with 415 (oras#738), Harbor
/// that the tag is another artifact's with 412 (harbor#18395), Quay that a tag can't be deleted with 405 (regclient#393):
/// it is the only explanation that there is.
#[tokio::test]
async fn a_refused_write_keeps_its_explanation() {
    let message = "Unsupported manifest type: list";
    for (method, status, code) in [
        ("PUT", 400, "UNSUPPORTED"),
        ("PUT", 400, "MANIFEST_INVALID"),
        ("PUT", 412, "PRECONDITION"),
        ("PUT", 415, "UNSUPPORTED"),
        ("DELETE", 405, "UNSUPPORTED"),
        ("DELETE", 400, "UNSUPPORTED"),
    ] {
        let upstream = Upstream::start().await;
        let gateway = Gateway::open(&upstream).await;
        upstream.expect(method, MANIFEST, oci_error(status, code, message));
        let body = if method == "PUT" { Some(b"{}".to_vec()) } else { None };
        let request = Request { body, ..Request::new(method, MANIFEST).header("Content-Type", OCI_IMAGE) };
        let answer = gateway.ask(request).await.refuses(status, code);
        assert_eq!(answer.json()["errors"][0]["message"], message);
    }
}

/// Quay's pages continue with a word of its own (go-containerregistry#984, docker_registry2#63).
#[tokio::test]
async fn a_page_token_of_the_registry_comes_back_to_it() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream("up", "quay", upstream.address).start().await;
    let next = "/v2/a/b/tags/list?n=2&next_page=gAAAAABi%3D%3D";
    let page = |tags: &str| Reply::ok(format!("{{\"name\":\"a/b\",\"tags\":{tags}}}"));
    upstream.expect(
        "GET",
        "/v2/a/b/tags/list?n=2",
        page("[\"1\",\"2\"]").header("Link", &format!("<{next}>; rel=\"next\"")),
    );
    let first = gateway.get("/v2/quay/a/b/tags/list?n=2").await.is(200);
    let link = first.header("link").expect("a link").to_owned();
    let target = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
    assert!(target.starts_with("/v2/quay/a/b/tags/list?"), "{target}");
    upstream.expect("GET", next, page("[\"3\"]"));
    let second = gateway.get(&target).await.is(200);
    assert_eq!(second.json(), serde_json::json!({ "name": "quay/a/b", "tags": ["3"] }));
}

/// Servers leave without TLS's `close_notify` (icechunk#1634, warp#8402): what is whole by its length or chunks is whole.
#[tokio::test]
async fn a_whole_body_needs_no_close_notify() {
    let content = noise(50_000);
    let blob = blob_at("a", &content);
    let gate = Gate::shut();
    let by_length = Reply::ok(&content).leave_after(content.len(), &gate);
    let chunked = Reply::ok(&content).chunked(5000);
    for reply in [by_length, chunked] {
        let upstream = Upstream::start_tls().await;
        let url =
            format!("url = \"https://localhost:{}\"\nretries = 0\nca = \"ca.crt\"", upstream.address.port());
        let builder = Gateway::builder().upstream_with("up", "", upstream.address, &url);
        let gateway = builder.file("ca.crt", upstream.ca.as_deref().unwrap()).start().await;
        gate.open();
        upstream.expect("GET", blob.as_str(), reply);
        assert!(gateway.get(&blob).await.is(200).body == content);
    }
}

/// A registry whose files are lost answers 200 with the right length, and then nothing: nothing of it is kept, and the
/// next answer serves.
#[tokio::test]
async fn a_blob_that_is_announced_and_never_sent_is_not_kept() {
    let (origin, gateway) = cached("").await;
    let content = noise(50_000);
    let blob = origin.blob("a", &content);
    let gate = Gate::shut();
    gate.open();
    origin.upstream.expect("GET", blob.as_str(), Reply::ok(&content).cut_after(0, &gate));
    let mut client = gateway.connect().await;
    client.send(Request::get(blob.as_str()).bytes("localhost")).await;
    client.is_torn("a blob without bytes").await;
    assert!(gateway.get(&blob).await.is(200).body == content);
}

/// Pulp, ghcr.io and others sign the URL at which storage has a blob for GET, and redirect HEAD there as well
/// (pulp_container#579, stargz-snapshotter#167, artifact-keeper#3209): the answer is that of a GET of one byte.
#[tokio::test]
async fn a_head_whose_redirect_is_signed_for_get_is_answered() {
    let content = noise(5000);
    let blob = blob_at("a", &content);
    for (bytes, cache) in [(content.as_slice(), false), (&content, true), (b"", false)] {
        let blob = if bytes.is_empty() { blob_at("a", b"") } else { blob.clone() };
        let (upstream, storage) = (Upstream::start().await, Upstream::start().await);
        let lines = format!(
            "redirect_hosts = [\"{}\"]\n{}",
            storage.address,
            if cache { "[upstream.cache]" } else { "" }
        );
        let builder = Gateway::builder().upstream_with("up", "", upstream.address, &lines);
        let builder = if cache { builder.cache("prefetch = false") } else { builder };
        let gateway = builder.start().await;
        let location = storage.url("/signed-for-get");
        for method in ["HEAD", "GET"] {
            let location = location.clone();
            upstream.always(method, blob.as_str(), move |_| Reply::status(307).header("Location", &location));
        }
        storage.always("HEAD", "/signed-for-get", |_| {
            Reply::status(403).header("Content-Type", "application/xml")
        });
        let kept = bytes.to_vec();
        storage.always("GET", "/signed-for-get", move |headers| match headers.get("range") {
            Some(_) if kept.is_empty() => Reply::status(416).header("Content-Range", "bytes */0"),
            _ => Origin::serve(&kept, headers),
        });
        for _ in 0..2 {
            let head = gateway.ask(Request::head(blob.as_str())).await.is(200);
            assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
            assert_eq!(head.header("content-range"), None);
        }
    }
}

/// A repository without tags has `null` for them (distribution#2314).
#[tokio::test]
async fn a_list_of_no_tags_may_be_null() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().upstream("up", "reg", upstream.address).start().await;
    upstream.expect("GET", "/v2/a/tags/list", Reply::ok("{\"name\":\"a\",\"tags\":null}\n"));
    let answer = gateway.get("/v2/reg/a/tags/list").await.is(200);
    assert_eq!(answer.json(), serde_json::json!({ "name": "reg/a", "tags": null }));
}

/// Apache called gzipped layers `x-gzip` (moby#17595), and a proxy forwarded `gzip` over a body that it had unpacked
/// (docker-registry#369).
#[tokio::test]
async fn a_coding_over_the_right_bytes_is_noise() {
    let content = noise(50_000);
    for coding in ["x-gzip", "gzip", "identity", ""] {
        let (origin, gateway) = cached("").await;
        let blob = blob_at("a", &content);
        let get = Reply::ok(&content).header("Content-Encoding", coding);
        origin.upstream.always("GET", blob.as_str(), move |_| get.clone());
        let answer = gateway.get(&blob).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, None), "{coding:?}");
        assert!(answer.body == content);
    }
}
