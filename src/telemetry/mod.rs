//! Logs and the access log, both to standard error, and the audit log.

mod access;
mod audit;
pub(crate) mod log;
mod request_id;
mod sink;
mod time;

pub(crate) use access::{AccessLog, AccessRecord, Subject, shortened};
pub(crate) use audit::{AuditError, AuditEvent, AuditKind, AuditLog, PrintedToken, append_to_audit_log};
pub(crate) use log::{flush, start};
pub(crate) use request_id::RequestId;
