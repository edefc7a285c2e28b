//! Tests of rules that deny, and of the right to fetch.

use crate::config::access::Effect;
use crate::config::tests::*;

const CACHED: &str = "[upstream.cache]\n";

/// Returns a rule, as it is written.
fn rule(effect: &str, users: &str, repositories: &str, actions: &str) -> String {
    format!(
        "[[access]]\nusers = [{users}]\nrepositories = [{repositories}]\nactions = [{actions}]\neffect = '{effect}'\n"
    )
}

fn rules(text: &str) -> Vec<AccessRule> {
    read(&format!("{text}{REST}")).unwrap().access
}

#[test]
fn a_rule_allows_unless_it_says_that_it_denies() {
    let allow = rule("allow", "'*'", "'**'", "'pull'");
    let silent = allow.replace("effect = 'allow'\n", "");
    let rules = rules(&format!("{}{allow}{silent}", rule("deny", "'bob'", "'secret/**'", "'*'")));
    let effects: Vec<Effect> = rules.iter().map(|rule| rule.effect).collect();
    assert_eq!(effects, [Effect::Deny, Effect::Allow, Effect::Allow]);
    assert_eq!(rules[0].to_string(), "bob: pull, push, delete, catalog in secret/**");
}

#[test]
fn to_fetch_is_an_action_that_pull_implies() {
    let actions = |written: &str| {
        rules(&format!("{}{}", rule("allow", "'*'", "'a'", "'push'"), rule("allow", "'*'", "'**'", written)))
            [1]
        .actions
    };
    let (fetch, pull, both) = (actions("'fetch'"), actions("'pull'"), actions("'pull', 'fetch'"));
    assert!(fetch.decide_fetch() && !fetch.pull && pull.decide_fetch() && !pull.fetch);
    assert!(!actions("'push'").decide_fetch() && actions("'*'").fetch);
    assert_eq!([fetch, pull, both].map(|actions| actions.to_string()), ["fetch", "pull", "pull"]);
}

const NOTHING: &str = "dockgate.toml:1: access: by these rules no client may do anything: what no rule allows is denied; write \
                      one with `effect = \"allow\"`, in front of those that deny the same";

#[test]
fn rules_that_allow_nothing_are_refused() {
    let allow = |users: &str, actions: &str| rule("allow", users, "'a/**'", actions);
    let deny = |users: &str, repositories: &str, actions: &str| rule("deny", users, repositories, actions);
    for text in [
        deny("'*'", "'**'", "'*'"),
        allow("'*'", "'fetch'"),
        format!("{}{}", deny("'*'", "'**'", "'*'"), allow("'alice', '*'", "'pull'")),
        format!("{}{}", deny("'*'", "'a/**'", "'pull', 'push'"), allow("'*'", "'pull'")),
        format!("{}{}", deny("'al*'", "'**'", "'pull'"), allow("'al*'", "'pull', 'fetch'")),
        [deny("'*'", "'**'", "'pull'"), deny("'*'", "'**'", "'push'"), allow("'a'", "'pull', 'push'")]
            .concat(),
    ] {
        assert_eq!(refusal(&format!("{text}{REST}")), [NOTHING], "{text}");
    }
    for text in [
        format!("{}{}", allow("'*'", "'pull'"), deny("'*'", "'**'", "'*'")),
        format!("{}{}", deny("'alice'", "'**'", "'*'"), allow("'*'", "'pull'")),
        format!("{}{}", deny("'*'", "'a/b'", "'*'"), allow("'*'", "'pull'")),
        format!("{}{}", deny("'*'", "'**'", "'push'"), allow("'*'", "'*'")),
        format!("{}{}", deny("'*'", "'**'", "'fetch'"), allow("'*'", "'pull'")),
    ] {
        assert_eq!(refusal(&format!("{text}{REST}")), [""; 0], "{text}");
    }
}

#[test]
fn a_denial_for_anonymous_leaves_logged_in_users() {
    let deny = rule("deny", "'anonymous'", "'**'", "'*'");
    let text = format!("{deny}{}", rule("allow", "'anonymous'", "'a'", "'pull'"));
    let hub = "[[upstream]]\nname = 'docker.io'\n";
    assert_eq!(refusal(&format!("auth.challenge = 'basic'\n{text}{REST}")), [""; 0]);
    assert_eq!(refusal(&format!("{text}{hub}")), [NOTHING]);
    let all = text.replacen("'anonymous'", "'anonymous', '*'", 1);
    assert_eq!(refusal(&format!("{all}{hub}")), [NOTHING]);
    let denied = format!("{deny}{hub}");
    let lines = refusal(&denied);
    assert!(
        lines.len() == 1 && lines[0].contains("auth: no user can log in, and no rule is for"),
        "{lines:?}"
    );
}

