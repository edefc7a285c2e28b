//! The calls of the interface.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;

use crate::admin::state::{AdminState, cache};
use crate::admin::{guard, response};
use crate::body::Body;
use crate::cache::maintenance;
use crate::cache::maintenance::{Elsewhere, Event, Platforms, Selection, WarmTarget};
use crate::cache::{Cache, UpstreamCache};
use crate::json_lines;
use crate::json_lines::LineSender;
use crate::proto::query;

/// The body of `POST /api/cache/warm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WarmRequest {
    /// Images, as docker names them or by their canonical names.
    pub images: Vec<String>,
    /// `OS/ARCH[/VARIANT]`, or `all`; none: this machine's.
    #[serde(default)]
    pub platforms: Vec<String>,
}

/// The body of every refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApiError {
    /// Why.
    pub error: String,
}

/// The longest body of `warm`: a few thousand images' names.
const BODY_BYTES: usize = 1024 * 1024;

/// How long a client may take to send it.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// A refusal.
struct Refused {
    status: StatusCode,
    error: String,
    /// The only method that is allowed.
    allow: Option<&'static str>,
}

type Result<T = Response<Body>> = std::result::Result<T, Refused>;

/// Answers one call.
pub(in crate::admin) async fn answer(request: Request<Incoming>, state: &Arc<AdminState>) -> Response<Body> {
    let core = state.core();
    let Some(cache) = cache(&core).cloned() else {
        return refused(StatusCode::NOT_FOUND, "no upstream has a cache").respond();
    };
    let call = Call { state, upstream_caches: core.settings.upstream_caches.clone(), cache };
    call.answer(request).await.unwrap_or_else(|refused| refused.respond())
}

/// A call of the admin API.
struct Call<'a> {
    state: &'a Arc<AdminState>,
    cache: Arc<Cache>,
    upstream_caches: Vec<Arc<UpstreamCache>>,
}

impl Call<'_> {
    async fn answer(self, request: Request<Incoming>) -> Result {
        let path = request.uri().path().to_owned();
        let path = path.strip_prefix("/api/cache").unwrap_or("/");
        let method = match path {
            "" | "/list" => "GET",
            "/verify" | "/remove" | "/warm" => "POST",
            _ => return Err(refused(StatusCode::NOT_FOUND, "no such call")),
        };
        let head = *request.method() == Method::HEAD && method == "GET";
        if request.method().as_str() != method && !head {
            let refused = refused(StatusCode::METHOD_NOT_ALLOWED, format!("only {method}"));
            return Err(Refused { allow: Some(method), ..refused });
        }
        if method == "POST" && !guard::is_json(&request) {
            let error = "a POST needs Content-Type: application/json";
            return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
        match path {
            "" => self.stats().await,
            "/list" => self.list(&request).await,
            "/verify" => self.verify(&request),
            "/remove" => self.remove(&request).await,
            _ => self.warm(request).await,
        }
    }

    async fn stats(self) -> Result {
        aside(move || maintenance::stats(&self.cache, &self.upstream_caches, true)).await
    }

    async fn list(self, request: &Request<Incoming>) -> Result {
        let (selection, elsewhere) = (selection(request, Some("**"))?, elsewhere(request)?);
        // The look at other places takes longer, and asks them.
        let _permit = if elsewhere == Elsewhere::default() { None } else { Some(self.job()?) };
        let listing =
            maintenance::list_everywhere(&self.cache, self.upstream_caches, selection, elsewhere).await;
        json(&listing.map_err(failed)?)
    }

    async fn remove(self, request: &Request<Incoming>) -> Result {
        let selection = selection(request, None)?;
        let permit = self.job()?;
        // Goes on to its end where the operator does not wait for it.
        let removal = tokio::spawn(async move {
            let _permit = permit;
            maintenance::remove_everywhere(self.cache, self.upstream_caches, selection).await
        });
        json(&removal.await.and_then(|removed| removed).map_err(failed)?)
    }

    fn verify(self, request: &Request<Incoming>) -> Result {
        let (elsewhere, permit) = (elsewhere(request)?, self.job()?);
        let (sender, lines) = json_lines::channel();
        let cache = self.cache;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut tell = |event| sender.send_blocking(&event);
            Handle::current().block_on(maintenance::verify_everywhere(&cache, elsewhere, &mut tell));
        });
        Ok(streamed(lines))
    }

    async fn warm(self, request: Request<Incoming>) -> Result {
        let permit = self.job()?;
        let bad = |error: String| refused(StatusCode::BAD_REQUEST, error);
        let body = Limited::new(request.into_body(), BODY_BYTES).collect();
        let body = tokio::time::timeout(BODY_DEADLINE, body).await;
        let body =
            body.map_err(|_| refused(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))?;
        let body = body.map_err(|error| bad(error.to_string()))?.to_bytes();
        let wanted: WarmRequest = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
        let platforms = Platforms::parse(&wanted.platforms).map_err(|error| bad(error.to_string()))?;
        let (sender, lines) = json_lines::channel();
        let state = self.state.clone();
        tokio::spawn(async move {
            let _permit = permit;
            warm(&state, &wanted.images, &platforms, &sender).await;
        });
        Ok(streamed(lines))
    }

    fn job(&self) -> Result<OwnedSemaphorePermit> {
        let error = "too many jobs are running already; try again later";
        self.state.try_job().ok_or_else(|| refused(StatusCode::SERVICE_UNAVAILABLE, error))
    }
}

