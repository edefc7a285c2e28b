//! Who may know whom: reads the product's own sources, and fails on a path from one layer into another that
//! [`TABLE`] does not have.

use std::path::{Path, PathBuf};

/// What every layer above these may know.
const BASE: &[&str] = &["body", "clock", "config", "io", "pace", "proto", "telemetry", "watch"];

/// A layer, and lists of what it may know besides itself: a whole layer, or one item of it.
const TABLE: &[(&str, &[&[&str]])] = &[
    ("proto", &[]),
    ("clock", &[]),
    ("config", &[&["proto"]]),
    ("body", &[BASE]),
    ("io", &[BASE]),
    ("pace", &[BASE]),
    ("telemetry", &[BASE]),
    ("watch", &[BASE]),
    ("authn", &[BASE]),
    ("authz", &[BASE, &["authn::Identity"]]),
    ("upstream", &[BASE, &["authn::Forwarded", "authn::Identity", "authz::Permit"]]),
    ("cache", &[BASE, &["authn::Identity", "authz::Permit"]]),
    ("gateway", &[BASE, &["authn", "authz", "cache", "upstream"]]),
    ("server", &[BASE]),
];

/// The wiring, and what is built from everything.
const TOP: &[&str] = &["admin", "app", "cli", "demo", "lib", "main"];

/// What the pure layer must do without, as paths of other crates. Addresses are values; sockets are not.
const IMPURE: &[&str] =
    &["tokio", "std::fs", "std::io", "std::net", "std::process", "std::thread", "std::time"];
const ADDRESSES: &[&str] = &["std::net::IpAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr"];

/// Names of drawers into which anything goes.
const DRAWERS: &[&str] = &["common", "helper", "helpers", "misc", "util", "utils"];

#[test]
fn no_layer_reaches_into_one_above_it() {
    let sources = product().unwrap();
    assert!(sources.len() > 60, "only {} files were read", sources.len());
    let arrows: usize = sources.iter().map(|source| source.arrows().len()).sum();
    assert!(arrows > 100, "only {arrows} paths between layers were found");
    let wrong: Vec<_> = sources.iter().flat_map(Source::wrong_arrows).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_layer_of_the_table_exists() {
    let sources = product().unwrap();
    for (layer, _) in TABLE {
        assert!(sources.iter().any(|source| source.layer() == *layer), "{layer}");
    }
}

#[test]
fn the_grammar_is_pure() {
    let impure: Vec<_> = product().unwrap().iter().flat_map(Source::impurities).collect();
    assert!(impure.is_empty(), "{}", impure.join("\n"));
}

#[test]
fn no_file_is_a_drawer() {
    let drawers: Vec<_> =
        product().unwrap().iter().filter(|source| source.is_drawer()).map(Source::name).collect();
    assert!(drawers.is_empty(), "{}", drawers.join("\n"));
}

#[test]
fn a_wrong_arrow_is_found_however_it_is_written() {
    for (file, code) in [
        ("proto/name.rs", "use crate::config::Config;"),
        ("proto/name.rs", "use super::super::config::Config;"),
        ("clock.rs", "use super::body::Body;"),
        ("config/mod.rs", "use super::gateway::Gateway;"),
        ("config/mod.rs", "use crate::{proto::Digest, telemetry};"),
        ("authn/mod.rs", "use crate :: authz::Permit;"),
        ("authz/mod.rs", "use crate::authn::Authenticator;"),
        ("authz/mod.rs", "use crate::authn::{\n    Authenticator,\n    Identity,\n};"),
        ("authz/mod.rs", "use crate::authn;"),
        ("authz/mod.rs", "use crate::authn::*;"),
        ("upstream/retry.rs", "use crate::authz::{Permit, Rules as R};"),
        ("upstream/retry.rs", "fn f(g: &crate::gateway::Gateway) {}"),
        ("upstream/retry.rs", "use crate::{body::{Body, Stream}, server::{tls::{Tls}}};"),
        ("server/tls.rs", "use crate::upstream::Upstream;"),
        ("server/tls.rs", "/// Docs.\n#[cfg(test)] mod tests { fn f() { \"}\"; } }\nuse crate::authn;"),
        ("server/tls.rs", "#[cfg(test)] use super::x;\nuse crate::authn;"),
        ("gateway/mod.rs", "pub(crate) use crate::app::App;"),
        ("gateway/mod.rs", "const Q: char = '\"'; use crate::cli; const R: char = '\"';"),
        ("engine/mod.rs", "use crate::proto::Digest;"),
    ] {
        assert_eq!(Source::of(file, code).wrong_arrows().len(), 1, "{file}: {code}");
    }
}

#[test]
fn a_right_arrow_is_left_alone() {
    for (file, code) in [
        ("proto/name.rs", "use super::digest::Digest; use crate::proto::Tag;"),
        ("config/mod.rs", "use crate::proto::Digest; use super::proto::Tag;"),
        (
            "authz/mod.rs",
            "use crate::authn::Identity; use crate::authn::{Identity as I, Identity::{Anonymous}};",
        ),
        (
            "authz/mod.rs",
            "/// As crate::server has it.\n// crate::server\n/* crate::server /* */ crate::server */ fn f() {}",
        ),
        (
            "authz/mod.rs",
            "const A: &str = \"crate::server \\\" crate::server\"; const B: &str = r#\"\" crate::server\"#;",
        ),
        (
            "authz/mod.rs",
            "fn f<'a>(x: &'a str) { '\\''; }\n#[cfg(test)]\nmod tests { use crate::server::Server; }",
        ),
        ("authz/mod.rs", "#[cfg(test)]\nmod tests;\n#[cfg(test)] use crate::server::{Server, Listener};"),
        ("upstream/mod.rs", "fn f(permit: &crate::authz::Permit) { krate::server::f(); }"),
        ("gateway/mod.rs", "use crate::{authn::{self, Identity}, authz, upstream::{self}};"),
        ("cli/demo.rs", "use crate::app::App; use crate::demo; use crate::server;"),
    ] {
        assert_eq!(Source::of(file, code).wrong_arrows(), Vec::<String>::new(), "{file}: {code}");
    }
}

#[test]
fn impurity_is_found_in_the_grammar_alone() {
    let codes = [
        "async fn f() {}",
        "use std::{fs, fmt};",
        "f().await",
        "tokio::spawn(f)",
        "std::time::Instant::now()",
    ];
    for code in codes {
        assert_eq!(Source::of("proto/name.rs", code).impurities().len(), 1, "{code}");
        assert!(Source::of("authn/mod.rs", code).impurities().is_empty());
    }
    assert!(
        Source::of("proto/name.rs", "// async\nstd::net::Ipv6Addr; asynchronous").impurities().is_empty()
    );
}

/// The product's sources, without its tests.
fn product() -> std::io::Result<Vec<Source>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut sources, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") && !path.ends_with("tests.rs") {
                let name = path.strip_prefix(&root).unwrap_or(&path);
                sources.push(Source::of(name, &std::fs::read_to_string(&path)?));
            }
        }
    }
    Ok(sources)
}

