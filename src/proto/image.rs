//! Images, as docker names them on a command line.

use thiserror::Error;

use crate::proto::name::{NameError, RepositoryName};
use crate::proto::reference::{Reference, ReferenceError};

/// `[HOST/]NAME[:TAG][@DIGEST]` (distribution/reference, `ParseNormalizedNamed`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageName {
    /// The registry, as it was written: a host, and perhaps a port. None, where none was written, or another name of
    /// Docker Hub: that is Docker Hub.
    pub host: Option<String>,
    /// The repository there. Docker Hub's names of one word are in `library/`.
    pub repository: RepositoryName,
    /// The digest, else the tag, else `latest`.
    pub reference: Reference,
    /// The name as it was written, without tag and digest.
    pub written: String,
}

/// The reason why a text is no [`ImageName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ImageNameError {
    /// The repository's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its tag or digest.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// Docker Hub's names.
const HUB_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

impl ImageName {
    /// Reads what `docker pull` takes.
    ///
    /// # Errors
    /// [`ImageNameError`].
    pub(crate) fn parse(text: &str) -> Result<Self, ImageNameError> {
        let (host, rest) = split_host(text);
        let (name, reference) = split_reference(rest);
        let written = &text[..text.len() - rest.len() + name.len()];
        let host = host.filter(|host| !HUB_HOSTS.contains(host));
        let in_library = host.is_none() && !name.contains('/');
        let name = if in_library { format!("library/{name}") } else { name.to_owned() };
        Ok(Self {
            host: host.map(str::to_owned),
            repository: RepositoryName::parse(&name)?,
            reference: Reference::parse(reference)?,
            written: written.to_owned(),
        })
    }
}

/// Splits off the host: the text before the first slash, if it could be no part of an image's name.
fn split_host(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((host, rest)) if is_host(host) => (Some(host), rest),
        _ => (None, text),
    }
}

fn is_host(word: &str) -> bool {
    word == "localhost" || word.contains(['.', ':', '[']) || word.bytes().any(|b| b.is_ascii_uppercase())
}

/// Splits off tag and digest; the digest wins over the tag before it.
fn split_reference(text: &str) -> (&str, &str) {
    let (tagged, digest) = match text.split_once('@') {
        Some((tagged, digest)) => (tagged, Some(digest)),
        None => (text, None),
    };
    match tagged.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, digest.unwrap_or(tag)),
        None => (tagged, digest.unwrap_or("latest")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_docker_names_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, host, name, reference, written) in [
            ("alpine", None, "library/alpine", "latest", "alpine"),
            ("alpine:3", None, "library/alpine", "3", "alpine"),
            ("me/app", None, "me/app", "latest", "me/app"),
            ("docker.io/alpine:3", None, "library/alpine", "3", "docker.io/alpine"),
            ("index.docker.io/a/b:c", None, "a/b", "c", "index.docker.io/a/b"),
            (&format!("ghcr.io/o/i:1@{digest}"), Some("ghcr.io"), "o/i", &digest, "ghcr.io/o/i"),
            ("127.0.0.1:5000/a/b:1", Some("127.0.0.1:5000"), "a/b", "1", "127.0.0.1:5000/a/b"),
            ("localhost/a", Some("localhost"), "a", "latest", "localhost/a"),
            ("registry:5000/a", Some("registry:5000"), "a", "latest", "registry:5000/a"),
        ] {
            let image = ImageName::parse(text).unwrap();
            let found = (image.host.as_deref(), image.repository.as_str(), image.reference.as_str());
            assert_eq!(found, (host, name, reference), "{text}");
            assert_eq!(image.written, written, "{text}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for text in ["", "a b", "A", "a:b:c", "a@sha256:x", "a/", "ghcr.io/", "a:.b", "-a", "a:", "@", ":x"] {
            assert!(ImageName::parse(text).is_err(), "{text}");
        }
    }
}
