//! Typed reading of a checked table. What is wrong goes to the context and the default comes back, so that reading
//! goes on to the next mistake.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::context::Context;
use crate::config::duration;
use crate::config::mistake::Place;
use crate::config::reference::Located;
use crate::config::schema::below;
use crate::config::tree::{EMPTY, Node, Table, Text, Value};
use crate::config::value_error::ValueError;

/// A table of the configuration, and the context to which mistakes are reported.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    table: &'a Table,
    place: Place,
    path: String,
    pub(super) context: &'a Context,
}

/// A string, with its place for reporting a mistake.
#[derive(Debug, Clone)]
pub(super) struct Item<'a> {
    text: &'a Text,
    place: &'a Place,
    path: String,
    context: &'a Context,
}

impl<'a> Reader<'a> {
    /// Returns the whole configuration.
    pub(super) fn root(table: &'a Table, context: &'a Context) -> Self {
        Self { table, place: context.whole(), path: String::new(), context }
    }

    /// Returns a table below this one; without keys where it is not written.
    pub(super) fn section(&self, name: &str) -> Self {
        self.optional(name).unwrap_or_else(|| Self {
            table: &EMPTY,
            place: self.context.whole(),
            path: below(&self.path, name),
            context: self.context,
        })
    }

    /// Returns a table below this one, where it is written.
    pub(super) fn optional(&self, name: &str) -> Option<Self> {
        self.table.get(name).and_then(|node| self.reader(node, below(&self.path, name)))
    }

    /// Returns the tables of an array.
    pub(super) fn tables(&self, name: &str) -> Vec<Self> {
        let path = below(&self.path, name);
        let items = self.nodes(name).iter().enumerate();
        items.filter_map(|(i, node)| self.reader(node, format!("{path}[{i}]"))).collect()
    }

