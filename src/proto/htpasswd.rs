//! The grammar of an htpasswd file: its users and their bcrypt hashes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::proto::fingerprint::Fingerprint;
use crate::proto::identity::{UserName, UserNameError};
use crate::proto::secret::Secret;

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
    /// Reads the lines of an htpasswd file: `NAME:HASH` or `NAME:HASH:COMMENT`, blank lines and `#` comments skipped. The
    /// last line of a name counts, also one that cannot be used: a user whose hash was replaced is out. A line that
    /// cannot be used is warned about. The table of a file without users is empty: no user can log in.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut table = Self {
            users: HashMap::new(),
            unusable: HashSet::new(),
            costliest: USUAL_COST,
            warnings: Vec::new(),
        };
        for (number, line) in lines(bytes) {
            match Line::parse(number, line) {
                Ok(line) => table.insert(line),
                Err(reason) => table.insert_unusable(number, line, reason),
            }
        }
        table.costliest = table.users.values().map(Line::cost).max().unwrap_or(USUAL_COST);
        table
    }

    fn insert(&mut self, line: Line) {
        let (name, number) = (line.name.clone(), line.number);
        self.unusable.remove(&name);
        let loser = self.users.insert(name, line);
        self.overrule(loser, number);
    }

    fn insert_unusable(&mut self, number: usize, line: &[u8], reason: Reason) {
        if let Some(name) = name_of(line) {
            let loser = self.users.remove(&name);
            self.overrule(loser, number);
            self.unusable.insert(name);
        }
        self.warnings.push(Warning { line: number, reason });
    }

    fn overrule(&mut self, loser: Option<Line>, by: usize) {
        let warning = |loser: Line| Warning { line: loser.number, reason: Reason::Overridden(by) };
        self.warnings.extend(loser.map(warning));
    }

    /// Returns true if no line has the form of an htpasswd file's, though there are lines: another file, or half a one.
    pub fn is_another_file(&self) -> bool {
        self.users.is_empty() && self.unusable.is_empty() && !self.warnings.is_empty()
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

    /// Returns the highest bcrypt cost in the file, which decides how long a failure takes to answer; without users the
    /// usual one.
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
    fingerprint: Fingerprint,
}

impl Line {
    /// Parses the line `number` of a file.
    ///
    /// # Errors
    /// The defect of the line.
    pub(crate) fn parse(number: usize, line: &[u8]) -> Result<Self, Reason> {
        let line = std::str::from_utf8(line).map_err(|_| Reason::NotText)?;
        let (name, hash) = line.split_once(':').ok_or(Reason::NoColon)?;
        let name = UserName::parse(name)?;
        // nginx and Apache let a comment follow the hash, which has no colon itself.
        let hash = hash.split_once(':').map_or(hash, |(hash, _)| hash);
        let cost = bcrypt_cost(hash)?;
        let fingerprint = Fingerprint::of("htpasswd line", [name.as_str().as_bytes(), hash.as_bytes()]);
        Ok(Self { name, hash: hash.into(), cost, number, fingerprint })
    }

    /// Returns the user of the line.
    pub fn name(&self) -> &UserName {
        &self.name
    }

    /// Returns the bcrypt cost: 2 to the power of this many rounds.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    /// Returns the fingerprint of its hash.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
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
    pub(crate) fn hash(&self) -> &Arc<str> {
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

/// The least cost bcrypt knows.
pub(crate) const LEAST_COST: u32 = 4;

/// The highest cost that Apache's htpasswd writes. A check at this cost takes some seconds.
pub(crate) const HIGHEST_COST: u32 = 17;

/// The cost that `htpasswd` and `dockgate user add` write.
const USUAL_COST: u32 = 10;

/// The bytes that bcrypt reads. It would ignore the rest of a longer password, so none is accepted.
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

/// Returns the cost of a well-formed bcrypt hash.
fn bcrypt_cost(hash: &str) -> Result<u32, Reason> {
    if !["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix)) {
        return Err(Reason::NotBcrypt);
    }
    let cost = hash.parse::<bcrypt::HashParts>().map_err(|_| Reason::Damaged)?.get_cost();
    if (LEAST_COST..=HIGHEST_COST).contains(&cost) { Ok(cost) } else { Err(Reason::Cost) }
}

#[cfg(test)]
mod tests;
