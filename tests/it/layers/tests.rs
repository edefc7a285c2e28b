//! Tests of the reading itself, on small crates.

use std::collections::BTreeMap;

use super::modules::Tree;

/// Returns a crate with the product's rooms. `files` are appended to its files.
fn tree(files: &[(&str, &str)]) -> Tree {
    let mut sources: BTreeMap<String, String> = [
        ("proto/mod.rs", "pub mod digest; pub mod name; pub use digest::Digest; pub use name::Tag;"),
        ("proto/digest.rs", "pub struct Digest;"),
        ("proto/name.rs", "pub struct Tag;"),
        ("config/mod.rs", "pub struct Config;"),
        ("clock.rs", "pub fn now() {}"),
        ("telemetry/mod.rs", "pub struct AccessLog;"),
        ("body.rs", "pub struct Body; pub struct Stream;"),
        ("authn/mod.rs", "mod identity; pub use identity::Identity; pub struct Authenticator;"),
        ("authn/identity.rs", "pub enum Identity { Anonymous }"),
        ("authz/mod.rs", "pub struct Permit; pub struct Rules;"),
        ("upstream/mod.rs", "mod retry; pub struct Upstream;"),
        ("upstream/retry.rs", ""),
        ("cache/mod.rs", "mod outcome; mod store; pub use outcome::Outcome;"),
        ("cache/outcome.rs", "pub enum Outcome { Hit }"),
        ("cache/store/mod.rs", "pub struct Store { size: u64 }"),
        ("gateway/mod.rs", "pub struct Gateway;"),
        ("server/mod.rs", "pub mod tls; pub struct Server; pub struct Listener;"),
        ("server/tls.rs", "pub struct Tls;"),
        ("demo/mod.rs", "pub struct Registry;"),
        ("admin/mod.rs", ""),
        ("app.rs", "pub struct App;"),
        ("cli/mod.rs", "pub mod demo;"),
        ("cli/demo.rs", ""),
    ]
    .map(|(file, code)| (file.to_owned(), format!("{code}\n")))
    .into();
    for (file, code) in files {
        sources.entry((*file).to_owned()).or_default().push_str(code);
    }
    let rooms: std::collections::BTreeSet<_> = sources
        .keys()
        .filter(|file| *file != "lib.rs")
        .map(|file| file.split(['/', '.']).next().unwrap().to_owned())
        .collect();
    let root = sources.entry("lib.rs".to_owned()).or_default();
    rooms.iter().for_each(|room| root.push_str(&format!("pub mod {room};\n")));
    Tree::read(&sources)
}

#[test]
fn a_wrong_import_is_found_however_it_is_written() {
    for (file, code) in [
        ("proto/name.rs", "use crate::config::Config;"),
        ("proto/name.rs", "use super::super::config::Config;"),
        ("clock.rs", "use super::body::Body;"),
        ("config/mod.rs", "use super::gateway::Gateway;"),
        ("config/mod.rs", "use crate::{proto::Digest, telemetry};"),
        ("config/mod.rs", "mod inner { use super::super::clock; }"),
        ("config/mod.rs", "use crate::clock::now;"),
        ("authn/mod.rs", "use crate :: authz::Permit;"),
        ("authz/mod.rs", "use crate::authn::Authenticator;"),
        ("authz/mod.rs", "use crate::authn::{\n    Authenticator,\n};"),
        ("authz/mod.rs", "use crate::authn;"),
        ("authz/mod.rs", "use crate::authn::*;"),
        ("upstream/retry.rs", "use crate::authz::{Permit, Rules as R};"),
        ("upstream/retry.rs", "fn f(g: &crate::gateway::Gateway) {}"),
        ("upstream/retry.rs", "use crate::{body::{Body, Stream}, server::{tls::{Tls}}};"),
        ("upstream/retry.rs", "use crate as root; fn f(g: &root::gateway::Gateway) {}"),
        ("upstream/retry.rs", "fn f() { println!(\"{}\", crate::gateway::NAME); }"),
        ("upstream/retry.rs", "fn f() { select! { x = y => crate::gateway::f(), } }"),
        ("upstream/retry.rs", "struct S { #[serde(with = \"crate::gateway::text\")] x: u8 }"),
        ("server/tls.rs", "use crate::upstream::Upstream;"),
        ("server/tls.rs", "#[cfg(test)] mod tests { fn f() { \"}\"; } } use crate::authn;"),
        ("server/tls.rs", "#[cfg(not(test))] use crate::authn;"),
        ("server/tls.rs", "fn f() { use crate::authn::Authenticator; }"),
        ("gateway/mod.rs", "pub(crate) use crate::app::App;"),
        ("demo/mod.rs", "use crate::gateway::Gateway;"),
        ("admin/mod.rs", "use crate::cli;"),
        ("engine/mod.rs", "use crate::proto::Digest;"),
    ] {
        let wrong = tree(&[(file, code)]).wrong_arrows();
        assert_eq!(wrong.len(), 1, "{file}: {code}: {wrong:?}");
    }
}

