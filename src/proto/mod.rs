//! The registry's grammar: pure, no I/O, no async, no clock.
//!
//! Everything a client or an upstream says is parsed here once, strictly, into types that cannot hold anything
//! outside the grammar; the layers above never look at raw paths, names or header values again. Each parser cites
//! the clause that it obeys: the OCI distribution specification 1.1.1 ("distribution-spec"), the OCI image
//! specification ("image-spec"), the Docker token documents ("token auth") or an RFC.

pub(crate) mod authority;
pub(crate) mod authorization;
pub(crate) mod challenge;
pub(crate) mod claim_template;
pub(crate) mod claims;
pub(crate) mod coding;
pub(crate) mod digest;
pub(crate) mod error_code;
pub(crate) mod fingerprint;
pub(crate) mod forwarded;
pub(crate) mod hash;
pub(crate) mod hop_by_hop;
pub(crate) mod htpasswd;
pub(crate) mod identity;
pub(crate) mod image;
pub(crate) mod jwk;
pub(crate) mod jwt;
pub(crate) mod link;
pub(crate) mod manifest;
pub(crate) mod media_type;
pub(crate) mod name;
pub(crate) mod operation;
pub(crate) mod page;
pub(crate) mod percent;
pub(crate) mod query;
pub(crate) mod range;
pub(crate) mod reference;
pub(crate) mod scope;
pub(crate) mod secret;
mod syntax;
pub(crate) mod target;
mod target_error;
pub(crate) mod token;
pub(crate) mod token_request;
pub(crate) mod upload;

pub(crate) use authority::Authority;
pub use authorization::Authorization;
pub use challenge::Challenge;
pub(crate) use challenge::{BearerError, Scheme};
pub(crate) use claim_template::ClaimTemplate;
pub(crate) use claims::Grant;
pub(crate) use coding::Coding;
pub use digest::Digest;
pub(crate) use digest::{Algorithm, DigestError};
pub(crate) use error_code::Access;
pub(crate) use error_code::ErrorEntry;
pub use error_code::{ErrorBody, ErrorCode};
pub(crate) use fingerprint::Fingerprint;
pub(crate) use hash::Hasher;
pub(crate) use htpasswd::Htpasswd;
pub(crate) use image::{ImageName, ImageNameError};
pub(crate) use link::Link;
pub(crate) use manifest::Family;
pub use media_type::Accept;
pub(crate) use media_type::MediaType;
pub use name::RepositoryName;
pub(crate) use name::{Components, NameError};
pub(crate) use operation::Action;
pub use operation::Operation;
pub(crate) use page::Page;
pub(crate) use range::{ByteRange, ContentRange, Span, UploadRange};
pub(crate) use reference::{Reference, Tag};
pub(crate) use scope::{ResourceScope, Scope, ScopeSet};
pub use secret::Secret;
pub use target::Target;
pub(crate) use target_error::TargetError;
pub(crate) use token::TokenAnswer;
pub(crate) use upload::UploadStart;
