//! The access record of a request, filled in as the request is understood.

use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, header};

use crate::body::Body;
use crate::cache::{BypassReason, CacheStatus};
use crate::gateway::answer::Answer;
use crate::gateway::host::HostError;
use crate::gateway::route::ResolvedRepository;
use crate::proto::identity::Identity;
use crate::proto::{Authorization, Operation};
use crate::telemetry::{AccessLog, AccessRecord, RequestId, Subject};

/// The id of a request, and its access record where there is an access log.
pub(super) struct RequestRecord {
    pub(super) id: RequestId,
    access: Option<Box<AccessRecord>>,
}

impl RequestRecord {
    pub(super) fn new(log: Option<AccessLog>, client: IpAddr, parts: &Parts) -> Self {
        let id = RequestId::next();
        let access = log.map(|log| {
            let mut access = log.record(id, client);
            access.operation = method_word(&parts.method);
            access.agent = parts.headers.get(header::USER_AGENT).cloned();
            access
        });
        Self { id, access }
    }

    pub(super) fn set_identity(&mut self, identity: &Identity) {
        if let Some(access) = &mut self.access {
            access.user = Some(identity.shared_name());
        }
    }

    pub(super) fn set_host_error(&mut self, error: &HostError) {
        if let (Some(access), HostError::Misdirected(host)) = (&mut self.access, error) {
            access.misdirected = Some(host.clone());
        }
    }

    /// Records the user name of a login that failed, if the request shows one.
    pub(super) fn set_failed_login(&mut self, headers: &HeaderMap) {
        let Some(access) = &mut self.access else { return };
        let shown = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).map(Authorization::parse);
        if let Some(Ok(Authorization::Basic { user, .. })) = shown {
            access.failed_login = Some(user);
        }
    }

    pub(super) fn set_operation(&mut self, operation: &Operation) {
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
    }

    pub(super) fn set_answer(&mut self, answer: &Answer) {
        if let Some(access) = &mut self.access {
            access.cache = answer.cache_status.map(CacheStatus::word);
            access.bypass = answer.bypass.map(BypassReason::as_str);
        }
    }

    /// Hands the record to the response's body, which writes it to the access log when it ends.
    pub(super) fn attach(self, response: Response<Body>) -> Response<Body> {
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
