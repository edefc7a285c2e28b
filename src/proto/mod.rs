//! The registry's grammar: pure, no I/O, no async, no clock.
//!
//! Everything a client or an upstream says is parsed here once, strictly, into types that cannot hold anything
//! outside the grammar; the layers above never look at raw paths, names or header values again. Each parser cites
//! the clause that it obeys: the OCI distribution specification 1.1.1 ("distribution-spec"), the OCI image
//! specification ("image-spec"), the Docker token documents ("token auth") or an RFC.

pub mod authorization;
pub mod digest;
pub mod error_code;
pub mod name;
pub mod operation;
pub mod page;
mod query;
pub mod reference;
pub mod secret;
mod syntax;
pub mod target;

pub use authorization::{Authorization, AuthorizationError};
pub use digest::{Algorithm, Digest, DigestError};
pub use error_code::{Access, Detail, ErrorBody, ErrorCode, ErrorEntry};
pub use name::{NameError, RepositoryName};
pub use operation::{Action, Operation, UploadStart};
pub use page::Page;
pub use reference::{Reference, ReferenceError, Tag, TagError};
pub use secret::Secret;
pub use target::{Method, Target, TargetError};
