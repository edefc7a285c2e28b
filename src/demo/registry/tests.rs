use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, Request};
use http_body::Body;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use crate::demo::registry::*;
use crate::proto::Digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An exchange with a registry.
struct Exchange {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Exchange {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    fn answered(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    fn refused(self, status: u16, code: &str) -> Self {
        let exchange = self.answered(status);
        assert_eq!(exchange.json()["errors"][0]["code"], code);
        assert_eq!(exchange.header("content-type"), "application/json");
        exchange
    }
}

async fn send_with<B: Body<Data = Bytes>>(
    registry: &Registry,
    line: &str,
    headers: &[(&str, &str)],
    body: B,
) -> Exchange {
    let (method, target) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(target).body(body).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    let (head, body) = registry.handle(request).await.into_parts();
    assert_eq!(head.headers["docker-distribution-api-version"], "registry/2.0");
    let body = body.collect().await.unwrap().to_bytes();
    Exchange { status: head.status.as_u16(), headers: head.headers, body }
}

async fn send(registry: &Registry, line: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Exchange {
    send_with(registry, line, headers, Full::new(body.into())).await
}

async fn get(registry: &Registry, target: &str) -> Exchange {
    send(registry, &format!("GET {target}"), &[], "").await
}

/// Returns a body that is sent in pieces, and whose length is not known before.
fn stream(pieces: &[&'static str]) -> impl Body<Data = Bytes> {
    let frames: Vec<_> =
        pieces.iter().map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from(*piece)))).collect();
    StreamBody::new(futures_util::stream::iter(frames))
}

fn broken(piece: &'static str) -> impl Body<Data = Bytes> {
    let frames = [Ok(Frame::data(Bytes::from(piece))), Err(std::io::Error::other("gone"))];
    StreamBody::new(futures_util::stream::iter(frames))
}

fn digest(text: &str) -> Digest {
    digester::canonical(text.as_bytes())
}

async fn begin(registry: &Registry) -> String {
    let begun = send(registry, "POST /v2/a/b/blobs/uploads/", &[], "").await.answered(202);
    assert_eq!(begun.header("range"), "0-0");
    assert!(!begun.header("docker-upload-uuid").is_empty());
    begun.header("location").to_owned()
}

/// Returns an image in `name` of one blob, which is both its config and its layer.
fn image(registry: &Registry, name: &str, tag: &str, more: &str) -> Digest {
    let blob = registry.push_blob(name, Bytes::from_static(b"{}")).unwrap();
    let manifest = manifest(&blob, more);
    registry.push_manifest(name, tag, MANIFEST, Bytes::from(manifest)).unwrap()
}

fn manifest(blob: &Digest, more: &str) -> String {
    let part = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{blob}","size":2}}"#);
    format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]{more}}}"#, part("x/config"), part("x/layer"))
}

mod versions_and_paths {
    use super::*;

    #[tokio::test]
    async fn the_version_is_an_empty_object() {
        let answer = get(&Registry::new(), "/v2/").await.answered(200);
        assert_eq!((answer.header("content-type"), &answer.body[..]), ("application/json", &b"{}"[..]));
        send(&Registry::new(), "HEAD /v2/", &[], "").await.answered(200);
    }

    #[tokio::test]
    async fn what_is_outside_the_api_is_answered_in_its_language() {
        let registry = Registry::new();
        get(&registry, "/").await.answered(404);
        get(&registry, "/v2/A/tags/list").await.refused(400, "NAME_INVALID");
        get(&registry, "/hub/v2/a/tags/list").await.answered(404);
        let refused = send(&registry, "PATCH /v2/a/tags/list", &[], "").await.refused(405, "UNSUPPORTED");
        assert_eq!(refused.header("allow"), "GET");
    }

    #[tokio::test]
    async fn the_namespace_of_a_proxy_is_passed_over() {
        let registry = Registry::new();
        image(&registry, "a/b", "v1", "");
        get(&registry, "/v2/a/b/manifests/v1?ns=docker.io").await.answered(200);
    }
}

mod uploads {
    use super::*;

