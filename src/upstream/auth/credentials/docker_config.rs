//! A docker `config.json` that is watched, and the helpers that it names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::clock;
use crate::config::limits;
use crate::file_stamp::Stamp;
use crate::upstream::auth::credentials::config_json;
use crate::upstream::auth::credentials::config_json::{DockerConfigEntry, DockerConfigError, LARGEST_FILE};
use crate::upstream::auth::credentials::credential::Credential;
use crate::upstream::auth::credentials::credential_helper::CredentialHelper;
use crate::upstream::auth::credentials::error::CredentialError;
use crate::upstream::auth::credentials::program::{HelperError, HelperProgram};
use crate::upstream::auth::credentials::server::StoreKey;

/// A docker `config.json`, for one registry.
#[derive(Debug)]
pub(crate) struct DockerConfig(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    server: StoreKey,
    /// The directory of the helpers; empty: PATH.
    helpers: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Option<Instant>,
    /// The stamp of the file in force.
    stamp: Option<Stamp>,
    /// The last error, so that it is logged once.
    error: Option<DockerConfigError>,
    found: Option<Arc<Found>>,
}

#[derive(Debug)]
struct Found {
    helper: Option<(String, CredentialHelper)>,
    credential: Option<Credential>,
}

impl DockerConfig {
    /// Creates the reader of the file at `path`. Reads nothing yet.
    pub(crate) fn new(path: &Path, server: StoreKey) -> Self {
        let state = Mutex::new(State { looked: None, stamp: None, error: None, found: None });
        Self(Arc::new(Inner { path: path.to_owned(), server, helpers: PathBuf::new(), state }))
    }

    /// Returns the credential in the file or of the helper that it names. Checks every 2 s if the file has changed; a
    /// broken file leaves the previous content in force.
    pub(crate) async fn credential(&self) -> Result<Credential, CredentialError> {
        let result = async { self.found().await?.credential(&self.0.server).await }.await;
        result.map_err(|why| CredentialError::DockerConfig { file: self.0.path.clone(), why })
    }

    /// Notes that the upstream refused the credential: the helper is asked anew.
    pub(crate) fn refused(&self) {
        let found = self.0.state().found.clone();
        if let Some((_, helper)) = found.as_ref().and_then(|found| found.helper.as_ref()) {
            helper.refused();
        }
    }

    async fn found(&self) -> Result<Arc<Found>, DockerConfigError> {
        if self.0.is_due() {
            let inner = self.0.clone();
            // The file may lie on a slow mount.
            let _ = tokio::task::spawn_blocking(move || inner.look()).await;
        }
        let state = self.0.state();
        match (&state.found, &state.error) {
            (Some(found), _) => Ok(found.clone()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err(DockerConfigError::Unread),
        }
    }
}

impl Found {
    async fn credential(&self, server: &StoreKey) -> Result<Credential, DockerConfigError> {
        if let Some((_, helper)) = &self.helper {
            match helper.credential().await {
                Err(HelperError::Nothing(_)) => {}
                result => {
                    return result
                        .map_err(|why| DockerConfigError::Helper { program: helper.program(), why });
                }
            }
        }
        self.credential.clone().ok_or_else(|| DockerConfigError::Nothing(server.key().to_owned()))
    }
}

impl Inner {
    /// Returns true if the caller must check the file: the first caller after the interval, and every caller before the
    /// first result.
    fn is_due(&self) -> bool {
        let now = clock::now();
        let mut state = self.state();
        let recent = state.looked.is_some_and(|looked| now - looked < limits::FILE_WATCH_INTERVAL);
        let nothing = state.found.is_none() && state.error.is_none();
        if !recent {
            state.looked = Some(now);
        }
        !recent || nothing
    }

    /// Reads the file if it has changed. A broken file is read each time: corrected permissions do not change the
    /// stamp.
    fn look(&self) {
        if self.state().stamp == Some(Stamp::of(&self.path)) {
            return;
        }
        match self.read() {
            Ok((stamp, entry)) => self.swap(stamp, entry),
            Err(error) => self.complain(error),
        }
    }

