//! The names of objects in the bucket.
//!
//! ```text
//! v1/blobs/sha256/ab/<hex>                                         a blob's bytes
//! v1/manifests/sha256/ab/<hex>                                     a manifest's
//! v1/records/<upstream>/_served/sha256/ab/<hex>                    the upstream has served these bytes,
//! v1/records/<upstream>/<repository>/_blobs/sha256/ab/<hex>        and said that the repository holds them, as a blob
//! v1/records/<upstream>/<repository>/_manifests/sha256/ab/<hex>    or as a manifest
//! v1/records/<upstream>/<repository>/_tags/<tag>                   where a tag points
//! v1/used/blobs/sha256/ab/<hex>                                    empty: written anew when its object is used
//! v1/purged/<seconds>-<random>                                     a note of what an operator has removed
//! ```
//!
//! No component of a repository's name begins with an underscore, so that no record has the name of another.

use object_store::path::Path;

use crate::cache::RecordSubject;
use crate::cache::store::Kind;
use crate::proto::{Digest, RepositoryName, Tag};

/// The names below a prefix.
#[derive(Debug, Clone)]
pub(super) struct ObjectNames {
    /// With a slash at its end, or empty.
    prefix: String,
}

impl ObjectNames {
    /// Returns the names below `prefix`, which is empty or components with slashes between them.
    pub(super) fn new(prefix: &str) -> Self {
        let slash = if prefix.is_empty() { "" } else { "/" };
        Self { prefix: format!("{prefix}{slash}") }
    }

    /// Returns the name of content.
    pub(super) fn content(&self, kind: Kind, digest: &Digest) -> Path {
        self.path(&format!("{}/{}", kind.directory(), spread(digest)))
    }

    /// Returns the digest of the content that has this name. `None` for other objects.
    pub(super) fn digest_of(&self, kind: Kind, content: &Path) -> Option<Digest> {
        let (folder, _) = self.folders(kind);
        gathered(content.as_ref().strip_prefix(folder.as_ref())?.strip_prefix('/')?)
    }

    /// Returns the folder of all content of a kind, and that of its markers.
    pub(super) fn folders(&self, kind: Kind) -> (Path, Path) {
        let below = kind.directory();
        (self.path(below), self.path(&format!("used/{below}")))
    }

    /// Returns the folder of all records.
    pub(super) fn records(&self) -> Path {
        self.path("records")
    }

    /// Returns the name of the marker of the use of content, which has the name `content`.
    pub(super) fn marker_of(&self, content: &Path) -> Path {
        let below = self.below_prefix(content);
        let below = below.strip_prefix(VERSION).unwrap_or(below).trim_start_matches('/');
        self.path(&format!("used/{below}"))
    }

    /// Returns the beginning of all names.
    pub(super) fn all(&self) -> String {
        format!("{}{VERSION}/", self.prefix)
    }

    /// Returns the name of the record that a repository holds content. `upstream` is its name and URL.
    pub(super) fn held(
        &self,
        upstream: &str,
        repository: &RepositoryName,
        kind: Kind,
        digest: &Digest,
    ) -> Path {
        let (place, folder) = (place(upstream), kind.directory());
        self.path(&format!("records/{place}/{repository}/_{folder}/{}", spread(digest)))
    }

    /// Returns the name of the record of where a tag points.
    pub(super) fn tag(&self, upstream: &str, repository: &RepositoryName, tag: &Tag) -> Path {
        self.path(&format!("records/{}/{repository}/_tags/{tag}", place(upstream)))
    }

    /// Returns the folder of an upstream's records.
    pub(super) fn records_of(&self, upstream: &str) -> Path {
        self.path(&format!("records/{}", place(upstream)))
    }

    /// Returns true for a folder that is a list of a repository's records, and is not a part of a repository's name.
    pub(super) fn is_list(folder: &Path) -> bool {
        folder.filename().is_some_and(|name| name.starts_with('_'))
    }

