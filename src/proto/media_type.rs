//! Media types, and which of them a client takes.

use std::fmt;

use thiserror::Error;

use crate::proto::syntax::{Scanner, is_token};

/// image-spec: an image index.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// image-spec: an image or artifact manifest.
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// image-spec (removed in 1.1): an artifact manifest.
pub(crate) const OCI_ARTIFACT_MANIFEST: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// ORAS (before image-spec 1.1): an artifact manifest.
pub(crate) const ORAS_ARTIFACT_MANIFEST: &str = "application/vnd.cncf.oras.artifact.manifest.v1+json";
/// Docker: a manifest list.
pub(crate) const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker: a manifest, schema 2.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker: a manifest, schema 1.
pub(crate) const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// Docker: a signed manifest, schema 1.
pub(crate) const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Docker: a layer that lies elsewhere and is never pushed.
pub(crate) const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
/// A blob of no particular type.
pub(crate) const OCTET_STREAM: &str = "application/octet-stream";
/// Listings and errors.
pub(crate) const JSON: &str = "application/json";

/// The `Accept` that an upstream is asked for a tag with, so that its answer does not depend on the first client: every
/// family of manifests. The last range has no weight, since some registries compare by the letter (dkregistry-rs#161).
pub const FULL_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws, \
    application/vnd.docker.distribution.manifest.v1+json, \
    application/vnd.oci.artifact.manifest.v1+json, \
    application/vnd.cncf.oras.artifact.manifest.v1+json, */*";

/// A media type without its parameters, in lower case (RFC 9110 section 8.3.1: type and subtype are
/// case-insensitive). Registries compare nothing else: "registries SHOULD ignore them" (distribution-spec, "Pushing
/// Manifests").
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaType {
    text: String,
    slash: usize,
}

/// A text that is no [`MediaType`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a media type is written TYPE/SUBTYPE")]
pub struct MediaTypeError;

impl MediaType {
    /// Parses `media-type = type "/" subtype parameters`; the parameters are dropped unread.
    pub fn parse(text: &str) -> Result<Self, MediaTypeError> {
        let essence = text.split(';').next().unwrap_or_default().trim_matches([' ', '\t']);
        let (kind, subtype) = essence.split_once('/').ok_or(MediaTypeError)?;
        if !is_token(kind) || !is_token(subtype) {
            return Err(MediaTypeError);
        }
        Ok(Self { text: essence.to_ascii_lowercase(), slash: kind.len() })
    }

    /// Returns the type of bytes of which nothing more is known.
    pub(crate) fn unknown() -> Self {
        Self { text: OCTET_STREAM.to_owned(), slash: "application".len() }
    }

    /// Returns `type/subtype`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the type before the slash.
    pub fn kind(&self) -> &str {
        &self.text[..self.slash]
    }

    /// Returns true for a type of blobs and documents that no browser runs: the vendors' types, JSON, and archives. The
    /// types of XML are not among them, since a browser runs their scripts.
    pub(crate) fn is_inert(&self) -> bool {
        let plain = ["octet-stream", "json", "gzip", "x-gzip", "zstd", "tar", "x-tar"];
        let subtype = &self.text[self.slash + 1..];
        let (tree, suffix) = subtype.rsplit_once('+').unwrap_or((subtype, ""));
        let vendor = tree.starts_with("vnd.") && !suffix.ends_with("xml") && !tree.ends_with("xml");
        let coded = ["json", "gzip", "zstd", "prettyjws"].contains(&suffix);
        self.kind() == "application" && (vendor || coded || plain.contains(&subtype))
    }

    /// Returns true if it is one of a manifest or an index, of whatever age.
    pub fn is_manifest(&self) -> bool {
        let known = [
            OCI_INDEX,
            OCI_MANIFEST,
            OCI_ARTIFACT_MANIFEST,
            ORAS_ARTIFACT_MANIFEST,
            DOCKER_MANIFEST_LIST,
            DOCKER_MANIFEST,
            DOCKER_SCHEMA1,
            DOCKER_SCHEMA1_SIGNED,
        ];
        known.contains(&self.as_str())
    }

    /// Returns true if it is an artifact manifest's, of before image-spec 1.1.
    pub(crate) fn is_artifact_manifest(&self) -> bool {
        matches!(self.as_str(), OCI_ARTIFACT_MANIFEST | ORAS_ARTIFACT_MANIFEST)
    }

    /// Returns true if it is a type of the registry world, which says something of what it is on. Other types are those that
    /// servers give to files which they do not know, and types that a browser would run.
    pub(crate) fn is_of_registries(&self) -> bool {
        self.kind() == "application" && self.as_str()["application/".len()..].starts_with("vnd.")
    }
}

impl PartialEq<str> for MediaType {
    fn eq(&self, other: &str) -> bool {
        Self::parse(other).is_ok_and(|other| *self == other)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// The media types that a client takes (RFC 9110 section 12.5.1), from all its `Accept` lines.
///
/// ```text
/// Accept = #( media-range [ weight ] )
/// weight = OWS ";" OWS "q=" ( ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] ) )
/// ```
///
/// Deviations: parameters of a range are not looked at, since no manifest's type has any; a weight may lack its zero and
/// have more digits (argocd-image-updater#306: `*/*; q=.2`); an element outside the grammar is passed over. Without a single good element everything is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accept {
    line: Option<String>,
    ranges: Vec<MediaRange>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct MediaRange {
    pattern: MediaType,
    /// In thousandths.
    weight: u16,
}

impl Accept {
    /// Reads all lines of the header. One that is not visible ASCII is passed over.
    pub fn from_lines<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let lines = lines.into_iter().filter_map(plain).collect::<Vec<_>>();
        let ranges = lines.iter().flat_map(|line| elements(line)).filter_map(parse_range).collect();
        Self { line: (!lines.is_empty()).then(|| lines.join(", ")), ranges }
    }

    /// Returns all lines in one, as several upstreams look at the first alone; `None` when there was none.
    pub fn line(&self) -> Option<&str> {
        self.line.as_deref()
    }

    /// Returns true if the client takes this type: its most precise range decides, and has a weight above 0.
    pub fn accepts(&self, kind: &MediaType) -> bool {
        self.weight(kind) > 0
    }

    /// Returns how much the client likes this type, in thousandths.
    pub fn weight(&self, kind: &MediaType) -> u16 {
        if self.ranges.is_empty() {
            return 1000;
        }
        let matching = self.ranges.iter().filter_map(|range| Some((range.precision(kind)?, range.weight)));
        matching.max().map_or(0, |(_, weight)| weight)
    }
}

impl Accept {
    /// Returns true if the client takes a manifest of this type. A type that says nothing excludes nothing.
    pub(crate) fn accepts_manifest(&self, kind: &MediaType) -> bool {
        !kind.is_of_registries() || self.accepts(kind)
    }

    /// Returns the type of manifest that the client likes best among those that it names.
    pub(crate) fn favourite_manifest(&self) -> Option<&MediaType> {
        let named = self.ranges.iter().filter(|range| range.weight > 0 && range.pattern.is_manifest());
        // The first of the best: `max_by_key` returns the last.
        named.rev().max_by_key(|range| range.weight).map(|range| &range.pattern)
    }
}

impl MediaRange {
    /// Returns how precisely it names this type, if it does.
    fn precision(&self, kind: &MediaType) -> Option<u8> {
        if self.pattern == *kind {
            return Some(2);
        }
        match self.pattern.as_str().strip_suffix("/*") {
            Some("*") => Some(0),
            Some(general) if general == kind.kind() => Some(1),
            _ => None,
        }
    }
}

fn plain(line: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(line).ok()?.trim_matches([' ', '\t']);
    let visible = text.bytes().all(|b| b.is_ascii_graphic() || matches!(b, b' ' | b'\t'));
    Some(text).filter(|text| visible && !text.is_empty())
}

/// Returns the elements of a list; commas in quotes divide nothing.
fn elements(line: &str) -> Vec<&str> {
    let mut scanner = Scanner::new(line.as_bytes());
    let mut elements = Vec::new();
    while !scanner.is_done() {
        let start = scanner.position();
        while scanner.peek().is_some_and(|b| b != b',') {
            scanner.take_while(|b| !matches!(b, b',' | b'"'));
            if scanner.peek() == Some(b'"') && scanner.value(|_| false).is_err() {
                return elements;
            }
        }
        elements.push(line[start..scanner.position()].trim_matches([' ', '\t']));
        scanner.eat(b',');
    }
    elements
}

fn parse_range(element: &str) -> Option<MediaRange> {
    let pattern = MediaType::parse(element).ok()?;
    let mut parameters = element.split(';').skip(1).map(|parameter| parameter.trim_matches([' ', '\t']));
    let weight = parameters.find_map(|parameter| parameter.strip_prefix(['q', 'Q'])?.strip_prefix('='));
    Some(MediaRange { pattern, weight: weight.map_or(Some(1000), parse_weight)? })
}

/// Parses a `qvalue`, in thousandths. A missing zero (`.2`) and digits behind the third are tolerated.
fn parse_weight(text: &str) -> Option<u16> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.bytes().all(|b| b.is_ascii_digit()) && !(whole.is_empty() && fraction.is_empty());
    if !digits || !matches!(whole, "" | "0" | "1") {
        return None;
    }
    let thousandths = format!("{whole}{fraction:0<3.3}").parse().ok()?;
    (thousandths <= 1000).then_some(thousandths)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(text: &str) -> MediaType {
        MediaType::parse(text).unwrap()
    }

    fn accept(lines: &[&str]) -> Accept {
        Accept::from_lines(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn media_types_are_compared_without_case_and_parameters() {
        assert_eq!(kind("Application/JSON; charset=utf-8"), kind("application/json"));
        assert_eq!(kind(" application/json ;x=y").as_str(), "application/json");
        assert!(kind(OCI_INDEX) == *"application/vnd.oci.image.index.v1+JSON");
        assert!(kind(OCI_INDEX) != *OCI_MANIFEST);
        assert!(
            kind(DOCKER_SCHEMA1_SIGNED).is_manifest()
                && !kind("application/vnd.oci.image.layer.v1.tar").is_manifest()
        );
        for bad in ["", "json", "/", "a/", "/b", "a b/c", "a/b/c", "é/b", "a/b c"] {
            assert_eq!(MediaType::parse(bad), Err(MediaTypeError), "{bad}");
        }
    }

    #[test]
    fn lines_are_merged_in_order() {
        assert_eq!(accept(&["a/b, c/d", " e/f;q=0.5"]).line(), Some("a/b, c/d, e/f;q=0.5"));
        assert_eq!(accept(&[]).line(), None);
        assert_eq!(accept(&["", " "]).line(), None);
        assert_eq!(accept(&["a/b\r\nX: y"]).line(), None);
    }

    #[test]
    fn without_a_good_element_everything_is_accepted() {
        for lines in [&[][..], &[""], &["json, ;q=1"], &["a/b;q=2"]] {
            assert!(accept(lines).accepts(&kind(OCI_INDEX)), "{lines:?}");
        }
    }

    #[test]
    fn the_most_precise_range_decides() {
        let weights = accept(&["text/*;q=0.3, text/plain;q=0.7", "text/html;q=0, */*;q=0.125"]);
        let cases = [("text/plain", 700), ("text/html", 0), ("text/css", 300), ("image/png", 125)];
        for (text, weight) in cases {
            assert_eq!(weights.weight(&kind(text)), weight, "{text}");
        }
        assert!(!weights.accepts(&kind("text/html")));
    }

    #[test]
    fn a_weight_without_its_zero_counts() {
        let ranges = accept(&["application/vnd.oci.image.manifest.v1+json, */*; q=.2"]);
        assert_eq!(ranges.weight(&kind(DOCKER_MANIFEST)), 200);
        assert!(ranges.accepts(&kind(OCI_INDEX)));
    }

    #[test]
    fn the_favourite_is_the_first_of_the_best() {
        let favourite = |lines: &[&str]| accept(lines).favourite_manifest().map(ToString::to_string);
        assert_eq!(favourite(&["*/*"]), None);
        assert_eq!(favourite(&["text/html, application/json"]), None);
        let both = format!("{DOCKER_MANIFEST};q=0.5, {OCI_INDEX}, {OCI_MANIFEST}");
        assert_eq!(favourite(&[&both]).as_deref(), Some(OCI_INDEX));
        assert_eq!(
            favourite(&[&format!("{OCI_INDEX};q=0, {DOCKER_MANIFEST};q=.1")]).as_deref(),
            Some(DOCKER_MANIFEST)
        );
    }

    #[test]
    fn what_is_not_listed_is_not_accepted() {
        let docker = accept(&[DOCKER_MANIFEST, DOCKER_MANIFEST_LIST]);
        assert!(docker.accepts(&kind(DOCKER_MANIFEST)));
        assert!(!docker.accepts(&kind(OCI_MANIFEST)));
        assert!(accept(&["*/*"]).accepts(&kind(OCI_MANIFEST)));
        assert!(accept(&["APPLICATION/*"]).accepts(&kind(OCI_MANIFEST)));
    }

    #[test]
    fn the_full_list_names_every_family_and_the_bare_star() {
        let full = accept(&[FULL_ACCEPT]);
        for name in [
            OCI_INDEX,
            OCI_MANIFEST,
            OCI_ARTIFACT_MANIFEST,
            ORAS_ARTIFACT_MANIFEST,
            DOCKER_MANIFEST_LIST,
            DOCKER_MANIFEST,
            DOCKER_SCHEMA1,
            DOCKER_SCHEMA1_SIGNED,
        ] {
            assert!(FULL_ACCEPT.split(", ").any(|range| range == name), "{name}");
        }
        assert!(FULL_ACCEPT.ends_with(", */*"));
        assert_eq!(full.line(), Some(FULL_ACCEPT));
        assert!(!FULL_ACCEPT.contains("  "));
    }

    #[test]
    fn weights_may_lack_their_zero() {
        let cases = [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("0.5", Some(500)),
            ("0.", Some(0)),
            ("1.000", Some(1000)),
            ("0.001", Some(1)),
            ("1.001", None),
            ("2", None),
            ("-1", None),
            ("0.1234", Some(123)),
            ("1.0001", Some(1000)),
            ("", None),
            (".", None),
            ("0.x", None),
            ("x", None),
            (".5", Some(500)),
            (".2", Some(200)),
            ("+1", None),
        ];
        for (text, weight) in cases {
            assert_eq!(parse_weight(text), weight, "{text}");
        }
    }

    #[test]
    fn a_comma_in_quotes_divides_nothing() {
        let ranges = accept(&[r#"a/b;x="c/d, e/f";q=0.5, g/h"#]);
        assert_eq!(ranges.weight(&kind("g/h")), 1000);
        assert_eq!(ranges.weight(&kind("a/b")), 500);
        assert!(!ranges.accepts(&kind("e/f")));
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_back(text in "[a-z]{1,5}/[a-z.+]{1,9}") {
            let parsed = kind(&text);
            prop_assert_eq!(MediaType::parse(&parsed.to_string()), Ok(parsed));
        }

        #[test]
        fn merging_changes_no_weight(lines in proptest::collection::vec("[ab]/[cd*](;q=0\\.[0-9])?", 1..4), asked in "[ab]/[cd]") {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let apart = accept(&lines);
            let merged = accept(&[apart.line().unwrap()]);
            prop_assert_eq!(apart.weight(&kind(&asked)), merged.weight(&kind(&asked)));
        }

        #[test]
        fn no_line_panics(line in any::<Vec<u8>>(), likely in "[a/*,;q=.\" \\\\1]{0,30}") {
            let _ = Accept::from_lines([line.as_slice(), likely.as_bytes()]).accepts(&kind("a/b"));
            let _ = MediaType::parse(&likely);
        }
    }
}
