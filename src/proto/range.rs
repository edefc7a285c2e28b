//! Parts of a blob: those that a client asks for, those that a registry sends, and those of an upload.

use std::fmt;

/// The greatest number of ranges in one request; a request for more is answered with the whole content (RFC 9110
/// section 14.2 allows it against "many small ranges").
pub(crate) const MAX_RANGES: usize = 16;

/// Consecutive bytes, both ends included: `first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

/// The value of a request's `Range` header (RFC 9110 section 14.1.2).
///
/// ```text
/// Range        = "bytes=" 1#( int-range / suffix-range )
/// int-range    = first-pos "-" [ last-pos ]
/// suffix-range = "-" suffix-length
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ByteRange {
    /// Empty when the header is to be ignored.
    specs: Vec<Spec>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    From(u64),
    Between(u64, u64),
    Suffix(u64),
}

/// The meaning of a range for a content of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// As if there was no `Range`: 200 with the whole.
    Ignore,
    /// 416 with `Content-Range: bytes */LENGTH`.
    Unsatisfiable,
    /// 206 with these spans: at least one, and all within the content.
    Spans(Vec<Span>),
}

/// The `Content-Range` of a response (RFC 9110 section 14.4).
///
/// `Content-Range = "bytes" SP ( first-pos "-" last-pos "/" ( complete-length / "*" ) / "*/" complete-length )`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentRange {
    /// The `Content-Range` of a 206.
    Part {
        /// The bytes that are sent.
        span: Span,
        /// The length of the whole, where it is known; greater than `span.last`.
        total: Option<u64>,
    },
    /// The `Content-Range` of a 416.
    Unsatisfied {
        /// The length of the whole.
        total: u64,
    },
}

/// The part of an upload: the `Content-Range` of a PATCH or PUT, and the `Range` of the answer to it.
/// distribution-spec, "Pushing a blob in chunks": `^[0-9]+-[0-9]+$`, inclusive, without a unit or a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UploadRange(pub Span);

impl Span {
    /// Creates a span; `None` when `first` lies behind `last`.
    pub(crate) fn new(first: u64, last: u64) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Returns the number of bytes; saturates for the span of all 2^64.
    pub(crate) fn length(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

impl ByteRange {
    /// Reads the header. Another unit or a malformed value is no error but a header to be ignored (RFC 9110 section
    /// 14.2); positions beyond 64 bits count as the greatest one.
    pub(crate) fn parse(value: &[u8]) -> Self {
        Self { specs: parse_specs(value).filter(|specs| specs.len() <= MAX_RANGES).unwrap_or_default() }
    }

    /// Resolves the ranges for content of `length` bytes (RFC 9110 section 14.1.2): ends beyond the content are clamped,
    /// ranges behind it are left out, and if none is left the result is `Unsatisfiable`.
    ///
    /// Decided here, where the RFC leaves it open: a range that ends before it begins cannot be satisfied (the
    /// conformance suite takes the whole for a registry without ranges); ranges that together are longer than the
    /// content, and a suffix of nothing at all, are answered with the whole.
    pub(crate) fn resolve(&self, length: u64) -> Resolved {
        let suffix_of_nothing =
            length == 0 && self.specs.iter().any(|spec| matches!(spec, Spec::Suffix(1..)));
        if self.specs.is_empty() || suffix_of_nothing {
            return Resolved::Ignore;
        }
        let spans: Vec<_> = self.specs.iter().filter_map(|spec| spec.resolve(length)).collect();
        let asked = spans.iter().fold(0, |sum: u64, span| sum.saturating_add(span.length()));
        match spans.len() {
            0 => Resolved::Unsatisfiable,
            _ if asked > length => Resolved::Ignore,
            _ => Resolved::Spans(spans),
        }
    }
}

impl ByteRange {
    /// Returns true for more than one range.
    pub(crate) fn is_several(&self) -> bool {
        self.specs.len() > 1
    }

    /// Returns the first byte of the range, and the last if it names one. `None` for several ranges and for a suffix.
    pub(crate) fn as_plain(&self) -> Option<(u64, Option<u64>)> {
        match *self.specs.as_slice() {
            [Spec::From(first)] => Some((first, None)),
            [Spec::Between(first, last)] if first <= last => Some((first, Some(last))),
            _ => None,
        }
    }
}

impl Spec {
    fn resolve(self, length: u64) -> Option<Span> {
        let end = length.checked_sub(1)?;
        match self {
            Self::From(first) => Span::new(first, end),
            Self::Between(first, last) => Span::new(first, last.min(end)),
            Self::Suffix(0) => None,
            Self::Suffix(count) => Span::new(length.saturating_sub(count), end),
        }
    }
}

impl ContentRange {
    /// Reads the header; `None` for what is outside the grammar or contradicts itself.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
        let (unit, rest) = text.split_once(' ')?;
        let (part, total) = rest.split_once('/')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let total = if total == "*" { None } else { Some(number(total)?) };
        if part == "*" {
            return total.map(|total| Self::Unsatisfied { total });
        }
        let span = parse_span(part)?;
        total.is_none_or(|total| span.last < total).then_some(Self::Part { span, total })
    }
}

impl UploadRange {
    /// Reads the header; `None` for what is outside the grammar, ends before it begins, or exceeds 64 bits.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        parse_span(std::str::from_utf8(value).ok()?.trim_matches([' ', '\t'])).map(Self)
    }

