//! The output of `cargo test --test it layers -- --nocapture`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use super::mentions::{Function, Kind};
use super::modules::Tree;

impl Tree {
    /// Renders the rooms, the arrows between them, the circles in them and the lengths of functions.
    pub(super) fn listing(&self) -> String {
        let mut text = String::from("\nrooms (files) and what they import:\n");
        let mut arrows: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for arrow in self.arrows() {
            *arrows.entry(arrow.from).or_default().entry(arrow.to).or_default() += 1;
        }
        for (room, files) in self.rooms() {
            let to = arrows.get(room).into_iter().flatten();
            let to: Vec<_> = to.map(|(to, count)| format!("{to} {count}")).collect();
            let _ = writeln!(text, "  {room} ({files}): {}", to.join(", "));
        }
        text.push_str(&self.circles_listed());
        text.push_str(&self.functions_listed());
        text
    }

    /// Renders the circles with a sample of each import.
    pub(super) fn circles_listed(&self) -> String {
        let mut text = String::new();
        for circle in self.circles() {
            let files: Vec<_> = circle.files.iter().map(|file| self.files[*file].name.as_str()).collect();
            let _ = writeln!(
                text,
                "circle in {}, {} files, {} imports: {}",
                circle.room,
                files.len(),
                circle.edges.len(),
                files.join(" ")
            );
            for (from, to, sample) in &circle.edges {
                let (from, to) = (&self.files[*from].name, &self.files[*to].name);
                let _ = writeln!(text, "    {from} -> {to} ({sample})");
            }
        }
        text
    }

    /// Renders the lengths of functions, and the share of functions that are mentioned once. Mentions are counted by
    /// name, so only functions with a unique name count there.
    fn functions_listed(&self) -> String {
        let functions = &self.found.functions;
        let mut lines: Vec<_> = functions.iter().map(|function| function.lines).collect();
        lines.sort_unstable();
        let at = |share: usize| lines[(lines.len() * share / 100).min(lines.len() - 1)];
        let mut text = format!(
            "{} functions, lines: median {}, p90 {}, p99 {}, longest {}\n",
            lines.len(),
            at(50),
            at(90),
            at(99),
            at(100)
        );
        let mut mentioned: HashMap<&str, usize> = HashMap::new();
        let paths = self.found.mentions.iter().filter(|mention| mention.kind == Kind::Code);
        let paths = paths.filter_map(|mention| mention.path.last());
        for name in paths.chain(self.found.calls.iter().map(|call| &call.name)) {
            *mentioned.entry(name).or_default() += 1;
        }
        let mut defined: HashMap<&str, usize> = HashMap::new();
        functions.iter().for_each(|function| *defined.entry(&function.name).or_default() += 1);
        let counted: Vec<_> = functions
            .iter()
            .filter(|function| !function.is_of_trait && defined[function.name.as_str()] == 1)
            .collect();
        let once =
            |function: &&&Function| mentioned.get(function.name.as_str()).copied().unwrap_or_default() == 1;
        let single = counted.iter().filter(once).count();
        let short = counted.iter().filter(once).filter(|function| function.lines <= 6).count();
        let share = |count: usize| count * 100 / counted.len().max(1);
        let _ = writeln!(
            text,
            "{} functions with a name of their own: {} % are mentioned once, {} % also have 6 lines or fewer",
            counted.len(),
            share(single),
            share(short)
        );
        text
    }
}
