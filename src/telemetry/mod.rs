//! Logs and the access log, both to standard error.

mod access;
pub(crate) mod log;
mod request_id;
mod sink;
mod time;

pub(crate) use access::{AccessLog, AccessRecord, Subject};
pub(crate) use log::{flush, start};
pub(crate) use request_id::RequestId;
