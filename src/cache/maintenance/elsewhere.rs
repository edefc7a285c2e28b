//! The work of operators beyond this replica's disk: at the other replicas, and in the object store.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;

use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use crate::cache::maintenance::inventory::{Entry, list};
use crate::cache::maintenance::removal::{Removed, remove};
use crate::cache::maintenance::selection::Selection;
use crate::cache::maintenance::verification::{Verified, verify};
use crate::cache::{
    Cache, Disobedience, Fleet, FleetOrder, Inspected, RemoteStore, StoreFailure, StoredImage, UpstreamCache,
};
use crate::clock;
use crate::json_lines::LineBuffer;
use crate::proto::RepositoryName;

/// Where else than at this replica's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// At the disk of each other replica.
    pub(crate) fleet: bool,
    /// In the object store.
    pub(crate) store: bool,
}

/// The images of several places.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listing {
    /// Each image once.
    pub entries: Vec<Entry>,
    /// The places that could not be asked, and why.
    pub missing: Vec<String>,
}

/// This replica's disk, as a place.
const HERE: &str = "here";

/// The object store, as a place.
const STORE: &str = "store";

/// The longest answer of a replica: some hundred thousand images, which are held.
const ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// The longest line of it.
const LINE_BYTES: usize = 1024 * 1024;

/// Returns the images that `selection` means, here and elsewhere. Their places are said where there can be several.
///
/// # Errors
/// [`JoinError`], if the look at this disk has panicked.
pub(crate) async fn list_everywhere(
    cache: &Cache,
    upstreams: Vec<Arc<UpstreamCache>>,
    selection: Selection,
    elsewhere: Elsewhere,
) -> Result<Listing, JoinError> {
    let (own, meant) = (upstreams.clone(), selection.clone());
    let here = tokio::task::spawn_blocking(move || list(&own, &meant));
    if elsewhere == Elsewhere::default() {
        return Ok(Listing { entries: here.await?, missing: Vec::new() });
    }
    let mut sum = PlacedEntries::default();
    let order = FleetOrder::List { pattern: selection.to_string() };
    let told = async {
        let Some(fleet) = fleet_of(cache, elsewhere) else { return Vec::new() };
        let members = fleet.others();
        let told = join_all(members.iter().map(|member| listed_at(&**fleet, member, &order))).await;
        members.into_iter().zip(told).collect()
    };
    let (here, told) = tokio::join!(here, told);
    sum.add(HERE, here?);
    for (member, told) in told {
        match told {
            Ok(entries) => sum.add(&member, entries),
            Err(error) => sum.missing.push(format!("{member}: {error}")),
        }
    }
    if let Some(store) = store_of(cache, elsewhere) {
        match stored(&**store, &upstreams, &selection).await {
            Ok(entries) => sum.add(STORE, entries),
            Err(error) => sum.missing.push(format!("{STORE}: {error}")),
        }
    }
    Ok(sum.listing())
}

async fn listed_at(fleet: &dyn Fleet, member: &str, order: &FleetOrder) -> Result<Vec<Entry>, Disobedience> {
    let mut entries = Vec::new();
    let told = heed(fleet, member, order, |entry| {
        entries.push(entry);
        true
    });
    told.await.map(|()| entries)
}

fn fleet_of(cache: &Cache, elsewhere: Elsewhere) -> Option<&Arc<dyn Fleet>> {
    cache.fleet.as_ref().filter(|_| elsewhere.fleet)
}

fn store_of(cache: &Cache, elsewhere: Elsewhere) -> Option<&Arc<dyn RemoteStore>> {
    cache.remote.as_ref().filter(|_| elsewhere.store)
}

/// Entries by what they are, with all places where they are.
#[derive(Default)]
struct PlacedEntries {
    entries: BTreeMap<(String, Option<String>, String), Entry>,
    missing: Vec<String>,
}

impl PlacedEntries {
    fn add(&mut self, place: &str, entries: Vec<Entry>) {
        for entry in entries {
            let key = (entry.repository.clone(), entry.tag.clone(), entry.digest.clone());
            let known = self.entries.entry(key).or_insert_with(|| entry.clone());
            known.size = known.size.max(entry.size);
            known.age = known.age.min(entry.age);
            known.places.push(place.to_owned());
        }
    }

    fn listing(self) -> Listing {
        Listing { entries: self.entries.into_values().collect(), missing: self.missing }
    }
}

