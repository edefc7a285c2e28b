//! A second evaluator, written as plainly as the documentation says it, over texts alone. It shares no code with the first.

use std::net::IpAddr;

use crate::authz::tests::case::{Asked, Decision, WrittenGrant, WrittenRule, WrittenRules, WrittenSubject};

/// Answers a question.
pub(super) fn answer(rules: &WrittenRules, subject: &WrittenSubject, asked: &Asked) -> Decision {
    let may = |action: &str, repository: &str| {
        first(rules, subject, action, repository) && is_minted(subject, action, repository)
    };
    let granted = |action: &str, repository: &str| is_granted(subject, action, repository);
    let simple = |action: &str, repository: &str| match (may(action, repository), granted(action, repository))
    {
        (false, _) => Decision::No,
        (true, false) => Decision::Token,
        (true, true) => Decision::Yes,
    };
    let pull = |repository: &str| match simple("pull", repository) {
        Decision::Yes if !first(rules, subject, "fetch", repository) => Decision::Held,
        decision => decision,
    };
    match asked {
        // "/v2/ itself is 401 as soon as any login exists", and an anonymous token comes of one that was asked for.
        Asked::Come if subject.name == "anonymous" && subject.token.is_none() => Decision::No,
        Asked::Come => Decision::Yes,
        Asked::Pull(repository) => pull(repository),
        // "push without pull: HEAD of blobs and manifests in that repository is allowed", and upstream is asked.
        Asked::Head(repository) => match (simple("push", repository), pull(repository)) {
            (Decision::Yes, _) | (Decision::Token, Decision::Held) => Decision::Yes,
            (_, decision @ (Decision::Yes | Decision::Held)) => decision,
            (Decision::Token, _) | (_, Decision::Token) => Decision::Token,
            _ => Decision::No,
        },
        Asked::Push(repository) => simple("push", repository),
        Asked::Delete(repository) => simple("delete", repository),
        Asked::Catalog => simple("catalog", ""),
        // "The catalog is filtered to what one may pull."
        Asked::List(repository) => yes(simple("catalog", "") == Decision::Yes && may("pull", repository)),
        // "Mount needs pull on the source."
        Asked::Mount { from, into } => {
            yes(simple("push", into) == Decision::Yes && simple("pull", from) == Decision::Yes)
        }
    }
}

fn yes(allowed: bool) -> Decision {
    if allowed { Decision::Yes } else { Decision::No }
}

/// Returns the decision of the first rule that matches; none matching: denied.
pub(super) fn first(rules: &WrittenRules, subject: &WrittenSubject, action: &str, repository: &str) -> bool {
    first_number(rules, subject, action, repository).is_some_and(|number| rules.rules[number].allows)
}

/// Returns the number of the first rule that matches.
pub(super) fn first_number(
    rules: &WrittenRules,
    subject: &WrittenSubject,
    action: &str,
    repository: &str,
) -> Option<usize> {
    for (number, rule) in rules.rules.iter().enumerate() {
        if is_who(rules, rule, subject)
            && is_what(rule, action)
            && is_where(rule, subject, action, repository)
        {
            return Some(number);
        }
    }
    None
}

fn is_who(rules: &WrittenRules, rule: &WrittenRule, subject: &WrittenSubject) -> bool {
    let mut is = false;
    for user in &rule.users {
        // A rule that allows anonymous clients allows every client.
        is |= user == "anonymous" && (rule.allows || subject.name == "anonymous");
        is |= is_user(user, &subject.name);
    }
    for group in &rule.groups {
        is |= subject.groups.contains(group);
        for (name, members) in &rules.groups {
            is |= name == group && members.iter().any(|member| is_user(member, &subject.name));
        }
    }
    is && (rule.networks.is_empty() || rule.networks.iter().any(|network| is_in(network, subject)))
}

fn is_user(pattern: &str, name: &str) -> bool {
    if name == "anonymous" {
        return false;
    }
    pattern == "*" || glob(&characters(pattern), &characters(name), ":/")
}

