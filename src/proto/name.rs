//! Repository names.

use std::fmt;
use std::str::Split;
use std::sync::Arc;

use thiserror::Error;

/// The longest repository name that is accepted, in bytes: the limit of distribution/reference
/// (`NameTotalLengthMax`), which every client has compiled in.
pub(crate) const MAX_NAME_LENGTH: usize = 255;

/// The name of a repository, without a host: `library/alpine`.
///
/// distribution-spec, "Pulling manifests":
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
///
/// Deviation: a name of exactly 64 hexadecimal digits is accepted. distribution/reference refuses it only where a
/// short name on a command line could be taken for an image id, which is no question here.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Arc<str>);

/// The reason why a text is no [`RepositoryName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a repository name cannot be empty")]
    Empty,
    /// Longer than [`MAX_NAME_LENGTH`].
    #[error("a repository name has at most {MAX_NAME_LENGTH} characters")]
    TooLong,
    /// A component outside the grammar.
    #[error(
        "a repository name consists of lower-case letters, digits and the separators . _ __ - between them, in components divided by /"
    )]
    Component,
}

impl RepositoryName {
    /// Accepts exactly the names of the grammar, up to [`MAX_NAME_LENGTH`] bytes.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_LENGTH {
            return Err(NameError::TooLong);
        }
        if text.split('/').all(is_component) { Ok(Self(text.into())) } else { Err(NameError::Component) }
    }

    /// Returns the whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the components between the slashes, of which there is at least one.
    pub fn components(&self) -> Split<'_, char> {
        self.0.split('/')
    }

    /// Returns the components by their numbers, for a matcher that compares them with many patterns.
    pub(crate) fn indexed(&self) -> Components<'_> {
        Components::of(&self.0)
    }

    /// Returns what follows `prefix`, in whole components: `team` is no prefix of `teamx/app`. None when `prefix` is
    /// not there, or when nothing remains after it. The empty prefix leaves the name as it is.
    pub fn strip_prefix(&self, prefix: &str) -> Option<Self> {
        if prefix.is_empty() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(prefix)?.strip_prefix('/')?;
        Some(Self(rest.into()))
    }

    /// Returns the name below `prefix`; the empty prefix leaves it as it is. Fails when `prefix` is no name itself, or
    /// when the whole would be too long.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self, NameError> {
        if prefix.is_empty() { Ok(self.clone()) } else { Self::parse(&format!("{prefix}/{}", self.0)) }
    }
}

/// The components of a name, found once.
#[derive(Clone, Debug)]
pub(crate) struct Components<'a> {
    name: &'a [u8],
    /// The place behind each.
    ends: [u8; MAX_COMPONENTS],
    count: usize,
}

/// The longest name has a slash between every two characters.
const MAX_COMPONENTS: usize = MAX_NAME_LENGTH / 2 + 1;

impl<'a> Components<'a> {
    /// Finds the components of a name that has at most [`MAX_NAME_LENGTH`] bytes.
    fn of(name: &'a str) -> Self {
        let mut found = Self { name: name.as_bytes(), ends: [0; MAX_COMPONENTS], count: 0 };
        for (place, byte) in (0..=u8::MAX).zip(name.bytes().chain([b'/'])) {
            if byte == b'/' {
                found.ends[found.count] = place;
                found.count += 1;
            }
        }
        found
    }

