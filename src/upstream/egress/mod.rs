//! The places that the gateway talks to on behalf of an upstream, and at which addresses.
//!
//! An upstream names other places: a realm, a redirect, an upload's location. A [`Destination`] is made by the rules of
//! [`EgressPolicy`] alone, and nothing is dialled without one.

mod address;
mod cdn;
mod destination;
mod error;
mod gateway_names;
mod policy;
mod realm;
pub(crate) mod url;

pub(crate) use address::is_public;
pub(crate) use destination::{Addresses, ConnectionKey, Destination};
pub(crate) use error::EgressError;
pub(crate) use gateway_names::GatewayNames;
pub(crate) use policy::EgressPolicy;