    /// Reads the file, and the stamp that it had before the first byte was read.
    fn read(&self) -> Result<(Stamp, DockerConfigEntry), DockerConfigError> {
        let (stamp, bytes) = read(&self.path).map_err(|error| DockerConfigError::Read(error.to_string()))?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(DockerConfigError::TooLarge);
        }
        Ok((stamp, config_json::read(&bytes, &self.server)?))
    }

    fn swap(&self, stamp: Stamp, entry: DockerConfigEntry) {
        let mut state = self.state();
        let old = state.found.take();
        let helper = entry.helper.map(|name| self.helper(name, old.as_deref()));
        state.found = Some(Arc::new(Found { helper, credential: entry.credential }));
        (state.stamp, state.error) = (Some(stamp), None);
    }

    /// Returns the helper of that name. One that the old file named as well keeps its answer.
    fn helper(&self, name: String, old: Option<&Found>) -> (String, CredentialHelper) {
        let kept = old.and_then(|old| old.helper.as_ref()).filter(|(kept, _)| *kept == name);
        let new = || CredentialHelper::new(HelperProgram::new(&self.helpers, &name), self.server.key());
        let helper = kept.map_or_else(new, |(_, helper)| helper.clone());
        (name, helper)
    }

    fn complain(&self, error: DockerConfigError) {
        let mut state = self.state();
        if state.found.is_some() && state.error.as_ref() != Some(&error) {
            let file = self.path.display();
            tracing::warn!(%file, %error, "the changed docker_config can't be used; the previous content stays in force");
        }
        state.error = Some(error);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn read(path: &Path) -> io::Result<(Stamp, Vec<u8>)> {
    let file = File::open(path)?;
    let stamp = Stamp::of_open(&file)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok((stamp, bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::UpstreamUrl;
    use crate::upstream::auth::credentials::program::tests::install;

    const ONE: &str = r#"{"auths":{"r.example":{"username":"robot","password":"one"}}}"#;

    fn config(path: &Path) -> DockerConfig {
        let url = UpstreamUrl { https: true, host: "r.example".into(), port: 443, path: String::new() };
        DockerConfig::new(path, StoreKey::of(&url))
    }

    fn written(json: &str) -> (tempfile::TempDir, PathBuf, DockerConfig) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        let mut config = config(&path);
        Arc::get_mut(&mut config.0).unwrap().helpers = directory.path().to_owned();
        (directory, path, config)
    }

    async fn secret(config: &DockerConfig) -> Result<String, DockerConfigError> {
        match config.credential().await {
            Ok(Credential::Password(login)) => Ok(login.password.expose().to_owned()),
            Ok(other) => panic!("{other:?}"),
            Err(CredentialError::DockerConfig { why, .. }) => Err(why),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn ok(secret: &str) -> Result<String, DockerConfigError> {
        Ok(secret.to_owned())
    }

    fn nothing() -> Result<String, DockerConfigError> {
        Err(DockerConfigError::Nothing("r.example".into()))
    }

    /// Lets time pass that no program sees: they run by the real clock.
    async fn pass(seconds: u64) {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    }

    #[tokio::test]
    async fn a_changed_file_is_read_after_two_seconds() {
        let (_directory, path, config) = written(ONE);
        assert_eq!(secret(&config).await, ok("one"));
        std::fs::write(&path, ONE.replace("one", "second")).unwrap();
        assert_eq!(secret(&config).await, ok("one"));
        pass(2).await;
        assert_eq!(secret(&config).await, ok("second"));
    }

    #[tokio::test]
    async fn a_logout_is_in_force_after_two_seconds() {
        let (_directory, path, config) = written(ONE);
        assert_eq!(secret(&config).await, ok("one"));
        std::fs::write(&path, r#"{"auths":{}}"#).unwrap();
        pass(2).await;
        assert_eq!(secret(&config).await, nothing());
    }

    #[tokio::test]
    async fn a_broken_file_keeps_the_old_content_in_force() {
        let (_directory, path, config) = written(ONE);
        assert_eq!(secret(&config).await, ok("one"));
        std::fs::write(&path, "{").unwrap();
        pass(2).await;
        assert_eq!(secret(&config).await, ok("one"));
        std::fs::remove_file(&path).unwrap();
        pass(2).await;
        assert_eq!(secret(&config).await, ok("one"));
        std::fs::write(&path, ONE.replace("one", "two")).unwrap();
        pass(2).await;
        assert_eq!(secret(&config).await, ok("two"));
    }

    #[tokio::test]
    async fn a_file_created_later_is_found() {
        let (_directory, path, config) = written(ONE);
        std::fs::remove_file(&path).unwrap();
        let error = secret(&config).await.unwrap_err();
        assert!(matches!(error, DockerConfigError::Read(_)), "{error:?}");
        std::fs::write(&path, ONE).unwrap();
        assert_eq!(secret(&config).await, Err(error));
        pass(2).await;
        assert_eq!(secret(&config).await, ok("one"));
    }

    #[tokio::test]
    async fn early_callers_wait_for_the_file() {
        let (_directory, _path, config) = written(ONE);
        let (a, b, c) = tokio::join!(secret(&config), secret(&config), secret(&config));
        assert_eq!((a, b, c), (ok("one"), ok("one"), ok("one")));
    }

    #[tokio::test]
    async fn a_file_over_a_mebibyte_is_refused() {
        let (_directory, path, config) = written(ONE);
        File::options().write(true).open(&path).unwrap().set_len(LARGEST_FILE + 1).unwrap();
        assert_eq!(secret(&config).await, Err(DockerConfigError::TooLarge));
    }

    #[tokio::test]
    async fn errors_name_key_and_file_without_its_content() {
        let (_directory, path, config) = written(r#"{"auths":{"r.example":{"auth":"hunter2"}}}"#);
        let error = config.credential().await.unwrap_err();
        let expected = format!(
            "upstream.credentials.docker_config: {}: its entry for r.example can't be used: \"auth\" is not the \
             base64 of NAME:PASSWORD",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_helper_takes_precedence_over_the_file() {
        let json = ONE.replacen('{', r#"{"credsStore":"test","#, 1);
        let (directory, _path, config) = written(&json);
        install(directory.path(), "test", r#"echo '{"Username":"robot","Secret":"two"}'"#);
        assert_eq!(secret(&config).await, ok("two"));
        assert!(!format!("{config:?}").contains("\"two\""));
    }

    #[tokio::test]
    async fn the_file_serves_where_the_helper_has_nothing() {
        let not_found = "echo credentials not found in native keychain; exit 1";
        let json = ONE.replacen('{', r#"{"credHelpers":{"r.example":"test"},"#, 1);
        let (directory, _path, config) = written(&json);
        install(directory.path(), "test", not_found);
        assert_eq!(secret(&config).await, ok("one"));
        let (directory, _path, config) = written(r#"{"credsStore":"test","auths":{"r.example":{}}}"#);
        install(directory.path(), "test", not_found);
        assert_eq!(secret(&config).await, nothing());
    }

    #[tokio::test]
    async fn a_failing_helper_is_reported_with_its_file() {
        let json = ONE.replacen('{', r#"{"credsStore":"test","#, 1);
        let (_directory, path, config) = written(&json);
        let expected = format!(
            "upstream.credentials.docker_config: {}: docker-credential-test: there is no such program on PATH",
            path.display()
        );
        assert_eq!(config.credential().await.unwrap_err().to_string(), expected);
    }

    #[tokio::test]
    async fn a_helper_keeps_its_answer_across_file_changes() {
        let (directory, path, config) = written(r#"{"credsStore":"test"}"#);
        let script = r#"echo >>"$(dirname "$0")/runs"; echo '{"Username":"robot","Secret":"two"}'"#;
        install(directory.path(), "test", script);
        assert_eq!(secret(&config).await, ok("two"));
        std::fs::write(&path, r#"{"credsStore":"test","auths":{"other.example":{}}}"#).unwrap();
        pass(2).await;
        assert_eq!(secret(&config).await, ok("two"));
        let runs = || std::fs::read_to_string(directory.path().join("runs")).unwrap().lines().count();
        assert_eq!(runs(), 1);
        pass(10).await;
        config.refused();
        assert_eq!(secret(&config).await, ok("two"));
        assert_eq!(runs(), 2);
    }
}
