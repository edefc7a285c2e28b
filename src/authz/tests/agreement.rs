//! Random rules, subjects and questions, made so that they collide: the evaluator must agree with the naive one.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::authz::tests::case::{Asked, Decision, WrittenGrant, WrittenRule, WrittenRules, WrittenSubject};
use crate::authz::tests::naive;
use crate::authz::{Region, Rules, Subject, Wish};
use crate::config::AccessRule;
use crate::proto::{Action, RepositoryName};

const USERS: &[&str] = &[
    "*",
    "*",
    "anonymous",
    "a",
    "b",
    "a*",
    "?",
    "*b",
    "a?",
    "*é",
    "robot:a",
    "robot:*",
    "repo:x/*",
    "repo:x/a",
    "forward/hub:*",
    "forward/*:a",
];
const NAMES: &[&str] = &[
    "anonymous",
    "anonymous",
    "a",
    "a",
    "a",
    "b",
    "ab",
    "aé",
    "A",
    "a/b",
    "robot:a",
    "robot:ab",
    "repo:x/a",
    "repo:x/a/b",
    "dns:a",
    "forward/hub:a",
    "forward/hub2:a",
];
const NETWORKS: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "::ffff:10.1.0.0/112",
    "0.0.0.0/0",
    "::/0",
    "2001:db8::/32",
    "::1",
];
const ADDRESSES: &[&str] =
    &["10.1.2.3", "10.1.3.3", "10.2.0.1", "::ffff:10.1.2.3", "192.0.2.1", "2001:db8::1", "::1", "::10.1.2.3"];
const PATTERNS: &[&str] =
    &["a", "a", "b", "ab", "*", "*", "**", "**", "a*", "*b", "?", "{user}", "a*b", "a?b", "*-a*", "a.b"];
const COMPONENTS: &[&str] = &["a", "a", "b", "ab", "aab", "a.b", "b-a-b"];
const ACTIONS: &[&str] = &["pull", "push", "delete", "fetch", "catalog", "*"];
const GRANTED: &[&str] = &["pull", "push", "delete", "*"];
const GROUPS: &[&str] = &["one", "two"];

fn texts(of: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<String>> {
    vec(select(of), 0..=most).prop_map(|chosen| chosen.into_iter().map(str::to_owned).collect())
}

fn path(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(select(of), 1..=4).prop_map(|components| components.join("/"))
}

/// A pattern that begins as many others do.
fn shared_path() -> impl Strategy<Value = String> {
    let rest = prop_oneof![1 => Just("**".to_owned()), 2 => path(PATTERNS)];
    (select(&["a", "{user}", "{user}", "**"][..]), rest).prop_map(|(first, rest)| format!("{first}/{rest}"))
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    subsequence(of, 1..=of.len().min(3)).prop_map(|chosen| chosen.into_iter().map(str::to_owned).collect())
}

prop_compose! {
    fn rule()(
        allows in prop::bool::weighted(0.65),
        mut users in texts(USERS, 2),
        groups in texts(GROUPS, 1),
        networks in prop_oneof![3 => Just(Vec::new()), 1 => texts(NETWORKS, 2)],
        mut repositories in vec(
            prop_oneof![1 => Just("**".to_owned()), 3 => path(PATTERNS), 1 => shared_path()],
            1..=2,
        ),
        actions in some(ACTIONS),
    ) -> WrittenRule {
        if users.is_empty() && groups.is_empty() {
            users.push("*".to_owned());
        }
        // The list of all repositories cannot be denied for some.
        if !allows && actions.iter().any(|action| action == "catalog") {
            repositories.push("**".to_owned());
        }
        WrittenRule { allows, users, groups, networks, repositories, actions }
    }
}

/// The part by which a narrow rule differs from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Repositories,
    Users,
    Groups,
    Networks,
}

