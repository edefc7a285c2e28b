//! Imports between rooms.

use std::collections::{BTreeMap, BTreeSet};

use super::mentions::{Kind, Mention};
use super::modules::Tree;
use super::resolve::{End, Reached};
use super::table;

/// An import of one room by another.
pub(super) struct Arrow<'t> {
    pub(super) from: &'t str,
    pub(super) to: &'t str,
    pub(super) path: String,
    pub(super) place: String,
    end: End,
}

impl Tree {
    /// Every import between rooms, except those of the crate's root.
    pub(super) fn arrows(&self) -> Vec<Arrow<'_>> {
        self.found.mentions.iter().flat_map(|mention| self.arrows_of(mention)).collect()
    }

    fn arrows_of<'t>(&'t self, mention: &Mention) -> Vec<Arrow<'t>> {
        let from = self.room(mention.module);
        let mut arrows = Vec::new();
        for Reached { through, end } in self.resolve(mention.module, &mention.path) {
            let mut rooms: BTreeSet<_> = through.iter().map(|module| self.room(*module)).collect();
            if let End::Item(item, _) = &end {
                rooms.insert(self.room(self.items[*item].module));
            }
            for to in rooms.into_iter().filter(|to| *to != from && *to != "lib" && from != "lib") {
                let (path, place) = (mention.path.join("::"), self.place(mention.module, mention.line));
                arrows.push(Arrow { from, to, path, place, end: end.clone() });
            }
        }
        arrows
    }

    /// Imports that the table does not allow, one for each file and imported room.
    pub(super) fn wrong_arrows(&self) -> Vec<String> {
        let mut wrong = BTreeMap::new();
        for arrow in self.arrows() {
            let complaint = match table::rooms_of(arrow.from) {
                None => format!("the table does not have the room {}", arrow.from),
                Some(rooms) if rooms.contains(&arrow.to) => continue,
                Some(_) if self.is_item_of(&arrow.end, &table::items_of(arrow.from)) => continue,
                Some(_) => format!("{} may not import {} ({})", arrow.from, arrow.to, arrow.path),
            };
            let file = arrow.place.split(':').next().unwrap_or_default().to_owned();
            wrong.entry((file, arrow.to)).or_insert_with(|| format!("src/{}: {complaint}", arrow.place));
        }
        wrong.into_values().collect()
    }

    fn is_item_of(&self, end: &End, paths: &[&str]) -> bool {
        let End::Item(item, _) = end else { return false };
        paths.iter().any(|path| self.item_at(path) == Some(*item))
    }

    /// Returns the item that a path from the root names.
    pub(super) fn item_at(&self, path: &str) -> Option<usize> {
        let path: Vec<_> = path.split("::").map(str::to_owned).collect();
        self.resolve(0, &path).into_iter().find_map(|reached| match reached.end {
            End::Item(item, _) => Some(item),
            End::Module(_) | End::Nothing => None,
        })
    }

    /// Entries of the table that nothing imports.
    pub(super) fn unneeded(&self) -> Vec<String> {
        let allowed = table::TABLE.iter().flat_map(|row| row.items.iter().map(move |item| (row.room, *item)));
        let allowed = allowed.chain(table::UNTIL_MOVED.iter().copied());
        let rooms = table::TABLE.iter().flat_map(|row| row.rooms.iter().map(move |room| (row.room, *room)));
        let arrows = self.arrows();
        let used = |room: &str, path: &str| {
            let names = |arrow: &Arrow<'_>| arrow.to == path || self.is_item_of(&arrow.end, &[path]);
            arrows.iter().any(|arrow| arrow.from == room && names(arrow))
        };
        allowed
            .chain(rooms)
            .filter(|(room, path)| !used(room, path))
            .map(|(room, path)| format!("{room} no longer imports {path}: take it out of the table"))
            .collect()
    }

    /// Side effects and waits in the grammar.
    pub(super) fn impurities(&self) -> Vec<String> {
        let paths = self.found.mentions.iter().filter(|mention| self.room(mention.module) == "proto");
        let impure = |path: &[String]| is_any(table::IMPURE, path) && !is_any(table::ADDRESSES, path);
        let paths = paths.filter(|mention| impure(&mention.path));
        let paths = paths.map(|mention| (mention.module, mention.line, mention.path.join("::")));
        let waits = self.found.waits.iter().filter(|(module, _)| self.room(*module) == "proto");
        let waits = waits.map(|(module, line)| (*module, *line, "async".to_owned()));
        paths
            .chain(waits)
            .map(|(module, line, what)| format!("{}: {what}", self.place(module, line)))
            .collect()
    }

    /// Imports that could not be resolved. Without them the other checks would miss arrows.
    pub(super) fn lost(&self) -> Vec<String> {
        let lost = self.found.mentions.iter().filter(|mention| {
            let reached = self.resolve(mention.module, &mention.path);
            mention.kind != Kind::Code && reached.iter().any(|reached| reached.end == End::Nothing)
        });
        lost.map(|mention| {
            format!("{}: {}", self.place(mention.module, mention.line), mention.path.join("::"))
        })
        .collect()
    }
}

/// Returns true if the path is one of these, or lies within one.
fn is_any(these: &[&str], path: &[String]) -> bool {
    let within = |this: &&str| {
        path.len() >= this.split("::").count() && this.split("::").zip(path).all(|(a, b)| a == b)
    };
    these.iter().any(within)
}
