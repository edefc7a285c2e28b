//! Lists of tags and referrers that the upstream has given, for when it cannot be asked.
//!
//! Only what was asked for once is known: to list what happens to be in the cache would show a part as the whole, and a
//! client that copies an image would leave its signatures behind without a word.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cache::error::CacheError;
use crate::cache::metadata::generation::Generation;
use crate::cache::metadata::records::ListName;
use crate::cache::metadata::upstream_metadata::UpstreamMetadata;
use crate::cache::origin::gate::Gate;
use crate::cache::pull_authorization::PullAuthorizer;
use crate::cache::requester::Requester;
use crate::cache::store::disk_pool::Use;
use crate::clock;
use crate::proto::{Digest, Reference, RepositoryName, Tag};

/// The lists that one upstream has given of its repositories.
pub(crate) struct Listings {
    gate: Arc<Gate>,
    metadata: Arc<UpstreamMetadata>,
    authorizer: Arc<PullAuthorizer>,
}

/// A list as the upstream gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptList {
    /// The part of the answer's head that belongs to the list.
    pub head: ListHead,
    /// The body.
    pub body: Bytes,
}

/// The head of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListHead {
    /// The query of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The filters that it was made with (`OCI-Filters-Applied`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<String>,
}

/// A list that the upstream is being asked for, to be kept when it has come.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    repository: RepositoryName,
    name: ListName,
    generation: Generation,
}

/// The first line of a file: when the list came, and its head.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Seconds since 1970.
    confirmed: u64,
    #[serde(flatten)]
    head: ListHead,
}

impl Listings {
    /// Returns the lists that are recorded in `metadata`, for requesters that `authorizer` lets pass.
    pub(crate) fn new(
        gate: Arc<Gate>,
        metadata: Arc<UpstreamMetadata>,
        authorizer: Arc<PullAuthorizer>,
    ) -> Self {
        Self { gate, metadata, authorizer }
    }

    /// Begins to ask for what the upstream lists at `target`.
    pub(crate) fn begin(&self, repository: &RepositoryName, target: &str) -> Listed {
        let generation = self.metadata.generation(repository);
        Listed { repository: repository.clone(), name: ListName::of(target), generation }
    }

    /// Keeps a list, unless the repository has been written to since it was asked for. Does so in the background.
    pub(crate) fn keep(self: &Arc<Self>, listed: Listed, list: KeptList) {
        let this = self.clone();
        // Where too much waits to be written, the list is not kept.
        self.metadata.disk().later(list.body.len(), move || this.write(&listed, list));
    }

    fn write(&self, listed: &Listed, list: KeptList) {
        let Listed { repository, name, generation } = listed;
        let ledger = self.metadata.ledger();
        let Some(bytes) = render(list, clock::wall()) else { return };
        let keep = || ledger.keep_list(repository, name, &bytes);
        self.metadata.unless_written(repository, *generation, keep, || ledger.forget_lists(repository));
    }

    /// Forgets the lists of a repository: the registry itself says that it is not there, or not for anyone.
    pub(crate) fn forget(&self, repository: &RepositoryName) {
        self.metadata.ledger().forget_lists(repository);
    }

    /// Returns what the upstream listed when it was asked last, if that is kept and not too old. `subject` is what the list is
    /// about, if it is not the repository as a whole.
    ///
    /// # Errors
    /// If the requester may not read the repository.
    pub(crate) async fn kept(
        self: &Arc<Self>,
        requester: &Requester,
        listed: &Listed,
        subject: Option<&Digest>,
    ) -> Result<Option<KeptList>, CacheError> {
        let (this, listed) = (self.clone(), listed.clone());
        let read = self.metadata.disk().run(Use::Read, "reading a list", move || this.read(&listed)).await;
        let Some(list) = read.ok().flatten() else { return Ok(None) };
        let reference = match subject {
            Some(subject) => Some(Reference::Digest(subject.clone())),
            None => first_tag(&list.body).map(Reference::Tag),
        };
        if let Some(reference) = reference {
            self.authorizer.authorize_manifest(requester, &reference).await?;
        }
        Ok(Some(list))
    }

    fn read(&self, listed: &Listed) -> Option<KeptList> {
        let (list, confirmed) = parse(self.metadata.ledger().list(&listed.repository, &listed.name)?)?;
        let age = clock::wall().duration_since(confirmed).unwrap_or_default();
        self.gate.upstream().may_serve_stale(age, Duration::ZERO).then_some(list)
    }
}

fn render(list: KeptList, now: SystemTime) -> Option<Vec<u8>> {
    let confirmed = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let line = serde_json::to_vec(&Line { confirmed, head: list.head }).ok()?;
    Some([&line[..], b"\n", &list.body].concat())
}

fn parse(file: Vec<u8>) -> Option<(KeptList, SystemTime)> {
    let file = Bytes::from(file);
    let end = file.iter().position(|byte| *byte == b'\n')?;
    let Line { confirmed, head } = serde_json::from_slice(&file[..end]).ok()?;
    let confirmed = UNIX_EPOCH.checked_add(Duration::from_secs(confirmed))?;
    Some((KeptList { head, body: file.slice(end + 1..) }, confirmed))
}

/// Returns the first tag of a list, by which the right to read the repository can be asked about.
fn first_tag(list: &[u8]) -> Option<Tag> {
    #[derive(Deserialize)]
    struct Tags {
        tags: Option<Vec<String>>,
    }
    let list: Tags = serde_json::from_slice(list).ok()?;
    list.tags?.iter().find_map(|tag| Tag::parse(tag).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let head = ListHead { next: Some("n=1&last=%22".into()), filters: Some("artifactType".into()) };
        for (head, body) in [(head, "{\n}\n"), (ListHead::default(), "")] {
            let list = KeptList { head, body: body.into() };
            let now = UNIX_EPOCH + Duration::from_secs(7);
            assert_eq!(parse(render(list.clone(), now).unwrap()), Some((list, now)));
        }
        for bad in ["", "{}", "{}\n", "\n{}", "{\"confirmed\":1}"] {
            assert_eq!(parse(bad.into()), None, "{bad}");
        }
    }

    #[test]
    fn the_right_to_read_is_asked_by_the_first_tag() {
        let tag = |list: &str| first_tag(list.as_bytes()).map(|tag| tag.to_string());
        assert_eq!(tag(r#"{"name":"a","tags":["v1","v2"]}"#).as_deref(), Some("v1"));
        for list in ["", "[]", r#"{"tags":null}"#, r#"{"tags":[]}"#, r#"{"tags":["/"]}"#] {
            assert_eq!(tag(list), None, "{list}");
        }
    }
}
