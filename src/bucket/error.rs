//! The reasons why the store did not do what it was asked.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

/// The reason.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BucketError {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// The store does not have the object.
    #[error("it is not there")]
    Absent,
    /// The store was passed over: it has not answered other requests.
    #[error("it is passed over, as it has not answered")]
    Resting,
    /// The store did not answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The store refuses, or its answer cannot be read.
    #[error("{}", innermost(.0))]
    Refused(#[source] object_store::Error),
    /// The store has another object under that name.
    #[error("it has {0}")]
    Other(&'static str),
    /// The disk does not give the content that was to be stored.
    #[error("the disk: {0}")]
    Disk(#[from] io::Error),
    /// The content that was to be stored has another digest.
    #[error("the disk has other bytes than the digest says")]
    Damaged,
}

impl From<object_store::Error> for BucketError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Absent,
            error => Self::Refused(error),
        }
    }
}

/// Returns the innermost cause: the outer ones repeat it, with the names of types.
fn innermost(error: &object_store::Error) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    brief(&cause.to_string())
}

/// Returns what a store says in a line: of a document its code and message alone, since some repeat the whole request.
fn brief(text: &str) -> String {
    let element = |name: &str| {
        let (_, behind) = text.split_once(&format!("<{name}>"))?;
        behind.split_once('<').map(|(text, _)| text)
    };
    let before = text.split('<').next().unwrap_or_default().trim_end();
    let parts = [Some(before), element("Code"), element("Message")].into_iter().flatten();
    let line = parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    line.chars().map(plain).take(LINE).collect()
}

/// The most characters of what a store says.
const LINE: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_says_is_one_short_line() {
        let text = "Server returned 403 Forbidden: <?xml?><Error>\n<Code>SignatureDoesNotMatch</Code>\
            <Message>no\u{1b}</Message><AWSAccessKeyId>me</AWSAccessKeyId><StringToSign>x</StringToSign></Error>";
        assert_eq!(brief(text), "Server returned 403 Forbidden: SignatureDoesNotMatch no ");
        assert_eq!(brief("refused\r\nSet-Cookie: a"), "refused  Set-Cookie: a");
        assert_eq!(brief(&"x".repeat(9999)).len(), LINE);
    }
}