fn is_in(network: &str, subject: &WrittenSubject) -> bool {
    let Some(address) = &subject.address else { return false };
    let (base, length) = match network.split_once('/') {
        Some((base, length)) => (bits(base), Some(length.parse::<usize>().unwrap())),
        None => (bits(network), None),
    };
    let mapped = network.contains(':') && base.len() == 32;
    let length = length.map_or(base.len(), |length| if mapped { length - 96 } else { length });
    let address = bits(address);
    address.len() == base.len() && address[..length] == base[..length]
}

/// Returns an address as a text of bits: 32, also of IPv4 addresses mapped to IPv6, or 128.
fn bits(address: &str) -> String {
    match address.parse().unwrap() {
        IpAddr::V4(four) => format!("{:032b}", u32::from(four)),
        IpAddr::V6(six) => {
            let all = format!("{:0128b}", u128::from(six));
            let mapped = format!("{}{}", "0".repeat(80), "1".repeat(16));
            all.strip_prefix(&mapped).map(str::to_owned).unwrap_or(all)
        }
    }
}

fn is_what(rule: &WrittenRule, action: &str) -> bool {
    let has = |action: &str| rule.actions.iter().any(|own| own == action);
    // "fetch (implied by pull unless denied)"
    has("*") || has(action) || action == "fetch" && has("pull")
}

fn is_where(rule: &WrittenRule, subject: &WrittenSubject, action: &str, repository: &str) -> bool {
    if action == "catalog" {
        // The catalog is one list: to deny some repositories does not deny the list.
        return rule.allows || rule.repositories.iter().any(|pattern| pattern == "**");
    }
    rule.repositories.iter().any(|pattern| is_repository(pattern, repository, &subject.name))
}

fn is_repository(pattern: &str, repository: &str, user: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let repository: Vec<&str> = repository.split('/').collect();
    path(&pattern, &repository, user)
}

fn path(pattern: &[&str], repository: &[&str], user: &str) -> bool {
    match pattern {
        [] => repository.is_empty(),
        // "team/**" is what is below "team".
        ["**"] => !repository.is_empty(),
        ["**", rest @ ..] => (0..=repository.len()).any(|taken| path(rest, &repository[taken..], user)),
        [one, rest @ ..] => {
            let Some((component, others)) = repository.split_first() else { return false };
            let fits = match *one {
                "{user}" => user != "anonymous" && *component == user,
                one => glob(&characters(one), &characters(component), ""),
            };
            fits && path(rest, others, user)
        }
    }
}

fn characters(text: &str) -> Vec<char> {
    text.chars().collect()
}

/// Returns true if a pattern is a text, where `*` is any run of characters and `?` is one, but for those that divide names.
fn glob(pattern: &[char], text: &[char], dividers: &str) -> bool {
    let passes = |character: char| !dividers.contains(character);
    match (pattern, text) {
        ([], []) => true,
        (['*', rest @ ..], _) if glob(rest, text, dividers) => true,
        (['*', ..], [character, others @ ..]) => passes(*character) && glob(pattern, others, dividers),
        (['?', rest @ ..], [character, others @ ..]) => passes(*character) && glob(rest, others, dividers),
        ([own, rest @ ..], [character, others @ ..]) => own == character && glob(rest, others, dividers),
        _ => false,
    }
}

/// Returns true if a token, where there is one, says so in so many words.
fn is_granted(subject: &WrittenSubject, action: &str, repository: &str) -> bool {
    let Some(grants) = &subject.token else { return true };
    grants.iter().any(|grant| is_grant(grant, action, |name| name == repository))
}

/// Returns true if a robot, where it is one, was minted for it.
fn is_minted(subject: &WrittenSubject, action: &str, repository: &str) -> bool {
    let Some(grants) = &subject.minted else { return true };
    grants.iter().any(|grant| is_grant(grant, action, |name| is_repository(name, repository, "")))
}

fn is_grant((name, actions): &WrittenGrant, action: &str, is: impl Fn(&str) -> bool) -> bool {
    if action == "catalog" || name == "catalog" {
        return action == name;
    }
    is(name) && actions.iter().any(|own| own == action || own == "*")
}
