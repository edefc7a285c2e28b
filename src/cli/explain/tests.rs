//! Tests of what is explained.

use clap::Parser;

use super::*;

const CONFIG: &str = r#"[auth.htpasswd]
path = "htpasswd"
[auth.groups]
ci = ["builder-*"]
[[access]]
users = ["bob"]
repositories = ["docker.io/**"]
actions = ["push"]
effect = "deny"
[[access]]
groups = ["ci"]
networks = ["10.0.0.0/8"]
repositories = ["docker.io/**", "home/{user}/**"]
actions = ["pull", "push"]
[[access]]
users = ["bob", "carol"]
repositories = ["docker.io/library/*"]
actions = ["push"]
[[access]]
users = ["dave"]
repositories = ["team/*"]
actions = ["fetch"]
effect = "deny"
[[access]]
users = ["dave"]
repositories = ["team/*"]
actions = ["pull", "catalog"]
[[upstream]]
name = "docker.io"
url = "https://registry-1.docker.io"
read_only = false
[upstream.credentials]
username = "robot"
password = "hidden-word"
[[upstream]]
name = "own"
url = "https://own.example"
prefix = ""
"#;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ExplainArgs,
}

/// Returns whether it is allowed, and what is printed.
fn explained(words: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("d.toml");
    std::fs::write(&file, CONFIG).unwrap();
    let words = format!("explain {words} --config {}", file.display());
    let args = Line::try_parse_from(words.split(' ')).unwrap_or_else(|error| panic!("{error}")).args;
    let mut output = Vec::new();
    let allowed = run(&args, &Environment::default(), &mut output).unwrap();
    let folder = format!("{}/", dir.path().display());
    (allowed, String::from_utf8(output).unwrap().replace(&folder, ""))
}

#[test]
fn an_allowance_names_rule_upstream_identity_and_scope() {
    let (allowed, text) = explained("--user builder-7 --from 10.1.2.3 pull docker.io/alpine:3");
    assert!(allowed);
    assert_eq!(
        text,
        "allowed: builder-7 may pull docker.io/library/alpine\n  \
         rule       d.toml:10 allows: group ci from 10.0.0.0/8: pull, push in docker.io/**, home/{user}/**\n  \
         upstream   docker.io (https://registry-1.docker.io), where it is library/alpine\n  \
         identity   the gateway's own credentials\n  \
         scope      repository:library/alpine:pull\n"
    );
}

#[test]
fn a_denial_says_what_would_have_to_differ() {
    let (allowed, text) = explained("--user builder-7 --from 192.0.2.1 pull docker.io/a/b");
    assert!(!allowed);
    assert!(text.contains("rule       none matches, and what no rule allows is denied\n"), "{text}");
    assert!(text.contains("otherwise  d.toml:10 would allow it from 10.0.0.0/8\n"), "{text}");

    let (allowed, text) = explained("--user bob push docker.io/library/alpine");
    assert!(!allowed);
    assert!(text.contains("rule       d.toml:5 denies: bob: push in docker.io/**\n"), "{text}");
    assert!(text.contains("otherwise  d.toml:15 would allow it if it stood before"), "{text}");
    assert!(!text.contains("d.toml:10"), "two things keep that rule from it: {text}");

    let (_, text) = explained("--user carol push docker.io/other/alpine");
    assert!(text.contains("otherwise  d.toml:15 would allow it in docker.io/library/*\n"), "{text}");
    let (_, text) = explained("--user carol --from 10.0.0.1 pull docker.io/library/alpine");
    assert!(text.contains("otherwise  d.toml:10 would allow it to group ci\n"), "{text}");
    assert!(
        text.contains("otherwise  d.toml:15 would allow it if its actions, now push, had this one\n"),
        "{text}"
    );
}

#[test]
fn a_group_that_a_provider_tells_counts() {
    assert!(!explained("--user carol --from 10.0.0.1 pull docker.io/a/b").0);
    assert!(explained("--user carol --group ci --from 10.0.0.1 pull docker.io/a/b").0);
    assert!(explained("--user carol --group ci --from 10.0.0.1 push home/carol/app").0);
    assert!(!explained("--user carol --group ci --from 10.0.0.1 push home/bob/app").0);
}

#[test]
fn pull_without_fetch_is_noted() {
    let (allowed, text) = explained("--user dave fetch team/app");
    assert!(!allowed && text.starts_with("denied: dave may not fetch team/app\n"), "{text}");
    assert!(text.contains("note       what is in the cache already may be pulled"), "{text}");
    let (allowed, text) = explained("--user carol fetch team/app");
    assert!(!allowed && !text.contains("note"), "{text}");
    let (allowed, text) = explained("--user dave catalog");
    assert!(allowed && text.starts_with("allowed: dave may list the catalog\n"), "{text}");
}

#[test]
fn push_without_pull_is_noted() {
    let (allowed, text) = explained("--user carol push docker.io/library/alpine");
    assert!(allowed);
    assert!(text.contains("note       without \"pull\" only HEAD is allowed there"), "{text}");
}

#[test]
fn a_client_of_one_upstream_is_a_stranger_elsewhere() {
    let (allowed, text) = explained("--user forward/own:builder-1 pull docker.io/a/b");
    assert!(!allowed && text.contains("stranger"), "{text}");
}

#[test]
fn secrets_are_not_shown() {
    assert!(!explained("--user builder-7 pull docker.io/alpine").1.contains("hidden-word"));
}

#[test]
fn a_robot_is_explained_by_its_whole_name() {
    let (allowed, text) = explained("--user robot:bob push docker.io/library/alpine");
    assert!(
        !allowed && text.starts_with("denied: robot:bob may not push docker.io/library/alpine"),
        "{text}"
    );
    assert!(text.contains("would allow it to bob, carol"), "no rule denies it as bob: {text}");
}
