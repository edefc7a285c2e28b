//! `DOCKGATE_SECTION__KEY` variables: a layer above the file, in which every key can be set.

use crate::config::context::Context;
use crate::config::environment::{Environment, is_service_variable};
use crate::config::mistake::Place;
use crate::config::schema::{Key, Kind, find, nearest};
use crate::config::tree;
use crate::config::tree::{Node, Table, Text, Value};

const PREFIX: &str = "DOCKGATE_";
/// Says where the file is; it is no key of it.
const CONFIG: &str = "DOCKGATE_CONFIG";

/// Puts every variable into the tree, over what the file says.
pub(super) fn overlay(table: &mut Table, keys: &'static [Key], environment: &Environment, context: &Context) {
    for variable in variables(environment, context) {
        let segments: Vec<&str> = variable.segments.iter().map(String::as_str).collect();
        if let Err(why) = variable.set(table, keys, &segments) {
            let text = match why {
                Why::Unknown => variable.unknown(keys),
                Why::Says(text) => text,
            };
            context.mistake(&Place::variable(variable.name), "", text);
        }
    }
}

/// A variable, with its name split into segments.
struct Variable<'a> {
    name: &'a str,
    written: &'a str,
    segments: Vec<String>,
}

enum Why {
    Unknown,
    Says(String),
}

/// Returns the variables in the order of their names, numbers by value, so that elements can be appended in turn.
fn variables<'a>(environment: &'a Environment, context: &Context) -> Vec<Variable<'a>> {
    let mut variables = Vec::new();
    for (name, written) in environment.starting_with(PREFIX).filter(|(name, _)| *name != CONFIG) {
        if is_service_variable(name) && !name.contains("__") {
            context.warn(format!("{name} is Kubernetes' variable for a service of that name, not a setting"));
            continue;
        }
        let rest = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
        let segments = rest.split("__").map(ToOwned::to_owned).collect();
        variables.push(Variable { name, written, segments });
    }
    variables.sort_by_key(Variable::order);
    variables
}

