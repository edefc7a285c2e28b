//! The functions that the programs in `tests/fuzz` call: one for each parser of untrusted input.
//!
//! Each takes any bytes and panics if the parser breaks a promise: its output parses back to the same value, accepted
//! values lie within their bounds, and the sizes of the reads do not change the result. Compiled only for fuzzing and
//! for tests. The tests run every file of `tests/fuzz/corpus` through its target.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a finding is reported")]

use crate::proto::challenge::{self, End, Parsed};
use crate::proto::range::Resolved;
use crate::proto::target::Method;
use crate::proto::{
    ByteRange, ContentRange, Link, Operation, Target, TargetError, UploadRange, UploadStart, link,
};

mod docker_config;
mod http1;
mod identity;
mod manifest;
mod proxy_protocol;
mod token;

pub use docker_config::docker_config;
pub use http1::{http1_chunks, http1_response};
pub use identity::{client_certificate, key_set, scope};
pub use manifest::manifest;
pub use proxy_protocol::proxy_protocol;
pub use token::token;

/// A function that takes any bytes.
pub type FuzzTarget = fn(&[u8]);

/// The targets by name. Each has a file in `fuzz_targets` and a folder in `corpus`.
pub const TARGETS: &[(&str, FuzzTarget)] = &[
    ("challenge", challenge),
    ("client_certificate", client_certificate),
    ("docker_config", docker_config),
    ("http1_chunks", http1_chunks),
    ("http1_response", http1_response),
    ("key_set", key_set),
    ("link", link),
    ("manifest", manifest),
    ("proxy_protocol", proxy_protocol),
    ("range", range),
    ("request_target", request_target),
    ("scope", scope),
    ("token", token),
];

/// Reads `data` as a `WWW-Authenticate` header (RFC 9110 section 11.6.1).
pub fn challenge(data: &[u8]) {
    let Parsed { challenges, end, .. } = challenge::parse(data);
    assert!(challenges.len() <= 16);
    if let End::Invalid { position } = end {
        assert!(position <= data.len());
    }
    for challenge in challenges {
        assert!(challenge.params.len() <= 32);
        for (index, (key, _)) in challenge.params.iter().enumerate() {
            assert_eq!(*key, key.to_ascii_lowercase());
            assert!(challenge.params[..index].iter().all(|(other, _)| other != key));
        }
        let line = challenge.to_string();
        let parsed = Parsed { challenges: vec![challenge], end: End::Complete, doubled: false };
        assert_eq!(challenge::parse(line.as_bytes()), parsed, "{line}");
    }
}

/// Reads `data` as METHOD SP PATH [ "?" QUERY ].
pub fn request_target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (method, whole) = text.split_once(' ').unwrap_or(("GET", text));
    let Ok(target) = parse_target(method, whole) else { return };
    assert!(Method::parse(method).is_some());
    if let Some(ns) = &target.ns {
        assert_eq!(*ns, ns.to_ascii_lowercase());
    }
    let operation = target.operation;
    let rendered = format!("/v2{}", operation.path_and_query());
    assert!(rendered.bytes().all(|byte| byte.is_ascii_graphic()), "{rendered}");
    let path = rendered.split('?').next().unwrap_or_default();
    assert!(!path.contains("//") && !path.contains('%'), "{rendered}");
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{rendered}");
    let again = parse_target(operation.method(), &rendered).map(|target| target.operation);
    // `path_and_query` renders an unmountable upload as an ordinary one.
    let expected = match operation {
        Operation::StartUpload { repository, start: UploadStart::Unmountable } => {
            Operation::StartUpload { repository, start: UploadStart::Session }
        }
        other => other,
    };
    assert_eq!(again, Ok(expected), "{rendered}");
}

fn parse_target(method: &str, whole: &str) -> Result<Target, TargetError> {
    match whole.split_once('?') {
        Some((path, query)) => Target::parse(method, path, Some(query)),
        None => Target::parse(method, whole, None),
    }
}

/// Reads `data` as the lines of a `Link` header (RFC 8288 section 3).
pub fn link(data: &[u8]) {
    let lines = || data.split(|&byte| byte == b'\n');
    for Link { target, rel } in link::parse_all(lines()) {
        assert!(target.bytes().all(|byte| !byte.is_ascii_control() && byte != b'<' && byte != b'>'));
        assert!(rel.iter().all(|word| !word.is_empty() && *word == word.to_ascii_lowercase()));
        let next = Link::next(&link::encoded(&target));
        assert_eq!(link::parse_all([Link::next(&target).to_string().as_bytes()]), [next]);
    }
    let _ = link::next(lines());
}

/// Reads `data` as a `Range`, a `Content-Range` and an upload's range. A number before the first line feed is the length
/// of the content.
pub fn range(data: &[u8]) {
    let (length, value) = measured(data);
    let range = ByteRange::parse(value);
    assert_eq!(ByteRange::parse(range.to_string().as_bytes()), range);
    if let Resolved::Spans(spans) = range.resolve(length) {
        assert!(!spans.is_empty());
        let total: u128 = spans.iter().map(|span| u128::from(span.length())).sum();
        assert!(total <= u128::from(length));
        assert!(spans.iter().all(|span| span.first <= span.last && span.last < length));
    }
    if let Some((first, Some(last))) = range.as_plain() {
        assert!(first <= last);
    }
    if let Some(range) = ContentRange::parse(value) {
        assert_eq!(ContentRange::parse(range.to_string().as_bytes()), Some(range));
        if let ContentRange::Part { span, total } = range {
            assert!(span.first <= span.last && total.is_none_or(|total| span.last < total));
        }
    }
    if let Some(range) = UploadRange::parse(value) {
        assert!(range.0.first <= range.0.last);
        assert_eq!(UploadRange::parse(range.to_string().as_bytes()), Some(range));
    }
}

fn measured(data: &[u8]) -> (u64, &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n');
    let length = end.and_then(|end| std::str::from_utf8(&data[..end]).ok()?.parse().ok());
    match (length, end) {
        (Some(length), Some(end)) => (length, &data[end + 1..]),
        _ => (data.len() as u64, data),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// The least number of files in a corpus.
    const LEAST: usize = 5;

    /// Returns `None` in a published package, which does not contain the folder.
    fn folder() -> Option<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
        folder.exists().then_some(folder)
    }

    #[test]
    fn every_file_of_the_corpus_passes_its_target() {
        let Some(folder) = folder() else { return };
        for (name, target) in TARGETS {
            let files: Vec<_> = std::fs::read_dir(folder.join("corpus").join(name)).expect(name).collect();
            assert!(files.len() >= LEAST, "{name} has {} files", files.len());
            for file in files {
                let path = file.unwrap().path();
                let data = std::fs::read(&path).unwrap();
                assert!(data.len() < 4096, "{} is too large to be kept", path.display());
                target(&data);
            }
        }
    }

    #[test]
    fn every_target_has_a_program() {
        let Some(folder) = folder() else { return };
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            let program = folder.join(format!("fuzz_targets/{name}.rs"));
            assert!(
                std::fs::read_to_string(program).expect(name).contains(&format!("fuzz::{name}(")),
                "{name}"
            );
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }
}
