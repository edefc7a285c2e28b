//! The cache: its size against its limit, and what fills it.

use maud::{Markup, html};

use crate::admin::dashboard::table::{Tone, badge, nothing, table};
use crate::admin::dashboard::units;
use crate::admin::state::{AdminState, cache};
use crate::cache::{Amount, Cache};

/// Renders the cache.
pub(super) fn render(state: &AdminState) -> Markup {
    let core = state.core();
    match cache(&core) {
        Some(cache) => of_cache(cache),
        None => nothing("No upstream has a cache."),
    }
}

fn of_cache(cache: &Cache) -> Markup {
    let usage = cache.store().usage();
    let kinds = [
        ("Layers and configurations", usage.blobs),
        ("Manifests and indexes", usage.manifests),
        ("Downloads under way or left half way", usage.partials),
        ("Damaged, set aside", usage.quarantined),
        ("Records of tags and repositories", cache.record_usage()),
    ];
    let used: u64 = kinds.iter().map(|(_, amount)| amount.bytes).sum();
    let (evicted, evicted_bytes) = cache.counters().evictions();
    html! {
        (fullness(used, cache.max_size()))
        @if let Some(reason) = cache.store().degraded_reason() {
            p { (badge("stores nothing now", Tone::Bad)) " " (reason) }
        }
        (table("What fills the cache", &["Content", "#Files", "#Size", "#Share"], &rows(&kinds, used)))
        p class="note" {
            (units::count(cache.counters().fills())) " blobs downloaded and verified, "
            (units::count(evicted)) " evicted (" (units::bytes(evicted_bytes)) ") since the start"
        }
    }
}

fn fullness(used: u64, limit: u64) -> Markup {
    let text = format!("{} of {} ({})", units::bytes(used), units::bytes(limit), units::percent(used, limit));
    html! {
        p class="fullness" {
            meter min="0" max=(limit.max(1)) value=(used.min(limit)) aria-label="Size of the cache" {}
            " " (text)
        }
    }
}

fn rows(kinds: &[(&str, Amount)], used: u64) -> Markup {
    html! {
        @for (kind, amount) in kinds {
            tr {
                td { (kind) }
                td class="number" { (units::count(amount.count)) }
                td class="number" { (units::bytes(amount.bytes)) }
                td class="number" { (units::percent(amount.bytes, used)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_told_against_the_limit() {
        let text = fullness(5_000_000_000, 20_000_000_000).into_string();
        assert!(text.contains("5.0 GB of 20.0 GB (25.0 %)"), "{text}");
        assert!(text.contains("max=\"20000000000\" value=\"5000000000\""), "{text}");
        assert!(fullness(30, 20).into_string().contains("value=\"20\""), "a meter cannot be over-full");
    }

    #[test]
    fn kinds_have_their_share() {
        let kinds =
            [("Layers", Amount { count: 2, bytes: 75 }), ("Manifests", Amount { count: 1, bytes: 25 })];
        let rows = rows(&kinds, 100).into_string();
        assert!(rows.contains("75.0 %") && rows.contains("25.0 %"), "{rows}");
    }
}
