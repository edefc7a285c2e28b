//! The record of a request for the access log and the audit log, filled in as the request is understood.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, header};

use crate::body::Body;
use crate::cache::{BypassReason, CacheStatus};
use crate::gateway::answer::Answer;
use crate::gateway::audited::AuditedRequest;
use crate::gateway::host::HostError;
use crate::gateway::respond::{Problem, is_shown};
use crate::gateway::route::ResolvedRepository;
use crate::meaning::UpstreamFailure;
use crate::proto::identity::Identity;
use crate::proto::{Authorization, Operation};
use crate::telemetry::metrics::{LoginMethod, LoginResult};
use crate::telemetry::{
    AccessLog, AccessRecord, AuditLog, RequestId, Subject, TraceParent, Traffic, shortened,
};

/// The places where a gateway writes down its requests.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) access: Option<AccessLog>,
    pub(crate) audit: Option<AuditLog>,
    pub(crate) traffic: Arc<Traffic>,
}

/// The id of a request, and its records for the logs that there are.
pub(super) struct RequestRecord {
    pub(super) id: RequestId,
    access: Box<AccessRecord>,
    audit: Option<Box<AuditedRequest>>,
}

impl RequestRecord {
    /// Returns the record of a request that begins now. `is_forwarded` says that a trusted proxy has written its fields.
    pub(super) fn new(logs: Logs, client: IpAddr, parts: &Parts, is_forwarded: bool) -> Self {
        let trace_parent = if is_forwarded { trace_parent(&parts.headers) } else { None };
        let given = if is_forwarded { given_id(&parts.headers, trace_parent.as_ref()) } else { None };
        let id = given.unwrap_or_else(RequestId::next);
        let mut access = AccessRecord::begin(logs.access, logs.traffic, id, client);
        access.operation = method_word(&parts.method);
        access.agent = parts.headers.get(header::USER_AGENT).cloned();
        access.trace_parent = trace_parent;
        let audit = logs.audit.map(|log| Box::new(AuditedRequest::new(log, client)));
        Self { id, access, audit }
    }

    pub(super) fn set_identity(&mut self, identity: &Identity) {
        self.access.user = Some(identity.shared_name());
        if let Some(audit) = &mut self.audit {
            audit.user = Some(identity.shared_name());
        }
    }

    /// Records and counts a login with the credentials that the request shows.
    pub(super) fn set_login(&mut self, method: LoginMethod, result: LoginResult) {
        self.access.login = Some(method.as_str());
        self.access.traffic().logins.note(method, result);
    }

    /// Records the name of a request that is no operation on a registry.
    pub(super) fn set_label(&mut self, label: &'static str) {
        self.access.operation = label;
    }

    /// Records the user name of a login by a form that failed.
    pub(super) fn set_failed_name(&mut self, name: &str) {
        if let Some(audit) = &mut self.audit {
            audit.failed_login = Some(shortened(name).to_owned());
        }
        self.access.failed_login = Some(name.to_owned());
    }

    /// Records the id of a token that was issued, and its scope.
    pub(super) fn set_minted(&mut self, id: &str, scope: &str) {
        if let Some(audit) = &mut self.audit {
            audit.minted = Some((id.to_owned(), scope.to_owned()));
        }
    }

    pub(super) fn set_host_error(&mut self, error: &HostError) {
        if let HostError::Misdirected(host) = error {
            self.access.misdirected = Some(host.clone());
        }
    }

    /// Records the user name of a login that failed, if the request shows one.
    pub(super) fn set_failed_login(&mut self, headers: &HeaderMap) {
        let shown = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).map(Authorization::parse);
        let Some(Ok(Authorization::Basic { user, .. })) = shown else { return };
        if let Some(audit) = &mut self.audit {
            audit.failed_login = Some(shortened(&user).to_owned());
        }
        self.access.failed_login = Some(user);
    }

    pub(super) fn set_operation(&mut self, operation: &Operation) {
        if let Some(audit) = &mut self.audit {
            audit.operation = Some(operation.clone());
        }
        self.access.operation = operation.label();
        self.access.subject = match operation {
            Operation::GetManifest { reference, .. }
            | Operation::PutManifest { reference, .. }
            | Operation::DeleteManifest { reference, .. } => Some(Subject::Manifest(reference.clone())),
            operation => operation.digest().cloned().map(Subject::Digest),
        };
    }

    pub(super) fn set_repository(&mut self, repository: &ResolvedRepository<'_>) {
        self.access.repository = Some(repository.canonical.clone());
        self.access.upstream = Some(repository.route.name.clone());
        if let Some(audit) = &mut self.audit {
            audit.repository = Some(repository.canonical.clone());
            audit.upstream = Some(repository.route.name.clone());
        }
    }

    pub(super) fn set_answer(&mut self, answer: &Answer) {
        self.access.cache = answer.cache_status.map(CacheStatus::word);
        self.access.bypass = answer.bypass.map(BypassReason::as_str);
        if let Some(audit) = &mut self.audit {
            audit.cache = answer.cache_status.map(CacheStatus::word);
        }
    }

    /// Records an upstream's refusal that is passed on.
    pub(super) fn set_failure(&mut self, failure: &UpstreamFailure) {
        self.access.cause = Some(failure.meaning.word());
        self.access.shown = is_shown(failure).then(|| (failure.to_string(), None));
    }

    /// Records the rule that denies the request, as the operator knows it.
    pub(super) fn set_rule(&mut self, rule: String) {
        self.access.rule = Some(rule);
    }

    /// Records why the request was refused.
    pub(super) fn set_problem(&mut self, problem: &Problem) {
        self.access.cause = Some(problem.cause());
        let reason = match problem {
            // Without credentials a client is told to show some: every login begins so. It has the name `anonymous`.
            Problem::Unauthorized(refused) if self.access.user.is_none() && !refused.expired => {
                Some(refused.reason.clone().unwrap_or_else(|| "wrong name or password".to_owned()))
            }
            problem => problem.shown(),
        };
        let rule = self.access.rule.take();
        self.access.shown = reason.map(|reason| (reason, rule));
        if let Some(audit) = &mut self.audit {
            audit.set_problem(problem);
        }
    }

    /// Records how many bytes came with the request.
    pub(super) fn set_received(&mut self, bytes: u64) {
        self.access.received = bytes;
        if let Some(audit) = &mut self.audit {
            audit.received = bytes;
        }
    }

    /// Writes the audit log's event, if the request was one, and hands the access record to the response's body, with which
    /// it ends.
    pub(super) fn attach(self, response: Response<Body>) -> Response<Body> {
        if let Some(audit) = &self.audit {
            audit.write(&self.id, &response);
        }
        let mut access = self.access;
        access.status = response.status().as_u16();
        access.begin_response(response.body().remaining());
        response.map(|body| body.observed(access))
    }
}

fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    TraceParent::parse(headers.get("traceparent")?.as_bytes())
}

/// Returns the id that the fields give the request: `X-Request-Id`, else that of its trace.
fn given_id(headers: &HeaderMap, trace_parent: Option<&TraceParent>) -> Option<RequestId> {
    let named = headers.get("x-request-id").and_then(|id| RequestId::given(id.as_bytes()));
    named.or_else(|| RequestId::given(trace_parent?.trace_id()))
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
