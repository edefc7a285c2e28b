//! Logs, the access log and redaction.

mod access;

pub use access::AccessRecord;
