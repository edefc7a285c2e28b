//! Micro-benchmarks of the pure parts that every request goes through: `cargo bench --bench hot`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot prepare itself should panic"
)]

use std::net::{IpAddr, Ipv4Addr};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use divan::{Bencher, black_box};
use dockgate::internals::FULL_ACCEPT;
use dockgate::internals::ScopeSet;
use dockgate::internals::{
    Accept, Authorization, Challenge, ErrorBody, ErrorCode, Operation, RepositoryName, Secret,
};
use dockgate::internals::{AccessRule, Config, Environment, RepositoryPattern};
use dockgate::internals::{Authenticator, HtpasswdFile, Identity, UserName, htpasswd};
use dockgate::internals::{Rules, Subject};
use dockgate::internals::{Target, challenge, link};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MANIFEST: &str = "/v2/docker.io/library/alpine/manifests/3.20";
const BLOB: &str =
    "/v2/team/backend/api/blobs/sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

fn main() {
    divan::main();
}

#[divan::bench]
fn parse_the_path_of_a_manifest() -> Target {
    Target::parse("GET", black_box(MANIFEST), None).unwrap()
}

#[divan::bench]
fn parse_the_path_of_a_blob() -> Target {
    Target::parse("HEAD", black_box(BLOB), None).unwrap()
}

#[divan::bench]
fn parse_a_path_with_ns() -> Target {
    Target::parse("GET", black_box("/v2/library/alpine/manifests/3.20"), Some(black_box("ns=docker.io")))
        .unwrap()
}

#[divan::bench]
fn render_the_path_for_the_upstream(bencher: Bencher<'_, '_>) {
    let target = Target::parse("GET", BLOB, None).unwrap();
    bencher.bench_local(|| black_box(&target.operation).path_and_query());
}

#[divan::bench]
fn parse_an_authorization() -> Authorization {
    Authorization::parse(black_box(b"Basic cmVnaXN0cnl1c2VyOnBhc3N3b3Jk")).unwrap()
}

#[divan::bench]
fn parse_a_challenge() -> Vec<Challenge> {
    let line: &[u8] = br#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#;
    challenge::parse_all([black_box(line)])
}

#[divan::bench]
fn merge_the_accept_lines_of_docker() -> Accept {
    Accept::from_lines(black_box(FULL_ACCEPT).split(", ").map(str::as_bytes))
}

#[divan::bench]
fn parse_a_link() -> Option<String> {
    link::next([black_box(&br#"</v2/team/api/tags/list?n=100&last=v1.2.3>; rel="next""#[..])])
}

#[divan::bench]
fn ask_whether_scopes_cover_others(bencher: Bencher<'_, '_>) {
    let held = ScopeSet::parse("repository:team/api:pull,push repository:docker.io/library/alpine:pull");
    let asked = ScopeSet::parse("repository:team/api:pull");
    bencher.bench_local(|| black_box(&held).covers(black_box(&asked)));
}

#[divan::bench(args = ["team/**", "*/backend/*", "**/api", "docker.io/library/alpine"])]
fn match_a_repository(bencher: Bencher<'_, '_>, pattern: &str) {
    let (pattern, name) = (RepositoryPattern::parse(pattern).unwrap(), name("team/backend/api"));
    bencher.bench_local(|| black_box(&pattern).matches(black_box(&name)));
}

/// The last of so many rules is the one that matches.
#[divan::bench(args = [1, 10, 100])]
fn authorize_a_pull(bencher: Bencher<'_, '_>, rules: usize) {
    let rules = Rules::new(access(rules), true);
    let alice = Subject::from(Identity::User(UserName::parse("alice").unwrap()));
    let pull: Operation = Target::parse("GET", BLOB, None).unwrap().operation;
    bencher.bench_local(|| rules.authorize(black_box(&alice), black_box(&pull)).is_ok());
}

#[divan::bench]
fn recognise_a_remembered_password(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().unwrap();
    let (authenticator, header) = logged_in(folder.path());
    bencher.bench_local(|| authenticator.remembered(black_box(Some(header.as_bytes()))));
}

#[divan::bench]
fn render_an_error() -> Vec<u8> {
    ErrorBody::new(black_box(ErrorCode::ManifestUnknown)).render()
}

fn name(name: &str) -> RepositoryName {
    RepositoryName::parse(name).unwrap()
}

/// Rules read as they are written, so that this measures what a configuration costs.
fn access(count: usize) -> Vec<AccessRule> {
    let rule = |users: &str, repositories: &str| {
        format!("[[access]]\nusers = [{users:?}]\nrepositories = [{repositories:?}]\nactions = [\"pull\"]\n")
    };
    let others = (1..count).map(|number| rule("ci-*", &format!("team-{number}/**")));
    let rules: String = others.chain([rule("*", "team/**")]).collect();
    let text = format!(
        "[auth.htpasswd]\npath = \"htpasswd\"\n[[upstream]]\nurl = \"http://127.0.0.1:1\"\nprefix = \"\"\n{rules}"
    );
    let folder = std::env::temp_dir();
    Config::from_toml(&text, "bench.toml", &folder, &Environment::default()).unwrap().access
}

/// An authenticator that has checked a password once, and the header that holds it.
fn logged_in(folder: &std::path::Path) -> (Authenticator, String) {
    let path = folder.join("htpasswd");
    let hash = htpasswd::hash(&Secret::new("password"), 4).unwrap();
    std::fs::write(&path, format!("registryuser:{hash}\n")).unwrap();
    let authenticator = Authenticator::new(Some(HtpasswdFile::open(path).unwrap())).unwrap();
    let header = format!("Basic {}", BASE64_STANDARD.encode("registryuser:password"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let login = authenticator.authenticate(Some(header.as_bytes()), IpAddr::V4(Ipv4Addr::LOCALHOST));
    runtime.block_on(login).unwrap();
    (authenticator, header)
}
