//! Tests of what rules decide.

mod agreement;
mod case;
mod decisions;
mod naive;

use std::sync::Arc;

use crate::authz::*;
use crate::config::{Config, Environment};
use crate::proto::identity::{RobotName, UserName};
use crate::proto::{Digest, Grant, Page, Reference, UploadStart};

/// A rule as it is written: effect, users, repositories, actions.
type Written<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

fn rules(written: &[Written<'_>]) -> Rules {
    let rule = |(effect, users, repositories, actions): &Written<'_>| {
        format!(
            "[[access]]\neffect = {effect:?}\nusers = {users:?}\nrepositories = {repositories:?}\nactions = {actions:?}\n"
        )
    };
    let rest = "[auth]\nchallenge = 'basic'\nhtpasswd.path = 'h'\n[[upstream]]\nname = 'docker.io'\n[upstream.cache]\n";
    let text: String = written.iter().map(rule).chain([rest.to_owned()]).collect();
    let config =
        Config::from_toml(&text, "d.toml", std::path::Path::new("/"), &Environment::default()).unwrap();
    Rules::new(config.access, true)
}

fn user(name: &str) -> Identity {
    Identity::User(UserName::parse(name).unwrap())
}

fn name(written: &str) -> RepositoryName {
    written.parse().unwrap()
}

fn get(repository: &str) -> Operation {
    Operation::GetManifest {
        repository: name(repository),
        reference: Reference::parse("latest").unwrap(),
        head: false,
    }
}

fn head(repository: &str) -> Operation {
    let digest = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    Operation::GetBlob { repository: name(repository), digest, head: true }
}

fn push(repository: &str) -> Operation {
    Operation::StartUpload { repository: name(repository), start: UploadStart::Session }
}

fn catalog() -> Operation {
    Operation::Catalog { page: Page::default() }
}

/// Returns true if it is allowed, and if so, whether it may fetch.
fn asks(rules: &Rules, who: &Identity, operation: &Operation) -> Option<bool> {
    rules.authorize(&Subject::from(who.clone()), operation).ok().map(|permit| permit.may_fetch())
}

const ALL: &[&str] = &["**"];

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = rules(&[
        ("allow", &["alice"], &["secret/plan"], &["pull"]),
        ("deny", &["*"], &["secret/**"], &["*"]),
        ("allow", &["*"], ALL, &["pull", "push"]),
    ]);
    let (alice, bob) = (user("alice"), user("bob"));
    assert_eq!(asks(&rules, &alice, &get("secret/plan")), Some(true));
    assert_eq!(asks(&rules, &alice, &get("secret/other")), None);
    assert_eq!(asks(&rules, &alice, &push("secret/plan")), None);
    assert_eq!(asks(&rules, &bob, &get("secret/plan")), None);
    assert_eq!(asks(&rules, &bob, &get("public/plan")), Some(true));
    assert_eq!(asks(&rules, &Identity::Anonymous, &get("public/plan")), None);
    let denied = rules.authorize(&Subject::from(bob.clone()), &get("secret/plan")).unwrap_err();
    assert_eq!(
        denied,
        Denied { repository: Some(name("secret/plan")), action: Some(Action::Pull), by: Side::Rules }
    );
}

#[test]
fn a_rule_that_denies_says_nothing_of_other_actions_users_or_repositories() {
    let rules = rules(&[("deny", &["bob"], &["a/**"], &["push"]), ("allow", &["*"], ALL, &["*"])]);
    assert_eq!(asks(&rules, &user("bob"), &get("a/b")), Some(true));
    assert_eq!(asks(&rules, &user("bob"), &push("b/b")), Some(true));
    assert_eq!(asks(&rules, &user("alice"), &push("a/b")), Some(true));
    assert_eq!(asks(&rules, &user("bob"), &push("a/b")), None);
}

