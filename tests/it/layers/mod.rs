//! Reads the sources and fails on an import that the design does not allow.
//!
//! [`table`] lists the imports that are allowed between rooms. Within a room, files must not import in a circle. An
//! import is any path that names an item, in a `use` or elsewhere. It leads to the file that *defines* the item,
//! through all re-exports. To see rooms, arrows, circles and the lengths of functions:
//!
//! ```text
//! cargo test --test it layers -- --nocapture
//! ```

mod arrows;
mod circles;
mod listing;
mod mentions;
mod modules;
mod resolve;
mod table;
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use modules::Tree;

#[test]
fn no_room_imports_one_above_it() {
    let product = product();
    let (files, arrows) = (product.files.len(), product.arrows().len());
    assert!(files > 60 && arrows > 500, "only {files} files and {arrows} imports between rooms were read");
    none(product.wrong_arrows());
}

#[test]
fn every_row_of_the_table_is_needed() {
    let product = product();
    let rooms = product.rooms();
    let known = table::BASE.iter().copied().chain(table::TABLE.iter().map(|row| row.room));
    none(known.filter(|room| !rooms.contains_key(room)).map(|room| format!("there is no room {room}")));
    none(product.unneeded());
}

#[test]
fn no_two_rows_of_the_table_know_each_other() {
    for (at, row) in table::TABLE.iter().enumerate() {
        let above = |room: &str| table::TABLE[..at].iter().any(|row| row.room == room);
        let items = table::items_of(row.room);
        let items = items.iter().map(|item| item.split("::").next().unwrap());
        none(row.rooms.iter().copied().chain(items).filter(|room| !above(room)));
    }
}

#[test]
fn no_files_import_in_a_circle() {
    let product = product();
    let known: BTreeSet<_> = table::KNOWN_CIRCLES.iter().map(|room| (*room).to_owned()).collect();
    let found = product.rooms_with_circles();
    let new: Vec<_> = found.difference(&known).collect();
    assert!(new.is_empty(), "{new:?} have circles:\n{}", product.circles_listed());
    none(
        known
            .difference(&found)
            .map(|room| format!("{room} has no circle any more: strike it from KNOWN_CIRCLES")),
    );
}

#[test]
fn the_grammar_is_pure() {
    none(product().impurities());
}

#[test]
fn no_module_collects_unrelated_things() {
    let product = product();
    let modules = product.modules.iter().filter_map(|module| module.path.last());
    none(modules.filter(|name| table::UNRELATED.contains(&name.as_str())));
}

#[test]
fn every_import_is_understood() {
    none(product().lost());
}

#[test]
fn the_listing_is_printed() {
    eprintln!("{}", product().listing());
}

/// Fails if there are complaints.
fn none(complaints: impl IntoIterator<Item = impl AsRef<str>>) {
    let complaints: Vec<_> = complaints.into_iter().map(|complaint| complaint.as_ref().to_owned()).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Returns the product as a tree of modules. Reads it once.
fn product() -> &'static Tree {
    static PRODUCT: OnceLock<Tree> = OnceLock::new();
    PRODUCT.get_or_init(|| Tree::read(&sources()))
}

/// Returns every file below `src`.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut sources, mut folders) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                sources.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    sources
}
