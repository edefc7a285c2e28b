//! The groups that rules name.

use std::collections::HashMap;

use crate::authz::Subject;
use crate::authz::ngrams::Ngrams;
use crate::config::{Group, UserPattern};

/// The groups that rules name, by numbers, each once however many rules name it.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// The number of each, by its name: in the configuration no two have the same.
    numbers: HashMap<Box<str>, usize>,
    /// The groups that list a user by name. There may be far more of these than rules.
    listed: HashMap<Box<str>, Vec<usize>>,
    /// The members that are patterns over names.
    patterns: Vec<PatternMember>,
}

/// A pattern, and the group whose members it tells.
#[derive(Debug)]
struct PatternMember {
    ngrams: Ngrams,
    pattern: UserPattern,
    group: usize,
}

/// The groups that one subject is in.
#[derive(Debug)]
pub(super) struct Memberships(Box<[bool]>);

impl Groups {
    /// Returns the number of a group, which is new if none has its name.
    pub(super) fn number(&mut self, group: &Group) -> usize {
        if let Some(number) = self.numbers.get(group.name.as_str()) {
            return *number;
        }
        let number = self.numbers.len();
        self.numbers.insert(group.name.as_str().into(), number);
        for member in &group.members {
            match member.as_glob().filter(|glob| glob.is_plain()) {
                Some(name) => self.listed.entry(name.as_str().into()).or_default().push(number),
                None => self.patterns.push(PatternMember::new(member, number)),
            }
        }
        number
    }

    /// Returns the groups that a subject is in: those of the configuration, and those that its identity provider says.
    pub(super) fn of(&self, subject: &Subject) -> Memberships {
        let mut is_member = vec![false; self.numbers.len()];
        let told = subject.groups.iter().filter_map(|name| self.numbers.get(name));
        let user = subject.user();
        let listed = user.and_then(|user| self.listed.get(user)).into_iter().flatten();
        let ngrams = Ngrams::of(user.unwrap_or_default());
        let matching = self.patterns.iter().filter(|member| ngrams.contain(&member.ngrams));
        let matching = matching.filter(|member| member.pattern.matches(user)).map(|member| &member.group);
        for number in told.chain(listed).chain(matching) {
            is_member[*number] = true;
        }
        Memberships(is_member.into())
    }
}

impl PatternMember {
    fn new(pattern: &UserPattern, group: usize) -> Self {
        let ngrams = pattern.as_glob().map(|glob| Ngrams::of(glob.as_str())).unwrap_or_default();
        Self { ngrams, pattern: pattern.clone(), group }
    }
}

impl Memberships {
    /// Returns true if the group of this number is one of them.
    pub(super) fn contain(&self, group: usize) -> bool {
        self.0[group]
    }
}
