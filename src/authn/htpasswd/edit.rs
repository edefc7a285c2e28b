//! Editing an htpasswd file: what is not asked for stays as it is, and a reader never sees half a file.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::config::limits::HTPASSWD_BYTES;
use crate::proto::Secret;
use crate::proto::htpasswd::{HIGHEST_COST, LEAST_COST, LONGEST_PASSWORD, Line, Reason};
use crate::proto::identity::UserName;
use crate::telemetry::RequestId;

/// The lines of a file, being edited. Nothing reaches the disk before [`Editor::save`].
#[derive(Debug)]
pub(crate) struct Editor {
    path: PathBuf,
    before: Option<Metadata>,
    lines: Vec<Vec<u8>>,
}

impl Editor {
    /// Reads the file to edit. A link is followed, so that it is its target that changes.
    ///
    /// # Errors
    /// [`EditError`] when the file is not there or cannot be read.
    pub(crate) fn open(path: &Path) -> Result<Self, EditError> {
        let path = path.canonicalize()?;
        let mut file = File::open(&path)?;
        let before = file.metadata()?;
        if before.size() > HTPASSWD_BYTES {
            return Err(EditError::TooLarge);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self { path, before: Some(before), lines: split(&bytes) })
    }

    /// Opens the file as [`Editor::open`] does, or begins a new one.
    ///
    /// # Errors
    /// [`EditError`] when the file is there and cannot be read.
    pub(crate) fn open_or_new(path: &Path) -> Result<Self, EditError> {
        match Self::open(path) {
            Err(EditError::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(Self::new(path)),
            opened => opened,
        }
    }

    /// Begins with no lines, whatever the path holds now.
    pub(crate) fn new(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Self { before: path.metadata().ok(), path, lines: Vec::new() }
    }

    /// Sets a user's hash: in the place of the user's line, whose comment stays, or at the end. Further lines of that user
    /// go.
    pub(crate) fn set(&mut self, name: &UserName, hash: &str) -> Change {
        let mut line = format!("{name}:{hash}").into_bytes();
        let place = self.lines.iter().position(|l| is_of(l, name));
        if let Some(comment) = place.and_then(|place| comment_of(&self.lines[place])) {
            line.push(b':');
            line.extend_from_slice(comment);
        }
        self.remove(name);
        match place {
            Some(index) => self.lines.insert(index, line),
            None => self.lines.push(line),
        }
        if place.is_some() { Change::Updated } else { Change::Added }
    }

    /// Removes every line of this user, also unusable ones. Returns false when there was none.
    pub(crate) fn remove(&mut self, name: &UserName) -> bool {
        let before = self.lines.len();
        self.lines.retain(|line| !is_of(line, name));
        self.lines.len() < before
    }

    /// Returns every line that a user could log in with, or an account of why not; in the file's order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, Result<Line, Reason>)> {
        let numbered = self.lines.iter().enumerate().map(|(i, line)| (i + 1, line.trim_ascii()));
        let lines = numbered.filter(|(_, line)| !line.is_empty() && line[0] != b'#');
        lines.map(|(number, line)| (number, Line::parse(number, line)))
    }

    /// Puts the edited file in the place of the old one: written beside it, synced, renamed. Mode and owner
    /// stay; a new file is for its owner alone (0600).
    ///
    /// # Errors
    /// [`EditError::Io`]; the old file is then untouched.
    pub(crate) fn save(&self) -> Result<(), EditError> {
        let beside = self.beside();
        let written = self.write(&beside).and_then(|()| std::fs::rename(&beside, &self.path));
        if written.is_err() {
            // The first error is the one to tell; that this leaves a file behind is the lesser evil.
            let _ = std::fs::remove_file(&beside);
        }
        written?;
        Ok(File::open(directory(&self.path))?.sync_all()?)
    }

    fn write(&self, beside: &Path) -> io::Result<()> {
        // The folder of a first file is made with it, as `dockgate certificate` does.
        std::fs::create_dir_all(directory(&self.path))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
        if let Some(before) = &self.before {
            keep_owner(&file, before)?;
            file.set_permissions(Permissions::from_mode(before.mode() & 0o7777))?;
        }
        file.write_all(&self.bytes())?;
        file.sync_all()
    }

    fn bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.iter().chain(b"\n")).copied().collect()
    }

    /// Returns a hidden name in the same directory, so that the rename stays within one filesystem.
    fn beside(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        directory(&self.path).join(format!(".{name}.{}.new", RequestId::next().as_str()))
    }
}

/// The effect of setting a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The user is new.
    Added,
    /// The user had a line, which was replaced.
    Updated,
}