/// A file below `src`, as the words that the compiler sees outside tests.
struct Source {
    file: PathBuf,
    words: Vec<String>,
}

impl Source {
    fn of(file: impl AsRef<Path>, code: &str) -> Self {
        Self { file: file.as_ref().to_owned(), words: without_tests(words(code)) }
    }

    fn name(&self) -> String {
        format!("src/{}", self.file.display())
    }

    /// The names of the modules that lead to this file, the layer first.
    fn modules(&self) -> Vec<String> {
        let path = self.file.with_extension("");
        let names = path.iter().map(|part| part.to_string_lossy().into_owned());
        names.filter(|name| name != "mod").collect()
    }

    fn layer(&self) -> String {
        self.modules().swap_remove(0)
    }

    fn is_drawer(&self) -> bool {
        self.modules().iter().any(|name| DRAWERS.contains(&name.as_str()))
    }

    /// The paths that lead into other layers, below the crate's root.
    fn arrows(&self) -> Vec<Vec<String>> {
        let layer = self.layer();
        let paths = self.paths().into_iter().filter_map(|path| self.below_root(path));
        paths.filter(|path| path.first().is_some_and(|first| is_layer(first) && *first != layer)).collect()
    }

    fn wrong_arrows(&self) -> Vec<String> {
        let layer = self.layer();
        let stranger = !TOP.contains(&layer.as_str()) && TABLE.iter().all(|(known, _)| *known != layer);
        if stranger {
            return vec![format!("{}: the table does not have the layer {layer}", self.name())];
        }
        let wrong = self.arrows().into_iter().filter(|path| !may_know(&layer, path));
        wrong.map(|path| format!("{}: {layer} may not know {}", self.name(), path.join("::"))).collect()
    }

    fn impurities(&self) -> Vec<String> {
        if self.layer() != "proto" {
            return Vec::new();
        }
        let paths = self.paths().into_iter();
        let impure = |path: &[String]| is_any(IMPURE, path) && !is_any(ADDRESSES, path);
        let paths = paths.filter(|path| impure(path)).map(|path| path.join("::"));
        let words = self.words.iter().filter(|word| *word == "async" || *word == "await").cloned();
        paths.chain(words).map(|what| format!("{}: {what}", self.name())).collect()
    }

    /// Every path in the file, those of a braced `use` one by one.
    fn paths(&self) -> Vec<Vec<String>> {
        let starts = (0..self.words.len()).filter(|at| is_name(&self.words[*at]));
        let starts = starts.filter(|at| *at == 0 || self.words[at - 1] != "::");
        starts.flat_map(|at| tree(&self.words, at).0).collect()
    }

    /// What is left of a path when it has been followed to the crate's root; `None` if it does not lead there.
    fn below_root(&self, path: Vec<String>) -> Option<Vec<String>> {
        if path[0] == "crate" {
            return Some(path[1..].to_vec());
        }
        let ups = path.iter().take_while(|part| *part == "super").count();
        (ups > 0 && ups == self.modules().len()).then(|| path[ups..].to_vec())
    }
}

