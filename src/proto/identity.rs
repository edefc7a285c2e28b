//! The identity of a requester.

use std::fmt;
use std::sync::Arc;

use crate::proto::secret::Secret;

/// The requester of a request, once authenticated. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A request without credentials.
    Anonymous,
    /// A user of the htpasswd file whose password was right.
    User(UserName),
    /// A client whose password an upstream accepted.
    Forwarded(Arc<Forwarded>),
    /// A robot, whose token the operator has minted.
    Robot(RobotName),
    /// A workload, for which its platform vouches by a token.
    Workload(ProvidedName),
    /// A client that has shown a certificate.
    Certificate(ProvidedName),
}

/// A name that a provider of identities has given: `PROVIDER:NAME`. No other provider's names begin so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProvidedName(Arc<str>);

impl ProvidedName {
    /// Returns the name that a template or a certificate has made. `None` without a provider's word and a colon.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let (provider, rest) = name.split_once(':')?;
        (!provider.is_empty() && !rest.is_empty()).then(|| Self(name.into()))
    }

    /// Returns the whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the word before the first colon.
    pub(crate) fn provider(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
}

/// The name of a robot as rules and logs know it: `robot:NAME`, where NAME is one that htpasswd could have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RobotName(Arc<str>);

impl RobotName {
    /// Returns the robot called `name`.
    ///
    /// # Errors
    /// [`UserNameError`], as for a user of htpasswd.
    pub fn new(name: &str) -> Result<Self, UserNameError> {
        UserName::parse(name).map(|name| Self(format!("{ROBOT}{name}").into()))
    }

    /// Reads the whole name, `robot:NAME`.
    pub fn parse(whole: &str) -> Option<Self> {
        Self::new(whole.strip_prefix(ROBOT)?).ok()
    }

    /// Returns the whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The beginning of every robot's token: by it a password is known to be one, whatever the user name beside it.
pub(crate) const ROBOT_PREFIX: &str = "dgr_";

/// The beginning of the names of robots.
pub(crate) const ROBOT: &str = "robot:";

/// A client that is known to one upstream, and what it showed for it. Equal where upstream, name and password are.
#[derive(Clone)]
pub struct Forwarded {
    name: Arc<str>,
    upstream: Arc<str>,
    username: String,
    password: Secret,
}

impl Forwarded {
    /// Returns the client that `upstream`, by its configured name, knows as `username`.
    pub fn new(upstream: &str, username: String, password: Secret) -> Self {
        Self {
            name: format!("forward/{upstream}:{}", printable(&username)).into(),
            upstream: upstream.into(),
            username,
            password,
        }
    }

    /// Returns the name of the upstream that knows it. Elsewhere it has no identity.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Returns its name at the upstream as logs show it: on one line.
    pub fn shown_username(&self) -> &str {
        self.name.get("forward/".len() + self.upstream.len() + 1..).unwrap_or_default()
    }

    /// Returns its name at the upstream.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// Returns its password there.
    pub fn password(&self) -> &Secret {
        &self.password
    }
}

impl PartialEq for Forwarded {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.username == other.username && self.password.ct_eq(&other.password)
    }
}

impl Eq for Forwarded {}

impl std::hash::Hash for Forwarded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Forwarded").field(&self.name).finish()
    }
}

/// Returns a text with its control characters escaped: HTTP Basic can carry them, a log line can't.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\t' | '\n' | '\r' => shown.extend(char.escape_default()),
            // At most U+009F. Without the braces that a rule would read as a pattern.
            _ if char.is_control() => shown.push_str(&format!("\\x{:02x}", u32::from(char))),
            _ => shown.push(char),
        }
    }
    shown
}

impl Identity {
    /// Returns the name that rules and logs use: `anonymous` or the user's.
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => ANONYMOUS,
            Self::User(name) => name.as_str(),
            Self::Forwarded(client) => &client.name,
            Self::Robot(name) => name.as_str(),
            Self::Workload(name) | Self::Certificate(name) => name.as_str(),
        }
    }

    /// Returns the name by which the client knows itself: not by which upstream knows it.
    pub(crate) fn own_name(&self) -> &str {
        match self {
            Self::Forwarded(client) => client.shown_username(),
            Self::Anonymous | Self::User(_) | Self::Robot(_) | Self::Workload(_) | Self::Certificate(_) => {
                self.name()
            }
        }
    }

    /// Returns the name as [`name`](Self::name) does, shared rather than copied.
    pub fn shared_name(&self) -> Arc<str> {
        // Each thread has a name of its own: workers that count the references of one name wait for each other.
        thread_local! {
            static SHARED_ANONYMOUS: Arc<str> = ANONYMOUS.into();
        }
        match self {
            Self::Anonymous => SHARED_ANONYMOUS.with(Arc::clone),
            Self::User(name) => name.0.clone(),
            Self::Forwarded(client) => client.name.clone(),
            Self::Robot(name) => name.0.clone(),
            Self::Workload(name) | Self::Certificate(name) => name.0.clone(),
        }
    }

    /// Returns true for a request without a login.
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a user from htpasswd: no `:` (RFC 7617 section 2; names from other providers have one), not
/// `anonymous`, and nothing that a rule would read as a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(Arc<str>);

