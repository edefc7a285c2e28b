//! The record of a request for the audit log.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::gateway::respond::Problem;
use crate::proto::{Operation, Reference, RepositoryName, UploadStart};
use crate::telemetry::{AuditEvent, AuditKind, AuditLog, RequestId};
use crate::upstream::DOCKER_CONTENT_DIGEST;

/// The audit log's view of one request, filled in as the request is understood.
pub(super) struct AuditedRequest {
    log: AuditLog,
    client: IpAddr,
    /// The identity's name; none if authentication failed.
    pub(super) user: Option<Arc<str>>,
    /// The name that was shown, if authentication failed.
    pub(super) failed_login: Option<String>,
    pub(super) operation: Option<Operation>,
    /// The canonical name.
    pub(super) repository: Option<RepositoryName>,
    pub(super) upstream: Option<Arc<str>>,
    /// The cache's result.
    pub(super) cache: Option<&'static str>,
    /// The id of the token that was issued, and its scope.
    pub(super) minted: Option<(String, String)>,
    refusal: Option<(AuditKind, Option<String>)>,
    /// Bytes that came with the request.
    pub(super) received: u64,
}

impl AuditedRequest {
    pub(super) fn new(log: AuditLog, client: IpAddr) -> Self {
        Self {
            log,
            client,
            user: None,
            failed_login: None,
            operation: None,
            repository: None,
            upstream: None,
            cache: None,
            minted: None,
            refusal: None,
            received: 0,
        }
    }

    /// Records why the request was refused, where that is of interest: by the rules, or because of its credentials.
    pub(super) fn set_problem(&mut self, problem: &Problem) {
        self.refusal = match problem {
            Problem::Denied(reason) => Some((AuditKind::Denied, Some(reason.clone()))),
            Problem::Throttled(_) => Some((AuditKind::LoginThrottled, None)),
            // A request without credentials is told to show some: every login begins so.
            // So does one whose token has expired: clients meet that every few minutes.
            Problem::Unauthorized(refused) if self.user.is_none() && !refused.expired => {
                Some((AuditKind::LoginFailed, refused.reason.clone()))
            }
            _ => None,
        };
    }

    /// Writes the event that the request was, if it was one.
    pub(super) fn write(&self, id: &RequestId, response: &Response<Body>) {
        let Some(kind) = self.kind(response.status()).filter(|kind| self.log.wants(*kind)) else { return };
        let operation = self.operation.as_ref();
        let named = operation.and_then(Operation::repository);
        let said = response.headers().get(&DOCKER_CONTENT_DIGEST).map(HeaderValue::to_str);
        let said = said.and_then(Result::ok).filter(|_| response.status().is_success());
        self.log.write(&AuditEvent {
            event: kind,
            request_id: id.as_str(),
            client: self.client,
            user: self.user.as_deref(),
            failed_login: self.failed_login.as_deref(),
            operation: operation.map(Operation::label),
            repository: self.repository.as_ref().or(named).map(RepositoryName::as_str),
            reference: operation.and_then(reference).map(Reference::as_str),
            digest: operation.and_then(Operation::digest).map(|digest| digest.as_str()).or(said),
            size: self.size(),
            upstream: self.upstream.as_deref(),
            cache: self.cache,
            token: self.minted.as_ref().map(|(id, _)| id.as_str()),
            scope: self.minted.as_ref().map(|(_, scope)| scope.as_str()),
            reason: self.refusal.as_ref().and_then(|(_, reason)| reason.as_deref()),
            status: response.status().as_u16(),
        });
    }

    fn kind(&self, status: StatusCode) -> Option<AuditKind> {
        if let Some((kind, _)) = &self.refusal {
            return Some(*kind);
        }
        if self.minted.is_some() {
            return Some(AuditKind::TokenMinted);
        }
        match self.operation.as_ref()? {
            Operation::GetManifest { head: false, .. } if status == StatusCode::OK => Some(AuditKind::Pull),
            Operation::PutManifest { .. } | Operation::FinishUpload { .. } if status.is_success() => {
                Some(AuditKind::Push)
            }
            // Without a session: the blob came whole, or was there already.
            Operation::StartUpload { .. } if status == StatusCode::CREATED => Some(AuditKind::Push),
            Operation::DeleteManifest { .. } | Operation::DeleteBlob { .. } if status.is_success() => {
                Some(AuditKind::Delete)
            }
            _ => None,
        }
    }

    /// Returns the size of what was pushed, where all of it came with this request.
    fn size(&self) -> Option<u64> {
        let whole = matches!(
            self.operation,
            Some(
                Operation::PutManifest { .. }
                    | Operation::StartUpload { start: UploadStart::Monolithic(_), .. }
            )
        );
        Some(self.received).filter(|_| whole && self.refusal.is_none())
    }
}

fn reference(operation: &Operation) -> Option<&Reference> {
    match operation {
        Operation::GetManifest { reference, .. }
        | Operation::PutManifest { reference, .. }
        | Operation::DeleteManifest { reference, .. } => Some(reference),
        _ => None,
    }
}