prop_compose! {
    /// A rule that is for few: of many such rules a late one may be the first that matches.
    fn narrow_rule()(
        part in select(&[Part::Repositories, Part::Repositories, Part::Users, Part::Groups, Part::Networks][..]),
        allows: bool,
        user in select(&USERS[3..]),
        group in select(GROUPS),
        network in select(&NETWORKS[1..4]),
        repositories in vec(shared_path(), 1..=2),
        action in select(&["pull", "push", "fetch"][..]),
    ) -> WrittenRule {
        let only = |wanted: Part, text: &str| if part == wanted { vec![text.to_owned()] } else { Vec::new() };
        let mut users = only(Part::Users, user);
        if matches!(part, Part::Repositories | Part::Networks) {
            users.push("*".to_owned());
        }
        WrittenRule {
            allows,
            users,
            groups: only(Part::Groups, group),
            networks: only(Part::Networks, network),
            repositories: if part == Part::Repositories { repositories } else { vec!["**".to_owned()] },
            actions: vec![action.to_owned()],
        }
    }
}

prop_compose! {
    fn rules()(
        members in vec(texts(&USERS[3..], 2), 2),
        mut rules in prop_oneof![4 => vec(rule(), 0..14), 1 => vec(prop_oneof![1 => rule(), 9 => narrow_rule()], 7..40)],
    ) -> WrittenRules {
        let groups = GROUPS.iter().map(|name| (*name).to_owned()).zip(members);
        let groups: Vec<_> = groups.filter(|(_, members)| !members.is_empty()).collect();
        for rule in &mut rules {
            rule.groups.retain(|own| groups.iter().any(|(name, _)| name == own));
            if rule.users.is_empty() && rule.groups.is_empty() {
                rule.users.push("*".to_owned());
            }
        }
        // A configuration without a rule by which any user may do something is refused. No question is about this one.
        let zed = |text: &str| vec![text.to_owned()];
        rules.insert(0, WrittenRule {
            allows: true,
            users: zed("zed"),
            groups: Vec::new(),
            networks: Vec::new(),
            repositories: zed("zed"),
            actions: zed("pull"),
        });
        WrittenRules { groups, rules }
    }
}

