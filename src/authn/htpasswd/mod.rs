//! The htpasswd file: reading it, watching it and editing it. [`crate::proto::htpasswd`] has its grammar.

mod edit;
mod file;

pub(crate) use edit::HashError;
pub use edit::hash;
pub(crate) use edit::{Change, EditError, Editor};
pub use file::HtpasswdFile;
pub(crate) use file::{LoadError, Reload, read};
