//! Logs, the access log and the audit log, and the numbers and memories of requests that the operator looks at.

mod access;
mod audit;
mod last_pulls;
pub(crate) mod log;
pub(crate) mod metrics;
mod recent_problems;
mod request_id;
mod sink;
mod subject;
mod time;
mod trace_parent;
mod traffic;
mod transfers;

pub(crate) use access::{AccessLog, AccessRecord, shortened};
pub(crate) use audit::{AuditError, AuditEvent, AuditKind, AuditLog, PrintedToken, append_to_audit_log};
pub(crate) use last_pulls::LastPull;
pub(crate) use log::{flush, start};
pub(crate) use recent_problems::RecentProblem;
pub(crate) use request_id::RequestId;
pub(crate) use subject::Subject;
pub(crate) use trace_parent::TraceParent;
pub(crate) use traffic::Traffic;
pub(crate) use transfers::Transfer;
