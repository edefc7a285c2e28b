//! The registry's grammar: pure, no I/O, no async, no clock.
//!
//! Everything a client or an upstream says is parsed here once, strictly, into types that cannot hold anything
//! outside the grammar; the layers above never look at raw paths, names or header values again. Each parser cites
//! the clause that it obeys: the OCI distribution specification 1.1.1 ("distribution-spec"), the OCI image
//! specification ("image-spec"), the Docker token documents ("token auth") or an RFC.

pub mod authorization;
pub mod challenge;
pub mod digest;
pub mod error_code;
pub mod hop_by_hop;
pub mod image;
pub mod link;
pub mod media_type;
pub mod name;
pub mod operation;
pub mod page;
pub mod query;
pub mod range;
pub mod reference;
pub mod rfc3339;
pub mod scope;
pub mod secret;
mod syntax;
pub mod target;
pub mod token;
pub mod upload;

pub use authorization::{Authorization, AuthorizationError};
pub use challenge::{BearerError, Challenge, Scheme};
pub use digest::{Algorithm, Digest, DigestError};
pub use error_code::{Access, Detail, ErrorBody, ErrorCode, ErrorEntry};
pub use image::{ImageName, ImageNameError};
pub use link::Link;
pub use media_type::{Accept, MediaType};
pub use name::{NameError, RepositoryName};
pub use operation::{Action, Operation};
pub use page::Page;
pub use range::{ByteRange, ContentRange, Span, UploadRange};
pub use reference::{Reference, ReferenceError, Tag, TagError};
pub use scope::{ResourceScope, Scope, ScopeSet};
pub use secret::Secret;
pub use target::{Method, Target, TargetError};
pub use token::TokenAnswer;
pub use upload::UploadStart;
