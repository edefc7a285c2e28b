//! The tokens of an upstream's token endpoint (token auth, token.md and oauth.md).

mod access_token;
mod cache;
mod client;
mod lifetime;
mod request;

pub(crate) use access_token::AccessToken;
pub(crate) use cache::{KeptTokens, Missing, TokenCache, TokenKey};
pub(crate) use client::{IssuedToken, TokenClient, basic, bearer, request_url};
pub(crate) use request::{TokenRequest, TokenSource};
