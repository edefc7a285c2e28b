//! The order of the members for an object: rendezvous hashing (Thaler and Ravishankar, 1998). Pure.
//!
//! Each member has a score for each object, by a hash of both, and the highest comes first. A member that goes leaves its
//! objects to those that come next, each to another; the order of all others stays.

use std::cmp::Reverse;

use aws_lc_rs::digest::{Context, SHA256};

/// Returns the members' places in `names`, the owner of `object` first.
pub(super) fn order<'a>(names: impl IntoIterator<Item = &'a str>, object: &str) -> Vec<usize> {
    let mut scored: Vec<_> =
        names.into_iter().enumerate().map(|(place, name)| (score(name, object), name, place)).collect();
    // Equal scores do not occur, but all replicas must agree all the same.
    scored.sort_unstable_by_key(|(score, name, _)| (Reverse(*score), *name));
    scored.into_iter().map(|(.., place)| place).collect()
}

/// Returns a member's score. It is the same on every machine, and in every version.
fn score(name: &str, object: &str) -> u64 {
    let mut context = Context::new(&SHA256);
    for part in [name, object] {
        context.update(part.as_bytes());
        context.update(b"\0");
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).fold(0, |score, byte| score << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("10.0.0.{number}:5003")).collect()
    }

    fn owner<'a>(names: &'a [String], object: &str) -> &'a str {
        &names[order(names.iter().map(String::as_str), object)[0]]
    }

    fn objects() -> impl Iterator<Item = String> {
        (0..6000).map(|number| format!("sha256:{number}"))
    }

    #[test]
    fn objects_are_spread_evenly_over_the_members() {
        for count in [2, 3, 5] {
            let names = names(count);
            let mut owned = std::collections::HashMap::new();
            objects().for_each(|object| *owned.entry(owner(&names, &object)).or_insert(0usize) += 1);
            let fair = 6000 / count;
            assert!(owned.values().all(|own: &usize| own.abs_diff(fair) < fair / 10), "{owned:?}");
        }
    }

    #[test]
    fn only_the_objects_of_a_member_that_goes_move() {
        let (all, mut fewer) = (names(5), names(5));
        let gone = fewer.remove(2);
        let mut moved = std::collections::HashSet::new();
        for object in objects() {
            let (before, after) = (owner(&all, &object), owner(&fewer, &object));
            if before == gone {
                moved.insert(after.to_owned());
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(moved.len(), 4, "they go to all others");
    }

    #[test]
    fn the_order_does_not_depend_on_that_of_the_names() {
        let names = names(4);
        let mut turned = names.clone();
        turned.reverse();
        for object in objects().take(100) {
            let of = |names: &[String]| -> Vec<String> {
                order(names.iter().map(String::as_str), &object)
                    .into_iter()
                    .map(|place| names[place].clone())
                    .collect()
            };
            assert_eq!(of(&names), of(&turned));
        }
    }

    #[test]
    fn scores_stay_what_they_are_between_versions() {
        assert_eq!(order(["a:1", "b:1", "c:1"], "sha256:0"), SHOULD);
        assert!(order([], "x").is_empty());
    }

    /// As `printf 'a:1\0sha256:0\0' | sha256sum` and its like have it: bde5..., 5fd4..., 49ca...
    const SHOULD: [usize; 3] = [0, 1, 2];
}
