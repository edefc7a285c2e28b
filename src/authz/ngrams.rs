//! The n-grams of texts.

use std::iter;

/// The bytes of a text and its pairs of neighbouring bytes, as a Bloom filter: a bit for each, some bits for several.
///
/// Of a pattern it holds those of the plain parts, and a text that fits the pattern has all of them. So a pattern that asks
/// for one that the text has not needs no closer look: with 1000 rules these are nearly all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ngrams([u64; 1 + PAIR_WORDS]);

/// The words of 64 bits for pairs: with 192 bits, seven in ten are still clear for a name of 64 bytes.
const PAIR_WORDS: usize = 3;

impl Ngrams {
    /// Returns those of a text or of a pattern, which both count as if a slash stood at either end: so the first and the last
    /// component of a path have one on both sides, as the others do. `*` and `?` do not count, nor do pairs with them: no
    /// pattern can ask for these characters.
    pub(super) fn of(text: &str) -> Self {
        let mut found = Self::default();
        let mut before = None;
        for byte in iter::once(b'/').chain(text.bytes()).chain(iter::once(b'/')) {
            if matches!(byte, b'*' | b'?') {
                before = None;
                continue;
            }
            found.add_byte(byte);
            if let Some(before) = before {
                found.add_pair(before, byte);
            }
            before = Some(byte);
        }
        found
    }

    /// All that there are, of a text that was not read: it seems to fit every pattern.
    pub(super) const ALL: Self = Self([u64::MAX; 1 + PAIR_WORDS]);

    /// Returns these and `others`.
    pub(super) fn with(mut self, others: Self) -> Self {
        for (own, other) in self.0.iter_mut().zip(others.0) {
            *own |= other;
        }
        self
    }

    /// Returns these, and the number of the components of a path: of a pattern's, if all names that fit have so many.
    pub(super) fn with_length(mut self, components: usize) -> Self {
        // The last six bits are those of the characters from `:` to `?`, which no repository has.
        self.0[0] |= 1 << (58 + components % 6);
        self
    }

    /// Returns true if all of `others` are among these, or seem to be.
    pub(super) fn contain(&self, others: &Self) -> bool {
        self.0.iter().zip(&others.0).fold(0, |missing, (own, other)| missing | (other & !own)) == 0
    }

    /// Adds a byte. Those of which names of repositories consist have a bit each.
    fn add_byte(&mut self, byte: u8) {
        let upper_half = if byte < 0x40 { 32 } else { 0 };
        self.0[0] |= 1 << (byte % 32 + upper_half);
    }

    fn add_pair(&mut self, first: u8, second: u8) {
        let pair = u32::from(u16::from_be_bytes([first, second]));
        // Knuth's multiplicative hashing: the upper six bits of the product are the place, the eight below choose the word.
        let product = pair.wrapping_mul(0x9e37_79b9);
        let word = 1 + (product >> 18) as usize % 256 % PAIR_WORDS;
        self.0[word] |= 1 << (product >> 26);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Glob, RepositoryPattern};
    use crate::proto::RepositoryName;

    fn may_fit(pattern: &str, text: &str) -> bool {
        Ngrams::of(text).contain(&Ngrams::of(pattern))
    }

    #[test]
    fn what_a_text_lacks_is_noticed() {
        let name = "team/backend/api";
        for pattern in [
            "team-7/**",
            "tea",
            "eam/**",
            "**/ap",
            "**/pi",
            "**/team-7/**",
            "*/*d/*7",
            "t*/b*/x7*",
            "team/*k7*/*",
            "team/*dn*/*",
            "team/*z*/*",
            "{user}/api",
            "team/{user}/**",
        ] {
            assert!(!may_fit(pattern, name), "{pattern}");
        }
    }

    #[test]
    fn a_path_of_another_length_is_noticed() {
        let name = Ngrams::of("a/b/c").with_length(3);
        assert!(name.contain(&Ngrams::of("a/*/c").with_length(3)));
        assert!(!name.contain(&Ngrams::of("a/*").with_length(2)));
        assert!(!name.contain(&Ngrams::of("*/*/*/c").with_length(4)));
    }

    #[test]
    fn each_byte_of_names_has_its_own_bit() {
        let bits: std::collections::BTreeSet<_> = (b'a'..=b'z')
            .chain(b'0'..=b'9')
            .chain(*b"._-/")
            .map(|byte| {
                let mut own = Ngrams::default();
                own.add_byte(byte);
                own.0[0]
            })
            .collect();
        assert_eq!(bits.len(), 40);
    }

    #[test]
    fn pairs_are_spread_over_all_bits() {
        let letters = || (b'a'..=b'z').chain(b'0'..=b'9').chain(*b"-/");
        let mut counts = [0u32; 64 * PAIR_WORDS];
        for (first, second) in letters().flat_map(|first| letters().map(move |second| (first, second))) {
            let mut own = Ngrams::default();
            own.add_pair(first, second);
            let set = (0..counts.len()).filter(|bit| (own.0[1 + bit / 64] >> (bit % 64)) & 1 == 1);
            set.for_each(|bit| counts[bit] += 1);
        }
        let pairs = counts.iter().sum::<u32>();
        assert_eq!(pairs, 38 * 38);
        let most = counts.iter().max().unwrap();
        assert!(*most <= 4 * pairs / 192, "{most} of {pairs} pairs share a bit");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn a_text_that_fits_a_glob_has_its_ngrams(pattern in "[abé:/*?]{0,6}", text in "[abé:/*?]{0,8}") {
            prop_assert!(!Glob::new(&pattern).matches(&text) || may_fit(&pattern, &text));
        }

        #[test]
        fn a_name_that_fits_a_pattern_has_its_ngrams(
            pattern in "(a|b|ab|a\\*|\\*b|a\\*b|\\?|\\*|\\*\\*)(/(a|b|ab|a\\*|\\*b|\\*|\\*\\*)){0,4}",
            name in "(a|b|ab|ba|a-b)(/(a|b|ab|ba|a-b)){0,4}",
        ) {
            let fits = RepositoryPattern::parse(&pattern).unwrap().matches(&RepositoryName::parse(&name).unwrap());
            prop_assert!(!fits || may_fit(&pattern, &name));
        }
    }
}
