//! The table of decisions.

use crate::authz::tests::case::{Asked, Decision, WrittenGrant, WrittenRule, WrittenRules, WrittenSubject};
use crate::authz::tests::naive;

const TABLE: &str = include_str!("decisions.txt");

/// A row of the table.
struct Row {
    line: usize,
    subject: WrittenSubject,
    asked: Asked,
    answer: Decision,
}

#[test]
fn every_row_of_the_table_holds() {
    let (mut rows, mut wrong) = (0, Vec::new());
    for (rules, asked) in sets(TABLE) {
        let read = rules.read().unwrap();
        for row in asked {
            let found = row.asked.ask(&read, &row.subject.subject());
            let naive = naive::answer(&rules, &row.subject, &row.asked);
            if (found, naive) != (row.answer, row.answer) {
                wrong.push(format!("line {}: {found:?}, and plainly {naive:?}", row.line));
            }
            rows += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows >= 200, "{rows} rows were read");
}

/// Returns the sets of rules, each with its rows.
fn sets(table: &str) -> Vec<(WrittenRules, Vec<Row>)> {
    let (mut groups, mut sets) = (Vec::new(), Vec::<(WrittenRules, Vec<Row>)>::new());
    let lines = (1..).zip(table.lines()).filter(|(_, text)| !text.is_empty() && !text.starts_with('#'));
    for (line, text) in lines {
        if let Some(group) = text.strip_prefix("group ") {
            let (name, members) = group.split_once('=').unwrap();
            groups.push((name.trim().to_owned(), list(members.trim(), ", ")));
        } else if text.starts_with("rules ") {
            sets.push((WrittenRules { groups: groups.clone(), rules: Vec::new() }, Vec::new()));
        } else {
            let (rules, rows) = sets.last_mut().unwrap();
            match text.strip_prefix("  ") {
                Some(rule) => rules.rules.push(written_rule(rule)),
                None => rows.push(row(line, text)),
            }
        }
    }
    sets
}

fn list(text: &str, divider: &str) -> Vec<String> {
    text.split(divider).map(str::to_owned).collect()
}

fn written_rule(text: &str) -> WrittenRule {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (effect, who, actions, repositories) = (words[0], words[1], words[2], words[3]);
    let networks = match &words[4..] {
        [] => Vec::new(),
        ["from", networks] => list(networks, ","),
        _ => panic!("{text}"),
    };
    assert!(["allow", "deny"].contains(&effect), "{text}");
    let (groups, users): (Vec<_>, Vec<_>) = who.split(',').partition(|name| name.starts_with('@'));
    WrittenRule {
        allows: effect == "allow",
        users: users.into_iter().map(str::to_owned).collect(),
        groups: groups.into_iter().map(|name| name[1..].to_owned()).collect(),
        networks,
        repositories: list(repositories, ","),
        actions: list(actions, ","),
    }
}

fn row(line: usize, text: &str) -> Row {
    let (subject, rest) = text.split_once(" : ").unwrap_or_else(|| panic!("line {line}"));
    let (asked, answer) = rest.rsplit_once(" = ").unwrap_or_else(|| panic!("line {line}"));
    let asked: Vec<&str> = asked.split_whitespace().collect();
    let asked = match asked[..] {
        ["come"] => Asked::Come,
        ["pull", repository] => Asked::Pull(repository.to_owned()),
        ["head", repository] => Asked::Head(repository.to_owned()),
        ["push", repository] => Asked::Push(repository.to_owned()),
        ["delete", repository] => Asked::Delete(repository.to_owned()),
        ["catalog"] => Asked::Catalog,
        ["list", repository] => Asked::List(repository.to_owned()),
        ["mount", from, "into", into] => Asked::Mount { from: from.to_owned(), into: into.to_owned() },
        _ => panic!("line {line}: no question"),
    };
    let answer = match answer.trim() {
        "yes" => Decision::Yes,
        "held" => Decision::Held,
        "no" => Decision::No,
        "token" => Decision::Token,
        _ => panic!("line {line}: no answer"),
    };
    Row { line, subject: subject_of(subject.trim()), asked, answer }
}

/// Reads a subject: a name, which may have spaces, and what is told of it.
fn subject_of(text: &str) -> WrittenSubject {
    let (text, minted) = cut(text, " minted ");
    let (text, token) = cut(text, " token ");
    let (text, address) = cut(text, " from ");
    let (name, groups) = cut(text, " in ");
    WrittenSubject {
        name: name.to_owned(),
        groups: groups.map(|groups| list(groups, ",")).unwrap_or_default(),
        address: address.map(str::to_owned),
        token: token.map(grants),
        minted: minted.map(grants),
    }
}

fn cut<'a>(text: &'a str, word: &str) -> (&'a str, Option<&'a str>) {
    text.split_once(word).map_or((text, None), |(before, behind)| (before.trim(), Some(behind.trim())))
}

fn grants(text: &str) -> Vec<WrittenGrant> {
    let words = text.split_whitespace().filter(|word| *word != "-");
    let grant = |word: &str| {
        let (name, actions) = word.split_once(':').unwrap_or((word, ""));
        (name.to_owned(), list(actions, ","))
    };
    words.map(grant).collect()
}
