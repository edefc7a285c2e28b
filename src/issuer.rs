//! The adapter that lets logins of workloads have the keys of their issuers.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::authn::{FetchKeys, Workloads};
use crate::config::limits::KEY_SET_BYTES;
use crate::config::{IssuerKeys, OidcProvider};
use crate::upstream::{DocumentClient, TlsSettingsError};

/// The keys in a file.
struct FileKeys(PathBuf);

/// The keys that a host serves.
struct RemoteKeys {
    documents: DocumentClient,
    /// The issuer, whose discovery document says where they are; else where they are.
    place: Place,
}

enum Place {
    Discovered(String),
    Url(String),
}

/// What counts of a discovery document (OpenID Connect Discovery 1.0 section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl FetchKeys for FileKeys {
    fn fetch(&self) -> Fetching<'_> {
        let path = self.0.clone();
        Box::pin(async move {
            let shown = path.display().to_string();
            let read = tokio::task::spawn_blocking(move || read(&path)).await;
            let read = read.map_err(|_| "the gateway ends".to_owned())?;
            read.map(Bytes::from).map_err(|error| format!("{shown}: {error}"))
        })
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // To open a pipe would hold the thread until another process writes.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(KEY_SET_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > KEY_SET_BYTES {
        return Err(io::Error::other(format!("it is longer than {KEY_SET_BYTES} bytes")));
    }
    Ok(bytes)
}

type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + 'a>>;

impl FetchKeys for RemoteKeys {
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(async {
            match &self.place {
                Place::Url(url) => self.documents.get(url).await,
                Place::Discovered(issuer) => self.documents.get(&self.discover(issuer).await?).await,
            }
        })
    }
}

impl RemoteKeys {
    async fn discover(&self, issuer: &str) -> Result<String, String> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = self.documents.get(&url).await?;
        let read: Discovery = serde_json::from_slice(&document)
            .map_err(|_| format!("{url} is no discovery document of OpenID Connect"))?;
        // Else one issuer could speak for another (section 4.3).
        if read.issuer != issuer {
            return Err(format!("{url} is of the issuer {:?}", read.issuer));
        }
        Ok(read.jwks_uri)
    }
}

/// Returns the platforms that the configuration names. Dials none.
///
/// # Errors
/// [`TlsSettingsError`] when the CA of one can't be used.
pub(crate) fn workloads(providers: &[OidcProvider]) -> Result<Workloads, TlsSettingsError> {
    let providers: Result<Vec<_>, _> =
        providers.iter().map(|provider| Ok((provider.clone(), way_to_keys(provider)?))).collect();
    providers.map(Workloads::new)
}

fn way_to_keys(provider: &OidcProvider) -> Result<Arc<dyn FetchKeys>, TlsSettingsError> {
    let (server, place) = match &provider.keys {
        IssuerKeys::File(path) => return Ok(Arc::new(FileKeys(path.clone()))),
        IssuerKeys::Url { url, server } => (server, Place::Url(url.clone())),
        IssuerKeys::Discovered { server } => (server, Place::Discovered(provider.issuer.clone())),
    };
    Ok(Arc::new(RemoteKeys { documents: DocumentClient::new(server)?, place }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_keys_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(read(&path).unwrap(), b"{}");
        File::create(&path).unwrap().set_len(KEY_SET_BYTES + 1).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("longer than"));
        assert!(read(dir.path()).unwrap_err().to_string().contains("not a file"));
    }
}
