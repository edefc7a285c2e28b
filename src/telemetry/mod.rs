//! Logs, the access log and redaction.
