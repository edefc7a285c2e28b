//! A configuration as written: tables and values, each with the place it stands at, whatever layer it is from.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::context::Context;
use crate::config::mistake::Place;

/// The keys of one table.
pub(super) type Table = BTreeMap<String, Node>;

/// A table without keys, for a section that is not written.
pub(super) static EMPTY: Table = BTreeMap::new();

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// The value of a key.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(Text),
    Flag(bool),
    Number(i64),
    List(Vec<Node>),
    Table(Table),
    /// A kind that no key wants: what TOML calls it.
    Foreign(&'static str),
    /// Reported already; its readers take the default.
    Broken,
}

/// A string, before and after `${...}` was put in. Errors quote what was written: what was put in may be a secret.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) written: String,
    pub(super) value: String,
}

impl Node {
    pub(super) fn text(place: Place, written: &str) -> Self {
        Self { place, value: Value::Text(Text { written: written.to_owned(), value: written.to_owned() }) }
    }
}

impl Value {
    /// Returns the kind as an operator would call it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Flag(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
            Self::Foreign(kind) => kind,
            Self::Broken => "broken",
        }
    }
}

/// Reads TOML. Every line with a syntax error is a mistake, and then there is no tree.
pub(super) fn parse(text: &str, context: &Context) -> Option<Table> {
    let lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut wrong = BTreeMap::new();
    for error in &errors {
        let line = error.span().map_or(1, |span| lines.at(&span));
        // Further errors on the same line follow from the first.
        wrong.entry(line).or_insert_with(|| error.message().replace('\n', "; "));
    }
    for (line, message) in wrong {
        context.mistake(&context.line(line), "", message);
    }
    errors.is_empty().then(|| Builder { lines: &lines, context }.table(table.get_ref()))
}

struct Builder<'a> {
    lines: &'a Lines,
    context: &'a Context,
}

impl Builder<'_> {
    fn table(&self, table: &DeTable<'_>) -> Table {
        let field = |(key, value): (&Spanned<_>, _)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            (name.to_string(), self.node(self.place(key.span()), value))
        };
        table.iter().map(field).collect()
    }

    fn node(&self, place: Place, value: &Spanned<DeValue<'_>>) -> Node {
        Node { place, value: self.value(value.get_ref()) }
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(Text { written: text.to_string(), value: text.to_string() }),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Foreign("a number beyond 64 bits"), Value::Number),
            DeValue::Float(_) => Value::Foreign("a fraction"),
            DeValue::Datetime(_) => Value::Foreign("a date"),
            DeValue::Array(items) => Value::List(self.items(items)),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }

    fn items(&self, items: &toml::de::DeArray<'_>) -> Vec<Node> {
        items.iter().map(|item| self.node(self.place(item.span()), item)).collect()
    }

    fn place(&self, span: Range<usize>) -> Place {
        self.context.line(self.lines.at(&span))
    }
}

/// The offsets at which the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at + 1).collect())
    }

    /// Returns the line, counted from 1, that a span begins on.
    fn at(&self, span: &Range<usize>) -> usize {
        1 + self.0.partition_point(|start| *start <= span.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Option<Table>, Context) {
        let context = Context::new(Some("t.toml"), Default::default());
        (parse(text, &context), context)
    }

    fn line_of(table: &Table, key: &str) -> String {
        table[key].place.to_string()
    }

    #[test]
    fn every_value_knows_its_line() {
        let (table, _) = parsed("\n[server]\naddress = [\n 'a',\n 'b']\n\n[server.tls]\nkey = 'k'\n");
        let table = table.unwrap();
        let Value::Table(server) = &table["server"].value else { panic!() };
        assert_eq!(line_of(server, "address"), "t.toml:3");
        assert_eq!(line_of(server, "tls"), "t.toml:7");
        let Value::List(items) = &server["address"].value else { panic!() };
        assert_eq!(items[1].place.to_string(), "t.toml:5");
    }

    #[test]
    fn every_table_of_an_array_knows_its_line() {
        let (table, _) = parsed("[[upstream]]\nname='a'\n\n[[upstream]]\nname='b'\n");
        let Value::List(items) = &table.unwrap()["upstream"].value else { panic!() };
        assert_eq!(items[0].place.to_string(), "t.toml:1");
        assert_eq!(items[1].place.to_string(), "t.toml:4");
    }

    #[test]
    fn every_syntax_error_is_reported_with_its_line() {
        let (table, context) = parsed("a = 1\nb = \nc = 2\na = 3\n");
        assert!(table.is_none());
        let lines: Vec<String> =
            context.finish().unwrap_err().iter().map(|m| m.to_string()[..8].to_owned()).collect();
        assert_eq!(lines, ["t.toml:2", "t.toml:4"]);
    }

    #[test]
    fn windows_line_ends_and_a_byte_order_mark_are_fine() {
        let (table, _) = parsed("\u{feff}a = 'x'\r\nb = 'y'\r\n");
        assert_eq!(line_of(&table.unwrap(), "b"), "t.toml:2");
    }
}
