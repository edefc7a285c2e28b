//! The operations of the distribution API, and their requests to an upstream.

use std::fmt;

use crate::proto::digest::Digest;
use crate::proto::name::RepositoryName;
use crate::proto::page::Page;
use crate::proto::query;
use crate::proto::reference::{Reference, Tag};
use crate::proto::upload::UploadStart;

/// A request of the distribution API, with all that it names (distribution-spec, "Endpoints").
///
/// Rules, logs, cache keys and the upstream's path are all made from it and from nothing else, so that a request
/// cannot mean one thing to the rules and another to the upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the fields are what their types say")]
pub enum Operation {
    /// end-1: is this a registry, and may I?
    Version,
    /// `_catalog`: the repositories (Docker registry API v2; not in the OCI specification).
    Catalog { page: Page },
    /// end-3; with `head` only the headers.
    GetManifest { repository: RepositoryName, reference: Reference, head: bool },
    /// end-7, and end-7b where `tags` is not empty (then the reference is a digest).
    PutManifest { repository: RepositoryName, reference: Reference, tags: Vec<Tag> },
    /// end-9.
    DeleteManifest { repository: RepositoryName, reference: Reference },
    /// end-2; with `head` only the headers.
    GetBlob { repository: RepositoryName, digest: Digest, head: bool },
    /// end-10.
    DeleteBlob { repository: RepositoryName, digest: Digest },
    /// end-8a, end-8b.
    ListTags { repository: RepositoryName, page: Page },
    /// end-12a, end-12b.
    Referrers { repository: RepositoryName, digest: Digest, artifact_type: Option<String>, page: Page },
    /// end-4a, end-4b, end-4c, end-11.
    StartUpload { repository: RepositoryName, start: UploadStart },
    /// end-13. `session` is what follows `blobs/uploads/` in the location that the client was given.
    UploadStatus { repository: RepositoryName, session: String },
    /// end-5: more bytes.
    PatchUpload { repository: RepositoryName, session: String },
    /// end-6: the last bytes, if any, and the digest of the whole.
    FinishUpload { repository: RepositoryName, session: String, digest: Digest },
    /// end-14: the upload is given up.
    CancelUpload { repository: RepositoryName, session: String },
}

/// An action that a rule can grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Read a repository.
    Pull,
    /// Write to a repository.
    Push,
    /// Delete from a repository.
    Delete,
    /// List the repositories.
    Catalog,
}