fn is_layer(name: &str) -> bool {
    TOP.contains(&name) || TABLE.iter().any(|(layer, _)| *layer == name)
}

fn may_know(layer: &str, path: &[String]) -> bool {
    let row = TABLE.iter().find(|(name, _)| *name == layer);
    TOP.contains(&layer) || row.is_some_and(|(_, lists)| lists.iter().any(|list| is_any(list, path)))
}

/// Whether the path is one of these, or something within one.
fn is_any(these: &[&str], path: &[String]) -> bool {
    let within = |this: &&str| {
        path.len() >= this.split("::").count() && this.split("::").zip(path).all(|(a, b)| a == b)
    };
    these.iter().any(within)
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The paths that begin at a word (`a::{b, c::*}` holds two), and the place after them.
fn tree(words: &[String], at: usize) -> (Vec<Vec<String>>, usize) {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let head = vec![words[at].clone()];
    if word(at + 1) != "::" {
        return (vec![head], at + 1);
    }
    let mut rests = Vec::new();
    let mut next = at + 2;
    if word(next) == "{" {
        next += 1;
        while !matches!(word(next), "}" | "") {
            if is_name(word(next)) {
                let (paths, after) = tree(words, next);
                rests.extend(paths);
                next = if word(after) == "as" { after + 2 } else { after };
            } else {
                next += 1;
            }
        }
        next += 1;
    } else if is_name(word(next)) {
        (rests, next) = tree(words, next);
    }
    if rests.is_empty() {
        rests.push(Vec::new());
    }
    let join = |rest: Vec<String>| {
        head.iter().cloned().chain(rest.into_iter().filter(|part| part != "self")).collect()
    };
    (rests.into_iter().map(join).collect(), next)
}

/// Leaves out what is marked `#[cfg(test)]`, up to the end of that item.
fn without_tests(words: Vec<String>) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if words[at..].len() >= MARK.len() && MARK.iter().zip(&words[at..]).all(|(mark, word)| mark == word) {
            at = end_of_item(&words, at + MARK.len());
        } else {
            kept.push(words[at].clone());
            at += 1;
        }
    }
    kept
}

/// The place after the `;` or the closing brace that ends an item.
fn end_of_item(words: &[String], start: usize) -> usize {
    let is_use =
        words[start..].iter().take_while(|word| *word != ";" && *word != "{").any(|word| word == "use");
    let mut depth = 0_usize;
    for (at, word) in words.iter().enumerate().skip(start) {
        match word.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 && !is_use => return at + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    words.len()
}

/// Names, `::`, and single signs; without comments, strings, characters, lifetimes and numbers.
fn words(code: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = match skipped(rest) {
            Some(length) => length,
            None => {
                let length = if rest.starts_with("::") { 2 } else { name_length(rest).max(first.len_utf8()) };
                words.push(rest[..length].to_owned());
                length
            }
        };
        rest = &rest[length..];
    }
    words
}

fn name_length(text: &str) -> usize {
    text.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(text.len())
}

/// How much of the text's beginning is no word.
fn skipped(text: &str) -> Option<usize> {
    let mut signs = text.chars();
    match (signs.next()?, signs.next()) {
        ('/', Some('/')) => Some(text.find('\n').unwrap_or(text.len())),
        ('/', Some('*')) => Some(block_comment(text)),
        ('"', _) => Some(quoted(text)),
        ('b' | 'c', Some('"')) => Some(1 + quoted(&text[1..])),
        ('b', Some('r')) | ('r', Some('"' | '#')) => raw_string(text),
        ('\'', Some(_)) => Some(character_or_lifetime(text)),
        (sign, _) if sign.is_whitespace() => Some(sign.len_utf8()),
        (sign, _) if sign.is_ascii_digit() => Some(name_length(text)),
        _ => None,
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let pair = text.get(at..at + 2).unwrap_or("");
        match pair {
            "/*" => depth += 1,
            "*/" if depth == 1 => return at + 2,
            "*/" => depth -= 1,
            _ => {}
        }
        at += if matches!(pair, "/*" | "*/") { 2 } else { 1 };
    }
    text.len()
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// `r"…"`, `br#"…"#`; `None` for names that begin with these letters, and for raw names.
fn raw_string(text: &str) -> Option<usize> {
    let start = text.find('r')? + 1;
    let hashes = text[start..].bytes().take_while(|byte| *byte == b'#').count();
    let body = text[start + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(start + hashes + 1 + length)
}

fn character_or_lifetime(text: &str) -> usize {
    let body = &text[1..];
    if body.starts_with('\\') {
        return 3 + text[3..].find('\'').map_or(0, |at| at + 1);
    }
    let first = body.chars().next().map_or(0, char::len_utf8);
    if body[first..].starts_with('\'') { 1 + first + 1 } else { 1 + name_length(body) }
}
