//! Reads a docker `config.json` for one registry (docker/cli `cli/config/configfile`). Pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::upstream::auth::credentials::credential::{Credential, CredentialFlaw};
use crate::upstream::auth::credentials::program;
use crate::upstream::auth::credentials::program::HelperError;
use crate::upstream::auth::credentials::server::StoreKey;

/// The reason why a docker `config.json` gave no credentials. Never repeats its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DockerConfigError {
    /// The gateway is shutting down, or has not read it yet.
    #[error("it has not been read")]
    Unread,
    /// The file could not be read.
    #[error("it can't be read: {0}")]
    Read(String),
    /// The file is larger than any that docker writes.
    #[error("it is larger than {} MiB, which no config.json is", LARGEST_FILE / 1024 / 1024)]
    TooLarge,
    /// The file is not JSON, or not as docker writes it.
    #[error("it is not a config.json as docker writes it (line {line}, column {column})")]
    Malformed {
        /// Counted from 1; 0 where nothing is.
        line: usize,
        /// Counted from 1; 0 where nothing is.
        column: usize,
    },
    /// The helper that it names for this registry is not a plain program name.
    #[error("the helper that it names for {0} is not a plain program name")]
    HelperName(String),
    /// The file's entry for this registry can't be used.
    #[error("its entry for {0} can't be used: {1}")]
    Flawed(String, CredentialFlaw),
    /// The file has no entry for this registry.
    #[error("it holds nothing for {0}")]
    Nothing(String),
    /// The helper that the file names failed.
    #[error("{program}: {why}")]
    Helper {
        /// The helper's file name.
        program: String,
        /// Why it failed.
        why: HelperError,
    },
}

/// The entry of one registry.
#[derive(Debug)]
pub(crate) struct DockerConfigEntry {
    /// The NAME of the helper that is asked first.
    pub(crate) helper: Option<String>,
    /// The credential in the file, which serves where the helper has none.
    pub(crate) credential: Option<Credential>,
}

/// Reads the entry for `server`. Entries for others are not checked.
pub(crate) fn read(bytes: &[u8], server: &StoreKey) -> Result<DockerConfigEntry, DockerConfigError> {
    // serde's own message would repeat the content.
    let file: File = serde_json::from_slice(bytes)
        .map_err(|error| DockerConfigError::Malformed { line: error.line(), column: error.column() })?;
    let helper = file.helper(server).filter(|name| !name.is_empty());
    if helper.is_some_and(|name| !program::is_name(name)) {
        return Err(DockerConfigError::HelperName(server.key().to_owned()));
    }
    let helper = helper.map(str::to_owned);
    let credential =
        file.credential(server).map_err(|flaw| DockerConfigError::Flawed(server.key().to_owned(), flaw))?;
    Ok(DockerConfigEntry { helper, credential })
}

/// `null` is read as a missing key, as Go does.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    auths: Option<BTreeMap<String, Option<Auth>>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl File {
    /// Returns the registry's own helper, else the one for all registries. An empty name means none.
    fn helper<'a>(&'a self, server: &StoreKey) -> Option<&'a str> {
        let own = self.cred_helpers.as_ref().and_then(|helpers| of(helpers, server).next());
        own.or(self.creds_store.as_ref()).map(String::as_str)
    }

    /// Returns the credential of the first entry that has one: docker leaves an empty entry where a helper has it.
    fn credential(&self, server: &StoreKey) -> Result<Option<Credential>, CredentialFlaw> {
        let Some(auths) = &self.auths else { return Ok(None) };
        of(auths, server).flatten().find_map(|auth| auth.credential().transpose()).transpose()
    }
}

/// Returns the values for `server`, that of its own key first.
fn of<'a, T>(map: &'a BTreeMap<String, T>, server: &StoreKey) -> impl Iterator<Item = &'a T> {
    let others = map.iter().filter(move |(key, _)| *key != server.key() && server.is(key));
    map.get(server.key()).into_iter().chain(others.map(|(_, value)| value))
}