    #[tokio::test]
    async fn a_post_and_a_put_make_a_blob() {
        let registry = Registry::new();
        let location = begin(&registry).await;
        let hello = digest("hello");
        let made =
            send(&registry, &format!("PUT {location}?digest={hello}"), &[], "hello").await.answered(201);
        assert_eq!(made.header("location"), format!("/v2/a/b/blobs/{hello}"));
        assert_eq!(made.header("docker-content-digest"), hello.as_str());
        assert_eq!(get(&registry, made.header("location")).await.answered(200).body, "hello");
        get(&registry, &location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }

    #[tokio::test]
    async fn a_single_post_makes_a_blob() {
        let registry = Registry::new();
        let target = format!("POST /v2/a/b/blobs/uploads/?digest={}", digest("hello"));
        send(&registry, &target, &[], "hello").await.answered(201);
        send(&registry, &target, &[], "hell").await.refused(400, "DIGEST_INVALID");
        assert_eq!(registry.blob(&digest("hello")).unwrap(), "hello");
    }

    #[tokio::test]
    async fn chunks_follow_one_another() {
        let registry = Registry::new();
        let location = begin(&registry).await;
        let patch = format!("PATCH {location}");
        let first = send(&registry, &patch, &[("content-range", "0-2")], "hel").await.answered(202);
        assert_eq!((first.header("range"), first.header("location")), ("0-2", location.as_str()));
        assert!(!first.header("docker-upload-uuid").is_empty());
        let status = get(&registry, &location).await.answered(204);
        assert_eq!((status.header("range"), status.header("location")), ("0-2", location.as_str()));
        let put = format!("PUT {location}?digest={}", digest("hello"));
        send(&registry, &put, &[("content-range", "3-4")], "lo").await.answered(201);
        assert_eq!(registry.blob(&digest("hello")).unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_chunk_out_of_order_is_told_where_to_go_on() {
        let registry = Registry::new();
        let location = begin(&registry).await;
        let patch = format!("PATCH {location}");
        let early = send(&registry, &patch, &[("content-range", "3-4")], "lo").await;
        early.refused(416, "RANGE_INVALID");
        send(&registry, &patch, &[("content-range", "0-2")], "hel").await.answered(202);
        let again = send(&registry, &patch, &[("content-range", "0-2")], "hel").await;
        let again = again.refused(416, "RANGE_INVALID");
        assert_eq!((again.header("range"), again.header("location")), ("0-2", location.as_str()));
        let put = format!("PUT {location}?digest={}", digest("hello"));
        send(&registry, &put, &[("content-range", "4-5")], "lo").await.refused(416, "RANGE_INVALID");
        send(&registry, &put, &[("content-range", "3-4")], "lo").await.answered(201);
    }

    #[tokio::test]
    async fn a_chunk_must_be_as_long_as_it_says() {
        let registry = Registry::new();
        let patch = format!("PATCH {}", begin(&registry).await);
        for range in ["0-9", "bytes 0-2/3", "2-0"] {
            send(&registry, &patch, &[("content-range", range)], "hel").await.refused(400, "SIZE_INVALID");
        }
    }

    #[tokio::test]
    async fn a_stream_needs_no_content_range() {
        let registry = Registry::new();
        let location = begin(&registry).await;
        let patch = format!("PATCH {location}");
        let first = send_with(&registry, &patch, &[], stream(&["he", "ll"])).await.answered(202);
        assert_eq!(first.header("range"), "0-3");
        send_with(&registry, &patch, &[], stream(&["o"])).await.answered(202);
        send(&registry, &format!("PUT {location}?digest={}", digest("hello")), &[], "").await.answered(201);
    }

    #[tokio::test]
    async fn what_arrived_before_a_break_is_kept() {
        let registry = Registry::new();
        let location = begin(&registry).await;
        send_with(&registry, &format!("PATCH {location}"), &[], broken("hel")).await.answered(400);
        assert_eq!(get(&registry, &location).await.answered(204).header("range"), "0-2");
        let put = format!("PUT {location}?digest={}", digest("hello"));
        send(&registry, &put, &[("content-range", "3-4")], "lo").await.answered(201);
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_leaves_what_it_had_received() {
        let registry = Registry::new();
        let location = begin(&registry).await;
        let frames = futures_util::stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from("hel")))]);
        let endless = futures_util::StreamExt::chain(frames, futures_util::stream::pending());
        let patch = format!("PATCH {location}");
        let hanging = send_with(&registry, &patch, &[], StreamBody::new(endless));
        let busy = async {
            send(&registry, &patch, &[], "lo").await.refused(409, "BLOB_UPLOAD_INVALID");
        };
        tokio::select! {
            biased;
            _ = hanging => unreachable!(),
            () = busy => {}
        }
        assert_eq!(get(&registry, &location).await.answered(204).header("range"), "0-2");
    }