/// Returns the images that `selection` means, by the records in the store.
async fn stored(
    store: &dyn RemoteStore,
    upstreams: &[Arc<UpstreamCache>],
    selection: &Selection,
) -> Result<Vec<Entry>, StoreFailure> {
    let mut entries = Vec::new();
    for upstream in upstreams {
        let canonical = |name: &RepositoryName| upstream.canonical(name);
        let meant = |name: &RepositoryName| canonical(name).is_some_and(|name| selection.has(&name));
        let images = store.images(&upstream.fleet_name(), &meant).await?.into_iter();
        let images = images.filter(|image| is_meant(selection, image));
        entries.extend(images.filter_map(|image| Some(entry(canonical(&image.repository)?, image))));
    }
    Ok(entries)
}

fn is_meant(selection: &Selection, image: &StoredImage) -> bool {
    match &image.tag {
        Some(tag) => selection.has_tag(tag, &image.digest),
        None => selection.has_digest(&image.digest),
    }
}

fn entry(canonical: RepositoryName, image: StoredImage) -> Entry {
    Entry {
        repository: canonical.to_string(),
        tag: image.tag.map(|tag| tag.to_string()),
        digest: image.digest.to_string(),
        size: image.size,
        age: clock::wall().duration_since(image.confirmed).unwrap_or_default().as_secs(),
        places: Vec::new(),
    }
}

/// Removes what `selection` means: here, at each other replica and in the object store, where a note has those replicas do the same
/// that do not answer now.
///
/// # Errors
/// [`JoinError`], if the removal here has panicked.
pub(crate) async fn remove_everywhere(
    cache: Arc<Cache>,
    upstreams: Vec<Arc<UpstreamCache>>,
    selection: Selection,
) -> Result<Removed, JoinError> {
    let pattern = selection.to_string();
    let note = cache.remote.as_ref().map(|remote| remote.note_removal(pattern.clone()));
    let (order, has_note) = (FleetOrder::Remove { pattern, note }, cache.remote.is_some());
    let fleet = cache.fleet.clone();
    let here = tokio::task::spawn_blocking(move || remove(&cache, &upstreams, &selection));
    let told = async {
        let Some(fleet) = &fleet else { return Vec::new() };
        let members = fleet.others();
        join_all(members.iter().map(|member| removed_at(&**fleet, member, &order))).await
    };
    let (here, told) = tokio::join!(here, told);
    let mut removed = here?;
    removed.has_store = has_note;
    for told in told {
        match told {
            Ok(there) => removed.elsewhere += u64::from(there.repositories > 0),
            Err(_) if has_note => {}
            Err(why) => removed.untold.push(why),
        }
    }
    Ok(removed)
}

async fn removed_at(fleet: &dyn Fleet, member: &str, order: &FleetOrder) -> Result<Removed, String> {
    let mut removed = None;
    let told = heed(fleet, member, order, |line| {
        removed = Some(line);
        false
    });
    let told = told.await.map_err(|error| format!("{member}: {error}"));
    told.and_then(|()| removed.ok_or_else(|| format!("{member}: it has ended before it was done")))
}

/// Verifies the content here and elsewhere. `tell` gets the events, and returns true to go on. Reads and hashes on the thread that drives
/// it.
pub(crate) async fn verify_everywhere(
    cache: &Cache,
    elsewhere: Elsewhere,
    tell: &mut dyn FnMut(Verified) -> bool,
) {
    if elsewhere == Elsewhere::default() {
        return verify(cache, tell);
    }
    let mut sum = PlacedVerdicts { tell, contents: 0, wrong: 0, goes_on: true };
    verify(cache, &mut |event| sum.hear(HERE, event));
    if let Some(fleet) = fleet_of(cache, elsewhere) {
        for member in fleet.others() {
            sum.verify_at(&**fleet, &member).await;
        }
    }
    if let Some(store) = store_of(cache, elsewhere).filter(|_| sum.goes_on) {
        sum.inspect(&**store).await;
    }
    let (contents, wrong) = (sum.contents, sum.wrong);
    sum.say(Verified::Done { contents, wrong });
}

/// The events of a verification of several places.
struct PlacedVerdicts<'a> {
    tell: &'a mut dyn FnMut(Verified) -> bool,
    contents: u64,
    wrong: u64,
    goes_on: bool,
}

