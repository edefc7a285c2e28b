//! The users of one htpasswd file and their bcrypt hashes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::file_stamp::Stamp;
use crate::proto::Secret;
use crate::proto::identity::{UserName, UserNameError};

/// The users of one htpasswd file, as read at one moment.
#[derive(Debug)]
pub struct Htpasswd {
    users: HashMap<UserName, Line>,
    /// The names of lines that cannot be used.
    unusable: HashSet<UserName>,
    costliest: u32,
    warnings: Vec<Warning>,
}

impl Htpasswd {
    /// Reads the lines of an htpasswd file, `NAME:HASH`, split at the first colon. Skips blank lines and `#` comments.
    /// Of two lines with the same name, uses the later one. Leaves out a line that cannot be used, with a warning.
    ///
    /// # Errors
    /// [`LoadError::Empty`] when no line at all can be used: the file must be a mistake.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        let mut users = HashMap::new();
        let (mut unusable, mut warnings) = (HashSet::new(), Vec::new());
        for (number, line) in lines(bytes) {
            match Line::parse(number, line) {
                Ok(line) => warnings.extend(insert(&mut users, line)),
                Err(reason) => {
                    unusable.extend(name_of(line));
                    warnings.push(Warning { line: number, reason });
                }
            }
        }
        let costliest = users.values().map(Line::cost).max().ok_or(LoadError::Empty(warnings.len()))?;
        Ok(Self { users, unusable, costliest, warnings })
    }

    /// Reads and parses a file.
    ///
    /// # Errors
    /// [`LoadError`] when it cannot be read, is larger than 16 MiB, or has no usable line.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        Self::read_with_stamp(path).map(|(table, _)| table)
    }

    /// Reads and parses a file, and returns the stamp it had before the first byte was read: a change during reading
    /// is then noticed at the next check.
    pub(super) fn read_with_stamp(path: &Path) -> Result<(Self, Stamp), LoadError> {
        let file = File::open(path)?;
        let stamp = Stamp::of_open(&file)?;
        let mut bytes = Vec::new();
        file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(LoadError::TooLarge);
        }
        Ok((Self::parse(&bytes)?, stamp))
    }

    /// Returns the line that decides for this user.
    pub fn line(&self, user: &str) -> Option<&Line> {
        self.users.get(user)
    }

    /// Returns true if a line has this name, even if the line cannot be used.
    pub fn names(&self, user: &str) -> bool {
        self.users.contains_key(user) || self.unusable.contains(user)
    }

    /// Returns how many users can log in.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Returns the highest bcrypt cost in the file. Every failed login takes as long as a check at this cost.
    pub fn costliest(&self) -> u32 {
        self.costliest
    }

    /// Returns the defects of the file, by line number, never with a line's content.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// A usable line: a name and its bcrypt hash.
pub struct Line {
    name: UserName,
    hash: Arc<str>,
    cost: u32,
    number: usize,
}

impl Line {
    pub(super) fn parse(number: usize, line: &[u8]) -> Result<Self, Reason> {
        let line = std::str::from_utf8(line).map_err(|_| Reason::NotText)?;
        let (name, hash) = line.split_once(':').ok_or(Reason::NoColon)?;
        let name = UserName::parse(name)?;
        let cost = bcrypt_cost(hash)?;
        Ok(Self { name, hash: hash.into(), cost, number })
    }

    /// Returns the user of the line.
    pub fn name(&self) -> &UserName {
        &self.name
    }

    /// Returns the bcrypt cost: 2 to the power of this many rounds.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// Returns the number of the line in its file, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Checks a password. Takes the time that the cost implies. A password that bcrypt would cut short never matches.
    pub fn matches(&self, password: &Secret) -> bool {
        !cut_short(password) && bcrypt::verify(password.expose(), &self.hash).unwrap_or(false)
    }

    /// Returns the hash as it stands in the file.
    pub(in crate::authn) fn hash(&self) -> &Arc<str> {
        &self.hash
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("name", &self.name).field("number", &self.number).finish_non_exhaustive()
    }
}

/// A defect of a line, with the line's number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Warning {
    /// The line's number, from 1.
    pub line: usize,
    /// The defect.
    pub reason: Reason,
}

/// The defect of a line. Never holds any of the line's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Bytes that are not UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// No colon separates a name from a hash.
    #[error("no `:` between a name and a hash")]
    NoColon,
    /// The name cannot be a user's.
    #[error(transparent)]
    Name(#[from] UserNameError),
    /// MD5, SHA, crypt or plain text.
    #[error("not a bcrypt hash ($2a$, $2b$ or $2y$); make one with `dockgate user add` or `htpasswd -B`")]
    NotBcrypt,
    /// A hash that begins like bcrypt's, but is cut short or damaged.
    #[error("a damaged bcrypt hash")]
    Damaged,
    /// A cost outside of what htpasswd writes; each step up doubles the time of every check.
    #[error("a bcrypt cost outside {LEAST_COST} to {HIGHEST_COST}")]
    Cost,
    /// A later line has the same name, and is used instead.
    #[error("the name is repeated on line {0}, and the later line is used")]
    Overridden(usize),
}

/// The reason why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The file has more than [`LARGEST_FILE`] bytes.
    #[error("is larger than {} MiB", LARGEST_FILE >> 20)]
    TooLarge,
    /// No line can be used, so no user could log in.
    #[error("has no usable line ({0} unusable): add a user with `dockgate user add FILE NAME`")]
    Empty(usize),
}

/// A file larger than this is not an htpasswd file: it would hold some 200 000 users.
pub(crate) const LARGEST_FILE: u64 = 16 << 20;

/// The lowest cost that bcrypt allows.
pub(crate) const LEAST_COST: u32 = 4;

/// The highest cost that Apache's htpasswd writes. A check at this cost takes some seconds.
pub(crate) const HIGHEST_COST: u32 = 17;

/// The longest password in bytes: bcrypt would ignore the rest of a longer one.
pub(crate) const LONGEST_PASSWORD: usize = 72;

/// Returns true if bcrypt would read only a part of a password, so that another password would match as well: bcrypt
/// ignores bytes after the 72nd, and some implementations stop at NUL.
pub(crate) fn cut_short(password: &Secret) -> bool {
    let bytes = password.expose().as_bytes();
    bytes.len() > LONGEST_PASSWORD || bytes.contains(&0)
}

/// Returns the lines that are neither blank nor comments, trimmed, with their numbers from 1.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let numbered = bytes.split(|&b| b == b'\n').enumerate();
    numbered.map(|(i, line)| (i + 1, line.trim_ascii())).filter(|(_, l)| !l.is_empty() && l[0] != b'#')
}

/// Returns the name of an unusable line.
fn name_of(line: &[u8]) -> Option<UserName> {
    let (name, _) = std::str::from_utf8(line).ok()?.split_once(':')?;
    UserName::parse(name).ok()
}

fn insert(users: &mut HashMap<UserName, Line>, line: Line) -> Option<Warning> {
    let later = line.number;
    let earlier = users.insert(line.name.clone(), line)?;
    Some(Warning { line: earlier.number, reason: Reason::Overridden(later) })
}

/// Returns the cost of a well-formed bcrypt hash.
fn bcrypt_cost(hash: &str) -> Result<u32, Reason> {
    if !["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix)) {
        return Err(Reason::NotBcrypt);
    }
    let cost = hash.parse::<bcrypt::HashParts>().map_err(|_| Reason::Damaged)?.get_cost();
    if (LEAST_COST..=HIGHEST_COST).contains(&cost) { Ok(cost) } else { Err(Reason::Cost) }
}