    /// Returns true if one of them is `component`.
    pub(crate) fn contain(&self, component: &str) -> bool {
        (0..self.count).any(|number| self.at(number) == component.as_bytes())
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Returns the one of a number, which is less than [`len`](Self::len).
    pub(crate) fn at(&self, number: usize) -> &'a [u8] {
        let start = number.checked_sub(1).map_or(0, |before| usize::from(self.ends[before]) + 1);
        &self.name[start..usize::from(self.ends[number])]
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::str::FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// Returns true for `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let mut rest = text.as_bytes();
    loop {
        let word = run(rest, |b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        rest = &rest[separator(rest)..];
    }
}

/// Returns the length of the separator at the start of `rest`; 0 when there is none, upon which no word can follow.
fn separator(rest: &[u8]) -> usize {
    match rest {
        [b'.', ..] => 1,
        [b'_', b'_', ..] => 2,
        [b'_', ..] => 1,
        _ => run(rest, |b| b == b'-'),
    }
}

fn run(bytes: &[u8], member: impl Fn(u8) -> bool) -> usize {
    bytes.iter().take_while(|&&b| member(b)).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_the_grammar_are_accepted() {
        let good = [
            "a",
            "a__b",
            "a--b",
            "a---b",
            "a.b",
            "a_b",
            "a/b",
            "library/nginx",
            "docker.io/library/alpine",
            "0",
            "a/b/c/d",
            "foo/manifests/bar",
            "blobs",
            "manifests",
            "tags/uploads/referrers",
            "a/v2",
            "1.2.3-rc.1/x__y",
        ];
        for name in good {
            assert_eq!(RepositoryName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let bad = [
            "a___b", "a_-b", "a-_b", "a..b", "-a", "a-", ".a", "a.", "_a", "a_", "A", "a//b", "/a", "a/",
            "/", "a b", "a:b", "a@b", "é", "a%2fb", "a\\b", "..", "a/../b", "a/.", "a\0", "_catalog", "a._b",
            "a.-b",
        ];
        for name in bad {
            assert_eq!(RepositoryName::parse(name), Err(NameError::Component), "{name:?}");
        }
        assert_eq!(RepositoryName::parse(""), Err(NameError::Empty));
    }

    #[test]
    fn a_name_has_at_most_255_bytes() {
        assert!(RepositoryName::parse(&"a".repeat(255)).is_ok());
        assert_eq!(RepositoryName::parse(&"a".repeat(256)), Err(NameError::TooLong));
    }

    #[test]
    fn components_are_found_by_their_numbers() {
        for name in [
            "a".to_owned(),
            "team/backend/api".to_owned(),
            ["a"; MAX_COMPONENTS].join("/"),
            "n".repeat(MAX_NAME_LENGTH),
        ] {
            let name = RepositoryName::parse(&name).unwrap();
            let indexed = name.indexed();
            let found: Vec<_> = (0..indexed.len()).map(|number| indexed.at(number)).collect();
            assert_eq!(found, name.components().map(str::as_bytes).collect::<Vec<_>>());
            for component in name.components() {
                assert!(indexed.contain(component));
            }
            assert!(!indexed.contain("b") && !indexed.contain("") && !indexed.contain("a/a"));
        }
    }

    #[test]
    fn a_name_of_64_hexadecimal_digits_is_a_name() {
        assert!(RepositoryName::parse(&"0af1".repeat(16)).is_ok());
    }

    #[test]
    fn a_prefix_is_stripped_in_whole_components() {
        let name = RepositoryName::parse("team/app/x").unwrap();
        assert_eq!(name.strip_prefix("team").unwrap().as_str(), "app/x");
        assert_eq!(name.strip_prefix("team/app").unwrap().as_str(), "x");
        assert_eq!(name.strip_prefix("").unwrap(), name);
        assert_eq!(name.strip_prefix("tea"), None);
        assert_eq!(name.strip_prefix("team/app/x"), None);
        assert_eq!(name.strip_prefix("other"), None);
        assert_eq!(name.strip_prefix("team/"), None);
    }

    #[test]
    fn a_prefix_must_be_a_name_itself() {
        let name = RepositoryName::parse("app").unwrap();
        assert_eq!(name.with_prefix("team/x").unwrap().as_str(), "team/x/app");
        assert_eq!(name.with_prefix("").unwrap(), name);
        assert_eq!(name.with_prefix("Team"), Err(NameError::Component));
        assert_eq!(name.with_prefix(&"a".repeat(255)), Err(NameError::TooLong));
    }

    proptest! {
        #[test]
        fn the_scanner_agrees_with_the_specification(
            name in "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}){0,3}"
        ) {
            prop_assert_eq!(RepositoryName::parse(&name).unwrap().to_string(), name);
        }

        #[test]
        fn what_is_prefixed_strips_back(name in "[a-z]{1,3}(/[a-z]{1,3}){0,2}", prefix in "[a-z]{1,3}(/[a-z]{1,3}){0,2}") {
            let name = RepositoryName::parse(&name).unwrap();
            prop_assert_eq!(name.with_prefix(&prefix).unwrap().strip_prefix(&prefix), Some(name));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = RepositoryName::parse(&text);
        }

        #[test]
        fn separators_in_any_order_do_not_panic(text in "[a-zA._/-]{0,12}") {
            if let Ok(name) = RepositoryName::parse(&text) {
                prop_assert!(name.components().all(|c| c.starts_with(|c: char| c.is_ascii_lowercase())));
            }
        }
    }
}
