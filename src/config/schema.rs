//! Which keys there are, and what kind each is.

use crate::config::context::Context;
use crate::config::tree::{Node, Table, Value};

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// The kind of a key's value.
#[derive(Debug)]
pub(super) enum Kind {
    Text,
    /// A list of strings.
    Texts,
    /// A string or a list of strings.
    OneOrMore,
    Flag,
    Number,
    Table(&'static [Key]),
    Tables(&'static [Key]),
    /// A table whose keys are names of the operator's own, each of this kind.
    Lists(&'static Self),
    /// A table that asks for something by being there, whatever is in it.
    Switch(&'static [Key]),
    /// A word, or a table in its place.
    TextOrTable(&'static [Key]),
}

/// Makes the constants of the sections short.
pub(super) const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

pub(super) fn find<'a>(keys: &'a [Key], name: &str) -> Option<&'a Key> {
    keys.iter().find(|key| key.name == name)
}

/// Reports every key that is unknown, not available or of the wrong kind, and takes it out, so that what is left
/// can be read without looking at kinds again.
pub(super) fn check(table: &mut Table, keys: &[Key], path: &str, context: &Context) {
    table.retain(|name, node| check_field(name, node, keys, path, context));
}

/// Returns the path of a key below `path`.
pub(super) fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Returns true if the field stays.
fn check_field(name: &str, node: &mut Node, keys: &[Key], path: &str, context: &Context) -> bool {
    let path = below(path, name);
    let Some(key) = find(keys, name) else {
        context.mistake(&node.place, &path, unknown(name, keys));
        return false;
    };
    check_kind(node, &key.kind, &path, context);
    true
}

fn check_kind(node: &mut Node, kind: &Kind, path: &str, context: &Context) {
    match (kind, &mut node.value) {
        (_, Value::Broken)
        | (Kind::Text | Kind::OneOrMore | Kind::TextOrTable(_), Value::Text(_))
        | (Kind::Flag, Value::Flag(_))
        | (Kind::Number, Value::Number(_)) => {}
        (Kind::Table(keys) | Kind::Switch(keys) | Kind::TextOrTable(keys), Value::Table(table)) => {
            check(table, keys, path, context);
        }
        (Kind::Tables(_) | Kind::Texts | Kind::OneOrMore, Value::List(items)) => {
            check_items(items, kind, path, context);
        }
        (Kind::Lists(kind), Value::Table(table)) => {
            for (name, node) in table {
                check_kind(node, kind, &below(path, name), context);
            }
        }
        (kind, value) => {
            let text = format!("this is {}; write {}", value.kind(), kind.example());
            context.mistake(&node.place, path, text);
            node.value = Value::Broken;
        }
    }
}

fn check_items(items: &mut [Node], kind: &Kind, path: &str, context: &Context) {
    for (i, item) in items.iter_mut().enumerate() {
        let path = format!("{path}[{i}]");
        match kind {
            Kind::Tables(keys) => check_kind(item, &Kind::Table(keys), &path, context),
            _ => check_kind(item, &Kind::Text, &path, context),
        }
    }
}

fn unknown(name: &str, keys: &[Key]) -> String {
    let known = nearest(name, keys.iter().map(|key| key.name)).unwrap_or_default();
    format!("unknown key; the nearest is \"{known}\"")
}

/// Returns the candidate at the least edit distance; the first of several.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates.min_by_key(|candidate| strsim::levenshtein(word, candidate))
}

impl Kind {
    fn example(&self) -> &'static str {
        match self {
            Self::Text => "a string in quotes",
            Self::Texts => "a list of strings, for example [\"a\", \"b\"]",
            Self::OneOrMore => "a string in quotes, or a list of them",
            Self::Flag => "true or false",
            Self::Number => "a whole number",
            Self::Table(_) | Self::Switch(_) | Self::Lists(_) => "it as a [table]",
            Self::TextOrTable(_) => "a string in quotes, or a [table]",
            Self::Tables(_) => "it as [[tables]] in double brackets",
        }
    }
}
