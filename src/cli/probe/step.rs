//! The steps of a probe, as `--json` writes them and as they are printed.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::probe::diagnosis::Diagnosis;
use crate::cli::probe::jwt::{Jwt, Moment};

/// A whole trace. `fault` is null where it went through.
#[derive(Debug, Serialize)]
pub(super) struct Trace {
    /// The image or URL, as it was written.
    pub(super) asked: String,
    /// The user name; `anonymous` without one.
    pub(super) identity: String,
    pub(super) steps: Vec<Step>,
    /// Remarks that are no errors.
    pub(super) notes: Vec<String>,
    /// The result, where all steps succeeded.
    pub(super) result: Option<String>,
    #[serde(rename = "fault")]
    pub(super) diagnosis: Option<Diagnosis>,
}

/// A step of the walk.
#[derive(Debug, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(super) enum Step {
    /// A request and its answer.
    Request(Exchange),
    /// The challenge of the answer, parsed.
    Challenge { scheme: String, parameters: Map<String, Value> },
    /// The redirect of the answer.
    Redirect { to: String, allowed: bool },
    /// The request for a token.
    TokenRequest { method: &'static str, url: String, scope: String, identity: String },
    /// Its answer.
    TokenAnswer(TokenAnswer),
    /// The token, decoded.
    Token(Token),
    /// The rest of a rate limit.
    RateLimit { limit: Option<u64>, remaining: u64, window_seconds: Option<u64>, source: Option<String> },
}

/// A request and its answer.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Exchange {
    pub(super) method: String,
    pub(super) url: String,
    /// The credentials that it carried.
    pub(super) with: Shown,
    /// `None` where no answer came.
    pub(super) status: Option<u16>,
    pub(super) headers: Vec<Header>,
    /// The errors in the body, as `CODE: message`.
    pub(super) errors: Vec<String>,
}

/// The credentials that a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Shown {
    Nothing,
    Password,
    Token,
}

/// A header field of an answer.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

/// The answer of a token endpoint, without the token.
#[derive(Debug, Serialize)]
pub(super) struct TokenAnswer {
    pub(super) lifetime_seconds: u64,
    /// True if the answer says so; else it is the default.
    pub(super) lifetime_said: bool,
    pub(super) issued_at: Option<String>,
    pub(super) words: String,
}

/// A token, as far as it can be read. `verified` is always false: only the registry can tell.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Token {
    Jwt {
        verified: bool,
        #[serde(flatten)]
        jwt: Jwt,
        times: Vec<Moment>,
    },
    Opaque {
        characters: usize,
    },
}
