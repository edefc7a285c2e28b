//! The registry's errors: codes, and the body that carries them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The code of an error (distribution-spec, "Error Codes"; those that only distribution has are marked).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// No such blob in this repository.
    BlobUnknown,
    /// The upload cannot go on like this.
    BlobUploadInvalid,
    /// No such upload, or it has expired.
    BlobUploadUnknown,
    /// The digest is malformed or not that of the content.
    DigestInvalid,
    /// The manifest names a blob that is not there.
    ManifestBlobUnknown,
    /// The manifest is malformed.
    ManifestInvalid,
    /// No such manifest in this repository.
    ManifestUnknown,
    /// The repository's name is outside the grammar.
    NameInvalid,
    /// No such repository.
    NameUnknown,
    /// The length is not that of the content.
    SizeInvalid,
    /// The request needs a login.
    Unauthorized,
    /// Known, and not allowed.
    Denied,
    /// Not in this registry.
    Unsupported,
    /// Later.
    TooManyRequests,
    /// The tag is outside the grammar, or not the manifest's (distribution).
    TagInvalid,
    /// `n` is no number, or too great (distribution).
    PaginationNumberInvalid,
    /// The bytes do not follow on those that are there (distribution).
    RangeInvalid,
    /// Not now (distribution).
    Unavailable,
    /// Something else (distribution).
    Unknown,
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [Self; 19] = [
        Self::BlobUnknown,
        Self::BlobUploadInvalid,
        Self::BlobUploadUnknown,
        Self::DigestInvalid,
        Self::ManifestBlobUnknown,
        Self::ManifestInvalid,
        Self::ManifestUnknown,
        Self::NameInvalid,
        Self::NameUnknown,
        Self::SizeInvalid,
        Self::Unauthorized,
        Self::Denied,
        Self::Unsupported,
        Self::TooManyRequests,
        Self::TagInvalid,
        Self::PaginationNumberInvalid,
        Self::RangeInvalid,
        Self::Unavailable,
        Self::Unknown,
    ];

    /// Returns the code as it is written.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Returns the status that goes with it where nothing else decides, as in distribution.
    pub fn status(self) -> u16 {
        self.row().1
    }

    /// Returns distribution's text for it.
    pub fn message(self) -> &'static str {
        self.row().2
    }

    /// Returns the code that is written so; none for one that is not known here.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// Returns the code's row in distribution's registry/api/errcode/register.go and registry/api/v2/errors.go.
    fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BlobUnknown => ("BLOB_UNKNOWN", 404, "blob unknown to registry"),
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", 404, "blob upload invalid"),
            Self::BlobUploadUnknown => ("BLOB_UPLOAD_UNKNOWN", 404, "blob upload unknown to registry"),
            Self::DigestInvalid => ("DIGEST_INVALID", 400, "provided digest did not match uploaded content"),
            Self::ManifestBlobUnknown => ("MANIFEST_BLOB_UNKNOWN", 400, "blob unknown to registry"),
            Self::ManifestInvalid => ("MANIFEST_INVALID", 400, "manifest invalid"),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", 404, "manifest unknown"),
            Self::NameInvalid => ("NAME_INVALID", 400, "invalid repository name"),
            Self::NameUnknown => ("NAME_UNKNOWN", 404, "repository name not known to registry"),
            Self::SizeInvalid => ("SIZE_INVALID", 400, "provided length did not match content length"),
            Self::Unauthorized => ("UNAUTHORIZED", 401, "authentication required"),
            Self::Denied => ("DENIED", 403, "requested access to the resource is denied"),
            Self::Unsupported => ("UNSUPPORTED", 405, "The operation is unsupported."),
            Self::TooManyRequests => ("TOOMANYREQUESTS", 429, "too many requests"),
            Self::TagInvalid => ("TAG_INVALID", 400, "manifest tag did not match URI"),
            Self::PaginationNumberInvalid => {
                ("PAGINATION_NUMBER_INVALID", 400, "invalid number of results requested")
            }
            Self::RangeInvalid => ("RANGE_INVALID", 416, "invalid content range"),
            Self::Unavailable => ("UNAVAILABLE", 503, "service unavailable"),
            Self::Unknown => ("UNKNOWN", 500, "unknown error"),
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of an error: `{"errors":[{"code":…,"message":…,"detail":…}]}` (distribution-spec, "Error Codes").
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ErrorBody {
    /// At least one, if it is to say anything.
    pub errors: Vec<ErrorEntry>,
}