    /// Creates the range for an upload of which `length` bytes have come. For none it is `0-0`, which distribution sends
    /// for both no byte and one byte.
    pub(crate) fn received(length: u64) -> Self {
        Self(Span { first: 0, last: length.saturating_sub(1) })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes=")?;
        for (index, spec) in self.specs.iter().enumerate() {
            write!(f, "{}{spec}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(first) => write!(f, "{first}-"),
            Self::Between(first, last) => write!(f, "{first}-{last}"),
            Self::Suffix(count) => write!(f, "-{count}"),
        }
    }
}

impl From<Span> for ByteRange {
    fn from(span: Span) -> Self {
        Self { specs: vec![Spec::Between(span.first, span.last)] }
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part { span, total: Some(total) } => write!(f, "bytes {span}/{total}"),
            Self::Part { span, total: None } => write!(f, "bytes {span}/*"),
            Self::Unsatisfied { total } => write!(f, "bytes */{total}"),
        }
    }
}

impl fmt::Display for UploadRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn parse_specs(value: &[u8]) -> Option<Vec<Spec>> {
    let (unit, set) = std::str::from_utf8(value).ok()?.split_once('=')?;
    if !unit.trim_matches([' ', '\t']).eq_ignore_ascii_case("bytes") {
        return None;
    }
    let elements = set.split(',').map(|element| element.trim_matches([' ', '\t']));
    elements.filter(|element| !element.is_empty()).take(MAX_RANGES + 1).map(parse_spec).collect()
}

fn parse_spec(text: &str) -> Option<Spec> {
    match text.split_once('-')? {
        ("", count) => saturating(count).map(Spec::Suffix),
        (first, "") => saturating(first).map(Spec::From),
        (first, last) => Some(Spec::Between(saturating(first)?, saturating(last)?)),
    }
}

fn parse_span(text: &str) -> Option<Span> {
    let (first, last) = text.split_once('-')?;
    Span::new(number(first)?, number(last)?)
}

