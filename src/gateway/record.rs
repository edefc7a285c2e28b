//! The record of a request for the access log and the audit log, filled in as the request is understood.

use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, header};

use crate::body::Body;
use crate::cache::{BypassReason, CacheStatus};
use crate::gateway::answer::Answer;
use crate::gateway::audited::AuditedRequest;
use crate::gateway::host::HostError;
use crate::gateway::respond::Problem;
use crate::gateway::route::ResolvedRepository;
use crate::proto::identity::Identity;
use crate::proto::{Authorization, Operation};
use crate::telemetry::{AccessLog, AccessRecord, AuditLog, RequestId, Subject, shortened};

/// The logs that a gateway writes of requests.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) access: Option<AccessLog>,
    pub(crate) audit: Option<AuditLog>,
}

/// The id of a request, and its records for the logs that there are.
pub(super) struct RequestRecord {
    pub(super) id: RequestId,
    access: Option<Box<AccessRecord>>,
    audit: Option<Box<AuditedRequest>>,
}

impl RequestRecord {
    pub(super) fn new(logs: Logs, client: IpAddr, parts: &Parts) -> Self {
        let id = RequestId::next();
        let access = logs.access.map(|log| {
            let mut access = log.record(id, client);
            access.operation = method_word(&parts.method);
            access.agent = parts.headers.get(header::USER_AGENT).cloned();
            access
        });
        let audit = logs.audit.map(|log| Box::new(AuditedRequest::new(log, client)));
        Self { id, access, audit }
    }

    pub(super) fn set_identity(&mut self, identity: &Identity) {
        if let Some(access) = &mut self.access {
            access.user = Some(identity.shared_name());
        }
        if let Some(audit) = &mut self.audit {
            audit.user = Some(identity.shared_name());
        }
    }

    /// Records the name of a request that is no operation on a registry.
    pub(super) fn set_label(&mut self, label: &'static str) {
        if let Some(access) = &mut self.access {
            access.operation = label;
        }
    }

    /// Records the user name of a login by a form that failed.
    pub(super) fn set_failed_name(&mut self, name: &str) {
        if let Some(audit) = &mut self.audit {
            audit.failed_login = Some(shortened(name).to_owned());
        }
        if let Some(access) = &mut self.access {
            access.failed_login = Some(name.to_owned());
        }
    }

    /// Records the id of a token that was issued, and its scope.
    pub(super) fn set_minted(&mut self, id: &str, scope: &str) {
        if let Some(audit) = &mut self.audit {
            audit.minted = Some((id.to_owned(), scope.to_owned()));
        }
    }

    pub(super) fn set_host_error(&mut self, error: &HostError) {
        if let (Some(access), HostError::Misdirected(host)) = (&mut self.access, error) {
            access.misdirected = Some(host.clone());
        }
    }

    /// Records the user name of a login that failed, if the request shows one.
    pub(super) fn set_failed_login(&mut self, headers: &HeaderMap) {
        let shown = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).map(Authorization::parse);
        let Some(Ok(Authorization::Basic { user, .. })) = shown else { return };
        if let Some(audit) = &mut self.audit {
            audit.failed_login = Some(shortened(&user).to_owned());
        }
        if let Some(access) = &mut self.access {
            access.failed_login = Some(user);
        }
    }

    pub(super) fn set_operation(&mut self, operation: &Operation) {
        if let Some(audit) = &mut self.audit {
            audit.operation = Some(operation.clone());
        }
        if let Some(access) = &mut self.access {
            access.operation = operation.label();
            access.subject = match operation {
                Operation::GetManifest { reference, .. }
                | Operation::PutManifest { reference, .. }
                | Operation::DeleteManifest { reference, .. } => Some(Subject::Manifest(reference.clone())),
                operation => operation.digest().cloned().map(Subject::Digest),
            };
        }
    }

    pub(super) fn set_repository(&mut self, repository: &ResolvedRepository<'_>) {
        if let Some(access) = &mut self.access {
            access.repository = Some(repository.canonical.clone());
            access.upstream = Some(repository.route.name.clone());
        }
        if let Some(audit) = &mut self.audit {
            audit.repository = Some(repository.canonical.clone());
            audit.upstream = Some(repository.route.name.clone());
        }
    }

    pub(super) fn set_answer(&mut self, answer: &Answer) {
        if let Some(access) = &mut self.access {
            access.cache = answer.cache_status.map(CacheStatus::word);
            access.bypass = answer.bypass.map(BypassReason::as_str);
        }
        if let Some(audit) = &mut self.audit {
            audit.cache = answer.cache_status.map(CacheStatus::word);
        }
    }

    /// Records why the request was refused.
    pub(super) fn set_problem(&mut self, problem: &Problem) {
        if let Some(audit) = &mut self.audit {
            audit.set_problem(problem);
        }
    }

    /// Records how many bytes came with the request.
    pub(super) fn set_received(&mut self, bytes: u64) {
        if let Some(audit) = &mut self.audit {
            audit.received = bytes;
        }
    }

    /// Writes the audit log's event, if the request was one, and hands the access record to the response's body, which
    /// writes it when it ends.
    pub(super) fn attach(self, response: Response<Body>) -> Response<Body> {
        if let Some(audit) = &self.audit {
            audit.write(&self.id, &response);
        }
        let Some(mut access) = self.access else { return response };
        access.status = response.status().as_u16();
        response.map(|body| body.observed(access))
    }
}

/// Returns a method's name for the log. A client can make up any method: it is logged as `other`.
fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
