//! The groups of `[auth.groups]`.

use crate::config::pattern::UserPattern;

/// A group of users who have logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its members, as `[auth.groups]` lists them.
    pub members: Vec<UserPattern>,
}
