//! Files of a room that import in a circle.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::mentions::{Call, Kind, Mention};
use super::modules::Tree;
use super::resolve::End;

/// A set of files in which imports lead from each to every other.
pub(super) struct Circle {
    pub(super) room: String,
    pub(super) files: Vec<usize>,
    /// The imports among the files, with a sample of each.
    pub(super) edges: Vec<(usize, usize, String)>,
}

/// A sample for each pair of files of which the first imports the second.
type Edges = BTreeMap<(usize, usize), String>;

impl Tree {
    /// Returns the imports between files of one room. A file imports another if it names an item that is defined
    /// there. Declarations (`mod x;`) and re-exports (`pub use x::Item;`) do not count.
    pub(super) fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        let methods = self.methods();
        for mention in self.found.mentions.iter().filter(|mention| mention.kind != Kind::ReExport) {
            for file in self.files_named(mention, &methods) {
                self.add(&mut edges, mention.module, file, mention.line, &mention.path.join("::"));
            }
        }
        for call in &self.found.calls {
            if let Some(file) = self.file_called(call, &methods) {
                self.add(&mut edges, call.module, file, call.line, &format!(".{}()", call.name));
            }
        }
        edges
    }

    fn add(&self, edges: &mut Edges, module: usize, to: usize, line: usize, what: &str) {
        let from = self.modules[module].file;
        if from != to && self.room_of_file(from) == self.room_of_file(to) {
            edges.entry((from, to)).or_insert_with(|| format!("line {line}: {what}"));
        }
    }

    fn files_named(&self, mention: &Mention, methods: &Methods<'_>) -> Vec<usize> {
        let mut files = Vec::new();
        for reached in self.resolve(mention.module, &mention.path) {
            if let End::Item(item, within) = reached.end {
                files.push(self.file_of(item));
                if let Some(name) = within.first() {
                    files.extend(methods.elsewhere(name, Some(item)));
                }
            }
        }
        files
    }

    fn file_called(&self, call: &Call, methods: &Methods<'_>) -> Option<usize> {
        let of = call.of.as_ref().and_then(|path| self.type_at(call.module, path));
        methods.elsewhere(&call.name, of)
    }

    fn type_at(&self, module: usize, path: &[String]) -> Option<usize> {
        self.resolve(module, path).into_iter().find_map(|reached| match reached.end {
            End::Item(item, _) => Some(item),
            End::Module(_) | End::Nothing => None,
        })
    }

    fn methods(&self) -> Methods<'_> {
        let mut methods = Methods(HashMap::new());
        for function in self.found.functions.iter().filter(|function| !function.is_of_trait) {
            let of = function.of.as_ref().and_then(|path| self.type_at(function.module, path));
            let own = of.map(|item| self.file_of(item));
            let file = self.modules[function.module].file;
            let method = Method { of, file, is_elsewhere: own.is_some_and(|own| own != file) };
            methods.0.entry(&function.name).or_default().push(method);
        }
        methods
    }

    /// Returns the circles of all rooms, the largest first.
    pub(super) fn circles(&self) -> Vec<Circle> {
        let edges = self.edges();
        let mut next: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (from, to) in edges.keys() {
            next.entry(*from).or_default().push(*to);
        }
        let mut circles = Vec::new();
        for files in components(self.files.len(), &next) {
            let among = edges.iter().filter(|((from, to), _)| files.contains(from) && files.contains(to));
            let among = among.map(|((from, to), sample)| (*from, *to, sample.clone())).collect();
            let room = self.room_of_file(files[0]).to_owned();
            circles.push(Circle { room, files, edges: among });
        }
        circles.sort_by_key(|circle| std::cmp::Reverse(circle.files.len()));
        circles
    }

    /// Returns the rooms that have a circle.
    pub(super) fn rooms_with_circles(&self) -> BTreeSet<String> {
        self.circles().into_iter().map(|circle| circle.room).collect()
    }
}

/// The functions of a crate by name.
struct Methods<'t>(HashMap<&'t str, Vec<Method>>);

struct Method {
    of: Option<usize>,
    file: usize,
    /// The method is in another file than its type.
    is_elsewhere: bool,
}

impl Methods<'_> {
    /// Returns the file of a method that is in another file than its type. If `of` is unknown, only a unique name
    /// counts, because types are not inferred here.
    fn elsewhere(&self, name: &str, of: Option<usize>) -> Option<usize> {
        let candidates = self.0.get(name)?;
        let mut candidates = candidates.iter().filter(|method| of.is_none() || method.of == of);
        match (candidates.next(), candidates.next()) {
            (Some(method), None) if method.is_elsewhere => Some(method.file),
            _ => None,
        }
    }
}

/// Returns the strongly connected components with more than one node.
fn components(nodes: usize, next: &BTreeMap<usize, Vec<usize>>) -> Vec<Vec<usize>> {
    let mut back: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (from, to) in next.iter().flat_map(|(from, to)| to.iter().map(move |to| (*from, *to))) {
        back.entry(to).or_default().push(from);
    }
    let reach = |start: usize, next: &BTreeMap<usize, Vec<usize>>| {
        let (mut reached, mut open) = (BTreeSet::from([start]), vec![start]);
        while let Some(node) = open.pop() {
            for to in next.get(&node).into_iter().flatten() {
                if reached.insert(*to) {
                    open.push(*to);
                }
            }
        }
        reached
    };
    let (mut components, mut done) = (Vec::new(), BTreeSet::new());
    for node in 0..nodes {
        if !done.contains(&node) {
            let files: Vec<_> = reach(node, next).intersection(&reach(node, &back)).copied().collect();
            done.extend(files.iter().copied());
            if files.len() > 1 {
                components.push(files);
            }
        }
    }
    components
}