impl UserName {
    /// Accepts a name that can stand in an htpasswd file, in a rule and in a log line.
    ///
    /// # Errors
    /// [`UserNameError`] says what is wrong, without repeating the name.
    pub fn parse(name: &str) -> Result<Self, UserNameError> {
        match name {
            "" => Err(UserNameError::Empty),
            ANONYMOUS => Err(UserNameError::Reserved),
            _ if name.len() > LONGEST_NAME => Err(UserNameError::TooLong),
            _ => name.chars().try_for_each(allowed).map(|()| Self(name.into())),
        }
    }

    /// Returns the name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for UserName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The reason why a name cannot be a user's. The name itself is never repeated: people type passwords into name fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserNameError {
    /// Nothing before the colon.
    #[error("the name is empty")]
    Empty,
    /// The name is `anonymous`, the name of clients that have not logged in.
    #[error("the name `anonymous` is reserved for those who have not logged in")]
    Reserved,
    /// A colon ends the name in Basic authentication and in the file.
    #[error("a name may not contain `:`")]
    Colon,
    /// The name has one of `*?[]{}`.
    #[error("a name may not contain `{0}`, which rules read as a pattern")]
    Pattern(char),
    /// RFC 7617 section 2 forbids control characters.
    #[error("a name may not contain control characters")]
    Control,
    /// More bytes than htpasswd allows.
    #[error("the name is longer than {LONGEST_NAME} bytes")]
    TooLong,
}

fn allowed(c: char) -> Result<(), UserNameError> {
    match c {
        ':' => Err(UserNameError::Colon),
        '*' | '?' | '[' | ']' | '{' | '}' => Err(UserNameError::Pattern(c)),
        _ if c.is_control() => Err(UserNameError::Control),
        _ => Ok(()),
    }
}

const ANONYMOUS: &str = "anonymous";

/// As Apache's htpasswd has it (`MAX_STRING_LEN` less the terminator).
const LONGEST_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_an_address_or_hold_spaces() {
        for name in ["alice", "alice@example.com", "build bot", "Zoë", "a/b", "x#y"] {
            assert_eq!(UserName::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn names_that_rules_would_read_as_patterns_are_refused() {
        for c in "*?[]{}".chars() {
            assert_eq!(UserName::parse(&format!("a{c}b")), Err(UserNameError::Pattern(c)));
        }
    }

    #[test]
    fn reserved_empty_and_unwritable_names_are_refused() {
        assert_eq!(UserName::parse(""), Err(UserNameError::Empty));
        assert_eq!(UserName::parse("anonymous"), Err(UserNameError::Reserved));
        assert_eq!(UserName::parse("repo:acme"), Err(UserNameError::Colon));
        assert_eq!(UserName::parse("a\u{7f}"), Err(UserNameError::Control));
        assert_eq!(UserName::parse(&"a".repeat(256)), Err(UserNameError::TooLong));
    }

    #[test]
    fn a_forwarded_name_is_shown_on_one_line() {
        let client = Forwarded::new("up", "a\nlevel=ERROR\u{85}".to_owned(), Secret::new("pw"));
        assert_eq!(client.shown_username(), "a\\nlevel=ERROR\\x85");
        let literal = Forwarded::new("up", client.shown_username().to_owned(), Secret::new("pw"));
        assert_ne!(client, literal, "the password is for another account");
        let identity = Identity::Forwarded(Arc::new(client));
        assert_eq!(identity.name(), "forward/up:a\\nlevel=ERROR\\x85");
    }

    #[test]
    fn no_user_may_be_called_anonymous() {
        assert_eq!(Identity::Anonymous.name(), "anonymous");
        assert_eq!(Identity::User(UserName::parse("alice").unwrap()).to_string(), "alice");
    }
}
