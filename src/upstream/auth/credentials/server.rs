//! The names that credential stores keep a registry's credentials under.

use crate::config::UpstreamUrl;
use crate::proto::Authority;
use crate::proto::authority::scheme_port;

/// A registry, as credential stores call it.
#[derive(Debug, Clone)]
pub(crate) struct StoreKey {
    key: String,
    host: String,
    port: u16,
    own_port: u16,
}

impl StoreKey {
    /// Creates the names of the registry at `url`.
    pub(crate) fn of(url: &UpstreamUrl) -> Self {
        let key = if is_hub(&url.host) { HUB_KEY.to_owned() } else { url.authority() };
        Self { key, host: url.host.clone(), port: url.port, own_port: scheme_port(url.https) }
    }

    /// Returns the name that a helper is asked for and that `docker login` writes: `host` or `host:port`, and an old
    /// URL for Docker Hub.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Returns true if `key`, which is `host`, `host:port` or a URL, names this registry. A key without a port means
    /// the scheme's own port; a key with a path below the registry names something else.
    pub(crate) fn is(&self, key: &str) -> bool {
        let key = key.to_ascii_lowercase();
        let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(&key);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let whole = ["", "v1", "v1/", "v2", "v2/"].contains(&path);
        whole && Authority::parse(authority).is_ok_and(|there| self.is_at(&there.host, there.port))
    }

    fn is_at(&self, host: &str, port: Option<u16>) -> bool {
        let same = host == self.host || (is_hub(host) && is_hub(&self.host));
        same && port.unwrap_or(self.own_port) == self.port
    }
}

fn is_hub(host: &str) -> bool {
    ["docker.io", "registry-1.docker.io", "index.docker.io"].contains(&host)
}

/// The key of Docker Hub, from the time of the first version of the API.
const HUB_KEY: &str = "https://index.docker.io/v1/";

#[cfg(test)]
mod tests {
    use super::*;

    fn server(https: bool, host: &str, port: u16) -> StoreKey {
        StoreKey::of(&UpstreamUrl { https, host: host.into(), port, path: String::new() })
    }

    #[test]
    fn the_key_is_the_host_and_any_unusual_port() {
        for (https, host, port, key) in [
            (true, "r.example", 443, "r.example"),
            (true, "r.example", 5000, "r.example:5000"),
            (false, "r.example", 80, "r.example"),
            (true, "2001:db8::1", 5000, "[2001:db8::1]:5000"),
            (true, "registry-1.docker.io", 443, HUB_KEY),
            (true, "docker.io", 443, HUB_KEY),
        ] {
            assert_eq!(server(https, host, port).key(), key);
        }
    }

    #[test]
    fn a_key_is_compared_by_host_and_port() {
        let (plain, port) = (server(true, "r.example", 443), server(true, "r.example", 5000));
        for (key, is_plain, is_port) in [
            ("r.example", true, false),
            ("R.Example", true, false),
            ("r.example/", true, false),
            ("r.example:443", true, false),
            ("r.example:5000", false, true),
            ("https://r.example", true, false),
            ("http://r.example/v1/", true, false),
            ("https://r.example:5000/v2/", false, true),
            ("r.example/team", false, false),
            ("r.example/v1/refresh-token", false, false),
            ("https://r.example/team", false, false),
            ("r.example.evil", false, false),
            ("evil@r.example", false, false),
            ("r.example:", false, false),
            ("*.example", false, false),
            ("", false, false),
        ] {
            assert_eq!((plain.is(key), port.is(key)), (is_plain, is_port), "{key}");
        }
    }

    #[test]
    fn docker_hub_has_many_names() {
        let hub = server(true, "registry-1.docker.io", 443);
        for key in [HUB_KEY, "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/"] {
            assert!(hub.is(key), "{key}");
        }
        for key in ["https://index.docker.io/v1/access-token", "auth.docker.io", "docker.io/library"] {
            assert!(!hub.is(key), "{key}");
        }
    }

    #[test]
    fn addresses_are_compared_by_value() {
        let server = server(true, "2001:db8::1", 5000);
        assert!(server.is("[2001:db8::1]:5000") && server.is("https://[2001:DB8:0::1]:5000"));
        assert!(!server.is("[2001:db8::1]") && !server.is("[2001:db8::2]:5000") && !server.is("[x"));
    }
}
