//! The file of the token service's keys.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};

use crate::authn::access_tokens::key_ring::KeyRing;
use crate::config::limits::PEM_BYTES;
use crate::file_stamp::Stamp;
use crate::telemetry::RequestId;

/// The reason why a key file cannot be used. It goes behind the file's path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The file cannot be replaced.
    #[error("{}: cannot be written: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The file is missing and cannot be made.
    #[error("{}: is missing, and cannot be made: {error}; set auth.token.key to a file that this process can write", path.display())]
    Make {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The file holds no usable keys.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The end of a sentence about it.
        why: String,
    },
}

/// Reads the keys of a file, and makes it when it is missing.
pub(super) fn open_or_make(path: &Path) -> Result<(KeyRing, Stamp), KeyFileError> {
    match open(path) {
        Err(KeyFileError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            let made = make(path);
            made.map_err(|error| KeyFileError::Make { path: path.to_owned(), error })?;
            tracing::info!(file = %path.display(), "made the key of the token service");
            open(path)
        }
        opened => opened,
    }
}

/// Reads the keys of a file.
pub(super) fn open(path: &Path) -> Result<(KeyRing, Stamp), KeyFileError> {
    let failed = |error| KeyFileError::Read { path: path.to_owned(), error };
    let (bytes, stamp) = read(path).map_err(failed)?;
    let ring = KeyRing::parse(&bytes).map_err(|why| KeyFileError::Content { path: path.to_owned(), why })?;
    Ok((ring, stamp))
}

fn read(path: &Path) -> io::Result<(Vec<u8>, Stamp)> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & READABLE_BY_ALL != 0 {
        tracing::warn!(
            file = %path.display(),
            "every user of this machine can read the key of the token service, and so make tokens; run chmod 0600"
        );
    }
    let stamp = Stamp::of_open(&file)?;
    let mut bytes = Vec::new();
    file.take(PEM_BYTES).read_to_end(&mut bytes)?;
    Ok((bytes, stamp))
}

/// Makes the file whole or not at all. Where another process makes it at the same time, the first one's is kept.
fn make(path: &Path) -> io::Result<()> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let beside = folder.join(format!(".token-key.{}.new", RequestId::next().as_str()));
    let written = write(&beside, new_key().map_err(io::Error::other)?.as_bytes());
    let linked = written.and_then(|()| match std::fs::hard_link(&beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    // The first error is the one to tell.
    let _ = std::fs::remove_file(&beside);
    linked?;
    File::open(folder)?.sync_all()
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Puts a new key in front of those of a file, which verify from then on and sign nothing. Returns the new key's id.
///
/// # Errors
/// [`KeyFileError`]; the file is then as it was.
pub(crate) fn rotate(path: &Path) -> Result<String, KeyFileError> {
    let (ring, _) = open(path)?;
    let failed = |error| KeyFileError::Write { path: path.to_owned(), error };
    let public = ring.verifying().iter().map(|key| format!("# verifies\n{}", key.pem()));
    let text = new_key().map_err(io::Error::other).map_err(failed)? + &public.collect::<String>();
    let id = KeyRing::parse(text.as_bytes()).map(|ring| ring.id().to_owned());
    let id = id.map_err(|why| KeyFileError::Content { path: path.to_owned(), why })?;
    replace(path, text.as_bytes()).map_err(failed)?;
    Ok(id)
}

/// Replaces a file whole or not at all. Its mode and owner stay, and a link stays a link.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = path.canonicalize()?;
    let before = path.metadata()?;
    let beside = path.with_file_name(format!(".token-key.{}.new", RequestId::next().as_str()));
    let keep_owner = || {
        let now = beside.metadata()?;
        if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
            chown(&beside, Some(before.uid()), Some(before.gid()))?;
        }
        std::fs::set_permissions(&beside, before.permissions())
    };
    let written =
        write(&beside, content).and_then(|()| keep_owner()).and_then(|()| std::fs::rename(&beside, &path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// Returns a new key with a certificate that it signed itself, for registries that trust certificates.
pub(super) fn new_key() -> Result<String, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "dockgate token service");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    let certificate = params.self_signed(&key)?;
    Ok(format!(
        "# dockgate's token service. The private key signs. `dockgate token rotate` puts a new one here.\n{}{}",
        certificate.pem(),
        key.serialize_pem()
    ))
}

const READABLE_BY_ALL: u32 = 0o004;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_made_for_its_owner_alone_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth/token-key.pem");
        let (first, _) = open_or_make(&path).unwrap();
        let (again, _) = open_or_make(&path).unwrap();
        assert_eq!(first.id(), again.id());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        let files = path.parent().unwrap().read_dir().unwrap().count();
        assert_eq!(files, 1, "nothing is left beside it");
    }

    #[test]
    fn processes_that_start_at_once_share_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| open_or_make(&path).unwrap().0.id().to_owned())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.windows(2).all(|two| two[0] == two[1]), "{ids:?}");
    }

    #[test]
    fn a_rotated_file_signs_with_a_new_key_and_verifies_with_all() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("key.pem"), dir.path().join("link"));
        let first = open_or_make(&path).unwrap().0;
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let second = rotate(&link).unwrap();
        let third = rotate(&link).unwrap();
        let ring = open(&path).unwrap().0;
        let ids: Vec<_> = ring.verifying().iter().map(|key| key.id()).collect();
        assert_eq!((ring.id(), &ids[..]), (third.as_str(), &[&*third, &*second, first.id()][..]));
        assert_eq!(ring.chain().len(), 1, "the certificate is the new key's");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("PRIVATE KEY-----").count(), 2, "one private key: {text}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(dir.path().read_dir().unwrap().count(), 2, "nothing is left beside it");
        assert!(rotate(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, "no key").unwrap();
        let error = open_or_make(&path).err().unwrap().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains("PEM"), "{error}");
        let below = path.join("key.pem");
        assert!(open_or_make(&below).err().unwrap().to_string().contains("key.pem"));
    }
}