impl PlacedVerdicts<'_> {
    /// Passes on what happens at a place. Its end is not that of all.
    fn hear(&mut self, place: &str, event: Verified) -> bool {
        match event {
            Verified::Done { contents, wrong } => {
                (self.contents, self.wrong) = (self.contents + contents, self.wrong + wrong);
                self.say(Verified::Place { place: place.to_owned(), contents, wrong })
            }
            Verified::Wrong { digest, why } => {
                self.say(Verified::Wrong { digest, why: format!("{why} ({place})") })
            }
            Verified::Unfinished { why } => self.say(Verified::Unfinished { why: format!("{place}: {why}") }),
            event => self.say(event),
        }
    }

    fn say(&mut self, event: Verified) -> bool {
        self.goes_on = self.goes_on && (self.tell)(event);
        self.goes_on
    }

    async fn verify_at(&mut self, fleet: &dyn Fleet, member: &str) {
        if !self.goes_on {
            return;
        }
        let mut is_done = false;
        let told = heed(fleet, member, &FleetOrder::Verify, |event: Verified| {
            is_done |= matches!(event, Verified::Done { .. });
            self.hear(member, event) && !is_done
        });
        match told.await {
            Err(error) => self.fail(member, error.to_string()),
            Ok(()) if !is_done && self.goes_on => {
                self.fail(member, "it has ended before it was done".to_owned())
            }
            Ok(()) => {}
        }
    }

    async fn inspect(&mut self, store: &dyn RemoteStore) {
        let (mut contents, mut wrong, mut done, mut total) = (0, 0, 0, 0);
        let mut hear = |seen: Inspected| match seen {
            Inspected::Total(bytes) => {
                total = bytes;
                true
            }
            Inspected::Read(bytes) => {
                done += bytes;
                self.say(Verified::Progress { done, total: total.max(done) })
            }
            Inspected::Good => {
                contents += 1;
                true
            }
            Inspected::Wrong { name, why } => {
                (contents, wrong) = (contents + 1, wrong + 1);
                self.hear(STORE, Verified::Wrong { digest: name, why })
            }
        };
        let inspected = store.inspect(&mut hear).await;
        if let Err(error) = inspected {
            self.fail(STORE, error.to_string());
        }
        self.hear(STORE, Verified::Done { contents, wrong });
    }

    fn fail(&mut self, place: &str, why: String) {
        self.wrong += 1;
        self.hear(place, Verified::Unfinished { why });
    }
}

/// Has a replica do something, and calls `each` with what it says, line by line, until that returns false.
async fn heed<T: DeserializeOwned>(
    fleet: &dyn Fleet,
    member: &str,
    order: &FleetOrder,
    mut each: impl FnMut(T) -> bool,
) -> Result<(), Disobedience> {
    let strange = || Disobedience("that is no answer of a replica of this version".to_owned());
    let mut body = fleet.order(member, order).await?;
    let (mut lines, mut left) = (LineBuffer::default(), ANSWER_BYTES);
    while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
        let piece = piece.map_err(|error| Disobedience(error.to_string()))?;
        left = left.checked_sub(piece.len()).ok_or_else(strange)?;
        lines.add(&piece);
        while let Some(line) = lines.next() {
            if !each(serde_json::from_slice(&line).map_err(|_| strange())?) {
                return Ok(());
            }
        }
        if lines.held() > LINE_BYTES {
            return Err(strange());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(repository: &str, tag: &str, size: u64, age: u64) -> Entry {
        Entry {
            repository: repository.to_owned(),
            tag: Some(tag.to_owned()),
            digest: "sha256:d".to_owned(),
            size,
            age,
            places: Vec::new(),
        }
    }

    #[test]
    fn an_image_of_several_places_is_listed_once() {
        let mut sum = PlacedEntries::default();
        sum.add(HERE, vec![image("b", "x", 10, 7)]);
        sum.add("10.0.0.2:5003", vec![image("a", "x", 1, 1), image("b", "x", 20, 9)]);
        sum.add(STORE, vec![image("b", "x", 15, 5)]);
        let places = |places: &[&str]| places.iter().map(|place| (*place).to_owned()).collect::<Vec<_>>();
        let listing = sum.listing();
        assert_eq!(
            listing.entries,
            [
                Entry { places: places(&["10.0.0.2:5003"]), ..image("a", "x", 1, 1) },
                Entry { places: places(&["here", "10.0.0.2:5003", "store"]), ..image("b", "x", 20, 5) },
            ]
        );
    }

    #[test]
    fn what_is_wrong_at_a_place_is_told_with_its_name() {
        let mut told = Vec::new();
        let mut tell = |event| {
            told.push(event);
            true
        };
        let mut sum = PlacedVerdicts { tell: &mut tell, contents: 3, wrong: 0, goes_on: true };
        sum.hear("there", Verified::Wrong { digest: "sha256:d".to_owned(), why: "bad".to_owned() });
        sum.hear("there", Verified::Done { contents: 2, wrong: 1 });
        sum.fail("other", "silent".to_owned());
        assert_eq!((sum.contents, sum.wrong), (5, 2));
        assert_eq!(
            told,
            [
                Verified::Wrong { digest: "sha256:d".to_owned(), why: "bad (there)".to_owned() },
                Verified::Place { place: "there".to_owned(), contents: 2, wrong: 1 },
                Verified::Unfinished { why: "other: silent".to_owned() },
            ]
        );
    }
}
