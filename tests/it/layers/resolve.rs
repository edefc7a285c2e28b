//! From a path in code to the item that it names, through imports and re-exports.

use std::collections::HashSet;

use super::modules::{Named, Tree};

/// The target of a path.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    /// The modules that the path leads through.
    pub(super) through: Vec<usize>,
    pub(super) end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Module(usize),
    /// An item, and the rest of the path.
    Item(usize, Vec<String>),
    /// The path begins in this crate and names nothing in it.
    Nothing,
}

type Seen = HashSet<(usize, String)>;

impl Tree {
    /// Follows a path from a module. Returns nothing for a path into another crate, and several targets if a name has
    /// several meanings.
    pub(super) fn resolve(&self, module: usize, path: &[String]) -> Vec<Reached> {
        self.follow(module, path, &mut Seen::new())
    }

    fn follow(&self, module: usize, path: &[String], seen: &mut Seen) -> Vec<Reached> {
        let mut start = module;
        let mut at = 0;
        while let Some(name) = path.get(at) {
            start = match name.as_str() {
                "crate" => 0,
                "self" if path.len() > 1 => start,
                "super" => self.modules[start].parent.unwrap_or(0),
                _ => break,
            };
            at += 1;
        }
        if at == 0 {
            return self.step(module, path, Vec::new(), seen);
        }
        self.walk(start, &path[at..], vec![start], seen)
    }

    fn walk(&self, module: usize, rest: &[String], through: Vec<usize>, seen: &mut Seen) -> Vec<Reached> {
        if rest.is_empty() {
            return vec![Reached { through, end: End::Module(module) }];
        }
        let reached = self.step(module, rest, through.clone(), seen);
        if reached.is_empty() { vec![Reached { through, end: End::Nothing }] } else { reached }
    }

    /// Looks up the first name of a path in a module and follows the rest.
    fn step(&self, module: usize, path: &[String], through: Vec<usize>, seen: &mut Seen) -> Vec<Reached> {
        let rest = &path[1..];
        let mut ends = Vec::new();
        for Reached { through: more, end } in self.look_up(module, &path[0], seen) {
            let through = [through.as_slice(), &more].concat();
            match end {
                End::Module(module) => ends.extend(self.walk(module, rest, through, seen)),
                End::Item(item, within) => {
                    let within = [within.as_slice(), rest].concat();
                    ends.push(Reached { through, end: End::Item(item, within) });
                }
                End::Nothing => ends.push(Reached { through, end: End::Nothing }),
            }
        }
        // A path means the one of several targets that contains its next name.
        if ends.iter().any(|reached| reached.end != End::Nothing) {
            ends.retain(|reached| reached.end != End::Nothing);
        }
        ends
    }

    fn look_up(&self, module: usize, name: &str, seen: &mut Seen) -> Vec<Reached> {
        let key = (module, name.to_owned());
        if !seen.insert(key.clone()) {
            return Vec::new();
        }
        let mut ends = Vec::new();
        for named in self.modules[module].names.get(name).into_iter().flatten() {
            match named {
                Named::Module(child) => {
                    ends.push(Reached { through: vec![*child], end: End::Module(*child) });
                }
                Named::Item(item) => {
                    ends.push(Reached { through: Vec::new(), end: End::Item(*item, Vec::new()) });
                }
                Named::Import(path) => ends.extend(self.follow(module, path, seen)),
            }
        }
        if ends.is_empty() {
            for path in &self.modules[module].globs {
                for Reached { through, end } in self.follow(module, path, seen) {
                    let End::Module(from) = end else { continue };
                    for reached in self.look_up(from, name, seen) {
                        let through = [through.as_slice(), &reached.through].concat();
                        ends.push(Reached { through, end: reached.end });
                    }
                }
            }
        }
        seen.remove(&key);
        ends
    }
}
