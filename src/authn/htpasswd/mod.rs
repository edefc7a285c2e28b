//! The htpasswd file: users and their bcrypt hashes.

mod edit;
mod file;
mod table;

pub(crate) use edit::HashError;
pub use edit::hash;
pub(crate) use edit::{Change, EditError, Editor};
pub use file::HtpasswdFile;
pub(crate) use file::Reload;
pub(crate) use table::{
    HIGHEST_COST, Htpasswd, LEAST_COST, LONGEST_PASSWORD, Line, LoadError, Reason, Warning, cut_short,
};

#[cfg(test)]
mod tests;