/// The reason why a file was not edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// The system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not an htpasswd file.
    #[error("larger than {} MiB", HTPASSWD_BYTES >> 20)]
    TooLarge,
}

/// Hashes a password as Apache's htpasswd does (`$2y$`), with a fresh salt.
///
/// # Errors
/// [`HashError`] when the password or the cost is one that verification would refuse.
pub fn hash(password: &Secret, cost: u32) -> Result<String, HashError> {
    let bytes = password.expose().as_bytes();
    if !(LEAST_COST..=HIGHEST_COST).contains(&cost) {
        return Err(HashError::Cost);
    }
    if bytes.len() > LONGEST_PASSWORD {
        return Err(HashError::TooLong);
    }
    if bytes.contains(&0) {
        return Err(HashError::Nul);
    }
    let parts = bcrypt::hash_with_result(bytes, cost).map_err(|_| HashError::Random)?;
    Ok(parts.format_for_version(bcrypt::Version::TwoY))
}

/// The reason why a password cannot be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Not a cost that this program verifies.
    #[error("the cost must be between {LEAST_COST} and {HIGHEST_COST}")]
    Cost,
    /// bcrypt would ignore the rest.
    #[error("the password is longer than {LONGEST_PASSWORD} bytes, and bcrypt would ignore the rest")]
    TooLong,
    /// Other programs would stop reading there.
    #[error("the password contains a NUL byte")]
    Nul,
    /// No salt.
    #[error("the system gave no random bytes")]
    Random,
}

fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() { Vec::new() } else { body.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect() }
}

/// Returns what follows the hash.
fn comment_of(line: &[u8]) -> Option<&[u8]> {
    line.trim_ascii().splitn(3, |&byte| byte == b':').nth(2)
}

fn is_of(line: &[u8], name: &UserName) -> bool {
    let line = line.trim_ascii_start();
    line.strip_prefix(name.as_str().as_bytes()).is_some_and(|rest| rest.first() == Some(&b':'))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn keep_owner(file: &File, before: &Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) == (before.uid(), before.gid()) {
        return Ok(());
    }
    fchown(file, Some(before.uid()), Some(before.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

    fn name(name: &str) -> UserName {
        UserName::parse(name).unwrap()
    }

    fn edited(content: &str, edit: impl FnOnce(&mut Editor)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, content).unwrap();
        let mut editor = Editor::open(&path).unwrap();
        edit(&mut editor);
        editor.save().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside the file");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_new_user_comes_last_and_all_else_stays() {
        let before = "# staff\r\nbob:{SHA}x\n\n  odd line\n";
        let after = edited(before, |e| assert_eq!(e.set(&name("al"), HASH), Change::Added));
        assert_eq!(after, format!("{before}al:{HASH}\n"));
    }

    #[test]
    fn a_known_user_keeps_his_place_and_loses_his_doubles() {
        let after = edited("al:1\nbob:2\nal:3", |e| assert_eq!(e.set(&name("al"), HASH), Change::Updated));
        assert_eq!(after, format!("al:{HASH}\nbob:2\n"));
    }

    #[test]
    fn a_user_whose_name_begins_alike_is_another_user() {
        let after = edited("alice:1\nal:2\n#al:3\n", |e| assert!(e.remove(&name("al"))));
        assert_eq!(after, "alice:1\n#al:3\n");
    }

    #[test]
    fn removing_an_unknown_user_changes_nothing() {
        assert_eq!(edited("alice:1\n", |e| assert!(!e.remove(&name("bob")))), "alice:1\n");
    }

    #[test]
    fn a_new_file_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let mut editor = Editor::open_or_new(&path).unwrap();
        editor.set(&name("al"), HASH);
        editor.save().unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn the_mode_of_a_file_stays_and_a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::write(&path, "al:1\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut editor = Editor::open(&link).unwrap();
        editor.set(&name("al"), HASH);
        editor.save().unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn what_is_hashed_verifies() {
        let hashed = hash(&Secret::new("pass:word"), 4).unwrap();
        assert!(hashed.starts_with("$2y$04$") && bcrypt::verify("pass:word", &hashed).unwrap());
    }

    #[test]
    fn passwords_that_could_never_be_verified_are_not_hashed() {
        assert_eq!(hash(&Secret::new("x".repeat(73)), 4), Err(HashError::TooLong));
        assert!(hash(&Secret::new("x".repeat(72)), 4).is_ok());
        assert_eq!(hash(&Secret::new("a\0b"), 4), Err(HashError::Nul));
        assert_eq!(hash(&Secret::new("a"), 3), Err(HashError::Cost));
        assert_eq!(hash(&Secret::new("a"), 18), Err(HashError::Cost));
    }
}
