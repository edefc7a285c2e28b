//! The gateway: a request's phases in [`pipeline`], and one file per resource.

mod answer;
mod audited;
mod authorized;
mod blob;
mod cached;
mod catalog;
mod client_locations;
mod core;
mod cors;
mod forward;
mod forwarding;
mod handle;
mod host;
mod image_resolver;
mod listing;
mod login;
mod manifest;
mod pipeline;
mod record;
mod respond;
mod rewrite;
mod route;
mod screen;
mod tag_list;
mod upload;
mod upload_location;
mod write_guard;

pub(crate) use core::{Core, Settings, SharedState};
pub(crate) use handle::SealError;
pub(crate) use host::{KnownHosts, TrustedProxies};
pub(crate) use image_resolver::{ImageResolver, Location};
pub(crate) use pipeline::Gateway;
pub(crate) use record::Logs;
