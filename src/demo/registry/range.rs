//! Which bytes a `Range` asks for, and which a chunk's `Content-Range` brings.

use std::ops::Range;

/// What a `Range` header means for a content of known length.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The header is to be passed over: another unit, several ranges, or no range at all (RFC 9110 section 14.2
    /// lets a server ignore what it does not like).
    Whole,
    /// A part of it, never empty.
    Part(Range<usize>),
    /// Nothing that is there: 416.
    Nothing,
}

/// RFC 9110 section 14.1.2: `a-b`, `a-` and `-n`, clamped to what is there. One whose end is before its beginning
/// could be passed over as well; a client that sends it is better told.
pub(super) fn resolve(header: &str, length: usize) -> Wanted {
    let spec =
        header.split_once('=').filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes")).map(|(_, spec)| spec);
    let Some((first, last)) = spec.and_then(|spec| spec.trim().split_once('-')) else { return Wanted::Whole };
    let part = match (number(first), number(last)) {
        (Some(first), Some(last)) => first..last.saturating_add(1).min(length),
        (Some(first), None) if last.is_empty() => first..length,
        (None, Some(count)) if first.is_empty() => length.saturating_sub(count)..length,
        _ => return Wanted::Whole,
    };
    if part.is_empty() { Wanted::Nothing } else { Wanted::Part(part) }
}

/// distribution-spec, "Pushing a blob in chunks": `^[0-9]+-[0-9]+$`, inclusive, without a unit. Gives the first
/// byte's place and the count of bytes.
pub(super) fn chunk(header: &str) -> Option<(u64, u64)> {
    let (first, last) = header.split_once('-')?;
    let (first, last) = (number(first)? as u64, number(last)? as u64);
    let length = last.checked_sub(first)?.checked_add(1)?;
    Some((first, length))
}

/// `1*DIGIT`: neither a sign nor a blank.
fn number(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_resolved_as_in_the_table() {
        let table = [
            ("bytes=500-1499", Wanted::Part(500..1500)),
            ("bytes=500-", Wanted::Part(500..2048)),
            ("bytes=-500", Wanted::Part(1548..2048)),
            ("Bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2000-5000", Wanted::Part(2000..2048)),
            ("bytes=-5000", Wanted::Part(0..2048)),
            ("bytes=0-18446744073709551615", Wanted::Part(0..2048)),
            ("bytes=2048-", Wanted::Nothing),
            ("bytes=5000-10000", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=500-0", Wanted::Nothing),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("nonsense", Wanted::Whole),
        ];
        for (header, wanted) in table {
            assert_eq!(resolve(header, 2048), wanted, "{header}");
        }
    }

    #[test]
    fn nothing_can_be_asked_of_an_empty_content() {
        assert_eq!(resolve("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(resolve("bytes=-1", 0), Wanted::Nothing);
    }

    #[test]
    fn a_chunk_has_neither_unit_nor_total() {
        assert_eq!(chunk("0-1023"), Some((0, 1024)));
        for bad in
            ["bytes 0-1023/*", "0-", "5-4", "0-1023/2048", "+0-1", "", "0 - 1", "0-18446744073709551615"]
        {
            assert_eq!(chunk(bad), None, "{bad}");
        }
    }
}
