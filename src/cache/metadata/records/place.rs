//! Where a record is: its place below a repository or an upstream, and its name there.

use crate::proto::{Algorithm, Digest, Tag};

/// The directory of a record: below its repository, or below the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Blobs,
    Manifests,
    Tags,
    /// Lists, each as long as the upstream made it.
    Lists,
    /// Records of no repository.
    Served,
}

impl Place {
    /// The places of a repository's records.
    pub(super) const OF_REPOSITORY: [Self; 4] = [Self::Blobs, Self::Manifests, Self::Tags, Self::Lists];

    /// Returns the name of the directory. No component of a repository's name is like it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Blobs => "_blobs",
            Self::Manifests => "_manifests",
            Self::Tags => "_tags",
            Self::Lists => "_lists",
            Self::Served => "_served",
        }
    }
}

/// The name of a file below a [`Place`].
pub(crate) trait Name {
    /// Returns its path there. All grammars leave out `/`, and `.` and `+` as the first character.
    fn path(&self) -> String;

    /// Returns the path that it had before there were shards, if that was another one.
    fn flat_path(&self) -> Option<String>;
}

impl Name for Digest {
    fn path(&self) -> String {
        let (algorithm, encoded) = (self.algorithm(), self.encoded());
        let shard = match encoded.get(..2).filter(|_| algorithm != Algorithm::Other) {
            Some(digits) => digits.to_owned(),
            None => first_byte(encoded),
        };
        let algorithm = self.as_str().trim_end_matches(encoded).trim_end_matches(':');
        format!("{algorithm}/{SHARD}{shard}/{encoded}")
    }

    fn flat_path(&self) -> Option<String> {
        Some(self.as_str().replacen(':', "/", 1))
    }
}

impl Name for Tag {
    fn path(&self) -> String {
        format!("{SHARD}{}/{}", first_byte(self.as_str()), self.as_str())
    }

    fn flat_path(&self) -> Option<String> {
        Some(self.as_str().to_owned())
    }
}

/// The name of a list: the target that the upstream was asked for, hashed. A repository has few lists.
#[derive(Debug, Clone)]
pub(crate) struct ListName(String);

impl ListName {
    /// Returns the name of what the upstream lists at `target`.
    pub(crate) fn of(target: &str) -> Self {
        Self(hashed(target).encoded().to_owned())
    }
}

impl Name for ListName {
    fn path(&self) -> String {
        self.0.clone()
    }

    fn flat_path(&self) -> Option<String> {
        None
    }
}

/// Returns two hexadecimal digits that are as likely as any other.
fn first_byte(text: &str) -> String {
    hashed(text).encoded().chars().take(2).collect()
}

fn hashed(text: &str) -> Digest {
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    Digest::sha256(sum.as_ref().first_chunk().unwrap_or(&[0; 32]))
}

/// The first character of the name of a shard. No name of a record begins with it.
pub(super) const SHARD: char = '+';