    #[tokio::test]
    async fn an_upload_can_be_given_up() {
        let registry = Registry::new();
        let location = begin(&registry).await;
        send(&registry, &format!("DELETE {location}"), &[], "").await.answered(204);
        send(&registry, &format!("DELETE {location}"), &[], "").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
        send(&registry, &format!("PATCH {location}"), &[], "x").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }

    #[tokio::test]
    async fn content_that_is_not_the_digests_ends_the_upload() {
        let registry = Registry::new();
        let location = begin(&registry).await;
        let put = format!("PUT {location}?digest={}", digest("hello"));
        send(&registry, &put, &[], "hullo").await.refused(400, "DIGEST_INVALID");
        get(&registry, &location).await.answered(404);
        assert!(registry.blob(&digest("hello")).is_none());
    }

    #[tokio::test]
    async fn a_digest_of_another_algorithm_is_computed_in_the_end() {
        let registry = Registry::new();
        let sha512 = digester::digest(crate::proto::Algorithm::Sha512, b"hello").unwrap();
        for start in ["", "?digest-algorithm=sha512"] {
            let begun =
                send(&registry, &format!("POST /v2/a/b/blobs/uploads/{start}"), &[], "").await.answered(202);
            let put = format!("PUT {}?digest={sha512}", begun.header("location"));
            send(&registry, &put, &[], "hello").await.answered(201);
        }
        let put = format!("PUT {}?digest=blake3:abc", begin(&registry).await);
        send(&registry, &put, &[], "hello").await.refused(400, "DIGEST_INVALID");
        let start = "POST /v2/a/b/blobs/uploads/?digest-algorithm=md5";
        send(&registry, start, &[], "").await.refused(400, "DIGEST_INVALID");
    }