#[test]
fn a_right_to_pull_is_one_to_fetch_unless_that_is_denied_before() {
    let allow: Written<'_> = ("allow", &["*"], ALL, &["pull"]);
    let deny: Written<'_> = ("deny", &["bob"], &["hub/**"], &["fetch"]);
    let bob = user("bob");
    assert_eq!(asks(&rules(&[allow]), &bob, &get("hub/a")), Some(true));
    let first = rules(&[deny, allow]);
    assert_eq!(asks(&first, &bob, &get("hub/a")), Some(false));
    assert_eq!(asks(&first, &bob, &head("hub/a")), Some(false));
    assert_eq!(asks(&first, &bob, &get("other/a")), Some(true));
    assert_eq!(asks(&first, &user("alice"), &get("hub/a")), Some(true));
    assert_eq!(
        asks(&rules(&[allow, deny]), &bob, &get("hub/a")),
        Some(true),
        "the first that matches decides"
    );
    let before = rules(&[("allow", &["bob"], &["hub/a"], &["fetch"]), deny, allow]);
    assert_eq!(asks(&before, &bob, &get("hub/a")), Some(true));
    assert_eq!(asks(&before, &bob, &get("hub/b")), Some(false));
}

#[test]
fn a_right_to_fetch_is_none_to_pull() {
    let rules = rules(&[("allow", &["bob"], ALL, &["fetch"]), ("allow", &["alice"], ALL, &["*"])]);
    assert_eq!(asks(&rules, &user("bob"), &get("a")), None);
    assert_eq!(asks(&rules, &user("bob"), &head("a")), None);
    assert_eq!(asks(&rules, &user("alice"), &get("a")), Some(true));
}

#[test]
fn a_denial_for_anonymous_spares_logged_in_users() {
    let rules = rules(&[
        ("deny", &["anonymous"], ALL, &["fetch"]),
        ("allow", &["anonymous"], &["hub/**"], &["pull"]),
    ]);
    assert_eq!(asks(&rules, &Identity::Anonymous, &get("hub/a")), Some(false));
    assert_eq!(asks(&rules, &user("bob"), &get("hub/a")), Some(true));
    assert_eq!(asks(&rules, &user("bob"), &get("other/a")), None);
}

#[test]
fn a_denial_for_logged_in_users_spares_anonymous() {
    let rules = rules(&[("deny", &["*"], ALL, &["push"]), ("allow", &["anonymous"], ALL, &["*"])]);
    assert_eq!(asks(&rules, &Identity::Anonymous, &push("a")), Some(true));
    assert_eq!(asks(&rules, &user("bob"), &push("a")), None);
    assert_eq!(asks(&rules, &user("bob"), &get("a")), Some(true));
}

#[test]
fn a_user_who_may_push_may_always_use_head() {
    let without = rules(&[("allow", &["bob"], ALL, &["push"])]);
    let denied = rules(&[("deny", &["*"], ALL, &["pull"]), ("allow", &["bob"], ALL, &["*"])]);
    for rules in [without, denied] {
        assert_eq!(asks(&rules, &user("bob"), &head("a")), Some(true));
        assert_eq!(asks(&rules, &user("bob"), &get("a")), None);
        assert_eq!(asks(&rules, &user("bob"), &push("a")), Some(true));
        assert_eq!(asks(&rules, &user("alice"), &head("a")), None);
    }
    let no_fetch = rules(&[("deny", &["*"], ALL, &["fetch"]), ("allow", &["bob"], ALL, &["pull", "push"])]);
    assert_eq!(asks(&no_fetch, &user("bob"), &head("a")), Some(true), "before the upload");
    assert_eq!(asks(&no_fetch, &user("bob"), &get("a")), Some(false));
}

#[test]
fn head_is_denied_where_pushing_is_denied() {
    let rules = rules(&[("deny", &["bob"], &["a"], &["push"]), ("allow", &["bob"], ALL, &["push"])]);
    assert_eq!(asks(&rules, &user("bob"), &head("a")), None);
    assert_eq!(asks(&rules, &user("bob"), &head("b")), Some(true));
}

#[test]
fn what_is_denied_of_some_repositories_is_not_the_catalog_of_all() {
    let some = rules(&[("deny", &["*"], &["secret/**"], &["*"]), ("allow", &["*"], ALL, &["*"])]);
    let permit = some.authorize(&Subject::from(user("bob")), &catalog()).unwrap();
    assert!(some.may_list(&permit, &name("public/a")) && !some.may_list(&permit, &name("secret/a")));
    let all = rules(&[("deny", &["bob"], ALL, &["catalog"]), ("allow", &["*"], ALL, &["*"])]);
    assert_eq!(asks(&all, &user("bob"), &catalog()), None);
    assert_eq!(asks(&all, &user("alice"), &catalog()), Some(true));
}

