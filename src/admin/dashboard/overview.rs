//! The traffic of the last hour: figures and charts.

use maud::{Markup, html};

use crate::admin::dashboard::chart::{Chart, Line, top};
use crate::admin::dashboard::units;
use crate::admin::history::{Counts, Span};
use crate::admin::state::{AdminState, cache};
use crate::cache::CacheStatus;

/// The samples in one point of a chart: half a minute.
const SAMPLES: usize = 3;

/// The seconds of an hour.
const HOUR: f64 = 3600.0;

/// Renders the figures of the last hour.
pub(super) fn figures(state: &AdminState) -> Markup {
    let (hour, core) = (state.history().total(), state.core());
    let (requests, traffic) = (&state.traffic().requests, state.traffic());
    let pulls_saved = cache(&core).map(|cache| {
        let counters = cache.counters();
        [CacheStatus::Hit, CacheStatus::Stale, CacheStatus::Revalidated].map(|of| counters.outcome(of))
    });
    let saved = cache(&core).map_or(0, |cache| cache.counters().bytes_saved());
    html! {
        (figure("Requests, last hour", &units::count(hour.requests), &under_way(requests.under_way())))
        (figure("Hit ratio, last hour", &units::percent(hour.hits, hour.cacheable), &of_requests(&hour)))
        (figure("Sent, last hour", &units::bytes(hour.sent), &since_start(&units::bytes(requests.sent()))))
        (figure("Saved, last hour", &units::bytes(hour.saved), &since_start(&units::bytes(saved))))
        (figure("Pulls saved", &pulls(pulls_saved), "since the start, without a download"))
        (figure("Transfers now", &units::count(traffic.transfers.count() as u64), "blobs of 1 MiB and more"))
        (figure("Failures, last hour", &units::count(hour.failures), "answers of 5xx"))
    }
}

fn pulls(saved: Option<[u64; 3]>) -> String {
    saved.map_or_else(|| "–".to_owned(), |saved| units::count(saved.iter().sum()))
}

fn under_way(requests: u64) -> String {
    format!("{} under way", units::count(requests))
}

fn of_requests(hour: &Counts) -> String {
    format!("of {} that the cache could answer", units::count(hour.cacheable))
}

fn since_start(total: &str) -> String {
    format!("{total} since the start")
}

fn figure(name: &str, value: &str, note: &str) -> Markup {
    html! {
        div class="figure" {
            dt { (name) }
            dd class="value" { (value) }
            dd class="note" { (note) }
        }
    }
}

/// Renders the charts of the last hour.
pub(super) fn charts(state: &AdminState) -> Markup {
    let spans = state.history().spans(SAMPLES);
    html! {
        (requests(&spans).render())
        (hit_ratio(&spans).render())
        (bandwidth(&spans).render())
    }
}

fn requests(spans: &[Span]) -> Chart<'static> {
    let rate = |span: &Span| span.rate(span.counts.requests);
    let most = top(spans.iter().map(rate));
    let failures = |span: &Span| Some(span.rate(span.counts.failures));
    Chart {
        title: "Requests",
        now: units::rate(spans.last().map_or(0.0, rate)),
        most: units::rate(most),
        lines: vec![
            line("all", "first", spans, |span| Some(rate(span))),
            line("failed", "third", spans, failures),
        ],
        top: most,
    }
}

fn hit_ratio(spans: &[Span]) -> Chart<'static> {
    let ratio = |span: &Span| {
        let Counts { hits, cacheable, .. } = span.counts;
        (cacheable > 0).then(|| hits as f64 * 100.0 / cacheable as f64)
    };
    let now = spans.iter().rev().find_map(ratio);
    Chart {
        title: "Hit ratio",
        now: now.map_or_else(|| "–".to_owned(), |now| format!("{now:.0} %")),
        most: "100 %".to_owned(),
        lines: vec![line("hits", "second", spans, ratio)],
        top: 100.0,
    }
}

fn bandwidth(spans: &[Span]) -> Chart<'static> {
    let sent = |span: &Span| span.rate(span.counts.sent);
    let saved = |span: &Span| Some(span.rate(span.counts.saved));
    let most = top(spans.iter().map(sent));
    let words = |rate: f64| format!("{}/s", units::bytes(rate as u64));
    Chart {
        title: "Sent to clients",
        now: words(spans.last().map_or(0.0, sent)),
        most: words(most),
        lines: vec![
            line("all", "first", spans, |span| Some(sent(span))),
            line("without an upstream", "second", spans, saved),
        ],
        top: most,
    }
}

fn line(
    name: &'static str,
    class: &'static str,
    spans: &[Span],
    value: impl Fn(&Span) -> Option<f64>,
) -> Line {
    let points = spans.iter().map(|span| (span.age.as_secs_f64() / HOUR, value(span))).collect();
    Line { name, class, points }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn span(age: u64, hits: u64, cacheable: u64) -> Span {
        let counts = Counts { requests: 60, hits, cacheable, sent: 3_000, ..Counts::default() };
        Span { age: Duration::from_secs(age), length: Duration::from_secs(30), counts }
    }

    #[test]
    fn the_hit_ratio_has_a_gap_where_nothing_was_asked() {
        let chart = hit_ratio(&[span(1800, 1, 2), span(900, 0, 0), span(0, 3, 4)]);
        assert_eq!(chart.lines[0].points, [(0.5, Some(50.0)), (0.25, None), (0.0, Some(75.0))]);
        assert_eq!(chart.now, "75 %");
    }

    #[test]
    fn charts_tell_rates() {
        let spans = [span(0, 0, 0)];
        assert_eq!((requests(&spans).now, bandwidth(&spans).now), ("2.0/s".into(), "100 B/s".into()));
        assert_eq!(requests(&[]).now, "0/s");
    }
}