#[test]
fn a_denial_for_anonymous_asks_for_no_tokens() {
    let text =
        format!("{}{}", rule("deny", "'anonymous'", "'**'", "'*'"), rule("allow", "'*'", "'**'", "'pull'"));
    let bearer = |text: &str| read(&format!("{text}{REST}")).unwrap().auth.bearer;
    assert!(!bearer(&text) && bearer(&text.replace("deny", "allow")));
}

#[test]
fn the_catalog_is_denied_whole_or_not_at_all() {
    let after = rule("allow", "'*'", "'**'", "'*'");
    let text = |repositories: &str, actions: &str| {
        format!("{}{after}{REST}", rule("deny", "'bob'", repositories, actions))
    };
    assert_eq!(
        refusal(&text("'secret/**'", "'pull', 'catalog'")),
        [concat!(
            "dockgate.toml:4: access[0].actions: the catalog cannot be denied for some repositories; deny \"pull\", and ",
            "they are not listed, or write `repositories = [\"**\"]`"
        )]
    );
    for (repositories, actions, covers) in
        [("'secret/**'", "'*'", false), ("'**'", "'catalog'", true), ("'a', '**'", "'*'", true)]
    {
        let rules = read(&text(repositories, actions)).unwrap().access;
        assert_eq!((rules[0].covers_catalog(), rules[1].covers_catalog()), (covers, true), "{repositories}");
    }
}

#[test]
fn a_right_to_fetch_without_a_cache_is_warned_about() {
    let text =
        format!("{}{}", rule("deny", "'bob'", "'**'", "'fetch'"), rule("allow", "'*'", "'**'", "'pull'"));
    let warnings = |keys: &str| read(&format!("{text}{REST}{keys}")).unwrap().warnings;
    assert_eq!(warnings(""), ["dockgate.toml:4: \"fetch\" has no meaning without a cache"]);
    assert!(warnings(CACHED).is_empty());
}

#[test]
fn a_denied_fetch_at_an_uncached_upstream_is_warned_about() {
    let hub = "[[upstream]]\nname = 'docker.io'\n[upstream.cache]\n";
    let warnings = |effect: &str, repositories: &str, actions: &str| {
        let rules = format!(
            "{}{}",
            rule(effect, "'bob'", repositories, actions),
            rule("allow", "'*'", "'**'", "'*'")
        );
        read(&format!("{rules}{REST}name = 'internal'\n{hub}")).unwrap().warnings
    };
    let text = "dockgate.toml:4: this denies nothing at internal, without a cache: every pull fetches there; deny \"pull\"";
    for (repositories, actions) in
        [("'**'", "'fetch'"), ("'team/**'", "'fetch'"), ("'docker.io/**', 'a'", "'push', 'fetch'")]
    {
        assert_eq!(warnings("deny", repositories, actions), [text], "{repositories} {actions}");
    }
    for (effect, repositories, actions) in [
        ("deny", "'docker.io/**'", "'fetch'"),
        ("deny", "'**'", "'pull', 'fetch'"),
        ("deny", "'**'", "'*'"),
        ("allow", "'**'", "'fetch', 'push'"),
    ] {
        assert!(warnings(effect, repositories, actions).is_empty(), "{effect} {repositories} {actions}");
    }
}

#[test]
fn a_platform_speaks_for_no_other_login() {
    let platform = |user: &str| {
        let keys = format!(
            "name = 'ci'\nissuer = 'https://ci.example'\naudience = 'dockgate'\nuser = '{user}'\nopen = true\n"
        );
        refusal(&format!("[[auth.oidc]]\n{keys}{}{REST}", rule("allow", "'*'", "'**'", "'pull'")))
    };
    for word in ["robot", "cn", "dns", "uri", "email", "forward"] {
        let told = format!(
            "dockgate.toml:5: auth.oidc[0].user: begins as the names of other logins; write another word than \"{word}\""
        );
        assert_eq!(platform(&format!("{word}:{{sub}}")), [told]);
    }
    assert_eq!(platform("robots:{sub}"), [""; 0]);
}
