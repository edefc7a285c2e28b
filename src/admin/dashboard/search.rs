//! The search for a repository, tag or digest: is it cached, since when, and who pulled it last?

use std::sync::Arc;
use std::time::Duration;

use maud::{Markup, html};

use crate::admin::dashboard::table::{ago, table};
use crate::admin::dashboard::transfers::digest;
use crate::admin::dashboard::units;
use crate::admin::state::{AdminState, cache};
use crate::cache::UpstreamCache;
use crate::cache::maintenance;
use crate::cache::maintenance::{Entry, Selection};
use crate::clock;
use crate::proto::{Reference, RepositoryName};
use crate::telemetry::LastPull;

/// The most images that are shown.
const SHOWN: usize = 100;

/// The result of a search.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing was searched for.
    NotAsked,
    /// The text cannot be searched for, for this reason.
    Wrong(String),
    /// Images, each with its last pull, and the number of all.
    Images(Vec<(Entry, Option<LastPull>)>, usize),
}

/// Searches the cache for `text`: part of a repository's name, `REPOSITORY:TAG`, `REPOSITORY@DIGEST` or a digest. Reads the
/// records on a thread of its own.
pub(super) async fn find(state: &Arc<AdminState>, text: &str) -> Found {
    if text.is_empty() {
        return Found::NotAsked;
    }
    let selection = match Selection::parse(&pattern(text)) {
        Ok(selection) => selection,
        Err(error) => return Found::Wrong(error.to_string()),
    };
    let core = state.core();
    if cache(&core).is_none() {
        return Found::Wrong("no upstream has a cache".to_owned());
    }
    let Some(permit) = state.try_job() else {
        return Found::Wrong("too many jobs are running already; try again later".to_owned());
    };
    let (state, upstream_caches) = (state.clone(), core.settings.upstream_caches.clone());
    let found = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        images(&state, &upstream_caches, &selection)
    });
    found.await.unwrap_or_else(|_| Found::Wrong("the search failed".to_owned()))
}

/// Returns the selection that a text means. A name without a pattern may be the end of one, `library/alpine` that of
/// `docker.io/library/alpine`, and a single word a part of its last component.
fn pattern(text: &str) -> String {
    if let Some(digest) = text.strip_prefix("sha256:") {
        return format!("**@sha256:{digest}");
    }
    let end = text.find([':', '@']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match name {
        "" => format!("**{rest}"),
        name if name.contains(['*', '?']) => text.to_owned(),
        name if rest.is_empty() && !name.contains('/') => format!("**/*{name}*"),
        _ => format!("**/{text}"),
    }
}

fn images(state: &AdminState, upstream_caches: &[Arc<UpstreamCache>], selection: &Selection) -> Found {
    let entries = maintenance::list(upstream_caches, selection);
    let count = entries.len();
    let with_pull = |entry: Entry| {
        let pull = last_pull(state, &entry);
        (entry, pull)
    };
    Found::Images(entries.into_iter().take(SHOWN).map(with_pull).collect(), count)
}

/// Returns the later of the pulls by tag and by digest.
fn last_pull(state: &AdminState, entry: &Entry) -> Option<LastPull> {
    let repository = RepositoryName::parse(&entry.repository).ok()?;
    let references = entry.tag.iter().chain([&entry.digest]);
    let pulls = references.filter_map(|reference| {
        let reference = Reference::parse(reference).ok()?;
        state.traffic().pulls.get(&repository, &reference)
    });
    pulls.max_by_key(|pull| pull.at)
}

impl Found {
    /// Renders what was found.
    pub(super) fn render(&self) -> Markup {
        match self {
            Self::NotAsked => html! {},
            Self::Wrong(reason) => html! { p class="reason" role="status" { (reason) } },
            Self::Images(images, 0) if images.is_empty() => {
                html! { p class="nothing" role="status" { "Nothing of that is in the cache." } }
            }
            Self::Images(images, count) => render_images(images, *count),
        }
    }
}

fn render_images(images: &[(Entry, Option<LastPull>)], count: usize) -> Markup {
    let rows = html! {
        @for (entry, pull) in images { (row(entry, pull.as_ref())) }
    };
    html! {
        p role="status" {
            @if count == 1 { "1 image is in the cache." } @else { (units::count(count as u64)) " images are in the cache." }
            @if count > images.len() { " The first " (units::count(images.len() as u64)) ":" }
        }
        (table("Images in the cache", &["Image", "#Size here", "Confirmed", "Pulled last"], &rows))
    }
}

fn row(entry: &Entry, pull: Option<&LastPull>) -> Markup {
    html! {
        tr {
            td {
                (entry.repository)
                @if let Some(tag) = &entry.tag { ":" (tag) }
                (digest(&entry.digest))
            }
            td class="number" { (units::bytes(entry.size)) }
            td { (units::span(Duration::from_secs(entry.age))) " ago" }
            td {
                @match pull {
                    Some(pull) => { (&*pull.user) ", " (ago(pull.at, clock::wall())) },
                    None => "not since the start",
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_means_a_selection() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let (whole, named) = (format!("**@{digest}"), format!("app@{digest}"));
        let of_named = format!("**/{named}");
        for (text, means) in [
            ("alpine", "**/*alpine*"),
            ("library/alpine", "**/library/alpine"),
            ("docker.io/**", "docker.io/**"),
            ("team/app:1.*", "**/team/app:1.*"),
            ("alpine:3", "**/alpine:3"),
            (":latest", "**:latest"),
            (&*digest, &*whole),
            (&*named, &*of_named),
        ] {
            assert_eq!(pattern(text), means);
            assert!(Selection::parse(means).is_ok(), "{means}");
        }
    }

    #[test]
    fn an_image_is_told_with_its_last_pull() {
        let entry = Entry {
            repository: "docker.io/library/alpine".to_owned(),
            tag: Some("<3>".to_owned()),
            digest: format!("sha256:{}", "a".repeat(64)),
            size: 3_000_000,
            age: 120,
            places: Vec::new(),
        };
        let pull = LastPull { user: "alice".into(), at: clock::wall() };
        let text = row(&entry, Some(&pull)).into_string();
        for part in ["docker.io/library/alpine:&lt;3&gt;", "3.0 MB", "2 min ago", "alice, ", "aaaaaaaaaaaa"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(row(&entry, None).into_string().contains("not since the start"));
    }
}
