//! The other replicas of this gateway: who they are, which of them an object belongs to, and how they are asked.
//!
//! An object hashes to an order of the members ([`placement`]). The first is its owner, which alone asks the upstream; the others
//! take it from there, prove it themselves and keep it. A member that does not answer is passed over ([`member`]), and what it
//! was sending goes on from the next in order. Nothing is agreed upon: where two replicas see other members, there are two
//! owners, and the upstream is asked twice.
//!
//! An asked member asks no other, and a replica asks only those before it in an object's order for a download: so no two wait
//! for one another.
//!
//! Members speak HTTP/1.1 over TLS 1.3 ([`identity`]): both show the same key, which each derives from `server.secret`.

pub(crate) mod answering;
pub(crate) mod connections;
pub(crate) mod fleet;
pub(crate) mod identity;
pub(crate) mod incoming;
pub(crate) mod member;
pub(crate) mod membership;
pub(crate) mod message;
pub(crate) mod notice;
pub(crate) mod orders;
pub(crate) mod placement;
pub(crate) mod refusal;
pub(crate) mod refusals;
pub(crate) mod senders;
pub(crate) mod srv;
pub(crate) mod trial;
pub(crate) mod unheard;
pub(crate) mod vigil;

pub(crate) use answering::{Caches, PeerAnswers};
pub(crate) use fleet::PeerFleet;
pub(crate) use membership::Membership;
pub(crate) use trial::try_members;
