use proptest::prelude::*;

use crate::proto::error_code::ErrorCode;
use crate::proto::operation::Action;
use crate::proto::target::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn sha() -> String {
    format!("sha256:{HEX}")
}

fn digest() -> Digest {
    Digest::parse(&sha()).unwrap()
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tag(text: &str) -> Reference {
    Reference::Tag(Tag::parse(text).unwrap())
}

/// Parses a request; `$` stands for a digest.
fn target(method: &str, target: &str) -> Result<Target, TargetError> {
    let whole = target.replace('$', &sha());
    let (path, query) =
        whole.split_once('?').map_or((whole.as_str(), None), |(path, query)| (path, Some(query)));
    Target::parse(method, path, query)
}

fn operation(method: &str, text: &str) -> Operation {
    let Target { prefix, ns, operation } =
        target(method, text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    assert_eq!((prefix, ns), (None, None), "{text}");
    operation
}

fn error(method: &str, text: &str) -> TargetError {
    target(method, text).expect_err(text)
}

fn start(text: &str) -> UploadStart {
    match operation("POST", text) {
        Operation::StartUpload { start, .. } => start,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_endpoint_of_the_specification_is_parsed() {
    let repository = name("a/b");
    let page = Page::default();
    let session = "h-1_.=".to_owned();
    let cases = [
        ("GET", "/v2/", Operation::Version),
        ("HEAD", "/v2", Operation::Version),
        ("GET", "/v2/_catalog", Operation::Catalog { page: page.clone() }),
        (
            "GET",
            "/v2/a/b/blobs/$",
            Operation::GetBlob { repository: repository.clone(), digest: digest(), head: false },
        ),
        (
            "HEAD",
            "/v2/a/b/blobs/$",
            Operation::GetBlob { repository: repository.clone(), digest: digest(), head: true },
        ),
        (
            "DELETE",
            "/v2/a/b/blobs/$",
            Operation::DeleteBlob { repository: repository.clone(), digest: digest() },
        ),
        (
            "GET",
            "/v2/a/b/manifests/v1",
            Operation::GetManifest { repository: repository.clone(), reference: tag("v1"), head: false },
        ),
        (
            "HEAD",
            "/v2/a/b/manifests/$",
            Operation::GetManifest {
                repository: repository.clone(),
                reference: Reference::Digest(digest()),
                head: true,
            },
        ),
        (
            "PUT",
            "/v2/a/b/manifests/v1",
            Operation::PutManifest { repository: repository.clone(), reference: tag("v1"), tags: vec![] },
        ),
        (
            "DELETE",
            "/v2/a/b/manifests/v1",
            Operation::DeleteManifest { repository: repository.clone(), reference: tag("v1") },
        ),
        (
            "GET",
            "/v2/a/b/tags/list",
            Operation::ListTags { repository: repository.clone(), page: page.clone() },
        ),
        (
            "GET",
            "/v2/a/b/referrers/$",
            Operation::Referrers {
                repository: repository.clone(),
                digest: digest(),
                artifact_type: None,
                page,
            },
        ),
        (
            "POST",
            "/v2/a/b/blobs/uploads/",
            Operation::StartUpload { repository: repository.clone(), start: UploadStart::Session },
        ),
        (
            "POST",
            "/v2/a/b/blobs/uploads",
            Operation::StartUpload { repository: repository.clone(), start: UploadStart::Session },
        ),
        (
            "GET",
            "/v2/a/b/blobs/uploads/h-1_.=",
            Operation::UploadStatus { repository: repository.clone(), session: session.clone() },
        ),
        (
            "HEAD",
            "/v2/a/b/blobs/uploads/h-1_.=",
            Operation::UploadStatus { repository: repository.clone(), session: session.clone() },
        ),
        (
            "PATCH",
            "/v2/a/b/blobs/uploads/h-1_.=",
            Operation::PatchUpload { repository: repository.clone(), session: session.clone() },
        ),
        (
            "PUT",
            "/v2/a/b/blobs/uploads/h-1_.=?digest=$",
            Operation::FinishUpload {
                repository: repository.clone(),
                session: session.clone(),
                digest: digest(),
            },
        ),
        ("DELETE", "/v2/a/b/blobs/uploads/h-1_.=", Operation::CancelUpload { repository, session }),
    ];
    for (method, text, expected) in cases {
        assert_eq!(operation(method, text), expected, "{method} {text}");
    }
}

#[test]
fn a_path_is_read_from_the_right() {
    let cases = [
        ("/v2/foo/manifests/bar/manifests/latest", "foo/manifests/bar"),
        ("/v2/manifests/manifests/manifests", "manifests"),
        ("/v2/blobs/manifests/uploads", "blobs"),
        ("/v2/foo/blobs/uploads/manifests/x", "foo/blobs/uploads"),
        ("/v2/foo/blobs/uploads/blobs/$", "foo/blobs/uploads"),
        ("/v2/foo/tags/list/tags/list", "foo/tags/list"),
        ("/v2/foo/blobs/uploads/tags/list", "foo/blobs/uploads"),
        ("/v2/referrers/referrers/$", "referrers"),
        ("/v2/a/v2/manifests/x", "a/v2"),
        ("/v2/v2/manifests/x", "v2"),
        ("/v2/v2/v2/tags/list", "v2/v2"),
        ("/v2/x/blobs/uploads/uploads", "x"),
        ("/v2/x/manifests/blobs/uploads/list", "x/manifests"),
        ("/v2/docker.io/library/alpine/manifests/3.20", "docker.io/library/alpine"),
    ];
    for (text, repository) in cases {
        assert_eq!(operation("GET", text).repository(), Some(&name(repository)), "{text}");
    }
    let uploads = [
        ("/v2/x/blobs/uploads/blobs/uploads/", "x/blobs/uploads"),
        ("/v2/x/manifests/blobs/uploads", "x/manifests"),
    ];
    for (text, repository) in uploads {
        assert_eq!(operation("POST", text).repository(), Some(&name(repository)), "{text}");
    }
}

#[test]
fn a_prefix_may_stand_before_the_version() {
    let cases = [
        ("/hub/v2/", Some("hub"), None),
        ("/hub/v2", Some("hub"), None),
        ("/docker.io/v2/library/nginx/manifests/1", Some("docker.io"), Some("library/nginx")),
        ("/a/b/v2/c/tags/list", Some("a/b"), Some("c")),
        ("/hub/v2/a/v2/manifests/x", Some("hub"), Some("a/v2")),
        ("/v2x/v2/a/manifests/x", Some("v2x"), Some("a")),
        ("/v2/v2/manifests/x", None, Some("v2")),
    ];
    for (text, prefix, repository) in cases {
        let target = target("GET", text).unwrap();
        assert_eq!(target.prefix.as_ref().map(RepositoryName::as_str), prefix, "{text}");
        assert_eq!(target.operation.repository().map(RepositoryName::as_str), repository, "{text}");
    }
    assert_eq!(error("GET", "/HUB/v2/a/manifests/x"), TargetError::NameInvalid);
    for text in [
        "//v2/",
        "/hub//v2/",
        "/../v2/",
        "/%68ub/v2/",
        "/hub/v2/../v2/",
        "/hub/V2/",
        "/hub/",
        "/",
        "",
        "v2/",
        "/v2hub",
    ] {
        assert_eq!(error("GET", text), TargetError::NotFound, "{text}");
    }
}

#[test]
fn what_is_outside_the_grammar_is_not_found() {
    let paths = [
        "/v2//manifests/x",
        "/v2/a//b/manifests/x",
        "/v2//a/manifests/x",
        "/v2/a/../b/manifests/x",
        "/v2/a/./b/manifests/x",
        "/v2/../a/manifests/x",
        "/v2/a/manifests/..",
        "/v2/a/manifests/.",
        "/v2/a/manifests/",
        "/v2/a/manifests",
        "/v2/a/manifests/x/",
        "/v2/manifests/x",
        "/v2/tags/list",
        "/v2/blobs/uploads/",
        "/v2/blobs/uploads/x",
        "/v2/a/tags/list/",
        "/v2/a/tags/lists",
        "/v2/a/uploads/x",
        "/v2/a/blobs/uploads//",
        "/v2/a/blobs/uploads/x/",
        "/v2/_catalog/",
        "/v2/x/_catalog",
        "/v2/_oci/ext/discover",
        "/v2/a",
        "/v2//",
        "/V2/",
        "/v1/a/manifests/x",
        "/v2/%61/manifests/x",
        "/v2/a%2fb/manifests/x",
        "/v2/a%2Fb/manifests/x",
        "/v2/%2e%2e/manifests/x",
        "/v2/a/%6danifests/x",
        "/v2/a/manifests/%78",
        "/v2/a/manifests/x%00",
        "/v2/a/manifests/x%",
        "/v2/a/manifests/x%3",
        "/v2/a%3Ab/manifests/x",
        "/v2/a/blobs/uploads/h%3A",
        "/v2/a/tags/list%3A",
        "/v2/a\\b/manifests/x",
        "/v2/a/manifests/x;y",
        "/v2/a;b/manifests/x",
        "/v2/é/manifests/x",
        "/v2/a/manifests/x\0",
        "/v2/a b/manifests/x",
        "/v2/a/manifests/x#y",
        "/v2/a\"/manifests/x",
    ];
    for path in paths {
        for method in ["GET", "PUT", "OPTIONS"] {
            assert_eq!(error(method, path), TargetError::NotFound, "{method} {path}");
        }
    }
}

#[test]
fn an_invalid_name_is_answered_name_invalid() {
    for path in [
        "/v2/UPPER/manifests/x",
        "/v2/a___b/tags/list",
        "/v2/-a/blobs/$",
        "/v2/h:5000/a/manifests/x",
        "/v2/_oci/manifests/x",
        "/v2/a+b/referrers/$",
    ] {
        assert_eq!(error("GET", path), TargetError::NameInvalid, "{path}");
    }
    assert_eq!(error("POST", "/v2/A/blobs/uploads/"), TargetError::NameInvalid);
    assert_eq!(error("PATCH", "/v2/A/blobs/uploads/x"), TargetError::NameInvalid);
    let long = format!("/v2/{}/manifests/x", "a".repeat(256));
    assert_eq!(error("GET", &long), TargetError::NameInvalid);
}

#[test]
fn a_colon_may_be_encoded_in_a_reference() {
    for text in [format!("sha256%3A{HEX}"), format!("sha256%3a{HEX}")] {
        for place in ["manifests", "blobs", "referrers"] {
            let operation = operation("GET", &format!("/v2/a/{place}/{text}"));
            assert_eq!(operation.digest(), Some(&digest()), "{place}");
        }
    }
    assert_eq!(error("GET", "/v2/a/manifests/v1%3A"), TargetError::DigestInvalid);
}

#[test]
fn an_invalid_reference_is_answered_by_its_kind() {
    let long = "x".repeat(129);
    for bad in ["-x", ".x", "a+b", "a@b", long.as_str()] {
        let path = format!("/v2/a/manifests/{bad}");
        for method in ["GET", "HEAD", "DELETE"] {
            assert_eq!(error(method, &path), TargetError::TagUnknown, "{method} {bad}");
        }
        assert_eq!(error("PUT", &path), TargetError::TagInvalid, "{bad}");
    }
    for bad in ["sha256:abc", "sha256:", ":", "SHA256:abc", "sha256:xyz"] {
        for method in ["GET", "PUT"] {
            assert_eq!(error(method, &format!("/v2/a/manifests/{bad}")), TargetError::DigestInvalid, "{bad}");
        }
        assert_eq!(error("GET", &format!("/v2/a/blobs/{bad}")), TargetError::DigestInvalid);
        assert_eq!(error("GET", &format!("/v2/a/referrers/{bad}")), TargetError::DigestInvalid);
    }
    assert_eq!(error("GET", "/v2/a/blobs/latest"), TargetError::DigestInvalid);
}

#[test]
fn a_method_that_a_resource_does_not_know_is_not_allowed() {
    let cases = [
        ("/v2/", "GET, HEAD"),
        ("/v2/_catalog", "GET"),
        ("/v2/a/tags/list", "GET"),
        ("/v2/a/referrers/$", "GET"),
        ("/v2/a/manifests/x", "GET, HEAD, PUT, DELETE"),
        ("/v2/a/blobs/$", "GET, HEAD, DELETE"),
        ("/v2/a/blobs/uploads/", "POST"),
        ("/v2/a/blobs/uploads/x", "GET, HEAD, PATCH, PUT, DELETE"),
    ];
    for (path, allow) in cases {
        for method in [
            "GET",
            "HEAD",
            "POST",
            "PUT",
            "PATCH",
            "DELETE",
            "OPTIONS",
            "TRACE",
            "CONNECT",
            "get",
            "",
            "GET, HEAD",
        ] {
            let known = allow.split(", ").any(|known| known == method);
            let refused = target(method, path) == Err(TargetError::MethodNotAllowed { allow });
            assert_eq!(refused, !known, "{method} {path}");
        }
    }
}

#[test]
fn page_parameters_are_decoded_and_others_kept_in_order() {
    let Operation::ListTags { page, .. } =
        operation("GET", "/v2/a/tags/list?z=1&n=5&last=v1%2B2+x&next_page=%3D%26&z=2")
    else {
        panic!("no list");
    };
    let other =
        [("z", "1"), ("next_page", "=&"), ("z", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(page, Page { n: Some(5), last: Some("v1+2 x".into()), other: other.into() });
    let Operation::Catalog { page } = operation("GET", "/v2/_catalog?n=0&digest=a&digest=b") else {
        panic!("no catalog")
    };
    assert_eq!((page.n, page.other.len()), (Some(0), 2));
}

#[test]
fn n_must_be_a_decimal_number() {
    for n in ["x", "-1", "+1", "", "1.5", "99999999999999999999", "1%20"] {
        let error = error("GET", &format!("/v2/a/tags/list?n={n}"));
        assert_eq!(error, TargetError::QueryInvalid { parameter: "n" });
        assert_eq!((error.status(), error.code()), (400, ErrorCode::PaginationNumberInvalid));
    }
}

#[test]
fn doubled_and_undecodable_parameters_are_refused() {
    let cases = [
        ("GET", "/v2/a/tags/list?n=1&n=1", "n"),
        ("GET", "/v2/a/tags/list?last=1&last=2", "last"),
        ("GET", "/v2/a/tags/list?last=%", "last"),
        ("GET", "/v2/a/tags/list?x=%ff", ""),
        ("GET", "/v2/a/tags/list?%=1", ""),
        ("GET", "/v2/a/manifests/x?ns=a&ns=a", "ns"),
        ("PUT", "/v2/a/blobs/uploads/x?digest=$&digest=$", "digest"),
        ("POST", "/v2/a/blobs/uploads/?digest=$&digest=$", "digest"),
        ("GET", "/v2/a/referrers/$?artifactType=a&artifactType=b", "artifactType"),
    ];
    for (method, text, parameter) in cases {
        assert_eq!(error(method, text), TargetError::QueryInvalid { parameter }, "{text}");
    }
}

#[test]
fn parameters_without_meaning_are_dropped() {
    for query in ["?x=1", "?x=%ff", "?n=x&n=y", "?digest=a&digest=b", "?tag=x", "?", "?&&"] {
        let operation = operation("GET", &format!("/v2/a/manifests/x{query}"));
        assert_eq!(operation.path_and_query(), "/a/manifests/x", "{query}");
    }
    let put = operation("PUT", "/v2/a/manifests/v1?tag=v2");
    assert_eq!(put.path_and_query(), "/a/manifests/v1");
}

#[test]
fn a_namespace_is_a_host_in_lower_case() {
    let good = [
        ("docker.io", "docker.io"),
        ("Docker.IO", "docker.io"),
        ("localhost%3A5000", "localhost:5000"),
        ("localhost:5000", "localhost:5000"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]", "[::1]"),
        ("[::1]:5000", "[::1]:5000"),
    ];
    for (ns, expected) in good {
        let target = target("GET", &format!("/v2/a/manifests/x?ns={ns}")).unwrap();
        assert_eq!(target.ns.as_deref(), Some(expected));
        assert_eq!(target.operation.path_and_query(), "/a/manifests/x");
    }
    for ns in [
        "",
        "a/b",
        "a:b",
        "a:",
        ":80",
        "a:0",
        "a:65536",
        "a:+80",
        "a b",
        "user@host",
        "https://a",
        "[::1",
        "::1",
        "[a]",
        "-a",
        "a..b",
        "a.",
        "é",
    ] {
        assert_eq!(
            error("GET", &format!("/v2/a/manifests/x?ns={ns}")),
            TargetError::QueryInvalid { parameter: "ns" },
            "{ns}"
        );
    }
    let list = target("GET", "/v2/a/tags/list?ns=x&n=1").unwrap();
    assert_eq!(list.operation.path_and_query(), "/a/tags/list?n=1");
}

#[test]
fn an_upload_begins_in_one_of_four_ways() {
    let from = |from: &str| UploadStart::Mount { digest: digest(), from: Some(name(from)) };
    let cases = [
        ("", UploadStart::Session),
        ("?from=a", UploadStart::Session),
        ("?digest=$", UploadStart::Monolithic(digest())),
        ("?digest-algorithm=sha512", UploadStart::Algorithm("sha512".into())),
        ("?mount=$&from=other/repo", from("other/repo")),
        ("?from=other%2Frepo&mount=$", from("other/repo")),
        ("?mount=$", UploadStart::Mount { digest: digest(), from: None }),
        ("?mount=$&from=a&digest=$", from("a")),
    ];
    for (query, expected) in cases {
        assert_eq!(start(&format!("/v2/a/blobs/uploads/{query}")), expected, "{query}");
    }
}

#[test]
fn an_impossible_mount_becomes_an_upload() {
    for query in [
        "mount=$&from=a&from=b",
        "mount=$&from=a&from=a",
        "mount=$&mount=$&from=a",
        "mount=sha256:x&from=a",
        "mount=&from=a",
        "mount",
        "mount=$&from=",
        "mount=$&from=UPPER",
        "mount=$&from=%ff",
        "mount=%&from=a",
        "mount=$&from=../a",
    ] {
        assert_eq!(start(&format!("/v2/a/blobs/uploads/?{query}")), UploadStart::Unmountable, "{query}");
    }
}

#[test]
fn an_upload_ends_with_a_digest() {
    for query in ["", "?digest=", "?digest=sha256:x", "?digest=latest", "?Digest=$"] {
        assert_eq!(
            error("PUT", &format!("/v2/a/blobs/uploads/x{query}")),
            TargetError::DigestInvalid,
            "{query}"
        );
    }
    assert_eq!(error("POST", "/v2/a/blobs/uploads/?digest=sha256:x"), TargetError::DigestInvalid);
    assert_eq!(error("POST", "/v2/a/blobs/uploads/?digest-algorithm=SHA"), TargetError::DigestInvalid);
}

#[test]
fn a_malformed_session_is_unknown() {
    let long = "x".repeat(upload::MAX_SESSION_LENGTH + 1);
    for session in ["a~b", "a@b", "a+b", "a:b", "a,b", long.as_str()] {
        assert_eq!(error("PATCH", &format!("/v2/a/blobs/uploads/{session}")), TargetError::UploadUnknown);
    }
}

#[test]
fn a_manifest_pushed_by_digest_takes_tags_along() {
    let put = operation("PUT", "/v2/a/manifests/$?tag=v1&tag=latest");
    assert_eq!(put.path_and_query(), format!("/a/manifests/{}?tag=v1&tag=latest", sha()));
    for bad in ["tag=.x", "tag=v1&tag=", "tag=a%2Fb"] {
        assert_eq!(error("PUT", &format!("/v2/a/manifests/$?{bad}")), TargetError::TagInvalid, "{bad}");
    }
}

#[test]
fn every_operation_knows_its_action() {
    let cases = [
        ("GET", "/v2/", None),
        ("GET", "/v2/_catalog", Some(Action::Catalog)),
        ("HEAD", "/v2/a/manifests/x", Some(Action::Pull)),
        ("GET", "/v2/a/referrers/$", Some(Action::Pull)),
        ("PUT", "/v2/a/manifests/x", Some(Action::Push)),
        ("POST", "/v2/a/blobs/uploads/", Some(Action::Push)),
        ("DELETE", "/v2/a/blobs/uploads/x", Some(Action::Push)),
        ("DELETE", "/v2/a/manifests/x", Some(Action::Delete)),
    ];
    for (method, text, action) in cases {
        assert_eq!(operation(method, text).action(), action, "{method} {text}");
    }
}

#[test]
fn an_operation_can_move_to_another_repository() {
    let moved = operation("POST", "/v2/a/blobs/uploads/?mount=$&from=b").with_repository(name("x/y"));
    assert_eq!(moved.repository(), Some(&name("x/y")));
    assert!(moved.path_and_query().ends_with("&from=b"));
}

fn any_name() -> impl Strategy<Value = String> {
    "(a|b1|v2|blobs|manifests|tags|list|uploads|referrers|x__y)(/(a|v2|blobs|manifests|tags|list|uploads|referrers)){0,4}"
}

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(|hash| Digest::sha256(&hash))
}

fn any_reference() -> impl Strategy<Value = Reference> {
    let tag = "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,10}|list|uploads|manifests";
    prop_oneof![
        tag.prop_map(|text| Reference::parse(&text).unwrap()),
        any_digest().prop_map(Reference::Digest)
    ]
}

fn any_page() -> impl Strategy<Value = Page> {
    let other = proptest::collection::vec(("x[a-z]{0,4}|é", any::<String>()), 0..3);
    (any::<Option<u64>>(), any::<Option<String>>(), other).prop_map(|(n, last, other)| Page {
        n,
        last,
        other,
    })
}

fn any_start() -> impl Strategy<Value = UploadStart> {
    let from = proptest::option::of(any_name());
    prop_oneof![
        Just(UploadStart::Session),
        any_digest().prop_map(UploadStart::Monolithic),
        "[a-z0-9]{1,6}([+._-][a-z0-9]{1,3})?".prop_map(UploadStart::Algorithm),
        (any_digest(), from)
            .prop_map(|(digest, from)| UploadStart::Mount { digest, from: from.as_deref().map(name) }),
    ]
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let session = "[A-Za-z0-9_=-]{1,20}";
    let repository = || any_name().prop_map(|text| name(&text));
    let tags = proptest::collection::vec("[a-z0-9]{1,5}", 0..3);
    prop_oneof![
        Just(Operation::Version),
        any_page().prop_map(|page| Operation::Catalog { page }),
        (repository(), any_reference(), any::<bool>())
            .prop_map(|(repository, reference, head)| Operation::GetManifest { repository, reference, head }),
        (repository(), any_digest(), tags).prop_map(|(repository, digest, tags)| Operation::PutManifest {
            repository,
            reference: Reference::Digest(digest),
            tags: tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect(),
        }),
        (repository(), any_reference())
            .prop_map(|(repository, reference)| Operation::DeleteManifest { repository, reference }),
        (repository(), any_digest(), any::<bool>())
            .prop_map(|(repository, digest, head)| Operation::GetBlob { repository, digest, head }),
        (repository(), any_digest())
            .prop_map(|(repository, digest)| Operation::DeleteBlob { repository, digest }),
        (repository(), any_page()).prop_map(|(repository, page)| Operation::ListTags { repository, page }),
        (repository(), any_digest(), any::<Option<String>>(), any_page()).prop_map(
            |(repository, digest, artifact_type, page)| Operation::Referrers {
                repository,
                digest,
                artifact_type,
                page
            }
        ),
        (repository(), any_start())
            .prop_map(|(repository, start)| Operation::StartUpload { repository, start }),
        (repository(), session)
            .prop_map(|(repository, session)| Operation::UploadStatus { repository, session }),
        (repository(), session)
            .prop_map(|(repository, session)| Operation::PatchUpload { repository, session }),
        (repository(), session)
            .prop_map(|(repository, session)| Operation::CancelUpload { repository, session }),
        (repository(), session, any_digest()).prop_map(|(repository, session, digest)| {
            Operation::FinishUpload { repository, session, digest }
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_rendered_parses_back(operation in any_operation(), prefix in proptest::option::of("[a-u]{1,4}(/[a-u]{1,4})?")) {
        let before = prefix.as_ref().map(|prefix| format!("/{prefix}")).unwrap_or_default();
        let whole = format!("{before}/v2{}", operation.path_and_query());
        let (path, query) = whole.split_once('?').map_or((whole.as_str(), None), |(path, query)| (path, Some(query)));
        let parsed = Target::parse(operation.method(), path, query);
        prop_assert_eq!(parsed, Ok(Target { prefix: prefix.as_deref().map(name), ns: None, operation }));
    }

    #[test]
    fn no_request_panics(method in any::<String>(), path in any::<String>(), query in any::<Option<String>>()) {
        let _ = Target::parse(&method, &path, query.as_deref());
    }

    #[test]
    fn no_likely_request_panics_or_keeps_dot_segments(
        path in "/(v2|[a.]{1,2})(/(a|v2|blobs|uploads|manifests|tags|list|\\.\\.|\\.|%3A|%2e|A|x:y|;|)){0,6}",
        query in "((n|ns|last|digest|mount|from|tag)=(a|%|1|%3A|\\+)?&?){0,3}",
    ) {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            if let Ok(target) = Target::parse(method, &path, Some(&query)) {
                let rendered = target.operation.path_and_query();
                let path = rendered.split('?').next().unwrap_or_default();
                prop_assert!(!path.contains('%') && !path.contains("//") && !path.split('/').any(|s| s == "." || s == ".."));
                if let Some(repository) = target.operation.repository() {
                    prop_assert!(RepositoryName::parse(repository.as_str()).is_ok());
                }
            }
        }
    }
}
