//! Which keys there are, what kind each is, and which are not available in this version.

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
    /// A table of lists of strings, whose keys are names of the operator's own.
    Lists,
    /// A table that asks for something by being there, whatever is in it.
    Switch(&'static [Key]),
    /// Documented, but not available in this version: refused by name, unless it says what is so anyway.
    Later(&'static [Plain]),
}

/// A value that a key of a later version may have, since it asks for nothing.
#[derive(Debug)]
pub(super) enum Plain {
    Text(&'static str),
    NoItems,
}

/// The empty string: what most keys of later versions may be.
pub(super) const EMPTY_TEXT: &[Plain] = &[Plain::Text("")];
/// The empty list.
pub(super) const NO_ITEMS: &[Plain] = &[Plain::NoItems];

/// Makes the constants of the sections short.
pub(super) const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

pub(super) fn find<'a>(keys: &'a [Key], name: &str) -> Option<&'a Key> {
    keys.iter().find(|key| key.name == name)
}

/// Returns the keys that this version has.
pub(super) fn available(keys: &[Key]) -> impl Iterator<Item = &Key> {
    keys.iter().filter(|key| !matches!(key.kind, Kind::Later(_)))
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
    if let Kind::Later(plain) = key.kind {
        if !plain.iter().any(|plain| plain.is(&node.value)) {
            context.mistake(&node.place, &path, unavailable(name));
        }
        return false;
    }
    check_kind(node, &key.kind, &path, context);
    true
}

fn check_kind(node: &mut Node, kind: &Kind, path: &str, context: &Context) {
    match (kind, &mut node.value) {
        (_, Value::Broken)
        | (Kind::Text | Kind::OneOrMore, Value::Text(_))
        | (Kind::Flag, Value::Flag(_))
        | (Kind::Number, Value::Number(_)) => {}
        (Kind::Table(keys) | Kind::Switch(keys), Value::Table(table)) => check(table, keys, path, context),
        (Kind::Tables(_) | Kind::Texts | Kind::OneOrMore, Value::List(items)) => {
            check_items(items, kind, path, context);
        }
        (Kind::Lists, Value::Table(table)) => {
            for (name, node) in table {
                check_kind(node, &Kind::Texts, &below(path, name), context);
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

/// Returns the message for a key, or variable, of a later version.
pub(super) fn unavailable(name: &str) -> String {
    format!("\"{name}\" is not available in this version; remove it")
}

fn unknown(name: &str, keys: &[Key]) -> String {
    let known = nearest(name, available(keys).map(|key| key.name)).unwrap_or_default();
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
            Self::Table(_) | Self::Switch(_) | Self::Lists => "it as a [table]",
            Self::Tables(_) => "it as [[tables]] in double brackets",
            Self::Later(_) => "nothing",
        }
    }
}

impl Plain {
    fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(plain), Value::Text(text)) => text.written == *plain,
            (Self::NoItems, Value::List(items)) => items.is_empty(),
            _ => false,
        }
    }
}
