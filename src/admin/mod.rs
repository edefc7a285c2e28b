//! The admin listener: health, readiness, metrics, the dashboard and the operators' commands, never on the registry's port.

pub(crate) mod api;
pub(crate) mod configuration;
mod dashboard;
mod guard;
mod history;
mod listener;
mod login;
mod metrics;
mod readiness;
mod response;
mod state;
mod upstream_state;

pub(crate) use listener::AdminListener;
pub(crate) use state::{AdminState, Observed, ObservedFleet};
