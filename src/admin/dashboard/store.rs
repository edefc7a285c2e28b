//! The object store behind the cache: whether it answers, and what came from it and went there.

use maud::{Markup, html};

use crate::admin::dashboard::table::{Tone, badge, nothing, table};
use crate::admin::dashboard::units;
use crate::admin::state::AdminState;
use crate::cache::StoreStats;

/// Renders the store.
pub(super) fn render(state: &AdminState) -> Markup {
    match state.store() {
        Some(store) => of_store(&store),
        None => nothing("There is no object store behind the cache."),
    }
}

fn of_store(store: &StoreStats) -> Markup {
    let counts = &store.counts;
    let rows = [
        ("Objects that were there", units::count(counts.hits), units::bytes(counts.read_bytes)),
        ("Objects that were not there", units::count(counts.misses), String::new()),
        ("Reads that were not answered", units::count(counts.failures), String::new()),
        ("Objects stored", units::count(counts.stored), units::bytes(counts.stored_bytes)),
        ("Changes that it did not take", units::count(counts.store_failures), String::new()),
        ("Changes dropped, as too much waited", units::count(counts.dropped), String::new()),
        ("Objects with wrong bytes or signatures", units::count(counts.wrong), String::new()),
    ];
    html! {
        p {
            @if let Some(reason) = &store.failure {
                (badge("passed over", Tone::Bad)) " " (store.name) ": " (reason)
            } @else {
                (badge("ok", Tone::Good)) " " (store.name)
            }
        }
        (table("What the store was asked since the start", &["What", "#Count", "#Size"], &html! {
            @for (what, count, size) in &rows {
                tr { td { (what) } td class="number" { (count) } td class="number" { (size) } }
            }
        }))
        p class="note" {
            "The upstream was asked beside it " (units::count(counts.hedges_won + counts.hedges_lost))
            " times, and was first " (units::count(counts.hedges_won)) " times. "
            (units::count(store.waiting)) " changes wait to be written."
            @if let Some(swept) = store.swept {
                " The last sweep here left " (units::count(swept.count)) " objects with " (units::bytes(swept.bytes)) "."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Amount, StoreCounts};

    #[test]
    fn a_store_that_does_not_answer_is_shown_with_its_reason() {
        let counts = StoreCounts { hits: 7, read_bytes: 5_000_000, hedges_won: 2, ..StoreCounts::default() };
        let swept = Some(Amount { count: 3, bytes: 9_000_000 });
        let failure = Some("<SlowDown>".to_owned());
        let store = StoreStats { name: "s3://a/b".to_owned(), failure, waiting: 4, swept, counts };
        let text = of_store(&store).into_string();
        for part in ["passed over", "&lt;SlowDown&gt;", "s3://a/b", "5.0 MB", "was first 2 times", "9.0 MB"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let well = of_store(&StoreStats { failure: None, ..store }).into_string();
        assert!(well.contains("badge good") && !well.contains("passed over"), "{well}");
    }
}