    /// Returns the repository whose records `folder` is, below that of all of its upstream.
    pub(super) fn repository_of(upstream: &Path, folder: &Path) -> Option<RepositoryName> {
        let name = folder.as_ref().strip_prefix(upstream.as_ref())?.strip_prefix('/')?;
        RepositoryName::parse(name).ok()
    }

    /// Returns the repository that a record below `folder` is about, and what of it. `None` for other objects.
    pub(super) fn record_in(folder: &Path, record: &Path) -> Option<(RepositoryName, RecordSubject)> {
        let below = record.as_ref().strip_prefix(folder.as_ref())?.strip_prefix('/')?;
        let (repository, subject) = below.split_once("/_")?;
        let (list, name) = subject.split_once('/')?;
        let content = |kind: Kind| Some(RecordSubject::Content(kind, gathered(name)?));
        let subject = match list {
            "tags" => RecordSubject::Tag(Tag::parse(name).ok()?),
            list => content(Kind::ALL.into_iter().find(|kind| kind.directory() == list)?)?,
        };
        Some((RepositoryName::parse(repository).ok()?, subject))
    }

    /// Returns the name of a note of a removal at `seconds` since 1970: they are listed in the order of time.
    pub(super) fn note(&self, seconds: u64, number: u64) -> Path {
        self.path(&format!("purged/{seconds:012}-{number:016x}"))
    }

    /// Returns the folder of all notes of removals.
    pub(super) fn notes(&self) -> Path {
        self.path("purged")
    }

    /// Returns the name of the record that an upstream has served content, in whichever repository.
    pub(super) fn served(&self, upstream: &str, digest: &Digest) -> Path {
        self.path(&format!("records/{}/_served/{}", place(upstream), spread(digest)))
    }

    /// Returns the name of an object that is written and deleted to try the store.
    pub(super) fn trial(&self, number: u64) -> Path {
        self.path(&format!("trials/{number:016x}"))
    }

    /// Returns the folder of all trials.
    pub(super) fn trials(&self) -> Path {
        self.path("trials")
    }

    /// Returns a name without the prefix: what a record's signature is bound to, so that a bucket can be copied to another place,
    /// and no record to the name of another.
    pub(super) fn below_prefix<'a>(&self, path: &'a Path) -> &'a str {
        path.as_ref().strip_prefix(&self.prefix).unwrap_or_else(|| path.as_ref())
    }

    fn path(&self, below: &str) -> Path {
        // Letters, digits, `.`, `_` and `-` alone, with slashes between components that are not empty: nothing is escaped.
        Path::from(format!("{}{VERSION}/{below}", self.prefix))
    }
}

/// Returns the folder of an upstream's records. Another URL is another registry.
fn place(upstream: &str) -> String {
    let name = upstream.split(' ').next().unwrap_or_default().replace(':', "_");
    let mark = Digest::sha256_of(upstream.as_bytes());
    format!("{name}-{}", mark.encoded().get(..MARK).unwrap_or_default())
}

/// Returns a digest as a path, with a folder for each first byte: some stores keep files, and all are quicker to list in parts.
fn spread(digest: &Digest) -> String {
    let (algorithm, encoded) = digest.as_str().split_once(':').unwrap_or_default();
    format!("{algorithm}/{}/{encoded}", encoded.get(..2).unwrap_or_default())
}

/// Returns the digest that [`spread`] made such a path.
fn gathered(path: &str) -> Option<Digest> {
    let (algorithm, spread) = path.split_once('/')?;
    let (_, encoded) = spread.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{encoded}")).ok()
}

const VERSION: &str = "v1";

