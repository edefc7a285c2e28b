//! The folder of the account and the certificate. Only the gateway's user may read it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::acme::error::AcmeError;
use crate::config::private_folder;

/// The folder, while no other process orders a certificate for it.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

/// The lock of a folder, until this is dropped.
#[must_use]
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl Folder {
    /// Opens the folder, and makes it when it is missing.
    ///
    /// # Errors
    /// [`AcmeError`] when other users may read it, or it can't be made.
    pub(super) fn open(path: &Path) -> Result<Self, AcmeError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        private_folder::check(path, Some(geteuid().as_raw()))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Locks the folder. `None` while another process has it locked.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn lock(&self) -> io::Result<Option<FolderLock>> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(self.path.join(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(FolderLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Reads the file of the account, if there is one.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn account(&self) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path.join(ACCOUNT)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file of the account.
    ///
    /// # Errors
    /// The system's. The file is then as it was.
    pub(super) fn save_account(&self, content: &[u8]) -> io::Result<()> {
        self.replace(&self.path.join(ACCOUNT), content)
    }

    /// Removes the file of the account.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn remove_account(&self) -> io::Result<()> {
        std::fs::remove_file(self.path.join(ACCOUNT))
    }

    /// Replaces the certificate and its key, whole or not at all.
    ///
    /// # Errors
    /// The system's. The file is then as it was.
    pub(super) fn save_certificate(&self, file: &Path, pem: &str) -> io::Result<()> {
        self.replace(file, pem.as_bytes())
    }

    /// Only the holder of the lock writes, so that the new file's name is no other's.
    fn replace(&self, file: &Path, content: &[u8]) -> io::Result<()> {
        let beside = self.path.join(NEW);
        let mut new = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        new.write_all(content)?;
        new.sync_all()?;
        std::fs::rename(&beside, file)?;
        File::open(&self.path)?.sync_all()
    }
}

/// Does what waits for a disk on a thread that may wait: this one accepts connections.
///
/// # Errors
/// Those of `work`.
pub(super) async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(io::Error::other("the gateway ends").into()))
}

const ACCOUNT: &str = "account.json";
const LOCK: &str = "lock";
const NEW: &str = ".new";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_for_the_gateways_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acme");
        let folder = Folder::open(&path).unwrap();
        let certificate = path.join("certificate.pem");
        folder.save_account(b"{}").unwrap();
        folder.save_certificate(&certificate, "old").unwrap();
        folder.save_certificate(&certificate, "new").unwrap();
        let _lock = folder.lock().unwrap().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for file in std::fs::read_dir(&path).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
        assert_eq!(std::fs::read_to_string(certificate).unwrap(), "new");
        assert_eq!(folder.account().unwrap().unwrap(), b"{}");
    }

    #[test]
    fn a_folder_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = Folder::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is open to other users"), "{error}");
    }

    #[test]
    fn one_process_at_a_time_has_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        private_folder::make_private(dir.path());
        let (one, other) = (Folder::open(dir.path()).unwrap(), Folder::open(dir.path()).unwrap());
        let lock = one.lock().unwrap();
        assert!(lock.is_some() && other.lock().unwrap().is_none());
        drop(lock);
        assert!(other.lock().unwrap().is_some());
    }
}
