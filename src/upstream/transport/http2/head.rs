//! The heads of HTTP/2 requests and answers.

use http::response::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version, header};

use crate::upstream::egress::url::Url;
use crate::upstream::exchange::Outgoing;
use crate::upstream::transport::http1::{ExchangeError, content_length};

/// Returns the head of `request`. `:authority` replaces Host (RFC 9113 section 8.3.1). `None` for a URL that can't be
/// expressed byte for byte.
pub(crate) fn request(url: &Url, request: &Outgoing<'_>) -> Option<Request<()>> {
    let mut head = Request::new(());
    *head.method_mut() = request.method.clone();
    *head.uri_mut() = uri(url)?;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = request.headers.clone();
    head.headers_mut().remove(header::HOST);
    let length = match request.body.remaining() {
        Some(0) if *request.method == Method::GET || *request.method == Method::HEAD => None,
        length => length,
    };
    if let Some(length) = length {
        head.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Some(head)
}

fn uri(url: &Url) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if url.origin.https { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(url.origin.authority()).ok()?);
    let target = PathAndQuery::try_from(url.target.as_str()).ok()?;
    parts.path_and_query = (target.as_str() == url.target).then_some(target);
    Uri::from_parts(parts).ok()
}

/// Returns the length of the body; `None` where the head does not say.
///
/// # Errors
/// A malformed Content-Length, or two that differ.
pub(crate) fn length(method: &Method, head: &Parts) -> Result<Option<u64>, ExchangeError> {
    if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Some(0));
    }
    let length = content_length(&head.headers)?;
    Ok(if *method == Method::HEAD { Some(0) } else { length })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::body::RequestBody;
    use crate::upstream::exchange::Purpose;

    fn head(method: &Method, url: &str, mut body: RequestBody) -> Request<()> {
        let mut headers = HeaderMap::from_iter([
            (header::HOST, HeaderValue::from_static("r.example")),
            (header::ACCEPT, HeaderValue::from_static("*/*")),
        ]);
        let outgoing = Outgoing { method, headers: &mut headers, body: &mut body, purpose: Purpose::Other };
        request(&Url::parse(url).unwrap(), &outgoing).unwrap()
    }

    #[test]
    fn the_authority_takes_the_place_of_host() {
        let head = head(&Method::GET, "https://r.example:8443/v2/", RequestBody::empty());
        assert_eq!(head.uri().authority().unwrap(), "r.example:8443");
        assert_eq!(head.headers().len(), 1, "{head:?}");
        assert_eq!(head.version(), Version::HTTP_2);
    }

    #[test]
    fn a_signed_url_stays_as_it_is() {
        let signed = "https://r.example/a/%2fb//c?X=%41+|&Sig=a/b%2B==&&x";
        let head = head(&Method::GET, signed, RequestBody::empty());
        assert_eq!(head.uri().to_string(), signed);
    }

    #[test]
    fn writes_have_a_length_and_reads_have_none() {
        let length = |head: Request<()>| {
            head.headers().get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap().to_owned())
        };
        let url = "https://r.example/v2/";
        assert_eq!(length(head(&Method::PUT, url, RequestBody::held("four".into()))).unwrap(), "4");
        assert_eq!(length(head(&Method::POST, url, RequestBody::empty())).unwrap(), "0");
        assert_eq!(length(head(&Method::HEAD, url, RequestBody::empty())), None);
    }
}
