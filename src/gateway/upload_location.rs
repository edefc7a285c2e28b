//! The places at upstreams where uploads continue.
//!
//! Only the gateway can seal a location into a handle. Should its secret become known all the same, a handle still leads to
//! uploads alone, and not to whatever else the gateway's credentials open at the upstream.

use moka::sync::Cache;

use crate::proto::{Operation, RepositoryName, Target, percent};

/// The directories, outside the registry API's own paths, in which upstreams have placed uploads.
pub(super) struct UploadDirectories(Cache<UploadDirectory, ()>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct UploadDirectory {
    upstream: String,
    /// The repository's name there.
    repository: String,
    /// The location up to its last slash.
    path: String,
}

impl UploadDirectories {
    /// Returns a memory without directories.
    pub(super) fn new() -> Self {
        Self(Cache::new(MOST))
    }

    /// Records a location that the upstream has given for an upload of `repository`.
    pub(super) fn note(&self, upstream: &str, repository: &RepositoryName, location: &str) {
        if !is_upload_of(repository, location)
            && let Some(directory) = directory(upstream, repository, location)
        {
            self.0.insert(directory, ());
        }
    }

    /// Returns true for a location where an upload of `repository` can continue: one of the registry API's form, or one
    /// beside another that the upstream has given.
    pub(super) fn admit(&self, upstream: &str, repository: &RepositoryName, location: &str) -> bool {
        is_upload_of(repository, location)
            || directory(upstream, repository, location)
                .is_some_and(|directory| self.0.contains_key(&directory))
    }
}

/// Returns true for the registry API's own form, whatever stands before the repository's name:
/// `…/v2/…NAME/blobs/uploads/SESSION`. GHCR writes `upload`.
fn is_upload_of(repository: &RepositoryName, location: &str) -> bool {
    let Some(path) = plain_path(location).filter(|_| location.starts_with('/')) else { return false };
    let segments: Vec<&str> = path.split('/').collect();
    let name: Vec<&str> = repository.as_str().split('/').collect();
    (1..segments.len()).any(|at| {
        let (before, after) = segments.split_at(at);
        let is_session = matches!(after, ["blobs", "uploads" | "upload", session, ..] if !session.is_empty());
        let api = before.strip_suffix(&name[..]).unwrap_or_default();
        is_session && api.contains(&"v2")
    })
}

/// Returns the directory of a location, if the location is no other resource of the registry API.
fn directory(upstream: &str, repository: &RepositoryName, location: &str) -> Option<UploadDirectory> {
    let path = plain_path(location)?;
    let api = path.find("/v2/").map_or(path.as_str(), |at| &path[at..]);
    let resource = Target::parse("GET", api, None).is_ok_and(|target| is_resource(&target.operation));
    let (end, _) = location.split(['?', '#']).next()?.rmatch_indices('/').next()?;
    let path = location[..=end].to_owned();
    let (upstream, repository) = (upstream.to_owned(), repository.to_string());
    (!resource).then_some(UploadDirectory { upstream, repository, path })
}

fn is_resource(operation: &Operation) -> bool {
    !matches!(operation, Operation::UploadStatus { .. })
}

/// Returns a location's path decoded; of a URL, without scheme and host. `None` for a path that can be read in two ways.
fn plain_path(location: &str) -> Option<String> {
    let path = location.split(['?', '#']).next()?;
    let path = match path.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => path,
    };
    let decoded = percent::decode(path)?;
    let is_odd = |segment: &str| matches!(segment, "." | "..") || segment.contains('\\');
    let plain = decoded.starts_with('/') && !decoded.split('/').any(is_odd);
    plain.then_some(decoded)
}

/// The most directories that are remembered: repositories that are pushed to upstreams with such locations.
const MOST: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    #[test]
    fn uploads_of_the_repository_are_admitted() {
        let directories = UploadDirectories::new();
        for location in [
            "/v2/team/app/blobs/uploads/1",
            "/v2/team/app/blobs/uploads/1?_state=a%2Fb",
            "/v2/team/app/blobs/upload/1.2",
            "/v2/mirror/team/app/blobs/uploads/a/b%2Fc",
            "/artifactory/api/docker/local/v2/team/app/blobs/uploads/1",
        ] {
            assert!(directories.admit("up", &name("team/app"), location), "{location}");
        }
    }

    #[test]
    fn no_other_resource_is_admitted() {
        let (directories, blob) =
            (UploadDirectories::new(), format!("/v2/a/blobs/sha256:{}", "0".repeat(64)));
        let others = [
            "/v2/a/manifests/x",
            "/v2/a/tags/list",
            "/v2/_catalog",
            "/v2/",
            "/v2/b/blobs/uploads/1",
            "/v2/xa/blobs/uploads/1",
            "/v2/a/b/blobs/uploads/1",
            "/v2/a/blobs/uploads/",
            "/v2/a/blobs/uploads",
            "/v2/a/blobs/uploads/../../manifests/x",
            "/v2/a/blobs/uploads/%2e%2e/%2E%2e/manifests/x",
            "/v2/a/blobs/uploads/1/..%2f..%2f..%2fmanifests/x",
            "/v2/a//blobs/uploads/1",
            "/v2/a/blobs/uploads/\\..\\x",
            "/v2/a/manifests/x?/v2/a/blobs/uploads/1",
            "/v2/a/manifests/x#/v2/a/blobs/uploads/1",
            "/a/blobs/uploads/1",
            "/api/v2.0/projects/library",
            "/token",
            "http://evil.example/v2/a/blobs/uploads/1",
            "",
            &blob,
        ];
        for location in others {
            assert!(!directories.admit("up", &name("a"), location), "{location}");
        }
        // Even a location that the upstream gave opens no other resource of the registry.
        for given in ["/v2/a/manifests/x", "/v2/a/tags/list", &blob, "/artifactory/v2/a/manifests/x"] {
            directories.note("up", &name("a"), given);
            assert!(!directories.admit("up", &name("a"), given), "{given}");
        }
    }

    #[test]
    fn other_paths_are_admitted_beside_given_ones() {
        let directories = UploadDirectories::new();
        directories.note("up", &name("a"), "/artifacts-uploads/p/uploads/1?x=/");
        directories.note("up", &name("a"), "https://storage.example/up");
        let admits = |location: &str| directories.admit("up", &name("a"), location);
        assert!(admits("/artifacts-uploads/p/uploads/2") && admits("https://storage.example/up2?sig=1"));
        for location in [
            "/artifacts-uploads/q/uploads/1",
            "/artifacts-uploads/p/uploads/../other",
            "/artifacts-uploads/p/uploads/deeper/1",
            "/artifacts-uploads/p/1",
            "https://storage.example/other/up",
            "https://other.example/up",
            "http://storage.example/up",
        ] {
            assert!(!admits(location), "{location}");
        }
        assert!(!directories.admit("up", &name("b"), "/artifacts-uploads/p/uploads/2"), "another repository");
        assert!(!directories.admit("two", &name("a"), "/artifacts-uploads/p/uploads/2"), "another upstream");
    }
}