fn grants(names: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<WrittenGrant>> {
    let catalog = Just(("catalog".to_owned(), Vec::new()));
    vec(prop_oneof![6 => (names, some(GRANTED)), 1 => catalog], 0..3)
}

fn minted_pattern() -> impl Strategy<Value = String> {
    path(PATTERNS).prop_map(|pattern| pattern.replace("{user}", "*"))
}

prop_compose! {
    fn subject()(
        name in select(NAMES),
        mut groups in texts(GROUPS, 1),
        address in prop::option::of(select(ADDRESSES)),
        token in prop::option::weighted(0.3, grants(path(COMPONENTS))),
        minted in prop::option::weighted(0.5, grants(minted_pattern())),
    ) -> WrittenSubject {
        if name == "anonymous" {
            groups.clear();
        }
        let minted = minted.filter(|_| name.starts_with("robot:"));
        WrittenSubject { name: name.to_owned(), groups, address: address.map(str::to_owned), token, minted }
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let repository = || path(COMPONENTS);
    prop_oneof![
        1 => Just(Asked::Come),
        4 => repository().prop_map(Asked::Pull),
        3 => repository().prop_map(Asked::Head),
        3 => repository().prop_map(Asked::Push),
        2 => repository().prop_map(Asked::Delete),
        1 => Just(Asked::Catalog),
        2 => repository().prop_map(Asked::List),
        2 => (repository(), repository()).prop_map(|(from, into)| Asked::Mount { from, into }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn rules_agree_with_a_naive_evaluator(
        rules in rules(),
        subjects in vec(subject(), 1..4),
        questions in vec(asked(), 1..8),
    ) {
        let read = rules.read().map_err(|error| TestCaseError::fail(error.to_string()))?;
        for written in &subjects {
            let subject = written.subject();
            for asked in &questions {
                let decision = asked.ask(&read, &subject);
                prop_assert_eq!(decision, naive::answer(&rules, written, asked), "{:?} {:?}", written, asked);
                check_the_rest(&read, &subject, asked, decision)?;
            }
            check_explanations(&rules, &read, written, &questions)?;
        }
    }
}

/// Checks that a decision about many repositories at once holds for each.
fn check_the_rest(
    rules: &Rules,
    subject: &Subject,
    asked: &Asked,
    decision: Decision,
) -> Result<(), TestCaseError> {
    let operation = asked.operation();
    if let (Asked::List(repository), Ok(permit)) = (asked, rules.authorize(subject, &operation))
        && rules.may_list_all(&permit)
    {
        prop_assert_eq!(decision, Decision::Yes, "all are listed, but not {}", repository);
    }
    let (Some(repository), Some(action)) = (operation.repository(), operation.action()) else {
        return Ok(());
    };
    if rules.grant(subject, Some(repository), action) {
        for prefix in ["", repository.components().next().unwrap_or_default()] {
            let region = Region { prefix, others: Vec::new() };
            let inside = prefix.is_empty() || repository.as_str().len() > prefix.len();
            prop_assert!(
                !inside || rules.may_anywhere(subject, &region, action),
                "nowhere below {:?}",
                prefix
            );
        }
    }
    Ok(())
}

/// Checks that explanations decide as the rules do.
fn check_explanations(
    written: &WrittenRules,
    rules: &Rules,
    subject: &WrittenSubject,
    questions: &[Asked],
) -> Result<(), TestCaseError> {
    let asked = subject.subject();
    for repository in questions.iter().filter_map(|question| question.operation().repository().cloned()) {
        let wishes = [
            (Wish::Do(Action::Pull), "pull"),
            (Wish::Do(Action::Push), "push"),
            (Wish::Do(Action::Delete), "delete"),
            (Wish::Fetch, "fetch"),
        ];
        for (wish, action) in wishes {
            let explained = rules.explain(&asked, Some(&repository), wish);
            let may = |action| naive::first(written, subject, action, repository.as_str());
            let decides = if action == "fetch" && !may("pull") { "pull" } else { action };
            let decisive = naive::first_number(written, subject, decides, repository.as_str());
            let named = explained.rule.map(|rule| number_of(rules, rule));
            prop_assert_eq!(named, decisive, "{} {}", action, repository);
            prop_assert_eq!(explained.allowed, decisive.is_some_and(|number| written.rules[number].allows));
        }
    }
    let catalog = rules.explain(&asked, None::<&RepositoryName>, Wish::Do(Action::Catalog)).allowed;
    prop_assert_eq!(catalog, naive::first(written, subject, "catalog", ""));
    Ok(())
}

fn number_of(rules: &Rules, rule: &AccessRule) -> usize {
    rules.rules.iter().position(|own| std::ptr::eq(&own.written, rule)).unwrap()
}

/// A kind of rule that a faster evaluator may treat by itself.
type Kind = (&'static str, fn(&WrittenRule) -> bool);

const KINDS: &[Kind] = &[
    ("a plain first component", |rule| begins(rule, "a/")),
    ("{user} as the first component", |rule| begins(rule, "{user}/")),
    ("** in front", |rule| begins(rule, "**/")),
    ("several patterns", |rule| rule.repositories.len() > 1),
    ("users alone", |rule| {
        is_for_all(rule) && rule.networks.is_empty() && !rule.users.contains(&"*".to_owned())
    }),
    ("groups alone", |rule| is_for_all(rule) && rule.networks.is_empty() && rule.users.is_empty()),
    ("networks alone", |rule| is_for_all(rule) && rule.users == ["*"] && !rule.networks.is_empty()),
    ("anonymous clients", |rule| rule.users == ["anonymous"]),
];

fn begins(rule: &WrittenRule, start: &str) -> bool {
    rule.repositories.iter().any(|pattern| pattern.starts_with(start))
}

fn is_for_all(rule: &WrittenRule) -> bool {
    rule.repositories == ["**"]
}

#[test]
fn rules_of_each_kind_decide_some_questions() {
    let mut runner = TestRunner::deterministic();
    let (mut decisive, mut latest, mut of_anonymous) = (vec![0; KINDS.len()], 0, 0);
    for _ in 0..4000 {
        let drawn = (rules(), subject(), path(COMPONENTS)).new_tree(&mut runner).unwrap();
        let (rules, subject, repository) = drawn.current();
        let Some(number) = naive::first_number(&rules, &subject, "pull", &repository) else { continue };
        latest = latest.max(number);
        of_anonymous += usize::from(subject.name == "anonymous");
        for (count, (_, is)) in decisive.iter_mut().zip(KINDS) {
            *count += usize::from(is(&rules.rules[number]));
        }
    }
    for (count, (kind, _)) in decisive.iter().zip(KINDS) {
        assert!(*count >= 10, "{kind}: {count}");
    }
    assert!(
        latest >= 20 && of_anonymous >= 10,
        "the latest is rule {latest}, and {of_anonymous} are of anonymous clients"
    );
}
