//! Selections of a cache's contents: `REPOSITORY[:TAG|@DIGEST]`, with patterns.

use std::fmt;

use crate::config::{Glob, PatternError, RepositoryPattern};
use crate::proto::{Digest, DigestError, RepositoryName, Tag};

/// Repositories by their canonical names, as in rules, and what of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    repositories: RepositoryPattern,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    All,
    Tags(Glob),
    Digest(Digest),
}

/// The reason why a text selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectionError {
    /// No pattern over repositories.
    #[error("\"{0}\" {1}")]
    Pattern(String, PatternError),
    /// Nothing after the colon.
    #[error("there is no tag after the \":\"")]
    Tag,
    /// No digest after the `@`.
    #[error("what follows \"@\" is no digest: {0}")]
    Digest(#[from] DigestError),
}

impl Selection {
    /// Reads `team/**`, `docker.io/library/alpine:3.*`, `ghcr.io/o/i@sha256:...`.
    ///
    /// # Errors
    /// [`SelectionError`] says what to write.
    pub(crate) fn parse(text: &str) -> Result<Self, SelectionError> {
        let (repositories, what) = match (text.split_once('@'), text.split_once(':')) {
            (Some((repositories, digest)), _) => (repositories, What::Digest(Digest::parse(digest)?)),
            (None, Some((_, ""))) => return Err(SelectionError::Tag),
            (None, Some((repositories, tags))) => (repositories, What::Tags(Glob::new(tags))),
            (None, None) => (text, What::All),
        };
        let pattern = RepositoryPattern::parse(repositories);
        let repositories =
            pattern.map_err(|error| SelectionError::Pattern(repositories.to_owned(), error))?;
        Ok(Self { repositories, what })
    }

    /// Returns true if it means anything of the repository with this canonical name.
    pub(crate) fn has(&self, canonical: &RepositoryName) -> bool {
        self.repositories.matches(canonical)
    }

    /// Returns true if it means all that there is.
    pub(crate) fn is_everything(&self) -> bool {
        self.is_whole() && self.repositories.is_every()
    }

    /// Returns true if it means whole repositories.
    pub(crate) fn is_whole(&self) -> bool {
        self.what == What::All
    }

    /// Returns true if it means this tag, which points to `digest`.
    pub(crate) fn has_tag(&self, tag: &Tag, digest: &Digest) -> bool {
        match &self.what {
            What::All => true,
            What::Tags(glob) => glob.matches(tag.as_str()),
            What::Digest(wanted) => wanted == digest,
        }
    }

    /// Returns true if it means this tag, wherever that points.
    pub(crate) fn names_tag(&self, tag: &Tag) -> bool {
        match &self.what {
            What::All => true,
            What::Tags(glob) => glob.matches(tag.as_str()),
            What::Digest(_) => false,
        }
    }

    /// Returns true if it means this content, whatever points to it.
    pub(crate) fn has_digest(&self, digest: &Digest) -> bool {
        match &self.what {
            What::All => true,
            What::Tags(_) => false,
            What::Digest(wanted) => wanted == digest,
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repositories)?;
        match &self.what {
            What::All => Ok(()),
            What::Tags(glob) => write!(f, ":{glob}"),
            What::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    fn digest(digit: &str) -> Digest {
        Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap()
    }

    #[test]
    fn a_pattern_alone_means_all_of_its_repositories() {
        let all = Selection::parse("docker.io/library/*").unwrap();
        assert!(all.has(&name("docker.io/library/alpine")) && !all.has(&name("docker.io/me/app")));
        assert!(all.is_whole() && all.has_digest(&digest("a")));
        assert!(all.has_tag(&Tag::parse("x").unwrap(), &digest("a")));
    }

    #[test]
    fn tags_are_globs() {
        let some = Selection::parse("**:3.*").unwrap();
        let has = |tag| some.has_tag(&Tag::parse(tag).unwrap(), &digest("a"));
        assert!(has("3.20") && has("3.") && !has("3") && !has("13.1"));
        assert!(some.names_tag(&Tag::parse("3.1").unwrap()) && !some.names_tag(&Tag::parse("4").unwrap()));
        assert!(!some.is_whole() && !some.has_digest(&digest("a")));
    }

    #[test]
    fn a_digest_means_itself_and_the_tags_that_point_to_it() {
        let one = Selection::parse(&format!("a/b@{}", digest("a"))).unwrap();
        let tag = Tag::parse("x").unwrap();
        assert!(one.has_digest(&digest("a")) && one.has_tag(&tag, &digest("a")));
        assert!(!one.has_digest(&digest("b")) && !one.has_tag(&tag, &digest("b")) && !one.names_tag(&tag));
        for text in [one.to_string().as_str(), "a/**", "a/*:3.?"] {
            assert_eq!(Selection::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn empty_selections_are_refused() {
        for text in ["", "Alpine", "a:", "a@", "a@sha256:x", "a//b", ":x"] {
            assert!(Selection::parse(text).is_err(), "{text:?}");
        }
    }
}
