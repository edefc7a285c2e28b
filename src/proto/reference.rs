//! The reference of a manifest: a tag or a digest.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::proto::digest::{Digest, DigestError};

/// The longest tag, in bytes (distribution-spec, "Pulling manifests").
pub(crate) const MAX_TAG_LENGTH: usize = 128;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution-spec, "Pulling manifests").
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// A text that is no [`Tag`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a tag has 1 to {MAX_TAG_LENGTH} letters, digits, _ . - and does not begin with . or -")]
pub struct TagError;

/// A tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// Moves from content to content.
    Tag(Tag),
    /// Names one content for ever.
    Digest(Digest),
}

/// The reason why a text is no [`Reference`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReferenceError {
    /// Without a `:`, and no tag.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// With a `:`, and no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Tag {
    /// Accepts exactly the tags of the grammar.
    pub fn parse(text: &str) -> Result<Self, TagError> {
        let first = text.as_bytes().first().is_some_and(|&b| b.is_ascii_alphanumeric() || b == b'_');
        let fits = first && text.len() <= MAX_TAG_LENGTH && text.bytes().all(is_tag_byte);
        if fits { Ok(Self(text.into())) } else { Err(TagError) }
    }

    /// Returns the tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Reference {
    /// Parses a digest where there is a `:`, else a tag (the grammars do not overlap).
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            Ok(Self::Digest(Digest::parse(text)?))
        } else {
            Ok(Self::Tag(Tag::parse(text)?))
        }
    }

    /// Returns the tag or digest as it is written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag.as_str(),
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_tag_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_of_the_grammar_are_accepted() {
        let long = "a".repeat(128);
        for text in ["latest", "1.27", "_x", "V1-rc.2_3", "0", "sha256-abc", long.as_str()] {
            assert_eq!(Tag::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = "a".repeat(129);
        for text in ["", ".x", "-x", "a/b", "a:b", "a b", "a+b", "é", "a\0", long.as_str()] {
            assert_eq!(Tag::parse(text), Err(TagError), "{text:?}");
        }
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest() {
        assert!(matches!(Reference::parse("latest"), Ok(Reference::Tag(_))));
        assert!(matches!(Reference::parse("blake3:ab"), Ok(Reference::Digest(_))));
        assert!(matches!(Reference::parse("sha256:ab"), Err(ReferenceError::Digest(_))));
        assert!(matches!(Reference::parse(".x"), Err(ReferenceError::Tag(_))));
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_back(text in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}|[a-z0-9]{1,5}:[a-zA-Z0-9=_-]{1,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(reference.to_string(), text);
            } else {
                prop_assert!(text.starts_with("sha"));
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Reference::parse(&text);
        }
    }
}
