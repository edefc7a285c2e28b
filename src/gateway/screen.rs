//! Requests that HTTP allows and a proxy must not let through: the next hop could read them in another way.

use http::request::Parts;
use http::{Version, header};

use crate::config::limits;
use crate::gateway::respond::Problem;
use crate::net::BothLengths;

/// Refuses a request whose framing is ambiguous or whose head is too long.
pub(super) fn check(parts: &Parts) -> Result<(), Problem> {
    if parts.extensions.get::<BothLengths>().is_some() {
        return Err(Problem::Malformed("both Transfer-Encoding and Content-Length"));
    }
    if head_length(parts) > limits::HEADER_BYTES {
        return Err(Problem::HeadTooLarge);
    }
    if parts.version < Version::HTTP_11 && parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Problem::Malformed("Transfer-Encoding in HTTP/1.0"));
    }
    // RFC 9112 section 6.1: hyper takes the chunks off; another coding below them would be passed on as if it were
    // the body.
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let known = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if !known || codings.next().is_some() {
        return Err(Problem::Malformed("a transfer coding other than chunked"));
    }
    Ok(())
}

/// Returns the length of a head, near enough. hyper checks its limit between reads alone, and one read may bring more.
fn head_length(parts: &Parts) -> usize {
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    fields.sum::<usize>() + target
}
