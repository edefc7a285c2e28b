//! The target of a probe: an image as docker names it, or a URL.

use crate::proto::authority::{Authority, is_loopback};
use crate::proto::{ImageName, ImageNameError, Reference, RepositoryName, Target};
use crate::upstream::RequiredScope;

/// A place at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProbeTarget {
    /// The URL of the registry, without `/v2/`.
    pub(super) registry: String,
    /// Path and query below it; begins with `/v2/`.
    pub(super) target: String,
    /// The scope that a token for it needs.
    pub(super) access: RequiredScope,
    /// The image, where one is named.
    pub(super) image: Option<Image>,
    /// True if no scheme was written and the host is this machine: plain HTTP will do.
    pub(super) may_be_plain: bool,
}

/// An image, without its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) repository: RepositoryName,
    pub(super) reference: Reference,
    /// True if it is one word that could be a registry's name: docker takes it for an image of Docker Hub.
    pub(super) may_be_host: bool,
}

/// The reason why a text is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ProbeTargetError(String);

impl ProbeTarget {
    /// Reads `docker pull`'s argument, or a URL.
    ///
    /// # Errors
    /// The defect. Never shows a URL that may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, ProbeTargetError> {
        let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        if lower.starts_with("http://") || lower.starts_with("https://") {
            return Self::of_url(text);
        }
        Self::of_image(text)
    }

    /// Splits a URL at `/v2/`, without which `/v2/` itself is asked. The rest is checked elsewhere.
    fn of_url(url: &str) -> Result<Self, ProbeTargetError> {
        if !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ProbeTargetError("the URL holds characters that no URL has".to_owned()));
        }
        let url = url.split('#').next().unwrap_or_default();
        let (registry, target) = match url.find("/v2/") {
            Some(place) => url.split_at(place),
            None => (url.strip_suffix("/v2").unwrap_or(url), "/v2/"),
        };
        let registry = if registry.ends_with("://docker.io") { HUB_URL } else { registry };
        let (registry, target) = (registry.to_owned(), target.to_owned());
        Ok(Self { access: access(&target), registry, target, image: None, may_be_plain: false })
    }

    fn of_image(text: &str) -> Result<Self, ProbeTargetError> {
        let wrong =
            |why: ImageNameError| ProbeTargetError(format!("{text:?} is neither an image nor a URL: {why}"));
        let ImageName { host, repository, reference, written } = ImageName::parse(text).map_err(wrong)?;
        let registry = host.as_ref().map_or_else(|| HUB_URL.to_owned(), |host| format!("https://{host}"));
        let authority = Authority::parse(host.as_deref().unwrap_or_default());
        let may_be_host = !written.contains('/') && text.contains(['.', ':']);
        Ok(Self {
            registry,
            target: format!("/v2/{repository}/manifests/{reference}"),
            access: RequiredScope::Repository(repository.clone(), crate::proto::Action::Pull),
            image: Some(Image { repository, reference, may_be_host }),
            may_be_plain: authority.is_ok_and(|authority| is_loopback(&authority.host)),
        })
    }
}

const HUB_URL: &str = "https://registry-1.docker.io";

fn access(target: &str) -> RequiredScope {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let Ok(target) = Target::parse("GET", path, query) else { return RequiredScope::Version };
    match (target.operation.repository(), target.operation.action()) {
        (Some(repository), Some(action)) => RequiredScope::Repository(repository.clone(), action),
        (None, Some(_)) => RequiredScope::Catalog,
        (_, None) => RequiredScope::Version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_docker_names_them() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, registry, name, reference, plain) in [
            ("alpine", HUB_URL, "library/alpine", "latest", false),
            ("alpine:3", HUB_URL, "library/alpine", "3", false),
            ("me/app", HUB_URL, "me/app", "latest", false),
            ("docker.io/alpine", HUB_URL, "library/alpine", "latest", false),
            ("docker.io/library/alpine", HUB_URL, "library/alpine", "latest", false),
            ("index.docker.io/a/b:c", HUB_URL, "a/b", "c", false),
            (&format!("ghcr.io/o/i@{digest}"), "https://ghcr.io", "o/i", &digest, false),
            (&format!("ghcr.io/o/i:1@{digest}"), "https://ghcr.io", "o/i", &digest, false),
            ("127.0.0.1:5000/a/b:1", "https://127.0.0.1:5000", "a/b", "1", true),
            ("localhost/a", "https://localhost", "a", "latest", true),
            ("[::1]:5000/a", "https://[::1]:5000", "a", "latest", true),
            ("Registry/a", "https://Registry", "a", "latest", false),
            ("registry:5000/a", "https://registry:5000", "a", "latest", false),
        ] {
            let place = ProbeTarget::parse(text).unwrap();
            let image = place.image.unwrap();
            assert_eq!(
                (place.registry.as_str(), image.repository.as_str(), image.reference.to_string().as_str()),
                (registry, name, reference),
                "{text}"
            );
            assert_eq!(place.may_be_plain, plain, "{text}");
            assert_eq!(place.target, format!("/v2/{name}/manifests/{reference}"));
        }
    }

    #[test]
    fn a_word_that_could_be_a_registry_is_an_image_and_remembered_as_such() {
        for (text, may_be_host) in
            [("ghcr.io", true), ("localhost:5000", true), ("alpine", false), ("a/b:1", false)]
        {
            assert_eq!(ProbeTarget::parse(text).unwrap().image.unwrap().may_be_host, may_be_host, "{text}");
        }
    }

    #[test]
    fn urls_are_divided_at_v2() {
        let repository =
            |name: &str| RequiredScope::Repository(name.parse().unwrap(), crate::proto::Action::Pull);
        for (text, registry, target, access) in [
            ("https://a", "https://a", "/v2/", RequiredScope::Version),
            ("HTTPS://a:5/v2", "HTTPS://a:5", "/v2/", RequiredScope::Version),
            ("http://a/v2/", "http://a", "/v2/", RequiredScope::Version),
            ("https://a/sub/v2/_catalog?n=1", "https://a/sub", "/v2/_catalog?n=1", RequiredScope::Catalog),
            ("https://a/v2/x/tags/list#f", "https://a", "/v2/x/tags/list", repository("x")),
            ("https://a/v2/nonsense", "https://a", "/v2/nonsense", RequiredScope::Version),
            ("https://docker.io", HUB_URL, "/v2/", RequiredScope::Version),
        ] {
            let place = ProbeTarget::parse(text).unwrap();
            assert_eq!(
                (place.registry.as_str(), place.target.as_str(), place.access),
                (registry, target, access),
                "{text}"
            );
            assert!(!place.may_be_plain);
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for text in [
            "",
            "a b",
            "A",
            "a:b:c",
            "a@sha256:x",
            "a/",
            "ghcr.io/",
            "a:.b",
            "ftp://a/b",
            "-a",
            "http://a/ b",
            "https://a/v2/\r\nx",
        ] {
            assert!(ProbeTarget::parse(text).is_err(), "{text}");
        }
    }
}