    #[tokio::test]
    async fn a_session_belongs_to_its_repository() {
        let registry = Registry::new();
        let elsewhere = begin(&registry).await.replace("/a/b/", "/c/d/");
        get(&registry, &elsewhere).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_session_expires() {
        let registry = Registry::new();
        let location = begin(&registry).await;
        tokio::time::advance(Duration::from_secs(59 * 60)).await;
        get(&registry, &location).await.answered(204);
        tokio::time::advance(Duration::from_secs(61 * 60)).await;
        get(&registry, &location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }

    #[tokio::test]
    async fn sessions_are_not_without_number() {
        let registry = Registry::new();
        for _ in 0..1024 {
            begin(&registry).await;
        }
        let refused = send(&registry, "POST /v2/a/b/blobs/uploads/", &[], "").await;
        assert_eq!(refused.refused(429, "TOOMANYREQUESTS").header("retry-after"), "60");
    }

    #[tokio::test]
    async fn a_registry_that_is_full_says_so_and_frees_what_did_not_fit() {
        let registry = Registry::with_limit(8);
        let location = begin(&registry).await;
        send(&registry, &format!("PATCH {location}"), &[], "123456789").await.refused(413, "SIZE_INVALID");
        let patch = format!("PATCH {location}");
        let stopped = send_with(&registry, &patch, &[], stream(&["12345", "6789"])).await;
        stopped.refused(507, "UNAVAILABLE");
        get(&registry, &location).await.answered(404);
        registry.push_blob("a/b", Bytes::from_static(b"12345678")).unwrap();
        assert_eq!(registry.push_blob("a/b", Bytes::from_static(b"9")), Err(Refusal::Full));
        let delete = format!("DELETE /v2/a/b/blobs/{}", digest("12345678"));
        send(&registry, &delete, &[], "").await.answered(202);
        registry.push_blob("a/b", Bytes::from_static(b"9")).unwrap();
    }
}

mod mounts {
    use super::*;

    #[tokio::test]
    async fn a_blob_is_mounted_from_where_it_is() {
        let registry = Registry::new();
        let hello = registry.push_blob("a/b", Bytes::from_static(b"hello")).unwrap();
        get(&registry, &format!("/v2/c/blobs/{hello}")).await.refused(404, "BLOB_UNKNOWN");
        let mount = format!("POST /v2/c/blobs/uploads/?mount={hello}&from=a/b");
        let mounted = send(&registry, &mount, &[], "").await.answered(201);
        assert_eq!(mounted.header("location"), format!("/v2/c/blobs/{hello}"));
        assert_eq!(mounted.header("docker-content-digest"), hello.as_str());
        get(&registry, mounted.header("location")).await.answered(200);
    }

    #[tokio::test]
    async fn a_mount_that_cannot_be_made_is_an_ordinary_upload() {
        let registry = Registry::new();
        let hello = registry.push_blob("a/b", Bytes::from_static(b"hello")).unwrap();
        let other = digest("other");
        for query in [
            format!("mount={hello}&from=nowhere"),
            format!("mount={other}&from=a/b"),
            format!("mount={hello}"),
            format!("mount={hello}&from=a/b&from=c"),
            "mount=nonsense&from=a/b".to_owned(),
        ] {
            let answer =
                send(&registry, &format!("POST /v2/c/blobs/uploads/?{query}"), &[], "").await.answered(202);
            assert!(answer.header("location").starts_with("/v2/c/blobs/uploads/"), "{query}");
        }
    }

    #[tokio::test]
    async fn deleting_a_blob_in_one_repository_leaves_it_in_the_other() {
        let registry = Registry::new();
        let hello = registry.push_blob("a", Bytes::from_static(b"hello")).unwrap();
        send(&registry, &format!("POST /v2/b/blobs/uploads/?mount={hello}&from=a"), &[], "")
            .await
            .answered(201);
        let delete = |name: &str| format!("DELETE /v2/{name}/blobs/{hello}");
        send(&registry, &delete("a"), &[], "").await.answered(202);
        send(&registry, &delete("a"), &[], "").await.refused(404, "BLOB_UNKNOWN");
        get(&registry, &format!("/v2/b/blobs/{hello}")).await.answered(200);
        send(&registry, &delete("b"), &[], "").await.answered(202);
        assert!(registry.blob(&hello).is_none());
    }
}

mod blobs {
    use super::*;

    async fn blob() -> (Registry, String) {
        let registry = Registry::new();
        let digest = registry.push_blob("a/b", Bytes::from_static(b"0123456789")).unwrap();
        (registry, format!("/v2/a/b/blobs/{digest}"))
    }

    #[tokio::test]
    async fn head_has_the_headers_of_get_and_no_body() {
        let (registry, target) = blob().await;
        let got = get(&registry, &target).await.answered(200);
        let asked = send(&registry, &format!("HEAD {target}"), &[], "").await.answered(200);
        assert_eq!(got.headers, asked.headers);
        assert_eq!((asked.header("content-length"), asked.header("accept-ranges")), ("10", "bytes"));
        assert_eq!(asked.header("etag"), format!("\"{}\"", asked.header("docker-content-digest")));
        assert_eq!(asked.header("content-type"), "application/octet-stream");
        assert!(asked.body.is_empty());
    }

    #[tokio::test]
    async fn a_range_is_answered_with_its_bytes() {
        let (registry, target) = blob().await;
        let line = format!("GET {target}");
        let table =
            [("2-4", "234", "2-4"), ("7-", "789", "7-9"), ("-3", "789", "7-9"), ("8-99", "89", "8-9")];
        for (asked, body, given) in table {
            let answer =
                send(&registry, &line, &[("range", &format!("bytes={asked}"))], "").await.answered(206);
            assert_eq!(answer.body, body);
            assert_eq!(answer.header("content-range"), format!("bytes {given}/10"));
            assert_eq!(answer.header("content-length"), body.len().to_string());
        }
    }

    #[tokio::test]
    async fn a_range_outside_the_blob_is_refused_with_its_length() {
        let (registry, target) = blob().await;
        for asked in ["10-", "50-60", "-0", "5-0"] {
            let range = format!("bytes={asked}");
            let answer = send(&registry, &format!("GET {target}"), &[("range", &range)], "").await;
            let answer = answer.refused(416, "RANGE_INVALID");
            assert_eq!(answer.header("content-range"), "bytes */10");
        }
    }

    #[tokio::test]
    async fn several_ranges_and_a_stale_if_range_get_the_whole() {
        let (registry, target) = blob().await;
        let line = format!("GET {target}");
        assert_eq!(
            send(&registry, &line, &[("range", "bytes=0-1,4-5")], "").await.answered(200).body.len(),
            10
        );
        let stale = [("range", "bytes=0-1"), ("if-range", "\"other\"")];
        assert_eq!(send(&registry, &line, &stale, "").await.answered(200).body.len(), 10);
        let tag = send(&registry, &line, &[], "").await.header("etag").to_owned();
        send(&registry, &line, &[("range", "bytes=0-1"), ("if-range", &tag)], "").await.answered(206);
        send(&registry, &format!("HEAD {target}"), &[("range", "bytes=0-1")], "").await.answered(200);
    }

    #[tokio::test]
    async fn a_client_that_has_it_is_told_so() {
        let (registry, target) = blob().await;
        let digest = digest("0123456789");
        for tag in [format!("\"{digest}\""), digest.to_string(), format!("\"x\", W/\"{digest}\""), "*".into()]
        {
            let answer =
                send(&registry, &format!("GET {target}"), &[("if-none-match", &tag)], "").await.answered(304);
            assert!(answer.body.is_empty());
            assert!(!answer.header("etag").is_empty());
        }
        send(&registry, &format!("GET {target}"), &[("if-none-match", "\"x\"")], "").await.answered(200);
    }

    #[tokio::test]
    async fn an_empty_blob_is_a_blob() {
        let registry = Registry::new();
        let empty = registry.push_blob("a/b", Bytes::new()).unwrap();
        let answer = get(&registry, &format!("/v2/a/b/blobs/{empty}")).await.answered(200);
        assert_eq!(answer.header("content-length"), "0");
    }
}

mod manifests {
    use super::*;

    #[tokio::test]
    async fn a_manifest_is_kept_to_the_byte_and_under_its_type() {
        let registry = Registry::new();
        let blob = registry.push_blob("a", Bytes::from_static(b"{}")).unwrap();
        let text = format!("{}\n ", manifest(&blob, ""));
        let parameters = format!("{MANIFEST}; charset=utf-8");
        let put =
            send(&registry, "PUT /v2/a/manifests/v1", &[("content-type", &parameters)], text.clone()).await;
        let put = put.answered(201);
        let digest = digest(&text);
        assert_eq!(put.header("docker-content-digest"), digest.as_str());
        assert_eq!(put.header("location"), format!("/v2/a/manifests/{digest}"));
        assert_eq!(put.header("oci-subject"), "");
        for target in ["/v2/a/manifests/v1", put.header("location")] {
            let got = get(&registry, target).await.answered(200);
            assert_eq!((got.header("content-type"), &got.body[..]), (MANIFEST, text.as_bytes()));
            let asked = send(&registry, &format!("HEAD {target}"), &[], "").await.answered(200);
            assert_eq!(got.headers, asked.headers);
            assert_eq!(asked.header("content-length"), text.len().to_string());
            assert_eq!(asked.header("docker-content-digest"), digest.as_str());
            let known =
                send(&registry, &format!("GET {target}"), &[("if-none-match", digest.as_str())], "").await;
            let known = known.answered(304);
            // A 304 that announced a body would make the client wait for it.
            assert!(known.body.is_empty() && known.header("content-length").is_empty());
        }
    }

    #[tokio::test]
    async fn a_manifest_needs_what_it_names() {
        let registry = Registry::new();
        registry.push_blob("elsewhere", Bytes::from_static(b"{}")).unwrap();
        let text = manifest(&digest("{}"), "");
        let put = |body: String, kind: &'static str| {
            let registry = registry.clone();
            async move { send(&registry, "PUT /v2/a/manifests/v1", &[("content-type", kind)], body).await }
        };
        let refused = put(text.clone(), MANIFEST).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
        assert!(refused.json()["errors"][0]["message"].as_str().unwrap().contains(digest("{}").as_str()));
        let child = format!(r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":9}}"#, digest(&text));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{child}]}}"#);
        put(index.clone(), INDEX).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
        registry.push_blob("a", Bytes::from_static(b"{}")).unwrap();
        put(text, MANIFEST).await.answered(201);
        put(index, INDEX).await.answered(201);
    }

    #[tokio::test]
    async fn a_missing_manifest_and_an_impossible_tag_are_unknown() {
        let registry = Registry::new();
        for reference in ["v1", ".INVALID_MANIFEST_NAME", digest("x").as_str()] {
            let target = format!("/v2/a/manifests/{reference}");
            get(&registry, &target).await.refused(404, "MANIFEST_UNKNOWN");
            let asked = send(&registry, &format!("HEAD {target}"), &[], "").await.answered(404);
            assert!(asked.body.is_empty());
        }
    }

    #[tokio::test]
    async fn what_is_no_manifest_is_refused() {
        let registry = Registry::new();
        for (kind, body) in [(MANIFEST, "nonsense"), (MANIFEST, "{}"), (INDEX, r#"{"schemaVersion":2}"#)] {
            let answer = send(&registry, "PUT /v2/a/manifests/v1", &[("content-type", kind)], body).await;
            answer.refused(400, "MANIFEST_INVALID");
        }
        send(&registry, "PUT /v2/a/manifests/.x", &[], "{}").await.refused(400, "TAG_INVALID");
    }

    #[tokio::test]
    async fn a_manifest_of_four_mebibytes_is_taken_and_a_longer_one_refused() {
        let registry = Registry::new();
        let padded = |length: usize| format!("{{}}{}", " ".repeat(length - 2));
        let line = "PUT /v2/a/manifests/v1";
        send(&registry, line, &[("content-type", "x/y")], padded(4 << 20)).await.answered(201);
        let long = send(&registry, line, &[("content-type", "x/y")], padded((4 << 20) + 1)).await;
        long.refused(413, "MANIFEST_INVALID");
    }

    #[tokio::test]
    async fn a_push_by_digest_must_match_and_may_bring_tags() {
        let registry = Registry::new();
        let put = |reference: &str, body: &'static str| {
            let line = format!("PUT /v2/a/manifests/{reference}");
            let registry = registry.clone();
            async move { send(&registry, &line, &[("content-type", "x/y")], body).await }
        };
        put(digest("{}").as_str(), "{ }").await.refused(400, "DIGEST_INVALID");
        let both = put(&format!("{}?tag=one&tag=two", digest("{}")), "{}").await.answered(201);
        let tags: Vec<_> = both.headers.get_all("oci-tag").iter().collect();
        assert_eq!(tags, ["one", "two"]);
        assert_eq!(registry.tags("a"), ["one", "two"]);
        let sha512 = digester::digest(crate::proto::Algorithm::Sha512, b"{}").unwrap();
        let strong = put(sha512.as_str(), "{}").await.answered(201);
        assert_eq!(strong.header("docker-content-digest"), sha512.as_str());
        get(&registry, &format!("/v2/a/manifests/{sha512}")).await.answered(200);
    }

    #[tokio::test]
    async fn deleting_a_tag_leaves_the_manifest() {
        let registry = Registry::new();
        let digest = image(&registry, "a", "v1", "");
        send(&registry, "DELETE /v2/a/manifests/v1", &[], "").await.answered(202);
        send(&registry, "DELETE /v2/a/manifests/v1", &[], "").await.refused(404, "MANIFEST_UNKNOWN");
        get(&registry, &format!("/v2/a/manifests/{digest}")).await.answered(200);
    }

    #[tokio::test]
    async fn deleting_a_manifest_takes_its_tags_along() {
        let registry = Registry::new();
        let digest = image(&registry, "a", "v1", "");
        image(&registry, "a", "v2", "");
        image(&registry, "a", "other", r#","annotations":{"a":"b"}"#);
        send(&registry, &format!("DELETE /v2/a/manifests/{digest}"), &[], "").await.answered(202);
        assert_eq!(registry.tags("a"), ["other"]);
        get(&registry, "/v2/a/manifests/v1").await.refused(404, "MANIFEST_UNKNOWN");
    }
}

mod listings {
    use super::*;

    fn tagged(tags: &[&str]) -> Registry {
        let registry = Registry::new();
        for tag in tags {
            image(&registry, "a/b", tag, "");
        }
        registry
    }

    async fn tags(registry: &Registry, query: &str) -> (Vec<String>, String) {
        let answer = get(registry, &format!("/v2/a/b/tags/list{query}")).await.answered(200);
        assert_eq!(answer.json()["name"], "a/b");
        (serde_json::from_value(answer.json()["tags"].clone()).unwrap(), answer.header("link").to_owned())
    }

    #[tokio::test]
    async fn tags_come_in_order_and_page_by_page() {
        let registry = tagged(&["v2", "v10", "a", "latest"]);
        assert_eq!(tags(&registry, "").await.0, ["a", "latest", "v10", "v2"]);
        let (first, link) = tags(&registry, "?n=3").await;
        assert_eq!(first, ["a", "latest", "v10"]);
        assert_eq!(link, "</v2/a/b/tags/list?n=3&last=v10>; rel=\"next\"");
        assert_eq!(tags(&registry, "?n=3&last=v10").await, (vec!["v2".to_owned()], String::new()));
        assert_eq!(tags(&registry, "?n=4").await.1, "");
        assert_eq!(tags(&registry, "?last=b").await.0, ["latest", "v10", "v2"]);
        assert_eq!(tags(&registry, "?n=0").await, (Vec::new(), String::new()));
        assert_eq!(tags(&registry, "?last=zzz").await, (Vec::new(), String::new()));
    }

    #[tokio::test]
    async fn a_repository_that_is_not_there_has_no_list() {
        get(&Registry::new(), "/v2/a/b/tags/list").await.refused(404, "NAME_UNKNOWN");
        let unreadable = get(&tagged(&["v1"]), "/v2/a/b/tags/list?n=many").await;
        unreadable.refused(400, "PAGINATION_NUMBER_INVALID");
    }

    #[tokio::test]
    async fn the_catalog_lists_what_can_be_pulled() {
        let registry = Registry::new();
        for name in ["b", "a/c", "a"] {
            image(&registry, name, "v1", "");
        }
        registry.push_blob("blobs-only", Bytes::new()).unwrap();
        let all = get(&registry, "/v2/_catalog").await.answered(200);
        assert_eq!(all.json(), serde_json::json!({"repositories": ["a", "a/c", "b"]}));
        let page = get(&registry, "/v2/_catalog?n=2").await.answered(200);
        assert_eq!(page.header("link"), "</v2/_catalog?n=2&last=a%2Fc>; rel=\"next\"");
        let rest = get(&registry, "/v2/_catalog?n=2&last=a%2Fc").await.answered(200);
        assert_eq!((rest.json()["repositories"][0].as_str(), rest.header("link")), (Some("b"), ""));
    }

    #[tokio::test]
    async fn the_catalog_gives_a_hundred_names_unless_asked_otherwise() {
        let registry = Registry::new();
        for number in 0..101 {
            image(&registry, &format!("r{number:03}"), "v1", "");
        }
        let answer = get(&registry, "/v2/_catalog").await;
        assert_eq!(answer.json()["repositories"].as_array().unwrap().len(), 100);
        assert_eq!(answer.header("link"), "</v2/_catalog?n=100&last=r099>; rel=\"next\"");
    }
}

mod referrers {
    use super::*;

    fn refer(registry: &Registry, subject: &Digest, kind: &str) -> Digest {
        let more = format!(
            r#","artifactType":"{kind}","annotations":{{"kind":"{kind}"}},"subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":2}}"#
        );
        image(registry, "a/b", &kind.replace(['/', '+'], "-"), &more)
    }

    #[tokio::test]
    async fn referrers_are_described_and_filtered() {
        let registry = Registry::new();
        let subject = digest("not there yet");
        let signature = refer(&registry, &subject, "x/sig+json");
        refer(&registry, &subject, "x/sbom");
        refer(&registry, &digest("another"), "x/other");
        let all = get(&registry, &format!("/v2/a/b/referrers/{subject}")).await.answered(200);
        assert_eq!(all.header("content-type"), INDEX);
        assert_eq!(all.header("oci-filters-applied"), "");
        assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
        let some = get(&registry, &format!("/v2/a/b/referrers/{subject}?artifactType=x/sig%2Bjson"))
            .await
            .answered(200);
        assert_eq!(some.header("oci-filters-applied"), "artifactType");
        let size = registry.blob(&signature).unwrap().len();
        let expected = serde_json::json!([{
            "mediaType": MANIFEST, "digest": signature.as_str(), "size": size,
            "artifactType": "x/sig+json", "annotations": {"kind": "x/sig+json"},
        }]);
        assert_eq!(some.json()["manifests"], expected);
    }

    #[tokio::test]
    async fn a_push_with_a_subject_is_told_that_referrers_are_kept() {
        let registry = Registry::new();
        let subject = digest("not there");
        let blob = registry.push_blob("a/b", Bytes::from_static(b"{}")).unwrap();
        let more = format!(r#","subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":2}}"#);
        let put = send(
            &registry,
            "PUT /v2/a/b/manifests/v1",
            &[("content-type", MANIFEST)],
            manifest(&blob, &more),
        );
        assert_eq!(put.await.answered(201).header("oci-subject"), subject.as_str());
    }

    #[tokio::test]
    async fn what_nothing_refers_to_has_an_empty_index() {
        let registry = Registry::new();
        let answer = get(&registry, &format!("/v2/a/b/referrers/{}", digest("x"))).await.answered(200);
        let expected = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
        assert_eq!(answer.json(), expected);
        get(&registry, "/v2/a/b/referrers/sha256:short").await.refused(400, "DIGEST_INVALID");
    }

    #[tokio::test]
    async fn a_page_of_referrers_links_to_the_next_with_its_filter() {
        let registry = Registry::new();
        let subject = digest("x");
        for name in ["one", "two", "three"] {
            let more = format!(r#","annotations":{{"name":"{name}"}},"subject":{{"digest":"{subject}"}}"#);
            image(&registry, "a/b", name, &more);
        }
        let mut target = format!("/v2/a/b/referrers/{subject}?artifactType=x/config&n=2");
        let mut seen = Vec::new();
        while !target.is_empty() {
            let page = get(&registry, &target).await.answered(200);
            assert_eq!(page.header("oci-filters-applied"), "artifactType");
            seen.push(page.json()["manifests"].as_array().unwrap().len());
            target = page.header("link").trim_start_matches('<').split('>').next().unwrap().to_owned();
        }
        assert_eq!(seen, [2, 1]);
    }

    #[tokio::test]
    async fn a_deleted_referrer_is_gone() {
        let registry = Registry::new();
        let subject = digest("x");
        let signature = refer(&registry, &subject, "x/sig");
        send(&registry, &format!("DELETE /v2/a/b/manifests/{signature}"), &[], "").await.answered(202);
        let answer = get(&registry, &format!("/v2/a/b/referrers/{subject}")).await;
        assert_eq!(answer.json()["manifests"], serde_json::json!([]));
    }
}

mod on_a_socket {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn it_serves_until_it_is_told_to_stop() {
        let registry = Registry::new();
        let digest = image(&registry, "a", "v1", "");
        let length = registry.blob(&digest).unwrap().len();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(registry.serve(listener, stopped));
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = "HEAD /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains(&format!("content-length: {length}\r\n")) && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
        stop.send(()).unwrap();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
