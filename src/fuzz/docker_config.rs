//! Docker's `config.json`.

use serde_json::Value;

use crate::config::UpstreamUrl;
use crate::upstream::auth::credentials::Credential;
use crate::upstream::auth::credentials::config_json::{self, DockerConfigEntry};
use crate::upstream::auth::credentials::program;
use crate::upstream::auth::credentials::server::StoreKey;

/// Reads `data` as a docker `config.json`, for two registries.
pub fn docker_config(data: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(data).ok();
    for (host, port) in [("registry-1.docker.io", 443), ("r.example", 5000)] {
        let url = UpstreamUrl { https: true, host: host.into(), port, path: String::new() };
        let server = StoreKey::of(&url);
        let Ok(entry) = config_json::read(data, &server) else { continue };
        let said = said(&entry);
        if let Some(value) = &value {
            let again = config_json::read(&serde_json::to_vec(value).unwrap(), &server).unwrap();
            assert_eq!(self::said(&again), said, "two readers read different files");
        }
    }
}

/// Returns what an entry holds. Panics if HTTP can't carry it.
fn said(entry: &DockerConfigEntry) -> (Option<String>, Vec<String>) {
    if let Some(helper) = &entry.helper {
        assert!(program::is_name(helper) && !helper.contains('/'), "{helper}");
    }
    let credential = match &entry.credential {
        None | Some(Credential::Nothing) => vec![],
        Some(Credential::Password(login)) => {
            let (name, password) = (login.username.as_str(), login.password.expose());
            assert!(!name.is_empty() && !name.contains(':'));
            vec![name.to_owned(), password.to_owned()]
        }
        Some(Credential::IdentityToken(token) | Credential::RegistryToken(token)) => {
            assert!(token.expose().bytes().all(|byte| byte.is_ascii_graphic()));
            vec![token.expose().to_owned()]
        }
    };
    (entry.helper.clone(), credential)
}