/// Digits of the mark by which upstreams of one name and other URLs differ.
const MARK: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        Digest::sha256(&[0xab; 32])
    }

    fn repository(name: &str) -> RepositoryName {
        RepositoryName::parse(name).unwrap()
    }

    #[test]
    fn content_is_named_by_its_digest_alone() {
        let (names, hex) = (ObjectNames::new("a/b"), "ab".repeat(32));
        let path = names.content(Kind::Blob, &digest());
        assert_eq!(path.as_ref(), format!("a/b/v1/blobs/sha256/ab/{hex}"));
        assert_eq!(names.below_prefix(&path), format!("v1/blobs/sha256/ab/{hex}"));
        assert_eq!(names.digest_of(Kind::Blob, &path), Some(digest()));
        assert_eq!(names.digest_of(Kind::Manifest, &path), None);
        let bare = ObjectNames::new("").content(Kind::Manifest, &digest());
        assert_eq!(bare.as_ref(), format!("v1/manifests/sha256/ab/{hex}"));
    }

    #[test]
    fn each_object_has_a_marker_and_a_folder() {
        let names = ObjectNames::new("a");
        let content = names.content(Kind::Blob, &digest());
        let (folder, markers) = names.folders(Kind::Blob);
        assert!(content.as_ref().starts_with(&format!("{folder}/")), "{content} in {folder}");
        let marker = names.marker_of(&content);
        assert!(marker.as_ref().starts_with("a/v1/used/blobs/sha256/ab/ab"), "{marker}");
        assert!(marker.as_ref().starts_with(&format!("{markers}/")), "{marker} in {markers}");
        assert!(content.as_ref().starts_with(&names.all()));
    }

    #[test]
    fn a_record_tells_what_it_is_about() {
        let (names, up) = (ObjectNames::new("pre"), "a https://a");
        let folder = names.records_of(up);
        let (b, tag) = (repository("b/c"), Tag::parse("Latest").unwrap());
        let read = |path: &Path| ObjectNames::record_in(&folder, path);
        let of_tag = read(&names.tag(up, &b, &tag));
        assert_eq!(of_tag, Some((b.clone(), RecordSubject::Tag(tag))));
        for kind in Kind::ALL {
            let content = read(&names.held(up, &b, kind, &digest()));
            assert_eq!(content, Some((b.clone(), RecordSubject::Content(kind, digest()))));
        }
        assert_eq!(read(&names.served(up, &digest())), None);
        assert_eq!(read(&names.held("b https://b", &b, Kind::Blob, &digest())), None);
    }

    #[test]
    fn notes_are_named_in_the_order_of_time() {
        let names = ObjectNames::new("");
        let (early, late) = (names.note(9, u64::MAX), names.note(1_700_000_000, 0));
        assert!(early < late && early.as_ref().starts_with(&format!("{}/", names.notes())), "{early}");
    }

    #[test]
    fn records_of_two_repositories_have_two_names() {
        let names = ObjectNames::new("");
        let of = |upstream: &str, name: &str| {
            names.held(upstream, &repository(name), Kind::Blob, &digest()).as_ref().to_owned()
        };
        let one = of("docker.io https://registry-1.docker.io", "library/alpine");
        assert!(
            one.starts_with("v1/records/docker.io-") && one.contains("/library/alpine/_blobs/sha256/ab/ab"),
            "{one}"
        );
        assert_ne!(one, of("docker.io https://mirror.example", "library/alpine"));
        assert_ne!(one, of("docker.io https://registry-1.docker.io", "library/alpine/blobs"));
        let latest = Tag::parse("v1.0_RC-2").unwrap();
        let tag = names.tag("a https://a", &repository("b/c"), &latest);
        assert!(tag.as_ref().ends_with("/b/c/_tags/v1.0_RC-2"), "{tag}");
        assert!(of("10.0.0.1:5000 http://10.0.0.1:5000", "a").starts_with("v1/records/10.0.0.1_5000-"));
        let served = names.served("a https://a", &digest());
        assert!(served.as_ref().contains("/_served/sha256/ab/"), "{served}");
    }
}
