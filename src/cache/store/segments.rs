//! Segments: the parts of a blob that are in its file.

use std::fmt;

/// The bytes of a blob that are there: sorted parts with holes between them, each from its first byte up to the byte behind its
/// last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Segments(Vec<(u64, u64)>);

impl Segments {
    /// Returns the first `bytes` of a blob.
    pub(crate) fn prefix_of(bytes: u64) -> Self {
        let mut segments = Self::default();
        segments.insert(0, bytes);
        segments
    }

    /// Adds the bytes from `first` up to `end`.
    pub(crate) fn insert(&mut self, first: u64, end: u64) {
        if first >= end {
            return;
        }
        // Those that overlap or touch become one with it.
        let from = self.0.partition_point(|(_, known)| *known < first);
        let to = self.0.partition_point(|(known, _)| *known <= end);
        let first = self.0.get(from).filter(|_| from < to).map_or(first, |known| known.0.min(first));
        let end = self.0[..to].last().filter(|_| from < to).map_or(end, |known| known.1.max(end));
        self.0.splice(from..to, [(first, end)]);
    }

    /// Adds all that `other` has.
    pub(crate) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(first, end)| self.insert(*first, *end));
    }

    /// Drops what lies behind `end`.
    pub(crate) fn truncate(&mut self, end: u64) {
        self.0.retain(|(first, _)| *first < end);
        if let Some(last) = self.0.last_mut() {
            last.1 = last.1.min(end);
        }
    }

    /// Returns the byte behind those that are there from `at` on without a hole; none if `at` is not there.
    pub(crate) fn end_at(&self, at: u64) -> Option<u64> {
        let behind = self.0.partition_point(|(first, _)| *first <= at);
        let (_, end) = self.0[..behind].last()?;
        (at < *end).then_some(*end)
    }

    /// Returns the first byte behind `at` where a part begins.
    pub(crate) fn next_after(&self, at: u64) -> Option<u64> {
        let behind = self.0.partition_point(|(first, _)| *first <= at);
        self.0.get(behind).map(|(first, _)| *first)
    }

    /// Returns the bytes that are there from the blob's first on.
    pub(crate) fn prefix(&self) -> u64 {
        self.end_at(0).unwrap_or_default()
    }

    /// Returns the byte behind the last.
    pub(crate) fn end(&self) -> u64 {
        self.0.last().map_or(0, |(_, end)| *end)
    }

    /// Returns how many bytes are there.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|(first, end)| end - first).sum()
    }

    /// Returns the number of parts.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the holes before the last part.
    pub(crate) fn holes(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let before = std::iter::once(0).chain(self.0.iter().map(|(_, end)| *end));
        before.zip(self.0.iter().map(|(first, _)| *first)).filter(|(first, end)| first < end)
    }

    /// Reads what [`Display`](fmt::Display) writes. None if it is anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut segments = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, end) = part.split_once('-')?;
            let (first, end) = (first.parse().ok()?, end.parse().ok()?);
            if first >= end || first < segments.end() {
                return None;
            }
            segments.insert(first, end);
        }
        Some(segments)
    }
}

impl fmt::Display for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, end)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{first}-{end}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: u64 = 64;

    proptest! {
        #[test]
        fn segments_are_the_bytes_that_were_added(
            parts in proptest::collection::vec((0..LENGTH, 0..LENGTH), 0..20),
            cut in 0..LENGTH,
        ) {
            let (mut segments, mut there) = (Segments::default(), [false; LENGTH as usize]);
            for (one, other) in parts {
                let (first, end) = (one.min(other), one.max(other));
                segments.insert(first, end);
                there[first as usize..end as usize].fill(true);
            }
            check(&segments, &there)?;
            prop_assert_eq!(Segments::parse(&segments.to_string()), Some(segments.clone()));
            let mut sum = Segments::prefix_of(cut);
            sum.add(&segments);
            let mut all = there;
            all[..cut as usize].fill(true);
            check(&sum, &all)?;
            segments.truncate(cut);
            there[cut as usize..].fill(false);
            check(&segments, &there)?;
        }

        #[test]
        fn text_is_segments_or_none(text in "[0-9,x -]{0,20}") {
            if let Some(segments) = Segments::parse(&text) {
                prop_assert_eq!(Segments::parse(&segments.to_string()), Some(segments));
            }
        }
    }

    fn check(segments: &Segments, there: &[bool; LENGTH as usize]) -> Result<(), TestCaseError> {
        for at in 0..LENGTH {
            let rest = &there[at as usize..];
            let end = rest.iter().position(|there| !there).map_or(LENGTH, |length| at + length as u64);
            prop_assert_eq!(segments.end_at(at), rest[0].then_some(end), "{} {}", segments, at);
            let next = (at + 1..LENGTH).find(|at| there[*at as usize] && !there[*at as usize - 1]);
            prop_assert_eq!(segments.next_after(at), next, "{} {}", segments, at);
        }
        prop_assert_eq!(segments.bytes(), there.iter().filter(|there| **there).count() as u64);
        let holes: Vec<_> = segments.holes().flat_map(|(first, end)| first..end).collect();
        let missing: Vec<_> = (0..segments.end()).filter(|at| !there[*at as usize]).collect();
        prop_assert_eq!(holes, missing);
        prop_assert!(segments.count() <= LENGTH as usize / 2);
        Ok(())
    }

    #[test]
    fn other_text_is_no_segments() {
        for text in ["x", "1", "2-1", "1-1", "0-5,4-8", "5-8,0-4", "-1", "1-", "0-1;2-3"] {
            assert_eq!(Segments::parse(text), None, "{text}");
        }
        assert_eq!(Segments::parse(""), Some(Segments::default()));
    }
}
