//! Tokens and the requests for them.

use crate::proto::claims::Claims;
use crate::proto::jwt::{MAX_LENGTH, OwnHeader, Unverified, joined, to_sign};
use crate::proto::token_request::{TokenForm, TokenRequest};

/// Reads `data` as a signed token (RFC 7515 section 7.1), as the query of a token request, and as its form.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(read) = Unverified::parse(text) {
        assert!(text.len() <= MAX_LENGTH && text.matches('.').count() == 2);
        assert!(text.strip_prefix(read.signed).is_some_and(|rest| rest.starts_with('.')));
        assert!(read.header.crit.is_none());
        // These bytes have one text alone, so that a token is remembered once.
        assert_eq!(joined(read.signed.to_owned(), &read.signature), text);
        if let Some(claims) = read.claims::<Claims>() {
            let header = OwnHeader { alg: "ES256", typ: "JWT", kid: "kid", x5c: &[] };
            let again = joined(to_sign(&header, &claims).unwrap(), &read.signature);
            assert_eq!(Unverified::parse(&again).unwrap().claims::<Claims>(), Some(claims));
        }
    }
    let request = TokenRequest::parse(text);
    if let Ok(request) = &request {
        assert!(request.scopes.iter().count() <= 100);
    }
    if let Ok(TokenForm::Password { request: form, .. }) = TokenForm::parse(text) {
        assert_eq!(Ok(form), request);
    }
}
