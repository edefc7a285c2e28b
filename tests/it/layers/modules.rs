//! From source files to a tree of modules, the names that each module knows, and every mention of a name.

use std::collections::{BTreeMap, HashMap};

use syn::{Attribute, Item, UseTree};

use super::mentions::{self, Found};

/// A crate without its test code.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) files: Vec<File>,
    pub(super) modules: Vec<Module>,
    pub(super) items: Vec<Definition>,
    pub(super) found: Found,
}

/// A source file.
pub(super) struct File {
    /// Its path below `src`.
    pub(super) name: String,
    /// Its module; inline modules lie below that.
    module: usize,
}

/// A module, be it a file or inline.
pub(super) struct Module {
    /// Its path below the crate's root.
    pub(super) path: Vec<String>,
    pub(super) file: usize,
    pub(super) parent: Option<usize>,
    /// The meanings of each name. A name can be both a module and a function.
    pub(super) names: HashMap<String, Vec<Named>>,
    /// The paths of glob imports.
    pub(super) globs: Vec<Vec<String>>,
}

/// A meaning of a name.
pub(super) enum Named {
    Module(usize),
    Item(usize),
    /// The target of this path.
    Import(Vec<String>),
}

/// An item that is no module.
pub(super) struct Definition {
    pub(super) module: usize,
}

/// One leaf of a `use`.
pub(super) struct Leaf {
    pub(super) path: Vec<String>,
    /// The imported name. `None` for a glob.
    pub(super) name: Option<String>,
    pub(super) line: usize,
}

impl Tree {
    /// Reads a crate whose root is `lib.rs` from its files, named by their paths.
    pub(super) fn read(sources: &BTreeMap<String, String>) -> Self {
        let mut tree = Self::default();
        tree.read_file(sources, "lib.rs", Vec::new(), None);
        tree
    }

    fn read_file(
        &mut self,
        sources: &BTreeMap<String, String>,
        name: &str,
        path: Vec<String>,
        parent: Option<usize>,
    ) -> usize {
        let code = sources.get(name).unwrap_or_else(|| panic!("there is no src/{name}"));
        let parsed = syn::parse_file(code).unwrap_or_else(|error| panic!("src/{name}: {error}"));
        self.files.push(File { name: name.to_owned(), module: self.modules.len() });
        self.read_module(sources, self.files.len() - 1, path, parent, parsed.items)
    }

    fn read_module(
        &mut self,
        sources: &BTreeMap<String, String>,
        file: usize,
        path: Vec<String>,
        parent: Option<usize>,
        content: Vec<Item>,
    ) -> usize {
        let number = self.modules.len();
        let (names, globs) = (HashMap::new(), Vec::new());
        self.modules.push(Module { path, file, parent, names, globs });
        for item in content.into_iter().filter(|item| !is_test(attributes(item))) {
            match item {
                Item::Mod(item) => self.read_child(sources, number, item),
                item => {
                    if let Some(name) = name_of(&item) {
                        self.items.push(Definition { module: number });
                        self.bind(number, name, Named::Item(self.items.len() - 1));
                    }
                    for Leaf { path, name, .. } in mentions::read(&mut self.found, number, &item) {
                        match name {
                            Some(name) => self.bind(number, name, Named::Import(path)),
                            None => self.modules[number].globs.push(path),
                        }
                    }
                }
            }
        }
        number
    }

    fn read_child(&mut self, sources: &BTreeMap<String, String>, parent: usize, item: syn::ItemMod) {
        let name = item.ident.to_string();
        let path = [self.modules[parent].path.as_slice(), std::slice::from_ref(&name)].concat();
        let child = match item.content {
            Some((_, content)) => {
                self.read_module(sources, self.modules[parent].file, path, Some(parent), content)
            }
            None => {
                let candidates = [format!("{}.rs", path.join("/")), format!("{}/mod.rs", path.join("/"))];
                let file = candidates.iter().find(|file| sources.contains_key(*file));
                self.read_file(sources, file.unwrap_or(&candidates[0]), path.clone(), Some(parent))
            }
        };
        self.bind(parent, name, Named::Module(child));
    }

    fn bind(&mut self, module: usize, name: String, named: Named) {
        self.modules[module].names.entry(name).or_default().push(named);
    }

    /// Returns the file that defines an item.
    pub(super) fn file_of(&self, item: usize) -> usize {
        self.modules[self.items[item].module].file
    }

    /// Returns the room of a module: the first name of its path, or `lib`.
    pub(super) fn room(&self, module: usize) -> &str {
        self.modules[module].path.first().map_or("lib", String::as_str)
    }

    pub(super) fn room_of_file(&self, file: usize) -> &str {
        self.room(self.files[file].module)
    }

    /// Returns the rooms with their numbers of files.
    pub(super) fn rooms(&self) -> BTreeMap<&str, usize> {
        let mut rooms = BTreeMap::new();
        for file in 0..self.files.len() {
            *rooms.entry(self.room_of_file(file)).or_default() += 1;
        }
        rooms
    }

    /// Renders a place as `cache/mod.rs:12`.
    pub(super) fn place(&self, module: usize, line: usize) -> String {
        format!("{}:{line}", self.files[self.modules[module].file].name)
    }
}

/// Returns true for code that is compiled only for tests, or only for tests and fuzzing.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    conditions.filter_map(|attribute| attribute.meta.require_list().ok()).any(|condition| {
        let words = condition.tokens.to_string().replace(' ', "");
        words == "test" || words.starts_with("any(test,") || words.starts_with("all(test,")
    })
}

/// Returns the attributes of an item.
pub(super) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns the name that an item defines.
fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Returns the paths of a `use` one by one.
pub(super) fn leaves(tree: &UseTree) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    collect(tree, &[], &mut leaves);
    leaves
}

fn collect(tree: &UseTree, before: &[String], leaves: &mut Vec<Leaf>) {
    let with = |name: &syn::Ident| {
        // `{self}` behind a path is that path.
        let own = Some(name.to_string()).filter(|name| name != "self" || before.is_empty());
        before.iter().cloned().chain(own).collect::<Vec<_>>()
    };
    let line = |name: &syn::Ident| name.span().start().line;
    match tree {
        UseTree::Path(path) => collect(&path.tree, &with(&path.ident), leaves),
        UseTree::Name(leaf) => {
            let path = with(&leaf.ident);
            let name = path.last().cloned();
            leaves.push(Leaf { path, name, line: line(&leaf.ident) });
        }
        UseTree::Rename(leaf) => {
            let name = Some(leaf.rename.to_string());
            leaves.push(Leaf { path: with(&leaf.ident), name, line: line(&leaf.ident) });
        }
        UseTree::Glob(glob) => {
            let line = glob.star_token.spans[0].start().line;
            leaves.push(Leaf { path: before.to_vec(), name: None, line });
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| collect(tree, before, leaves)),
    }
}