/// Parses `1*DIGIT` within 64 bits; neither sign nor space.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn saturating(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolve(value: &str, length: u64) -> Resolved {
        ByteRange::parse(value.as_bytes()).resolve(length)
    }

    fn spans(parts: &[(u64, u64)]) -> Resolved {
        Resolved::Spans(parts.iter().map(|&(first, last)| Span { first, last }).collect())
    }

    #[test]
    fn ranges_are_resolved_against_the_length() {
        let cases = [
            ("bytes=0-0", 10, spans(&[(0, 0)])),
            ("bytes=0-9", 10, spans(&[(0, 9)])),
            ("bytes=3-", 10, spans(&[(3, 9)])),
            ("bytes=-3", 10, spans(&[(7, 9)])),
            ("bytes=-30", 10, spans(&[(0, 9)])),
            ("bytes=5-99999999999999999999999", 10, spans(&[(5, 9)])),
            ("BYTES = 1-2", 10, spans(&[(1, 2)])),
            ("bytes=0-1, 8-, ,99-", 10, spans(&[(0, 1), (8, 9)])),
            ("bytes=10-", 10, Resolved::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Resolved::Unsatisfiable),
            ("bytes=-0", 10, Resolved::Unsatisfiable),
            ("bytes=5-4", 10, Resolved::Unsatisfiable),
            ("bytes=0-", 0, Resolved::Unsatisfiable),
            ("bytes=-1", 0, Resolved::Ignore),
            ("bytes=0-9,0-9", 10, Resolved::Ignore),
            ("bytes=0-18446744073709551615", u64::MAX, spans(&[(0, u64::MAX - 1)])),
        ];
        for (value, length, expected) in cases {
            assert_eq!(resolve(value, length), expected, "{value}");
        }
    }

    #[test]
    fn a_header_outside_the_grammar_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "items=0-1",
            "bytes=a-b",
            "bytes=1",
            "bytes=0-1-2",
            "bytes=+1-2",
            "bytes=0 - 1",
            "bytes=0-1;x",
            "bytes=-+1",
        ] {
            assert_eq!(resolve(value, 10), Resolved::Ignore, "{value}");
        }
        assert_eq!(ByteRange::parse(b"bytes=\xff").resolve(10), Resolved::Ignore);
        let many = format!("bytes={}", vec!["0-0"; MAX_RANGES + 1].join(","));
        assert_eq!(resolve(&many, 1000), Resolved::Ignore);
    }

    #[test]
    fn a_content_range_says_what_was_sent() {
        let part = |first, last, total| ContentRange::Part { span: Span { first, last }, total };
        let cases = [
            ("bytes 0-499/1234", part(0, 499, Some(1234))),
            ("bytes 42-1233/*", part(42, 1233, None)),
            ("bytes */1234", ContentRange::Unsatisfied { total: 1234 }),
            ("bytes */0", ContentRange::Unsatisfied { total: 0 }),
        ];
        for (text, range) in cases {
            assert_eq!(ContentRange::parse(text.as_bytes()), Some(range));
            assert_eq!(range.to_string(), text);
        }
        for bad in [
            "",
            "bytes",
            "bytes */*",
            "bytes 5-4/10",
            "bytes 0-10/10",
            "items 0-1/2",
            "0-1",
            "bytes 0-1",
            "bytes=0-1/2",
            "bytes -1/2",
            "bytes 0-1/99999999999999999999999",
        ] {
            assert_eq!(ContentRange::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn an_uploads_range_has_neither_unit_nor_total() {
        assert_eq!(UploadRange::parse(b"0-1023"), Some(UploadRange(Span { first: 0, last: 1023 })));
        for bad in [
            "",
            "-",
            "0-",
            "-1",
            "5-4",
            "bytes=0-1",
            "bytes 0-1/2",
            "0-1/2",
            "0 - 1",
            "+0-1",
            "0-99999999999999999999999",
        ] {
            assert_eq!(UploadRange::parse(bad.as_bytes()), None, "{bad}");
        }
        let received = [0, 1, 1024].map(|length| UploadRange::received(length).to_string());
        assert_eq!(received, ["0-0", "0-0", "0-1023"]);
    }

    proptest! {
        #[test]
        fn spans_lie_within_the_content(value in "bytes=([0-9]{0,20}-[0-9]{0,20},?){0,4}", length in any::<u64>()) {
            if let Resolved::Spans(spans) = resolve(&value, length) {
                prop_assert!(!spans.is_empty());
                prop_assert!(spans.iter().all(|span| span.first <= span.last && span.last < length));
            }
        }

        #[test]
        fn what_is_rendered_parses_back(a in any::<u64>(), b in any::<u64>(), more in any::<u64>(), known in any::<bool>()) {
            let span = Span { first: a.min(b), last: a.max(b) };
            prop_assert_eq!(UploadRange::parse(UploadRange(span).to_string().as_bytes()), Some(UploadRange(span)));
            let range = ByteRange::from(span);
            prop_assert_eq!(ByteRange::parse(range.to_string().as_bytes()), range);
            let total = span.last.checked_add(1).map(|least| least.saturating_add(more)).filter(|_| known);
            let content = ContentRange::Part { span, total };
            prop_assert_eq!(ContentRange::parse(content.to_string().as_bytes()), Some(content));
        }

        #[test]
        fn no_value_panics(value in any::<Vec<u8>>(), length in any::<u64>()) {
            let _ = ByteRange::parse(&value).resolve(length);
            let _ = (ContentRange::parse(&value), UploadRange::parse(&value));
        }
    }
}