/// An error of an [`ErrorBody`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorEntry {
    /// Its code, which an upstream may have made up.
    pub code: String,
    /// A text for people.
    pub message: String,
    /// Whatever else; mostly nothing.
    pub detail: Detail,
}

/// The details of an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(untagged)]
pub enum Detail {
    /// `null`.
    #[default]
    Nothing,
    /// The accesses that a 401 asks for.
    Accesses(Vec<Access>),
    /// The details from an upstream.
    Other(Value),
}

/// An access that is missing, in the capitals and the order of distribution's `auth.Access`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Access {
    #[serde(rename = "Type")]
    kind: String,
    class: String,
    name: String,
    action: String,
}

impl Access {
    /// Returns an access to a repository: `{"Type":"repository","Class":"","Name":NAME,"Action":ACTION}`.
    pub fn repository(name: &str, action: &str) -> Self {
        Self::new("repository", name, action)
    }

    /// Returns an access to the list of repositories: the scope `registry:catalog:*`.
    pub fn catalog() -> Self {
        Self::new("registry", "catalog", "*")
    }

    fn new(kind: &str, name: &str, action: &str) -> Self {
        Self { kind: kind.into(), class: String::new(), name: name.into(), action: action.into() }
    }
}

impl ErrorEntry {
    /// Returns the code with its own message and no detail.
    pub fn new(code: ErrorCode) -> Self {
        Self { code: code.as_str().into(), message: code.message().into(), detail: Detail::Nothing }
    }

    /// Replaces the message.
    #[must_use]
    pub fn with_message(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// Sets the accesses that are missing.
    #[must_use]
    pub fn with_accesses(self, accesses: Vec<Access>) -> Self {
        Self { detail: Detail::Accesses(accesses), ..self }
    }

    /// Returns the error in which the repository `remote` is called `own`: in the message, and in every text of the detail.
    pub(crate) fn renamed(self, remote: &str, own: &str) -> Self {
        let detail = match self.detail {
            Detail::Other(mut value) => {
                rename_in(&mut value, remote, own);
                Detail::Other(value)
            }
            detail @ (Detail::Nothing | Detail::Accesses(_)) => detail,
        };
        // A name of one component could be a word of a sentence.
        let message = if remote.contains('/') { rename(&self.message, remote, own) } else { self.message };
        Self { message, detail, ..self }
    }

    /// Returns the code, if it is one that is known here.
    pub fn known(&self) -> Option<ErrorCode> {
        ErrorCode::parse(&self.code)
    }
}

/// The error in one line, for the log.
impl std::fmt::Display for ErrorEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        match &self.detail {
            Detail::Other(detail) => write!(f, " ({detail})"),
            Detail::Nothing | Detail::Accesses(_) => Ok(()),
        }
    }
}

impl ErrorBody {
    /// The longest body of an upstream's error that is worth reading, in bytes.
    pub const MAX_LENGTH: usize = 64 * 1024;

    /// Creates a body of one error with its standard message and no detail.
    pub fn new(code: ErrorCode) -> Self {
        ErrorEntry::new(code).into()
    }

    /// Creates a body of one error with a message of its own.
    pub fn with_message(code: ErrorCode, message: impl Into<String>) -> Self {
        ErrorEntry::new(code).with_message(message).into()
    }

    /// Returns the body of a 401: `UNAUTHORIZED` with the accesses that were asked for, `null` when there are none.
    pub fn unauthorized(accesses: Vec<Access>) -> Self {
        let entry = ErrorEntry::new(ErrorCode::Unauthorized);
        if accesses.is_empty() { entry.into() } else { entry.with_accesses(accesses).into() }
    }

    /// Creates a body of `code`, with the errors of an upstream in the details: one for each of them.
    pub fn quoting(code: ErrorCode, message: Option<&str>, upstream: Option<&Self>) -> Self {
        let entry = ErrorEntry::new(code);
        let entry = message.map_or_else(|| entry.clone(), |message| entry.clone().with_message(message));
        match upstream {
            Some(upstream) if !upstream.errors.is_empty() => {
                let quote = |error: &ErrorEntry| {
                    // Strings and JSON values alone always serialise.
                    let detail = serde_json::to_value(error).map_or(Detail::Nothing, Detail::Other);
                    ErrorEntry { detail, ..entry.clone() }
                };
                Self { errors: upstream.errors.iter().map(quote).collect() }
            }
            _ => entry.into(),
        }
    }

