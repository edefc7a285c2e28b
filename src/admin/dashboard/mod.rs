//! The dashboard at `/`: one page, rendered here, and brought up to date by server-sent events. It only reads.

mod caches;
mod chart;
mod live;
mod overview;
mod page;
mod paths;
mod peers;
mod problems;
mod search;
mod settings;
mod store;
mod table;
mod transfers;
mod units;
mod upstreams;

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::admin::dashboard::paths::{EVENTS, PAGE, SCRIPT, STYLE};
use crate::admin::response;
use crate::admin::state::AdminState;
use crate::body::Body;
use crate::proto::query;

/// The things that the page may load: its own style and script, and its own events. Markup that a client's text smuggled in could do
/// nothing, were it not escaped already.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Returns true if the dashboard has this path.
pub(super) fn has(path: &str) -> bool {
    [PAGE, EVENTS, STYLE, SCRIPT].contains(&path)
}

/// Answers a request for a path that the dashboard has.
pub(super) async fn answer(request: &Request<Incoming>, state: &Arc<AdminState>) -> Response<Body> {
    let mut response = match request.uri().path() {
        EVENTS if *request.method() == Method::HEAD => live::head(),
        EVENTS => live::events(state),
        STYLE => asset("text/css; charset=utf-8", include_str!("style.css")),
        SCRIPT => asset("text/javascript; charset=utf-8", include_str!("script.js")),
        _ => searched(request, state).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn asset(content_type: &'static str, text: &'static str) -> Response<Body> {
    response::new(StatusCode::OK, content_type, Body::full(text))
}

/// Renders the page, with what the query has found.
async fn searched(request: &Request<Incoming>, state: &Arc<AdminState>) -> Response<Body> {
    let asked = query::parameter(request.uri().query().unwrap_or_default(), "q");
    let Ok(asked) = asked else {
        return response::text(StatusCode::BAD_REQUEST, "the query is malformed\n");
    };
    let asked = asked.unwrap_or_default();
    let found = search::find(state, asked.trim()).await;
    let text = page::render(state, asked.trim(), &found).into_string();
    response::new(StatusCode::OK, "text/html; charset=utf-8", Body::full(text))
}
