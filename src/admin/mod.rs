//! The admin listener: health, readiness, metrics and the operators' commands, never on the registry's port.

pub(crate) mod api;
mod guard;
mod listener;
mod login;
mod metrics;
mod readiness;
mod response;
mod state;

pub(crate) use listener::AdminListener;
pub(crate) use state::AdminState;