    /// Returns the bytes, without a newline at their end.
    pub fn render(&self) -> Vec<u8> {
        // Strings and JSON values alone always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Parses an upstream's body. Lenient, since registries are: missing members are empty, members of another type
    /// are passed over, and `None` is only what is no JSON object with an array `errors`.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let raw: RawBody = serde_json::from_slice(body).ok()?;
        Some(Self { errors: raw.errors.into_iter().map(ErrorEntry::from_json).collect() })
    }
}

impl ErrorEntry {
    fn from_json(mut value: Value) -> Self {
        let text = |member: &Value| member.as_str().unwrap_or_default().to_owned();
        let detail = match value.get_mut("detail").map(Value::take) {
            None | Some(Value::Null) => Detail::Nothing,
            Some(other) => Detail::Other(other),
        };
        Self { code: text(&value["code"]), message: text(&value["message"]), detail }
    }
}

/// Renames a repository in all texts of a JSON value.
fn rename_in(value: &mut Value, remote: &str, own: &str) {
    match value {
        Value::String(text) => *text = rename(text, remote, own),
        Value::Array(entries) => entries.iter_mut().for_each(|entry| rename_in(entry, remote, own)),
        Value::Object(members) => members.values_mut().for_each(|member| rename_in(member, remote, own)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Renames a repository in a text, where its name is a whole one: not a part of a longer name.
fn rename(text: &str, remote: &str, own: &str) -> String {
    let continues = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let mut before = None;
    while let Some(at) = rest.find(remote) {
        let (head, tail) = (&rest[..at], &rest[at + remote.len()..]);
        let is_whole = !continues(head.bytes().last().or(before)) && !continues_name(tail);
        out.push_str(head);
        out.push_str(if is_whole { own } else { remote });
        before = remote.bytes().last();
        rest = tail;
    }
    out + rest
}

/// Returns true if a text goes on with more of a repository's name. A full stop ends a sentence, unless a letter follows.
fn continues_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    match bytes.next() {
        Some(b'.') => bytes.next().is_some_and(|b| b.is_ascii_alphanumeric()),
        Some(b) => b.is_ascii_alphanumeric() || b"-_/".contains(&b),
        None => false,
    }
}

impl From<ErrorEntry> for ErrorBody {
    fn from(entry: ErrorEntry) -> Self {
        Self { errors: vec![entry] }
    }
}

#[derive(Deserialize)]
struct RawBody {
    errors: Vec<Value>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_401_of_the_version_check_is_exact_to_the_byte() {
        assert_eq!(
            String::from_utf8(ErrorBody::unauthorized(Vec::new()).render()).unwrap(),
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#
        );
    }

    #[test]
    fn the_401_of_a_repository_lists_the_accesses_as_distribution_does() {
        let accesses = vec![Access::repository("library/nginx", "pull"), Access::catalog()];
        assert_eq!(
            String::from_utf8(ErrorBody::unauthorized(accesses).render()).unwrap(),
            concat!(
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":["#,
                r#"{"Type":"repository","Class":"","Name":"library/nginx","Action":"pull"},"#,
                r#"{"Type":"registry","Class":"","Name":"catalog","Action":"*"}]}]}"#
            )
        );
    }

    #[test]
    fn each_code_has_the_status_of_distribution() {
        let statuses: Vec<_> = ErrorCode::ALL.iter().map(|code| (code.as_str(), code.status())).collect();
        let expected = [
            ("BLOB_UNKNOWN", 404),
            ("BLOB_UPLOAD_INVALID", 404),
            ("BLOB_UPLOAD_UNKNOWN", 404),
            ("DIGEST_INVALID", 400),
            ("MANIFEST_BLOB_UNKNOWN", 400),
            ("MANIFEST_INVALID", 400),
            ("MANIFEST_UNKNOWN", 404),
            ("NAME_INVALID", 400),
            ("NAME_UNKNOWN", 404),
            ("SIZE_INVALID", 400),
            ("UNAUTHORIZED", 401),
            ("DENIED", 403),
            ("UNSUPPORTED", 405),
            ("TOOMANYREQUESTS", 429),
            ("TAG_INVALID", 400),
            ("PAGINATION_NUMBER_INVALID", 400),
            ("RANGE_INVALID", 416),
            ("UNAVAILABLE", 503),
            ("UNKNOWN", 500),
        ];
        assert_eq!(statuses, expected);
    }

    #[test]
    fn a_code_parses_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
        }
        assert_eq!(ErrorCode::parse("MANIFEST_UNVERIFIED"), None);
    }

    #[test]
    fn an_upstreams_error_is_one_line_in_the_log() {
        // distribution's answer to a layer whose URL it does not take.
        let body =
            br#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":"invalid URL on layer"}]}"#;
        let lines: Vec<_> = ErrorBody::parse(body).unwrap().errors.iter().map(ToString::to_string).collect();
        assert_eq!(lines, [r#"UNKNOWN: unknown error ("invalid URL on layer")"#]);
    }

    #[test]
    fn an_upstreams_errors_stand_in_the_details() {
        let upstream = br#"{"errors":[{"code":"A","message":"b","detail":{"c":1}},{"code":"D"}]}"#;
        let upstream = ErrorBody::parse(upstream).unwrap();
        let quoted = ErrorBody::quoting(ErrorCode::Unavailable, Some("it failed"), Some(&upstream));
        assert_eq!(
            String::from_utf8(quoted.render()).unwrap(),
            concat!(
                r#"{"errors":[{"code":"UNAVAILABLE","message":"it failed","#,
                r#""detail":{"code":"A","detail":{"c":1},"message":"b"}},"#,
                r#"{"code":"UNAVAILABLE","message":"it failed","detail":{"code":"D","detail":null,"message":""}}]}"#
            )
        );
        assert_eq!(ErrorBody::quoting(ErrorCode::Denied, None, None), ErrorBody::new(ErrorCode::Denied));
    }

    #[test]
    fn an_upstreams_body_is_read_leniently() {
        let body =
            ErrorBody::parse(br#"{"errors":[{"code":"DENIED","detail":{"a":1}},{"code":7},"x"],"y":0}"#)
                .unwrap();
        let codes: Vec<_> = body.errors.iter().map(|entry| (entry.code.as_str(), entry.known())).collect();
        assert_eq!(codes, [("DENIED", Some(ErrorCode::Denied)), ("", None), ("", None)]);
        assert!(matches!(body.errors[0].detail, Detail::Other(_)));
        for bad in ["", "<html>", "[]", "{}", r#"{"errors":"x"}"#, r#"{"errors":null}"#] {
            assert_eq!(ErrorBody::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_repository_is_renamed_where_its_whole_name_stands() {
        let body = br#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository team/app not known. See team/app, not team/app2 or my/team/app.","detail":{"name":"team/app","of":["team/app:latest",1,null,{"x":"team/app/more"}]}}]}"#;
        let entry = ErrorBody::parse(body).unwrap().errors.remove(0).renamed("team/app", "hub/team/app");
        assert_eq!(
            entry.message,
            "repository hub/team/app not known. See hub/team/app, not team/app2 or my/team/app."
        );
        let expected = serde_json::json!({
            "name": "hub/team/app", "of": ["hub/team/app:latest", 1, null, { "x": "team/app/more" }],
        });
        assert_eq!(entry.detail, Detail::Other(expected));
        let short = ErrorEntry::new(ErrorCode::NameUnknown).with_message("a name a").renamed("a", "hub/a");
        assert_eq!(short.message, "a name a");
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_back(code in 0..ErrorCode::ALL.len(), message in any::<String>()) {
            let body = ErrorBody::with_message(ErrorCode::ALL[code], message);
            prop_assert_eq!(ErrorBody::parse(&body.render()), Some(body));
        }

        #[test]
        fn no_text_panics(text in "[ab/. é]{0,20}", remote in "[ab]/[ab]") {
            prop_assert_eq!(rename(&text, &remote, &remote), text);
        }

        #[test]
        fn no_body_panics(body in any::<Vec<u8>>()) {
            let _ = ErrorBody::parse(&body);
        }
    }
}
