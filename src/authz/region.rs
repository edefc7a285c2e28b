//! The repositories of an upstream, as rules know them.

use crate::config::RepositoryPattern;

/// The repositories of one upstream: those below its prefix, all if that is empty, but not those of other upstreams.
#[derive(Debug)]
pub(crate) struct Region<'a> {
    /// The upstream's prefix.
    pub prefix: &'a str,
    /// The prefixes of the other upstreams.
    pub others: Vec<&'a str>,
}

impl Region<'_> {
    /// Returns true if the pattern may match a repository of the region.
    pub(super) fn may_match(&self, pattern: &RepositoryPattern) -> bool {
        // Another upstream's prefix above this one's says nothing about it.
        let below = |other: &&&str| other.len() > self.prefix.len();
        pattern.may_match_below(self.prefix)
            && !self.others.iter().filter(below).any(|other| pattern.is_below(other))
    }
}