impl Variable<'_> {
    fn order(&self) -> Vec<(usize, String)> {
        self.segments.iter().map(|s| (s.parse().unwrap_or_default(), s.clone())).collect()
    }

    fn set(&self, table: &mut Table, keys: &'static [Key], segments: &[&str]) -> Result<(), Why> {
        let (first, rest) = segments.split_first().ok_or(Why::Unknown)?;
        let key = find(keys, first).ok_or(Why::Unknown)?;
        match (&key.kind, rest) {
            (Kind::Table(keys) | Kind::Switch(keys), [_, ..]) => {
                let node = table.entry(key.name.to_owned()).or_insert_with(|| self.empty());
                self.set_below(node, keys, rest)
            }
            (Kind::Switch(_), []) => self.switch(table, key.name),
            (Kind::TextOrTable(keys), [_, ..]) => {
                let node = table.entry(key.name.to_owned()).or_insert_with(|| self.empty());
                // The word that a layer below has in the table's place.
                if matches!(node.value, Value::Text(_)) {
                    *node = self.empty();
                }
                self.set_below(node, keys, rest)
            }
            (Kind::Lists(kind), [name]) => {
                let node = table.entry(key.name.to_owned()).or_insert_with(|| self.empty());
                if let Value::Table(lists) = &mut node.value {
                    lists.insert((*name).to_owned(), self.node(kind)?);
                }
                Ok(())
            }
            (Kind::Tables(keys), [index, rest @ ..]) if starts_known(keys, rest) => {
                let node = self.element(table, key.name, index)?;
                self.set_below(node, keys, rest)
            }
            (Kind::Table(_) | Kind::Tables(_) | Kind::Lists(_), _) | (_, [_, ..]) => Err(Why::Unknown),
            (kind, []) => {
                table.insert(key.name.to_owned(), self.node(kind)?);
                Ok(())
            }
        }
    }

    /// Turns a table on or off: `true` is the table without keys, over what is there already; `false` is none.
    fn switch(&self, table: &mut Table, name: &str) -> Result<(), Why> {
        if self.flag()? {
            table.entry(name.to_owned()).or_insert_with(|| self.empty());
        } else {
            table.remove(name);
        }
        Ok(())
    }

    /// Descends into a table. A value that is no table was reported already.
    fn set_below(&self, node: &mut Node, keys: &'static [Key], rest: &[&str]) -> Result<(), Why> {
        match &mut node.value {
            Value::Table(table) => self.set(table, keys, rest),
            _ => Ok(()),
        }
    }

    fn element<'t>(&self, table: &'t mut Table, name: &str, index: &str) -> Result<&'t mut Node, Why> {
        let empty = || Node { place: self.place(), value: Value::List(Vec::new()) };
        let node = table.entry(name.to_owned()).or_insert_with(empty);
        let index: usize = index.parse().map_err(|_| Why::Unknown)?;
        let Value::List(items) = &mut node.value else {
            return Err(Why::Says(format!("{name} is not written as [[{name}]] in the file")));
        };
        let next = items.len();
        if index == next {
            items.push(self.empty());
        }
        let gap = format!("the next one is number {next}; number them from 0 without a gap");
        items.get_mut(index).ok_or(Why::Says(gap))
    }

    fn node(&self, kind: &Kind) -> Result<Node, Why> {
        let says = |what: &str| Why::Says(format!("{:?} is not a {what}", self.written));
        let value = match kind {
            Kind::Flag => Value::Flag(self.flag()?),
            Kind::Number => {
                Value::Number(self.written.parse().map_err(|_| says("whole number; write for example 100"))?)
            }
            Kind::Texts | Kind::OneOrMore => Value::List(self.items()?),
            Kind::Text
            | Kind::Table(_)
            | Kind::Tables(_)
            | Kind::Lists(_)
            | Kind::Switch(_)
            | Kind::TextOrTable(_) => text(self.written),
        };
        Ok(Node { place: self.place(), value })
    }

    fn flag(&self) -> Result<bool, Why> {
        let wrong = || Why::Says(format!("{:?} is not a boolean; write true or false", self.written));
        self.written.parse().map_err(|_| wrong())
    }

    /// Returns a table without keys.
    fn empty(&self) -> Node {
        Node { place: self.place(), value: Value::Table(Table::new()) }
    }

    /// Reads a list as TOML writes it, or with commas between its items. `[::1]:5000` is no list.
    fn items(&self) -> Result<Vec<Node>, Why> {
        let written = self.written.trim();
        if written.starts_with('[') && written.ends_with(']') {
            return self.toml_items(written);
        }
        let items = written.split(',').map(str::trim).filter(|item| !item.is_empty());
        Ok(items.map(|item| Node::text(self.place(), item)).collect())
    }

    fn toml_items(&self, written: &str) -> Result<Vec<Node>, Why> {
        let context = Context::new(None, Default::default());
        let mut table = tree::parse(&format!("items = {written}"), &context).unwrap_or_default();
        match table.remove("items").map(|node| node.value) {
            Some(Value::List(items)) => {
                Ok(items.into_iter().map(|item| Node { place: self.place(), ..item }).collect())
            }
            _ => Err(Why::Says("this is not a list; write for example a,b or [\"a\", \"b\"]".to_owned())),
        }
    }

    fn place(&self) -> Place {
        Place::variable(self.name)
    }

    fn unknown(&self, keys: &'static [Key]) -> String {
        let number = |s: &&String| s.parse::<usize>().is_ok();
        let index = self.segments.iter().find(number).map_or("0", String::as_str);
        let mut names = Vec::new();
        list(keys, PREFIX, index, &mut names);
        let known = nearest(self.name, names.iter().map(String::as_str)).unwrap_or_default();
        format!("unknown variable; the nearest is {known}")
    }
}

/// Returns true if the name begins like a known key, before an element is made for it.
fn starts_known(keys: &[Key], segments: &[&str]) -> bool {
    segments.first().is_some_and(|name| find(keys, name).is_some())
}

fn text(written: &str) -> Value {
    Value::Text(Text { written: written.to_owned(), value: written.to_owned() })
}

/// Lists every variable, array elements with this index.
fn list(keys: &'static [Key], prefix: &str, index: &str, names: &mut Vec<String>) {
    for key in keys {
        let name = format!("{prefix}{}", key.name.to_ascii_uppercase());
        match &key.kind {
            Kind::Table(keys) => list(keys, &format!("{name}__"), index, names),
            Kind::Tables(keys) => list(keys, &format!("{name}__{index}__"), index, names),
            Kind::Lists(_) => names.push(format!("{name}__NAME")),
            Kind::Switch(keys) | Kind::TextOrTable(keys) => {
                list(keys, &format!("{name}__"), index, names);
                names.push(name);
            }
            _ => names.push(name),
        }
    }
}