#[test]
fn nothing_is_mounted_from_where_pulling_is_denied() {
    let rules = rules(&[("deny", &["bob"], &["secret/**"], &["pull"]), ("allow", &["bob"], ALL, &["*"])]);
    let permit = rules.authorize(&user("bob").into(), &push("mine")).unwrap();
    assert!(rules.may_mount(&permit, &name("public/a")) && !rules.may_mount(&permit, &name("secret/a")));
}

fn region<'a>(prefix: &'a str, others: &[&'a str]) -> Region<'a> {
    Region { prefix, others: others.to_vec() }
}

#[test]
fn a_region_is_seen_where_a_rule_may_allow_something() {
    let rules = rules(&[
        ("deny", &["alice"], &["hub/**"], &["pull"]),
        ("allow", &["alice"], &["**"], &["pull"]),
        ("allow", &["bob"], &["quay/team/**", "*/public"], &["pull"]),
        ("allow", &["bob"], &["hub/x"], &["push"]),
        ("allow", &["carol"], &["hub/**"], &["*"]),
    ]);
    let sees = |name, prefix, others: &[&str]| {
        rules.may_anywhere(&user(name).into(), &region(prefix, others), Action::Pull)
    };
    assert!(
        !sees("alice", "hub", &["quay"]) && sees("alice", "quay", &["hub"]) && sees("alice", "", &["hub"])
    );
    assert!(sees("bob", "quay", &[]) && sees("bob", "quay/team", &["quay"]) && sees("bob", "hub", &[]));
    assert!(!sees("bob", "hub/deeper", &[]));
    assert!(rules.may_anywhere(&user("bob").into(), &region("hub", &[]), Action::Push));
    assert!(!rules.may_anywhere(&user("bob").into(), &region("quay", &[]), Action::Push));
    // A rule for the repositories of another upstream does not show the one that takes all other names.
    assert!(!sees("carol", "", &["hub"]) && sees("carol", "", &["hub/sub"]) && !sees("dave", "hub", &[]));
}

#[test]
fn only_a_rule_for_everything_shows_all_repositories() {
    let rules = rules(&[
        ("allow", &["alice", "bob"], &["team/**"], &["pull"]),
        ("deny", &["bob"], &["secret/**"], &["pull"]),
        ("deny", &["alice"], &["**"], &["push"]),
        ("allow", &["alice", "bob"], &["**"], &["pull", "catalog"]),
        ("allow", &["carol"], &["*", "*/**"], &["pull", "catalog"]),
    ]);
    let sees_all = |name| rules.may_list_all(&rules.authorize(&user(name).into(), &catalog()).unwrap());
    assert!(sees_all("alice") && !sees_all("bob") && !sees_all("carol"));
}

/// Returns the rules of a configuration that has groups.
fn with_groups(rules: &str) -> Rules {
    let text = format!(
        "[auth]\nchallenge = 'basic'\nhtpasswd.path = 'h'\ngroups = {{ ci = ['builder-*', 'bob'] }}\n{rules}\
         [[upstream]]\nname = 'docker.io'\n[upstream.cache]\n"
    );
    let config =
        Config::from_toml(&text, "d.toml", std::path::Path::new("/"), &Environment::default()).unwrap();
    Rules::new(config.access, true)
}

#[test]
fn a_rule_for_a_group_is_for_its_members() {
    let rules = with_groups("[[access]]\ngroups = ['ci']\nrepositories = ['**']\nactions = ['pull']\n");
    assert_eq!(asks(&rules, &user("builder-1"), &get("a")), Some(true));
    assert_eq!(asks(&rules, &user("bob"), &get("a")), Some(true));
    assert_eq!(asks(&rules, &user("alice"), &get("a")), None);
    assert_eq!(asks(&rules, &Identity::Anonymous, &get("a")), None);
    let told = Subject { groups: vec!["ci".into()], ..Subject::from(user("alice")) };
    assert!(rules.authorize(&told, &get("a")).is_ok(), "its provider says so");
}

#[test]
fn a_rule_for_networks_is_for_their_addresses() {
    let rules = with_groups(
        "[[access]]\neffect = 'deny'\nusers = ['*']\nnetworks = ['10.9.0.0/16']\nrepositories = ['**']\n\
         actions = ['push']\n[[access]]\nusers = ['*']\nnetworks = ['10.0.0.0/8', '2001:db8::/32']\n\
         repositories = ['**']\nactions = ['*']\n",
    );
    let may = |address: &str, operation: &Operation| {
        let subject = Subject::at(user("alice"), address.parse().unwrap());
        rules.authorize(&subject, operation).is_ok()
    };
    for address in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"] {
        assert!(may(address, &push("a")) && may(address, &get("a")), "{address}");
    }
    assert!(
        !may("10.9.2.3", &push("a")) && !may("::ffff:10.9.2.3", &push("a")) && may("10.9.2.3", &get("a"))
    );
    for address in ["11.1.2.3", "192.0.2.1", "2001:db9::7", "::10.1.2.3"] {
        assert!(!may(address, &get("a")), "{address}");
    }
    assert_eq!(asks(&rules, &user("alice"), &get("a")), None, "an unknown address is in no network");
    let permit = rules.authorize(&Subject::at(user("alice"), [10, 1, 1, 1].into()), &push("a")).unwrap();
    assert!(rules.may_mount(&permit, &name("b")), "the address counts for a mount's source too");
}

