//! The last pull of each image.

use std::hash::{Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::SystemTime;

use hashbrown::{Equivalent, HashMap};
use parking_lot::Mutex;

use crate::proto::{Reference, RepositoryName};
use crate::worker_id;

/// The last pull of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastPull {
    /// The client's name.
    pub user: Arc<str>,
    /// The time.
    pub at: SystemTime,
}

/// The last pulls, by repository and reference. Bounded: the half that was not pulled for longest is forgotten. Each worker has a
/// part of its own: most pulls are of few images, and none waits for another.
#[derive(Debug)]
pub(crate) struct LastPulls(Box<[Mutex<Part>]>);

/// The pulls of one worker. When `young` is full it becomes `old`: pulls that stay in use move back, and the others go with the
/// next turn. A list in the order of use would cost more than a pull may. Aligned to two cache lines, which processors fetch
/// together.
#[derive(Debug)]
#[repr(align(128))]
struct Part {
    young: Pulls,
    old: Pulls,
    /// Images that `young` takes.
    half: usize,
}

type Pulls = HashMap<Image, LastPull, RandomState>;

/// An image: a repository and a tag or digest there.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Image {
    repository: RepositoryName,
    reference: Reference,
}

/// An image to look up.
struct Wanted<'a> {
    repository: &'a RepositoryName,
    reference: &'a Reference,
}

/// As the derived one of [`Image`].
impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.repository.hash(state);
        self.reference.hash(state);
    }
}

impl Equivalent<Image> for Wanted<'_> {
    fn equivalent(&self, image: &Image) -> bool {
        *self.repository == image.repository && *self.reference == image.reference
    }
}

/// The images that are remembered, some 4 MiB.
const IMAGES: usize = 16 * 1024;

impl LastPulls {
    /// Returns no pull yet, for `workers` workers and one part for all other threads.
    pub(crate) fn new(workers: usize) -> Self {
        let half = IMAGES / 2 / (workers + 1);
        let part = || Part { young: Pulls::default(), old: Pulls::default(), half: half.max(1) };
        Self((0..=workers).map(|_| Mutex::new(part())).collect())
    }

    /// Remembers a pull by `user` at the time `at`.
    pub(crate) fn note(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        user: &Arc<str>,
        at: SystemTime,
    ) {
        let mut part = self.0[worker_id::place(self.0.len())].lock();
        if let Some(pull) = part.young.get_mut(&Wanted { repository, reference }) {
            pull.at = at;
            // Counting the references of a name costs more than a look at it: workers share it.
            if !Arc::ptr_eq(&pull.user, user) {
                pull.user = user.clone();
            }
            return;
        }
        if part.young.len() >= part.half {
            part.old = std::mem::take(&mut part.young);
        }
        let image = Image { repository: repository.clone(), reference: reference.clone() };
        part.young.insert(image, LastPull { user: user.clone(), at });
    }

    /// Returns the last pull of an image, if it is remembered.
    pub(crate) fn get(&self, repository: &RepositoryName, reference: &Reference) -> Option<LastPull> {
        let wanted = Wanted { repository, reference };
        let of = |part: &Part| part.young.get(&wanted).or_else(|| part.old.get(&wanted)).cloned();
        self.0.iter().filter_map(|part| of(&part.lock())).max_by_key(|pull| pull.at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    const WORKERS: usize = 3;

    fn image(number: usize) -> (RepositoryName, Reference) {
        let repository = RepositoryName::parse(&format!("team/app{number}")).unwrap();
        (repository, Reference::parse("latest").unwrap())
    }

    fn note(pulls: &LastPulls, number: usize, user: &str, at: SystemTime) {
        let (repository, reference) = image(number);
        pulls.note(&repository, &reference, &user.into(), at);
    }

    fn user_of(pulls: &LastPulls, number: usize) -> Option<Arc<str>> {
        let (repository, reference) = image(number);
        pulls.get(&repository, &reference).map(|pull| pull.user)
    }

    #[test]
    fn the_last_of_two_pulls_is_known() {
        let (pulls, now) = (LastPulls::new(WORKERS), clock::wall());
        note(&pulls, 1, "alice", now);
        note(&pulls, 1, "bob", now);
        assert_eq!(user_of(&pulls, 1).as_deref(), Some("bob"));
        assert_eq!(user_of(&pulls, 2), None);
    }

    #[test]
    fn the_last_of_all_workers_pulls_is_known() {
        let (pulls, now) = (LastPulls::new(WORKERS), clock::wall());
        for (worker, user, seconds) in [(0, "alice", 1), (1, "bob", 3), (2, "carol", 2)] {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    worker_id::enter(worker);
                    note(&pulls, 1, user, now + Duration::from_secs(seconds));
                });
            });
        }
        assert_eq!(user_of(&pulls, 1).as_deref(), Some("bob"));
    }

    #[test]
    fn many_images_do_not_drive_out_one_in_use() {
        let (pulls, now) = (LastPulls::new(WORKERS), clock::wall());
        for number in 1..IMAGES * 2 {
            note(&pulls, number, "mallory", now);
            if number % 64 == 0 {
                note(&pulls, 0, "alice", now);
            }
        }
        assert_eq!(user_of(&pulls, 0).as_deref(), Some("alice"));
        let kept = |part: &Part| part.young.len() + part.old.len();
        let kept: usize = pulls.0.iter().map(|part| kept(&part.lock())).sum();
        assert!(kept <= IMAGES / (WORKERS + 1), "{kept}");
    }
}