/// Pulls all of `images`, for as long as the client reads the lines. Must run on the runtime of the background work.
async fn warm(state: &AdminState, images: &[String], platforms: &Platforms, sender: &LineSender) {
    let core = state.core();
    let resolve = |image: &str| -> std::result::Result<WarmTarget, String> { core.warm_target(image) };
    let tell = |event: Event| sender.try_send(&event);
    tokio::select! {
        done = maintenance::warm(images, platforms, &resolve, &tell) => {
            sender.send(&done).await;
        }
        () = sender.closed() => {}
    }
}

fn selection(request: &Request<Incoming>, default: Option<&str>) -> Result<Selection> {
    let bad = |error: &dyn std::fmt::Display| refused(StatusCode::BAD_REQUEST, error.to_string());
    let pattern = query::parameter(request.uri().query().unwrap_or_default(), "pattern");
    let pattern = pattern.map_err(|error| bad(&error))?;
    let pattern = pattern.as_deref().filter(|pattern| !pattern.is_empty()).or(default);
    let pattern = pattern.ok_or_else(|| bad(&"a pattern is needed"))?;
    Selection::parse(pattern).map_err(|error| bad(&error))
}

/// Returns where else than here a call is to be done.
fn elsewhere(request: &Request<Incoming>) -> Result<Elsewhere> {
    let asks = |name| match query::parameter(request.uri().query().unwrap_or_default(), name) {
        Ok(None) => Ok(false),
        Ok(Some(value)) if value == "true" => Ok(true),
        Ok(Some(_)) => Err(refused(StatusCode::BAD_REQUEST, format!("{name} can be true"))),
        Err(error) => Err(refused(StatusCode::BAD_REQUEST, error.to_string())),
    };
    Ok(Elsewhere { fleet: asks("fleet")?, store: asks("store")? })
}

fn failed(_: JoinError) -> Refused {
    refused(StatusCode::INTERNAL_SERVER_ERROR, "the job failed")
}

/// Runs `work` on a thread of its own.
async fn aside<T: Serialize + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result {
    json(&tokio::task::spawn_blocking(work).await.map_err(failed)?)
}

fn json(value: &impl Serialize) -> Result {
    let text = serde_json::to_string(value);
    let text = text.map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(response::new(StatusCode::OK, "application/json", Body::full(text + "\n")))
}

fn refused(status: StatusCode, error: impl Into<String>) -> Refused {
    Refused { status, error: error.into(), allow: None }
}

impl Refused {
    fn respond(self) -> Response<Body> {
        // A struct of strings can always be serialized.
        let text = serde_json::to_string(&ApiError { error: self.error }).unwrap_or_default();
        let mut response = response::new(self.status, "application/json", Body::full(text + "\n"));
        if let Some(method) = self.allow {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(method));
        }
        response
    }
}

fn streamed(lines: Body) -> Response<Body> {
    response::new(StatusCode::OK, "application/x-ndjson", lines)
}