impl Operation {
    /// Returns the repository that is asked about; none for [`Version`](Self::Version) and [`Catalog`](Self::Catalog).
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Version | Self::Catalog { .. } => None,
            Self::GetManifest { repository, .. }
            | Self::PutManifest { repository, .. }
            | Self::DeleteManifest { repository, .. }
            | Self::GetBlob { repository, .. }
            | Self::DeleteBlob { repository, .. }
            | Self::ListTags { repository, .. }
            | Self::Referrers { repository, .. }
            | Self::StartUpload { repository, .. }
            | Self::UploadStatus { repository, .. }
            | Self::PatchUpload { repository, .. }
            | Self::FinishUpload { repository, .. }
            | Self::CancelUpload { repository, .. } => Some(repository),
        }
    }

    /// Replaces the repository, where there is one. The `from` of a mount stays.
    #[must_use]
    pub fn with_repository(mut self, name: RepositoryName) -> Self {
        match &mut self {
            Self::Version | Self::Catalog { .. } => {}
            Self::GetManifest { repository, .. }
            | Self::PutManifest { repository, .. }
            | Self::DeleteManifest { repository, .. }
            | Self::GetBlob { repository, .. }
            | Self::DeleteBlob { repository, .. }
            | Self::ListTags { repository, .. }
            | Self::Referrers { repository, .. }
            | Self::StartUpload { repository, .. }
            | Self::UploadStatus { repository, .. }
            | Self::PatchUpload { repository, .. }
            | Self::FinishUpload { repository, .. }
            | Self::CancelUpload { repository, .. } => *repository = name,
        }
        self
    }

    /// Returns the action that a rule must grant; none for [`Version`](Self::Version), which any login may ask.
    ///
    /// Giving up an upload is part of pushing. (distribution demands `delete` for it, which is why clients that clean
    /// up behind themselves rarely succeed there.)
    pub fn action(&self) -> Option<Action> {
        match self {
            Self::Version => None,
            Self::Catalog { .. } => Some(Action::Catalog),
            Self::GetManifest { .. }
            | Self::GetBlob { .. }
            | Self::ListTags { .. }
            | Self::Referrers { .. } => Some(Action::Pull),
            Self::PutManifest { .. }
            | Self::StartUpload { .. }
            | Self::UploadStatus { .. }
            | Self::PatchUpload { .. }
            | Self::FinishUpload { .. }
            | Self::CancelUpload { .. } => Some(Action::Push),
            Self::DeleteManifest { .. } | Self::DeleteBlob { .. } => Some(Action::Delete),
        }
    }

    /// Returns true if only the headers of a manifest or blob are wanted.
    pub fn is_head(&self) -> bool {
        matches!(self, Self::GetManifest { head: true, .. } | Self::GetBlob { head: true, .. })
    }

    /// Returns true if it is a part of an upload, whose answer says where it goes on.
    pub fn is_upload(&self) -> bool {
        matches!(
            self,
            Self::StartUpload { .. }
                | Self::UploadStatus { .. }
                | Self::PatchUpload { .. }
                | Self::FinishUpload { .. }
                | Self::CancelUpload { .. }
        )
    }

    /// Returns the digest that the operation names, where it names just one content by it.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::GetBlob { digest, .. }
            | Self::DeleteBlob { digest, .. }
            | Self::Referrers { digest, .. }
            | Self::FinishUpload { digest, .. }
            | Self::GetManifest { reference: Reference::Digest(digest), .. }
            | Self::PutManifest { reference: Reference::Digest(digest), .. }
            | Self::DeleteManifest { reference: Reference::Digest(digest), .. } => Some(digest),
            _ => None,
        }
    }

    /// Returns a word for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Catalog { .. } => "catalog",
            Self::GetManifest { head: false, .. } => "get_manifest",
            Self::GetManifest { head: true, .. } => "head_manifest",
            Self::PutManifest { .. } => "put_manifest",
            Self::DeleteManifest { .. } => "delete_manifest",
            Self::GetBlob { head: false, .. } => "get_blob",
            Self::GetBlob { head: true, .. } => "head_blob",
            Self::DeleteBlob { .. } => "delete_blob",
            Self::ListTags { .. } => "list_tags",
            Self::Referrers { .. } => "referrers",
            Self::StartUpload { .. } => "start_upload",
            Self::UploadStatus { .. } => "upload_status",
            Self::PatchUpload { .. } => "patch_upload",
            Self::FinishUpload { .. } => "finish_upload",
            Self::CancelUpload { .. } => "cancel_upload",
        }
    }

    /// Returns the method that asks an upstream for it.
    pub fn method(&self) -> &'static str {
        match self {
            Self::GetManifest { head: true, .. } | Self::GetBlob { head: true, .. } => "HEAD",
            Self::Version
            | Self::Catalog { .. }
            | Self::GetManifest { .. }
            | Self::GetBlob { .. }
            | Self::ListTags { .. }
            | Self::Referrers { .. }
            | Self::UploadStatus { .. } => "GET",
            Self::StartUpload { .. } => "POST",
            Self::PutManifest { .. } | Self::FinishUpload { .. } => "PUT",
            Self::PatchUpload { .. } => "PATCH",
            Self::DeleteManifest { .. } | Self::DeleteBlob { .. } | Self::CancelUpload { .. } => "DELETE",
        }
    }

    /// Returns the request target *below* `/v2`, with its query: `/library/alpine/manifests/latest`; `/` for
    /// [`Version`](Self::Version). To be put behind an upstream's path and `/v2`.
    ///
    /// For the operations on an upload under way this is the location in this program's own shape
    /// (`/NAME/blobs/uploads/SESSION`). An upstream's location is its own affair and never rendered here.
    pub fn path_and_query(&self) -> String {
        let path = self.path();
        let query = self.query();
        if query.is_empty() { path } else { format!("{path}?{query}") }
    }

    fn path(&self) -> String {
        match self {
            Self::Version => "/".into(),
            Self::Catalog { .. } => "/_catalog".into(),
            Self::GetManifest { repository, reference, .. }
            | Self::PutManifest { repository, reference, .. }
            | Self::DeleteManifest { repository, reference } => {
                format!("/{repository}/manifests/{reference}")
            }
            Self::GetBlob { repository, digest, .. } | Self::DeleteBlob { repository, digest } => {
                format!("/{repository}/blobs/{digest}")
            }
            Self::ListTags { repository, .. } => format!("/{repository}/tags/list"),
            Self::Referrers { repository, digest, .. } => format!("/{repository}/referrers/{digest}"),
            Self::StartUpload { repository, .. } => format!("/{repository}/blobs/uploads/"),
            Self::UploadStatus { repository, session }
            | Self::PatchUpload { repository, session }
            | Self::FinishUpload { repository, session, .. }
            | Self::CancelUpload { repository, session } => format!("/{repository}/blobs/uploads/{session}"),
        }
    }

    fn query(&self) -> String {
        match self {
            Self::Catalog { page } | Self::ListTags { page, .. } => page.render(),
            Self::Referrers { artifact_type, page, .. } => {
                let kind = artifact_type.clone().map(|kind| ("artifactType", kind));
                query::render(kind.into_iter().chain(page.pairs()))
            }
            Self::PutManifest { tags, .. } => query::render(tags.iter().map(|tag| ("tag", tag.to_string()))),
            Self::StartUpload { start, .. } => start.query(),
            Self::FinishUpload { digest, .. } => {
                query::render(std::iter::once(("digest", digest.to_string())))
            }
            _ => String::new(),
        }
    }
}

impl Action {
    /// Returns the word for it in rules, scopes and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Catalog => "catalog",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