#[test]
fn a_right_import_is_left_alone() {
    for (file, code) in [
        ("proto/name.rs", "use super::digest::Digest; use crate::proto::Tag as T;"),
        ("config/mod.rs", "use crate::proto::Digest; use super::proto::Tag;"),
        ("cache/mod.rs", "use crate::authz::Permit; use crate::authz::{Permit as P, Permit::{Anonymous}};"),
        ("authz/mod.rs", "fn f(crate_server: u8) -> &'static str { \"crate::server::Server\" }"),
        ("authz/mod.rs", "#[cfg(test)] mod tests { use crate::server::Server; }"),
        (
            "authz/mod.rs",
            "#[cfg(any(test, fuzzing))] mod fuzz; #[cfg(test)] use crate::server::{Server, Listener};",
        ),
        ("upstream/mod.rs", "fn f(permit: &crate::authz::Permit) { krate::server::f(); }"),
        ("gateway/mod.rs", "use crate::{authn::{self, Identity}, authz, upstream::{self}};"),
        ("cli/demo.rs", "use crate::app::App; use crate::demo; use crate::upstream;"),
    ] {
        assert_eq!(tree(&[(file, code)]).wrong_arrows(), Vec::<String>::new(), "{file}: {code}");
    }
}

#[test]
fn an_import_leads_to_the_file_that_defines_the_item() {
    for code in [
        "use crate::cache::Outcome;",
        "use super::Outcome as O;",
        "fn f() { super::Outcome::Hit; }",
        "use super::*; fn f(outcome: Outcome) {}",
        "use crate::cache; fn f() -> Vec<cache::Outcome> {}",
        "fn f() { assert!(matches!(x, super::Outcome::Hit)); }",
    ] {
        assert_eq!(edges(&[("cache/store/mod.rs", code)]), ["store/mod.rs outcome.rs"], "{code}");
    }
}

#[test]
fn declarations_and_re_exports_are_no_imports() {
    assert_eq!(edges(&[("cache/mod.rs", "pub use store::Store;")]), Vec::<String>::new());
    assert_eq!(
        edges(&[("cache/mod.rs", "pub use store::Store; struct Cache(Store);")]),
        ["mod.rs store/mod.rs"]
    );
    assert_eq!(
        edges(&[("cache/mod.rs", "use store::Store; fn f(store: Store) {}")]),
        ["mod.rs store/mod.rs"]
    );
}

#[test]
fn a_variable_is_no_import() {
    let files = [
        ("cache/outcome.rs", "pub fn size() {}"),
        ("cache/mod.rs", "pub use outcome::size;"),
        ("cache/store/mod.rs", "use super::*; fn f(size: u64) -> u64 { let now = size; now }"),
    ];
    assert_eq!(edges(&files), Vec::<String>::new());
}

#[test]
fn a_call_imports_a_method_outside_its_types_file() {
    let files = [
        ("cache/mod.rs", "pub use store::Store;"),
        ("cache/outcome.rs", "use super::Store; impl Store { pub fn sweep(&self) {} }"),
        ("cache/store/mod.rs", "impl Store { fn f(&self) { self.sweep(); } }"),
    ];
    assert_eq!(edges(&files), ["outcome.rs store/mod.rs", "store/mod.rs outcome.rs"]);
    assert_eq!(tree(&files).rooms_with_circles().into_iter().collect::<Vec<_>>(), ["cache"]);
}

#[test]
fn a_circle_is_found_with_all_its_files() {
    let files = [
        ("cache/mod.rs", "pub struct Cache(store::Store); pub use store::Store;"),
        ("cache/outcome.rs", "use super::Cache;"),
        ("cache/store/mod.rs", "use crate::cache::Outcome;"),
    ];
    let tree = tree(&files);
    let circles = tree.circles();
    assert_eq!(circles.len(), 1);
    assert_eq!((circles[0].files.len(), circles[0].edges.len()), (3, 3), "{}", tree.circles_listed());
    let half = [files[0], files[1]];
    assert!(self::tree(&half).circles().is_empty());
}

#[test]
fn impurity_is_found_in_the_grammar_alone() {
    for code in [
        "async fn f() {}",
        "use std::{fs, fmt};",
        "fn f() { g().await }",
        "fn f() { tokio::spawn(g) }",
        "fn f() { std::time::Instant::now(); }",
    ] {
        assert_eq!(tree(&[("proto/name.rs", code)]).impurities().len(), 1, "{code}");
        assert!(tree(&[("authn/mod.rs", code)]).impurities().is_empty());
    }
    let pure = "// async\nfn asynchronous(address: std::net::Ipv6Addr) {}";
    assert!(tree(&[("proto/name.rs", pure)]).impurities().is_empty());
}

/// Returns the imports between files of the cache.
fn edges(files: &[(&str, &str)]) -> Vec<String> {
    let tree = tree(files);
    let name = |file: usize| tree.files[file].name.strip_prefix("cache/").unwrap_or_default();
    tree.edges()
        .keys()
        .filter(|(from, _)| tree.room_of_file(*from) == "cache")
        .map(|(from, to)| format!("{} {}", name(*from), name(*to)))
        .collect()
}
