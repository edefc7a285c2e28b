//! Folders that no other user can put anything into.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};

/// The reason why a folder is not private. It goes behind the folder's path, and ends with the command that helps.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// Another user owns it.
    #[error(
        "belongs to another user ({owner}), who could put false content there; run `chown -R {user} {}`",
        path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// The number of this process's user.
        user: u32,
    },
    /// Others may enter it.
    #[error(
        "is open to other users (mode {mode:04o}), who could read or change its content; run `chmod 0700 {}`",
        path.display()
    )]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Others may rename it, and put another in its place.
    #[error(
        "can be replaced by any user, as all may write to {} (mode {mode:04o}); run `chmod +t {}`",
        parent.display(), parent.display()
    )]
    Replaceable {
        /// The folder above it.
        parent: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The system does not tell.
    #[error("cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Checks that only `user` (any one user where none is given) can put something into the folder `path`, which need not exist
/// yet, and that no user can replace it, but where it is on a volume that was mounted for all.
pub(crate) fn check(path: &Path, user: Option<u32>) -> Result<(), FolderError> {
    let exists = path.try_exists().unwrap_or(false);
    if exists {
        check_folder(path, user)?;
    }
    let existing = path.ancestors().find_map(|parent| parent.canonicalize().ok());
    for parent in existing.iter().flat_map(|real| real.ancestors().skip(usize::from(exists))) {
        let mode = parent.metadata()?.mode() & PERMISSIONS;
        if mode & WRITABLE_BY_ALL != 0 && mode & STICKY == 0 && !is_volume(parent) {
            return Err(FolderError::Replaceable { parent: parent.to_owned(), mode });
        }
    }
    Ok(())
}

/// Returns true for the root of a volume that is mounted below `/`: whoever mounted it has said who may write to it. Kubernetes' volumes
/// for a pod are writable by all (emptyDir: mode 0777, or 2777 with fsGroup), and the pod's user may not change that.
fn is_volume(folder: &Path) -> bool {
    let asked = rustix::fs::statx(rustix::fs::CWD, folder, AtFlags::empty(), StatxFlags::empty());
    folder.parent().is_some()
        && asked.is_ok_and(|told| told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn check_folder(path: &Path, user: Option<u32>) -> Result<(), FolderError> {
    let metadata = path.metadata()?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & PERMISSIONS);
    match user {
        Some(user) if user != owner => Err(FolderError::Owner { path: path.to_owned(), owner, user }),
        _ if mode & OTHERS != 0 => Err(FolderError::Open { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

/// Takes the rights of others away from a folder that a test uses.
#[cfg(test)]
pub(crate) fn make_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
}

const PERMISSIONS: u32 = 0o7777;
const STICKY: u32 = 0o1000;
const WRITABLE_BY_ALL: u32 = 0o002;
/// All rights of group and others.
const OTHERS: u32 = 0o077;

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn made(path: &Path, mode: u32) {
        create_dir(path).unwrap();
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_a_private_folder_of_this_user_passes() {
        let dir = tempfile::tempdir().unwrap();
        make_private(dir.path());
        let user = dir.path().metadata().unwrap().uid();
        for (mode, passes) in [(0o700, true), (0o2700, true), (0o500, true), (0o750, false), (0o1777, false)]
        {
            let path = dir.path().join(format!("{mode:o}"));
            made(&path, mode);
            let checked = check(&path, Some(user));
            assert_eq!(checked.is_ok(), passes, "{mode:o}");
            if let Err(error) = checked {
                let command = format!("run `chmod 0700 {}`", path.display());
                assert!(error.to_string().ends_with(&command), "{error}");
            }
        }
        let path = dir.path().join("700");
        assert!(check(&path, None).is_ok());
        let error = check(&path, Some(user + 1)).unwrap_err().to_string();
        assert!(error.ends_with(&format!("run `chown -R {} {}`", user + 1, path.display())), "{error}");
    }

    #[test]
    fn volumes_are_the_roots_of_mounts() {
        let dir = tempfile::tempdir().unwrap();
        for (path, expected) in [(Path::new("/proc"), true), (Path::new("/"), false), (dir.path(), false)] {
            assert_eq!(is_volume(path), expected, "{}", path.display());
        }
    }

    #[test]
    fn a_folder_that_all_can_replace_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, passes) in [(0o777, false), (0o1777, true), (0o775, true)] {
            let parent = dir.path().join(format!("{mode:o}"));
            made(&parent, mode);
            made(&parent.join("there"), 0o700);
            for below in ["there", "missing", "missing/too"] {
                let checked = check(&parent.join(below), None);
                assert_eq!(checked.is_ok(), passes, "{mode:o} {below}");
                if let Err(error) = checked {
                    let command = format!("run `chmod +t {}`", parent.display());
                    assert!(error.to_string().ends_with(&command), "{error}");
                }
            }
        }
    }
}
