//! The HTTP client that `instant-acme` asks the server with.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::upstream::DocumentClient;

/// The client of one server.
pub(super) struct AcmeClient(pub(super) Arc<DocumentClient>);

type Sending = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

impl HttpClient for AcmeClient {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Sending {
        Box::pin(send(self.0.clone(), request))
    }
}

async fn send(
    documents: Arc<DocumentClient>,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Error> {
    let (parts, body) = request.into_parts();
    let url = parts.uri.to_string();
    let Ok(body) = body.collect().await;
    let answer = documents.send(&parts.method, &url, parts.headers, body.to_bytes()).await;
    let answer = answer.map_err(|why| Error::Other(why.into()))?;
    // Of a balancer's error page, instant-acme would only say that it is no JSON.
    if !answer.status().is_success() && !is_problem(answer.headers()) {
        return Err(Error::Other(format!("{url} answers {}", answer.status()).into()));
    }
    Ok(answer.map(Full::new).into())
}

/// Returns true for an answer that says what is wrong (RFC 8555 section 6.7).
fn is_problem(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/problem+json"))
}
