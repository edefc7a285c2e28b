//! Micro-benchmarks of the pure parts that every request goes through: `cargo bench --bench hot`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot prepare itself should panic"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures the time that passes")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use divan::{Bencher, black_box};
use dockgate::internals::FULL_ACCEPT;
use dockgate::internals::ScopeSet;
use dockgate::internals::{
    Accept, Authorization, Challenge, ErrorBody, ErrorCode, Operation, RepositoryName, Secret,
};
use dockgate::internals::{Authenticator, HtpasswdFile, Identity, UserName, htpasswd};
use dockgate::internals::{Config, Environment, RepositoryPattern};
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
#[divan::bench(args = [1, 10, 100, 1000])]
fn authorize_a_pull(bencher: Bencher<'_, '_>, rules: usize) {
    let rules = configured(&others(rules, |number| team(number, "users = [\"ci-*\"]")));
    let (alice, pull) = question();
    assert!(rules.authorize(&alice, &pull).is_ok());
    bencher.bench_local(|| rules.authorize(black_box(&alice), black_box(&pull)).is_ok());
}

/// The last of 1000 rules is the one that matches, and the others fail for this reason at the latest. A decision must take less
/// than [`MOST`].
#[divan::bench(args = ["plain", "users", "groups", "members", "networks", "stars", "shared", "runs", "home", "all"])]
fn authorize_by_the_last_of_1000_rules(bencher: Bencher<'_, '_>, reason: &str) {
    let rule = |number: usize| format!("[[access]]\n{}\nactions = [\"pull\"]\n", other(number, reason));
    let rules = configured(&others(1000, rule));
    let (alice, pull) = question();
    let decide = || rules.authorize(black_box(&alice), black_box(&pull)).is_ok();
    assert!(decide());
    let quickest = quickest(decide);
    assert!(cfg!(debug_assertions) || quickest < MOST, "{reason}: a decision takes {quickest:?}");
    bencher.bench_local(decide);
}

/// The longest that a decision of 1000 rules may take.
const MOST: Duration = Duration::from_micros(20);

/// Returns the mean time of a call in the quickest of some rounds: other work on the machine lengthens the rest.
fn quickest(call: impl Fn() -> bool) -> Duration {
    const CALLS: u32 = 100;
    let round = || {
        let start = Instant::now();
        (0..CALLS).for_each(|_| {
            black_box(call());
        });
        start.elapsed() / CALLS
    };
    (0..20).map(|_| round()).min().unwrap()
}

/// Users or groups, perhaps networks, and repositories of a rule that does not match for this reason.
fn other(number: usize, reason: &str) -> String {
    let of_all = |users: String| format!("{users}\nrepositories = [\"**\"]");
    let for_all = |repositories: String| format!("users = [\"*\"]\nrepositories = [{repositories}]");
    let (group, net) = (number % GROUPS, number % 256);
    match reason {
        "plain" => for_all(format!("\"team-{number}/**\"")),
        "users" => of_all(format!("users = [\"builder-{number}\", \"*-{number}\", \"a*e{number}\"]")),
        "groups" => of_all(format!("groups = [\"others{group}\"]")),
        "members" => of_all(format!("groups = [\"crowd{number}\"]")),
        "networks" => {
            of_all(format!("users = [\"*\"]\nnetworks = [\"10.{net}.0.0/16\", \"2001:db8:{number}::/48\"]"))
        }
        "stars" => for_all(format!("\"t*/b*/x{number}*\", \"*/*d/*{number}\", \"team/*k*{number}/*\"")),
        "shared" => {
            for_all(format!("\"team/x{number}/**\", \"team/*/*q*\", \"team/*a*\", \"team/*{number}*/api\""))
        }
        "runs" => {
            for_all(format!("\"**/team-{number}/**\", \"**/*end/**/x{number}\", \"team/**/x{number}\""))
        }
        "home" => for_all(format!("\"home/{{user}}/**\", \"{{user}}/x{number}\", \"**/{{user}}/**\"")),
        _ => format!(
            "groups = [\"others{group}\", \"own\"]\nnetworks = [\"10.{net}.0.0/16\", \"192.0.2.0/24\"]\n\
             repositories = [\"**/{{user}}/**\", \"team/**/*end/**/x{number}\", \"team/{{user}}/**\"]"
        ),
    }
}

/// A user, and a repository that the user wants to pull from.
fn question() -> (Subject, Operation) {
    let alice = Subject::at(Identity::User(UserName::parse("alice").unwrap()), [192, 0, 2, 7].into());
    (alice, Target::parse("GET", BLOB, None).unwrap().operation)
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

/// So many rules, the last for the repository that is asked for, and the others as `rule` writes the one of a number.
fn others(count: usize, rule: impl Fn(usize) -> String) -> String {
    (1..count)
        .map(rule)
        .chain(["[[access]]\nusers = [\"*\"]\nrepositories = [\"team/**\"]\nactions = [\"pull\"]\n".into()])
        .collect()
}

fn team(number: usize, users: &str) -> String {
    format!("[[access]]\n{users}\nrepositories = [\"team-{number}/**\"]\nactions = [\"pull\"]\n")
}

/// Rules read as they are written, so that this measures what a configuration costs.
fn configured(rules: &str) -> Rules {
    let group = |name: &str, number: usize| {
        let members: Vec<_> = (0..20).map(|member| format!("user-{number}-{member}")).collect();
        format!("{name}{number} = {members:?}\n")
    };
    let others = (0..GROUPS).map(|number| group("others", number));
    let groups: String = others.chain((0..1000).map(|number| group("crowd", number))).collect();
    let text = format!(
        "[auth.htpasswd]\npath = \"htpasswd\"\n[auth.groups]\nown = [\"bob\", \"al*\"]\n{groups}\
         [[upstream]]\nurl = \"http://127.0.0.1:1\"\nprefix = \"\"\n{rules}"
    );
    let folder = std::env::temp_dir();
    let config = Config::from_toml(&text, "bench.toml", &folder, &Environment::default()).unwrap();
    Rules::new(config.access, true)
}

/// The groups of 20 members each that many rules are for. Each of the other groups is for one rule.
const GROUPS: usize = 50;

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