    /// Returns true if the key is written, right or wrong.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Returns the keys that are written.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.table.keys().map(String::as_str)
    }

    /// Returns where the table is written.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns a string that is not empty, for keys that an empty one turns off.
    pub(super) fn text(&self, name: &str) -> Option<Item<'a>> {
        let node = self.table.get(name)?;
        self.item(node, below(&self.path, name)).filter(|item| !item.value().is_empty())
    }

    /// Reads a string that must be one of `choices`. `None` where it is not written.
    pub(super) fn choice(&self, name: &str, choices: &[&'static str]) -> Option<&'static str> {
        self.parsed(name, |value| {
            let known = choices.iter().find(|choice| **choice == value);
            known
                .copied()
                .ok_or_else(|| ValueError::Value(format!("is unknown; write {}", alternatives(choices))))
        })
    }

    /// Returns the strings of a list, or one string alone.
    pub(super) fn texts(&self, name: &str) -> Vec<Item<'a>> {
        let path = below(&self.path, name);
        match self.table.get(name) {
            Some(node @ Node { value: Value::Text(_), .. }) => self.item(node, path).into_iter().collect(),
            Some(_) => {
                let items = self.nodes(name).iter().enumerate();
                items.filter_map(|(i, node)| self.item(node, format!("{path}[{i}]"))).collect()
            }
            None => Vec::new(),
        }
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        match self.table.get(name) {
            Some(Node { value: Value::Flag(flag), .. }) => *flag,
            _ => default,
        }
    }

    /// Reads a number from `least` to `most`.
    pub(super) fn number(&self, name: &str, (least, most): (i64, i64), default: i64) -> i64 {
        match self.table.get(name) {
            Some(Node { value: Value::Number(number), .. }) if (least..=most).contains(number) => *number,
            Some(Node { value: Value::Number(number), .. }) => {
                self.wrong(name, format!("{number} is out of range; write a number from {least} to {most}"));
                default
            }
            _ => default,
        }
    }

    /// Reads a duration that is not zero.
    pub(super) fn duration(&self, name: &str, default: Duration) -> Duration {
        self.parsed(name, duration::parse_positive).unwrap_or(default)
    }

    /// Reads and parses a string.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        let node = self.table.get(name)?;
        self.item(node, below(&self.path, name))?.parsed(parse)
    }

    /// Returns the strings of a list, parsed, if there are any and nothing in it is wrong. `what` matches nothing
    /// without.
    pub(super) fn all<T>(
        &self,
        name: &str,
        what: &str,
        example: &str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Option<Vec<T>> {
        let items = self.texts(name);
        if items.is_empty() && !self.is_broken(name) {
            self.wrong(name, format!("{what} without {name} matches nothing; {}", self.advice(example)));
        }
        let parsed: Vec<T> = items.iter().filter_map(|item| item.parsed(&parse)).collect();
        (!parsed.is_empty() && parsed.len() == items.len()).then_some(parsed)
    }

    /// Returns a file that the configuration names.
    pub(super) fn file(&self, name: &str) -> Option<Located> {
        self.text(name).map(|item| item.located(item.path()))
    }

    /// Returns true if the key was reported already.
    pub(super) fn is_broken(&self, name: &str) -> bool {
        matches!(self.table.get(name), Some(Node { value: Value::Broken, .. }))
    }

    pub(super) fn is_list(&self, name: &str) -> bool {
        matches!(self.table.get(name), Some(Node { value: Value::List(_), .. }))
    }

    /// Reports what is wrong with a key, at its place; with a key that is missing, at the table's.
    pub(super) fn wrong(&self, name: &str, text: impl Into<String>) {
        self.context.mistake(self.place_of(name), &below(&self.path, name), text);
    }

    /// Reports what is wrong with the table as a whole.
    pub(super) fn wrong_itself(&self, text: impl Into<String>) {
        self.context.mistake(&self.place, &self.path, text);
    }

    /// Returns where a key is written; where it is not, the table.
    pub(super) fn place_of(&self, name: &str) -> &Place {
        self.table.get(name).map_or(&self.place, |node| &node.place)
    }

    /// Returns how to add a key to this table.
    pub(super) fn advice(&self, line: &str) -> String {
        let (name, value) = line.split_once(" = ").unwrap_or((line, ""));
        let value = value.replace(['"', '[', ']'], "").replace(", ", ",");
        let variable = format!("{}={value}", self.context.variable(&below(&self.path, name)));
        self.context.advice(&format!("`{line}` to {}", self.header()), &variable)
    }

    /// Returns the header of the table in the file: `[server]`, `[[upstream]]`.
    fn header(&self) -> String {
        let is_index = |piece: &&str| piece.ends_with(']');
        let names: Vec<&str> =
            self.path.split_inclusive(['.', '[']).map(|piece| piece.trim_end_matches(['.', '['])).collect();
        let path = names.iter().filter(|name| !is_index(name)).copied().collect::<Vec<_>>().join(".");
        if self.path.ends_with(']') { format!("[[{path}]]") } else { format!("[{path}]") }
    }

    fn nodes(&self, name: &str) -> &'a [Node] {
        match self.table.get(name) {
            Some(Node { value: Value::List(items), .. }) => items,
            _ => &[],
        }
    }

    fn reader(&self, node: &'a Node, path: String) -> Option<Self> {
        match &node.value {
            Value::Table(table) => {
                Some(Self { table, place: node.place.clone(), path, context: self.context })
            }
            _ => None,
        }
    }

    fn item(&self, node: &'a Node, path: String) -> Option<Item<'a>> {
        match &node.value {
            Value::Text(text) => Some(Item { text, place: &node.place, path, context: self.context }),
            _ => None,
        }
    }
}

impl<'a> Item<'a> {
    pub(super) fn value(&self) -> &'a str {
        &self.text.value
    }

    pub(super) fn place(&self) -> &'a Place {
        self.place
    }

    /// Returns the string as a path, from where relative paths begin.
    pub(super) fn path(&self) -> PathBuf {
        self.absolute(Path::new(self.value()))
    }

    /// Returns a path of the string, from where relative paths begin.
    pub(super) fn absolute(&self, path: &Path) -> PathBuf {
        self.context.folder_of(self.place).join(path)
    }

    /// Returns the file, where `~/` is the home of the gateway's user.
    pub(super) fn located_from_home(&self) -> Option<Located> {
        let Some(below) = self.value().strip_prefix("~/") else { return Some(self.located(self.path())) };
        match &self.context.home {
            Some(home) => Some(self.located(home.join(below))),
            None => {
                self.wrong(ValueError::value("begins at a home, but HOME is not set; write the whole path"));
                None
            }
        }
    }

    pub(super) fn located(&self, path: PathBuf) -> Located {
        Located { path, place: self.place.clone(), key: self.path.clone() }
    }

    pub(super) fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, ValueError>) -> Option<T> {
        parse(self.value()).map_err(|wrong| self.wrong(wrong)).ok()
    }

    pub(super) fn wrong(&self, wrong: ValueError) {
        let text = match wrong {
            ValueError::Value(why) => format!("{:?} {why}", self.text.written),
            ValueError::Hidden(why) => why,
        };
        self.context.mistake(self.place, &self.path, text);
    }
}

fn alternatives(choices: &[&str]) -> String {
    choices.iter().map(|choice| format!("\"{choice}\"")).collect::<Vec<_>>().join(" or ")
}
