//! Host names and URLs, without resolving anything.

use crate::config::value_error::ValueError;
use crate::proto::Authority;
use crate::proto::authority::scheme_port;

/// A URL in its parts, host in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Url {
    pub(super) https: bool,
    /// IPv6 addresses without their brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// "", or "/sub" without an ending slash.
    pub(super) path: String,
}

impl Url {
    /// Parses scheme, host, port and a plain path. Errors never show the text: it may hold a password.
    pub(super) fn parse(written: &str) -> Result<Self, ValueError> {
        let url = Self::split(written)?;
        check_path(&url.path)?;
        Ok(url)
    }

    /// Parses the URL of a registry.
    pub(super) fn parse_registry(written: &str) -> Result<Self, ValueError> {
        let url = Self::split(written)?;
        refuse_page(&url)?;
        check_path(&url.path)?;
        if url.path.ends_with("/v1") {
            return Err(ValueError::value(
                "ends in /v1, an API that registries no longer have; write it without",
            ));
        }
        Ok(url)
    }

    /// Splits a URL. Its path is not checked.
    fn split(written: &str) -> Result<Self, ValueError> {
        if written.contains('@') {
            return Err(ValueError::hidden(
                "a URL with a user name or password in it is refused; write it without",
            ));
        }
        let (scheme, rest) = written.split_once("://").ok_or(NOT_A_URL)?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(NOT_A_URL.into()),
        };
        if rest.contains(['?', '#']) {
            return Err(ValueError::value("has a query or fragment; write it without"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let Authority { host, port } = Authority::parse(authority).map_err(|_| NOT_A_URL)?;
        let path = path.trim_end_matches('/').to_owned();
        Ok(Self { https, host, port: port.unwrap_or_else(|| scheme_port(https)), path })
    }

    /// Returns `host`, or `host:port` where the port is not the scheme's own; IPv6 addresses in brackets.
    pub(super) fn authority(&self) -> String {
        Authority::render(&self.host, self.port, self.https)
    }
}

const NOT_A_URL: &str = "is not a URL; write for example \"https://registry.example.com\"";

/// Parses a host with or without a port, and returns it as a Host header has it, in lower case.
pub(super) fn parse_authority(written: &str) -> Result<String, ValueError> {
    let authority = Authority::parse(written);
    authority
        .map(|authority| authority.to_string())
        .map_err(|_| "is not a host name; write for example \"registry.example.com\"".into())
}

/// Refuses the addresses by which Docker Hub and GitHub are known in a browser or in docker's own files, and which are not
/// their registries.
fn refuse_page(url: &Url) -> Result<(), ValueError> {
    let host = url.host.as_str();
    let names_hub = HUB_REGISTRIES.contains(&host) && !url.path.is_empty();
    let registry = match host {
        _ if names_hub || HUB_PAGES.contains(&host) => "https://registry-1.docker.io",
        "github.com" | "www.github.com" | "docker.pkg.github.com" => "https://ghcr.io",
        "www.quay.io" => "https://quay.io",
        _ => return Ok(()),
    };
    Err(ValueError::Value(format!("is not a registry's URL; write \"{registry}\"")))
}

/// Hosts that speak the registry's API at their root, and nowhere else.
const HUB_REGISTRIES: [&str; 4] =
    ["docker.io", "registry-1.docker.io", "index.docker.io", "registry.hub.docker.com"];

/// Hosts of Docker Hub that have pages, or tokens.
const HUB_PAGES: [&str; 8] = [
    "hub.docker.com",
    "www.docker.com",
    "docker.com",
    "www.docker.io",
    "auth.docker.io",
    "login.docker.com",
    "app.docker.com",
    "cloud.docker.com",
];

/// Checks a path, which becomes part of every upstream path: nothing in it may be read in two ways.
fn check_path(path: &str) -> Result<(), ValueError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let component = |c: &str| !c.is_empty() && c != "." && c != ".." && c.bytes().all(plain);
    if !path.split('/').skip(1).all(component) {
        return Err(ValueError::value("has a path with unusual characters; write plain components"));
    }
    if path.ends_with("/v2") {
        return Err(ValueError::value("ends in /v2, which is added to it; write it without"));
    }
    Ok(())
}

/// Returns true for a URL of a server whose answers are believed: an issuer's keys make tokens good, an ACME directory issues
/// certificates. Plain HTTP stays on this machine.
pub(super) fn is_dialled(url: &str) -> bool {
    let plain_local = ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"];
    let rest =
        url.strip_prefix("https://").or_else(|| plain_local.iter().find_map(|local| url.strip_prefix(local)));
    rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && url.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_taken_apart() {
        for (written, https, host, port, path) in [
            ("https://registry-1.docker.io", true, "registry-1.docker.io", 443, ""),
            ("http://Registry:5000/", false, "registry", 5000, ""),
            ("https://nexus.example/repository/docker/", true, "nexus.example", 443, "/repository/docker"),
            ("http://[::1]:5001", false, "::1", 5001, ""),
            ("http://127.0.0.1", false, "127.0.0.1", 80, ""),
        ] {
            let url = Url::parse(written).unwrap();
            let got = (url.https, url.host.as_str(), url.port, url.path.as_str());
            assert_eq!(got, (https, host, port, path), "{written}");
        }
    }

    #[test]
    fn urls_that_mean_two_things_are_refused() {
        for written in [
            "",
            "registry:5000",
            "ftp://a",
            "https://",
            "https://a b",
            "https://a:0",
            "https://a:x",
            "https://a?b=c",
            "https://a#b",
            "https://a/../b",
            "https://a//b",
            "https://a/%2e",
            "https://a/v2/",
            "https://1.2.3.4.5",
            "https://0x7f.1",
            "https://-a",
            "https://a..b",
            "https://[::1",
            "https://[::1]5",
        ] {
            assert!(Url::parse(written).is_err(), "{written}");
        }
    }

    #[test]
    fn pages_of_docker_hub_are_not_its_registry() {
        for url in [
            "https://docker.io/library",
            "https://hub.docker.com",
            "https://hub.docker.com/r/library/nginx",
            "https://hub.docker.com/_/nginx",
            "https://index.docker.io/v1/",
            "https://index.docker.io/v2/",
            "http://registry-1.docker.io/library/",
            "https://registry.hub.docker.com/v1",
            "https://www.docker.com/",
            "https://auth.docker.io/token",
        ] {
            let why = ValueError::value("is not a registry's URL; write \"https://registry-1.docker.io\"");
            assert_eq!(Url::parse_registry(url), Err(why), "{url}");
        }
        for url in
            ["https://docker.io", "https://index.docker.io/", "https://registry-1.docker.io", "https://a/v11"]
        {
            assert!(Url::parse_registry(url).is_ok(), "{url}");
        }
        let v1 = Url::parse_registry("https://registry.example/v1/");
        assert!(matches!(v1, Err(ValueError::Value(why)) if why.starts_with("ends in /v1,")));
        assert!(Url::parse_registry("https://github.com/acme").is_err());
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_hidden() {
        assert!(
            matches!(Url::parse("https://me:secret@a"), Err(ValueError::Hidden(why)) if !why.contains("secret"))
        );
    }

    #[test]
    fn authorities_are_as_a_host_header_has_them() {
        assert_eq!(parse_authority("Registry.Example:5000").unwrap(), "registry.example:5000");
        assert_eq!(parse_authority("[0:0::1]").unwrap(), "[::1]");
        assert!(parse_authority("https://a").is_err());
        assert!(parse_authority("*.example.com").is_err());
        assert_eq!(Url::parse("https://a:443").unwrap().authority(), "a");
        assert_eq!(Url::parse("http://[::1]:443").unwrap().authority(), "[::1]:443");
    }

    proptest! {
        #[test]
        fn no_input_panics(written in "\\PC{0,40}") {
            let _ = Url::parse(&written);
            let _ = Url::parse(&format!("https://{written}"));
            let _ = parse_authority(&written);
        }
    }
}