#[test]
fn a_home_is_its_users_own() {
    let rules =
        with_groups("[[access]]\nusers = ['*']\nrepositories = ['home/{user}/**']\nactions = ['*']\n");
    for (who, repository, may) in [
        ("alice", "home/alice/app", true),
        ("alice", "home/bob/app", false),
        ("ali", "home/alice/app", false),
        ("alice", "home/alice", false),
        ("*", "home/alice/app", false),
    ] {
        let Ok(name) = UserName::parse(who) else { continue };
        assert_eq!(
            asks(&rules, &Identity::User(name), &push(repository)).is_some(),
            may,
            "{who} {repository}"
        );
    }
    assert_eq!(asks(&rules, &Identity::Anonymous, &get("home/anonymous/app")), None);
}

#[test]
fn a_token_grants_no_more_than_it_says() {
    let rules = rules(&[("allow", &["*"], ALL, &["*"])]);
    let access: Arc<[Grant]> = [Grant::repository("team/app", [Action::Push])].into();
    let subject = Subject { access: Some(access), ..Subject::from(user("alice")) };
    let side =
        |operation: &Operation| rules.authorize(&subject, operation).map(drop).map_err(|denied| denied.by);
    assert_eq!(side(&push("team/app")), Ok(()));
    assert_eq!(side(&get("team/app")), Err(Side::Token));
    assert_eq!(side(&push("team/app2")), Err(Side::Token));
    assert_eq!(side(&push("team")), Err(Side::Token));
    assert_eq!(side(&Operation::Version), Ok(()));
    assert_eq!(side(&catalog()), Err(Side::Token));
    let permit = rules.authorize(&subject, &push("team/app")).unwrap();
    assert!(!rules.may_mount(&permit, &name("team/app")), "the token does not let the source be pulled");
}

#[test]
fn a_robot_does_no_more_than_it_was_minted_for() {
    let all = rules(&[("allow", &["*"], ALL, &["*"])]);
    let limits = [Grant::repository("team/**", [Action::Pull])];
    let subject =
        |identity| Subject { limits: Some(Arc::new(Limits::of(&limits))), ..Subject::from(identity) };
    let robot = subject(Identity::Robot(RobotName::new("ci").unwrap()));
    let side = |rules: &Rules, operation: &Operation| {
        rules.authorize(&robot, operation).map(drop).map_err(|denied| denied.by)
    };
    assert_eq!(side(&all, &get("team/app")), Ok(()));
    for refused in [push("team/app"), get("other/app"), get("team"), catalog()] {
        assert_eq!(side(&all, &refused), Err(Side::Rules), "{refused:?}");
    }
    assert_eq!(side(&rules(&[("allow", &["alice"], ALL, &["*"])]), &get("team/app")), Err(Side::Rules));
    assert_eq!(side(&rules(&[("allow", &["robot:ci"], &["team/app"], &["pull"])]), &get("team/app")), Ok(()));
    assert_eq!(
        side(&rules(&[("allow", &["ci"], ALL, &["*"])]), &get("team/app")),
        Err(Side::Rules),
        "no user of htpasswd"
    );
}
