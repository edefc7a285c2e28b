//! `/api/cache`: what `dockgate cache` asks a gateway that runs, in JSON.
//!
//! `GET /api/cache` counts, `GET /api/cache/list?pattern=` lists, `POST /api/cache/remove?pattern=` removes;
//! `POST /api/cache/verify` and `POST /api/cache/warm` answer with lines of JSON as things happen. Nothing of it runs on
//! a worker's thread.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::admin::{AdminState, Answering, guard, readiness};
use crate::body::Body;
use crate::cache::maintenance;
use crate::cache::maintenance::{Platforms, Selection};
use crate::cache::{Cache, UpstreamCache};
use crate::proto::query;

mod lines;
mod warm;

use lines::Lines;

/// What `POST /api/cache/warm` is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WarmRequest {
    /// Images, as docker names them or by their canonical names.
    pub images: Vec<String>,
    /// `OS/ARCH[/VARIANT]`, or `all`; none: this machine's.
    #[serde(default)]
    pub platforms: Vec<String>,
}

/// What is told where something can't be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApiError {
    /// Why.
    pub error: String,
}

/// A body with a few thousand images' names.
const BODY_BYTES: usize = 1024 * 1024;

/// How long it may take over that.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// JobSlots that run at a time: each may read the whole disk.
const WORKS: usize = 4;

/// What keeps operators from doing too much at once.
pub(super) struct JobSlots(Arc<Semaphore>);

impl Default for JobSlots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WORKS)))
    }
}

/// Why there is no other answer.
struct Refused {
    status: StatusCode,
    error: String,
    /// The only method that is allowed.
    allow: Option<&'static str>,
}

type Result<T = Response<Body>> = std::result::Result<T, Refused>;

pub(super) async fn answer(
    request: Request<Incoming>,
    state: &Arc<AdminState>,
    busy: Answering,
) -> Response<Body> {
    let core = state.core();
    let Some(cache) = readiness::cache(&core) else {
        return refused(StatusCode::NOT_FOUND, "no upstream has a cache").respond();
    };
    let call = Call { state, sites: readiness::sites(&core), cache, busy };
    call.answer(request).await.unwrap_or_else(|refused| refused.respond())
}

/// One request.
struct Call<'a> {
    state: &'a Arc<AdminState>,
    cache: Arc<Cache>,
    sites: Vec<Arc<UpstreamCache>>,
    busy: Answering,
}

impl Call<'_> {
    async fn answer(self, request: Request<Incoming>) -> Result {
        let path = request.uri().path().to_owned();
        let path = path.strip_prefix("/api/cache").unwrap_or("/");
        let method = match path {
            "" | "/list" => "GET",
            "/verify" | "/remove" | "/warm" => "POST",
            _ => return Err(refused(StatusCode::NOT_FOUND, "there is nothing of this name")),
        };
        let head = *request.method() == Method::HEAD && method == "GET";
        if request.method().as_str() != method && !head {
            let refused = refused(StatusCode::METHOD_NOT_ALLOWED, format!("only {method}"));
            return Err(Refused { allow: Some(method), ..refused });
        }
        if method == "POST" && !guard::is_no_form(&request) {
            let error = "a POST needs Content-Type: application/json";
            return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
        match path {
            "" => self.stats().await,
            "/list" => self.list(&request).await,
            "/verify" => self.verify(),
            "/remove" => self.remove(&request).await,
            _ => self.warm(request).await,
        }
    }

    async fn stats(self) -> Result {
        aside(move || maintenance::stats(&self.cache, &self.sites, true)).await
    }

    async fn list(self, request: &Request<Incoming>) -> Result {
        let selection = selection(request, Some("**"))?;
        aside(move || maintenance::list(&self.sites, &selection)).await
    }

    async fn remove(self, request: &Request<Incoming>) -> Result {
        let selection = selection(request, None)?;
        let permit = self.permit()?;
        let (cache, sites) = (self.cache, self.sites);
        aside(move || {
            let _permit = permit;
            maintenance::remove(&cache, &sites, &selection)
        })
        .await
    }

    fn verify(self) -> Result {
        let permit = self.permit()?;
        let (teller, lines) = Lines::new(self.busy);
        let cache = self.cache;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            maintenance::verify(&cache, &mut |event| teller.tell_and_wait(&event));
        });
        Ok(streamed(lines))
    }

    async fn warm(self, request: Request<Incoming>) -> Result {
        let permit = self.permit()?;
        let bad = |error: String| refused(StatusCode::BAD_REQUEST, error);
        let body = Limited::new(request.into_body(), BODY_BYTES).collect();
        let body = tokio::time::timeout(BODY_DEADLINE, body).await;
        let body = body.map_err(|_| refused(StatusCode::REQUEST_TIMEOUT, "the body did not come"))?;
        let body = body.map_err(|error| bad(error.to_string()))?.to_bytes();
        let wishes: WarmRequest = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
        let platforms = Platforms::parse(&wishes.platforms).map_err(|error| bad(error.to_string()))?;
        let (teller, lines) = Lines::new(self.busy);
        let state = self.state.clone();
        tokio::spawn(async move {
            let _permit = permit;
            warm::run(&state, &wishes.images, &platforms, &teller).await;
        });
        Ok(streamed(lines))
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let busy =
            |_| refused(StatusCode::SERVICE_UNAVAILABLE, "too much is being done already; try again later");
        self.state.works.0.clone().try_acquire_owned().map_err(busy)
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

/// Does `work` on a thread of its own.
async fn aside<T: Serialize + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => json(&done),
        Err(_) => Err(refused(StatusCode::INTERNAL_SERVER_ERROR, "it broke")),
    }
}

fn json(value: &impl Serialize) -> Result {
    let text = serde_json::to_string(value);
    let text = text.map_err(|error| refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(super::typed(StatusCode::OK, "application/json", text + "\n"))
}

fn refused(status: StatusCode, error: impl Into<String>) -> Refused {
    Refused { status, error: error.into(), allow: None }
}

impl Refused {
    fn respond(self) -> Response<Body> {
        // Texts alone: they always have a form in JSON.
        let text = serde_json::to_string(&ApiError { error: self.error }).unwrap_or_default();
        let mut response = super::typed(self.status, "application/json", text + "\n");
        if let Some(method) = self.allow {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(method));
        }
        response
    }
}

fn streamed(lines: Lines) -> Response<Body> {
    super::of_body(StatusCode::OK, "application/x-ndjson", Body::stream(lines))
}
