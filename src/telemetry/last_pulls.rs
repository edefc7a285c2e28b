//! The last pull of each image.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::proto::{Reference, RepositoryName};

/// The last pull of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastPull {
    /// The client's name.
    pub user: Arc<str>,
    /// The time.
    pub at: SystemTime,
}

/// The last pulls, by repository and reference. Bounded: the half that was not pulled for longest is forgotten.
#[derive(Debug)]
pub(crate) struct LastPulls {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

/// An image: a repository and a tag or digest there.
type Image = (RepositoryName, Reference);

/// A part of the pulls. When `young` is full it becomes `old`: pulls that stay in use move back, and the others go with the
/// next turn. A list in the order of use would cost more than a pull may.
#[derive(Debug, Default)]
struct Shard {
    young: HashMap<Image, LastPull>,
    old: HashMap<Image, LastPull>,
}

/// The number of parts, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// The images of half a part: 16 384 in all, some 4 MiB.
const HALF: usize = 512;

impl Default for LastPulls {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new() }
    }
}

impl LastPulls {
    /// Remembers a pull.
    pub(crate) fn note(&self, repository: &RepositoryName, reference: &Reference, pull: LastPull) {
        let image = (repository.clone(), reference.clone());
        let mut shard = self.shard(&image).lock();
        if shard.young.len() >= HALF && !shard.young.contains_key(&image) {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(image, pull);
    }

    /// Returns the last pull of an image, if it is remembered.
    pub(crate) fn get(&self, repository: &RepositoryName, reference: &Reference) -> Option<LastPull> {
        let image = (repository.clone(), reference.clone());
        let shard = self.shard(&image).lock();
        shard.young.get(&image).or_else(|| shard.old.get(&image)).cloned()
    }

    fn shard(&self, image: &Image) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one(image);
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn image(number: usize) -> Image {
        let repository = RepositoryName::parse(&format!("team/app{number}")).unwrap();
        (repository, Reference::parse("latest").unwrap())
    }

    fn pull(user: &str) -> LastPull {
        LastPull { user: user.into(), at: clock::wall() }
    }

    #[test]
    fn the_last_of_two_pulls_is_known() {
        let (pulls, (repository, reference)) = (LastPulls::default(), image(1));
        pulls.note(&repository, &reference, pull("alice"));
        pulls.note(&repository, &reference, pull("bob"));
        assert_eq!(&*pulls.get(&repository, &reference).unwrap().user, "bob");
        assert_eq!(pulls.get(&image(2).0, &reference), None);
    }

    #[test]
    fn many_images_do_not_drive_out_one_in_use() {
        let (pulls, (repository, reference)) = (LastPulls::default(), image(0));
        for number in 1..SHARDS * HALF * 4 {
            let (other, reference) = image(number);
            pulls.note(&other, &reference, pull("mallory"));
            if number % 64 == 0 {
                pulls.note(&repository, &image(0).1, pull("alice"));
            }
        }
        assert!(pulls.get(&repository, &reference).is_some());
        let kept = |shard: &Shard| shard.young.len() + shard.old.len();
        let kept: usize = pulls.shards.iter().map(|shard| kept(&shard.lock())).sum();
        assert!(kept <= SHARDS * HALF * 2, "{kept}");
    }
}