impl Auth {
    /// Returns a token rather than a password: the password was exchanged for it.
    fn credential(&self) -> Result<Option<Credential>, CredentialFlaw> {
        if let Some(token) = written(&self.registrytoken) {
            return Credential::registry_token(token.to_owned()).map(Some);
        }
        if let Some(token) = written(&self.identitytoken) {
            return Credential::identity_token(token.to_owned()).map(Some);
        }
        if let Some(auth) = written(&self.auth) {
            return decode(auth).map(Some);
        }
        match (written(&self.username), &self.password) {
            (None, None) => Ok(None),
            (None, Some(password)) if password.is_empty() => Ok(None),
            (username, password) => {
                let password = password.clone().unwrap_or_default();
                Credential::password(username.unwrap_or_default().to_owned(), password).map(Some)
            }
        }
    }
}

fn written(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// Decodes `auth`. Old versions of docker wrote NULs behind the password.
fn decode(auth: &str) -> Result<Credential, CredentialFlaw> {
    let decoded = STANDARD.decode(auth.trim()).map_err(|_| CredentialFlaw::Encoding)?;
    let pair = String::from_utf8(decoded).map_err(|_| CredentialFlaw::Encoding)?;
    let (username, password) = pair.split_once(':').ok_or(CredentialFlaw::Encoding)?;
    Credential::password(username.to_owned(), password.trim_end_matches('\0').to_owned())
}

/// The largest config.json, in bytes: enough for thousands of registries.
pub(crate) const LARGEST_FILE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UpstreamUrl;

    fn server(host: &str, port: u16) -> StoreKey {
        StoreKey::of(&UpstreamUrl { https: true, host: host.into(), port, path: String::new() })
    }

    fn entry(json: &str) -> Result<DockerConfigEntry, DockerConfigError> {
        read(json.as_bytes(), &server("r.example", 443))
    }

    /// Renders the credential of an entry.
    fn shown(entry: &DockerConfigEntry) -> String {
        match &entry.credential {
            None => "none".into(),
            Some(Credential::Nothing) => "nothing".into(),
            Some(Credential::Password(login)) => format!("{}:{}", login.username, login.password.expose()),
            Some(Credential::IdentityToken(token)) => format!("identity {}", token.expose()),
            Some(Credential::RegistryToken(token)) => format!("registry {}", token.expose()),
        }
    }

    fn auth(pair: &str) -> String {
        STANDARD.encode(pair)
    }

    #[test]
    fn every_field_of_an_entry_is_read() {
        for (fields, expected) in [
            (format!(r#""auth":"{}""#, auth("user:pass")), "user:pass"),
            (format!(r#""auth":"{}","username":"x","password":"y""#, auth("u:p:q")), "u:p:q"),
            (format!(r#""auth":"{}""#, auth("user:pass\0\0\0")), "user:pass"),
            (format!(r#""auth":"{}""#, auth("user:")), "user:"),
            (r#""username":"user","password":"pass""#.into(), "user:pass"),
            (r#""username":"user""#.into(), "user:"),
            (r#""auth":"","username":"user","password":"pass","email":"x@y""#.into(), "user:pass"),
            (format!(r#""auth":"{}","identitytoken":"it""#, auth("0000:")), "identity it"),
            (r#""identitytoken":"it","registrytoken":"rt""#.into(), "registry rt"),
            (r#""auth":null,"identitytoken":"","registrytoken":null"#.into(), "none"),
            (r#""username":"","password":"""#.into(), "none"),
            (String::new(), "none"),
        ] {
            let entry = entry(&format!(r#"{{"auths":{{"r.example":{{{fields}}}}}}}"#)).unwrap();
            assert_eq!(shown(&entry), expected, "{fields}");
        }
    }

    #[test]
    fn keys_are_hosts_with_ports_or_urls() {
        for (key, port, found) in [
            ("r.example", 443, true),
            ("r.example:443", 443, true),
            ("https://r.example", 443, true),
            ("https://r.example/v1/", 443, true),
            ("r.example:5000", 5000, true),
            ("https://r.example:5000", 5000, true),
            ("r.example", 5000, false),
            ("r.example:5000", 443, false),
            ("r.example/team", 443, false),
            ("x.r.example", 443, false),
        ] {
            let json = format!(r#"{{"auths":{{"{key}":{{"username":"u","password":"p"}}}}}}"#);
            let entry = read(json.as_bytes(), &server("r.example", port)).unwrap();
            assert_eq!(entry.credential.is_some(), found, "{key} for {port}");
        }
    }

    #[test]
    fn docker_hub_is_kept_under_its_old_url() {
        let json = r#"{"auths":{
            "docker.io":{"username":"second","password":"p"},
            "https://index.docker.io/v1/":{"username":"first","password":"p"},
            "https://index.docker.io/v1/access-token":{"username":"never","password":"p"}}}"#;
        for host in ["registry-1.docker.io", "docker.io", "index.docker.io"] {
            assert_eq!(shown(&read(json.as_bytes(), &server(host, 443)).unwrap()), "first:p", "{host}");
        }
        let json = json.replace("https://index.docker.io/v1/\"", "https://index.docker.io/v3/\"");
        let entry = read(json.as_bytes(), &server("registry-1.docker.io", 443)).unwrap();
        assert_eq!(shown(&entry), "second:p");
    }

    #[test]
    fn an_empty_entry_hides_no_other() {
        let json = r#"{"auths":{"r.example":{},"https://r.example":null,
            "https://r.example/v2/":{"username":"u","password":"p"}}}"#;
        assert_eq!(shown(&entry(json).unwrap()), "u:p");
    }

    #[test]
    fn a_registrys_own_helper_takes_precedence() {
        for (json, expected) in [
            (r#"{"credsStore":"all"}"#, Some("all")),
            (r#"{"credsStore":"all","credHelpers":{"r.example":"own"}}"#, Some("own")),
            (r#"{"credsStore":"all","credHelpers":{"https://r.example":"own"}}"#, Some("own")),
            (r#"{"credsStore":"all","credHelpers":{"other.example":"own"}}"#, Some("all")),
            (r#"{"credsStore":"all","credHelpers":{"r.example":""}}"#, None),
            (r#"{"credsStore":"","credHelpers":null,"auths":null}"#, None),
            ("{}", None),
        ] {
            assert_eq!(entry(json).unwrap().helper.as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn an_entry_holds_the_helper_and_a_fallback() {
        let json = r#"{"credsStore":"all","auths":{"r.example":{"username":"u","password":"p"}}}"#;
        let entry = entry(json).unwrap();
        assert_eq!((entry.helper.as_deref(), shown(&entry).as_str()), (Some("all"), "u:p"));
    }

    #[test]
    fn a_helper_is_a_name_and_no_path() {
        let error = entry(r#"{"credsStore":"../evil"}"#).unwrap_err();
        assert_eq!(error, DockerConfigError::HelperName("r.example".into()));
        assert!(entry(r#"{"credHelpers":{"other.example":"../evil"}}"#).is_ok());
    }

    #[test]
    fn a_broken_entry_matters_to_its_registry_alone() {
        for broken in [r#""auth":"hunter2!""#, r#""auth":"aHVudGVyMg==""#, r#""password":"hunter2""#] {
            let json = format!(r#"{{"auths":{{"r.example":{{{broken}}}}}}}"#);
            let error = entry(&json).unwrap_err();
            assert!(matches!(error, DockerConfigError::Flawed(..)), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
            assert!(entry(&json.replace("r.example", "other.example")).is_ok());
        }
    }

    #[test]
    fn a_malformed_file_is_reported_without_its_content() {
        for json in
            ["", "hunter2", "[]", "{\"auths\":{\"hunter2\":1}}", "{\n\"credsStore\":[\"hunter2\"]}", "{"]
        {
            let error = entry(json).unwrap_err();
            assert!(matches!(error, DockerConfigError::Malformed { .. }), "{json}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let error = entry("{\n\"auths\": 1}").unwrap_err();
        assert_eq!(error.to_string(), "it is not a config.json as docker writes it (line 2, column 10)");
    }
}
