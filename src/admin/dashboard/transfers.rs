//! The transfers under way.

use std::sync::atomic::Ordering;
use std::time::Instant;

use maud::{Markup, html};

use crate::admin::dashboard::table::{nothing, table};
use crate::admin::dashboard::units;
use crate::admin::state::AdminState;
use crate::clock;
use crate::telemetry::Transfer;

/// The most transfers that are shown.
const SHOWN: usize = 50;

/// Renders the transfers, the longest under way first.
pub(super) fn render(state: &AdminState) -> Markup {
    let (all, now) = (state.traffic().transfers.all(), clock::now());
    if all.is_empty() {
        return nothing("Nothing large is being sent now.");
    }
    let rows = html! {
        @for transfer in all.iter().take(SHOWN) { (row(transfer, now)) }
    };
    let heads = ["Repository", "Client", "From", "Progress", "#Rate"];
    html! {
        (table("Transfers now", &heads, &rows))
        @if all.len() > SHOWN {
            p class="more" { "and " (units::count((all.len() - SHOWN) as u64)) " more" }
        }
    }
}

fn row(transfer: &Transfer, now: Instant) -> Markup {
    let sent = transfer.sent.load(Ordering::Relaxed);
    let seconds = now.saturating_duration_since(transfer.began).as_secs_f64();
    let rate = sent as f64 / seconds.max(0.1);
    let subject = transfer.subject.as_ref().map(|subject| subject.as_str());
    html! {
        tr {
            td {
                (transfer.repository.as_str())
                @if let Some(subject) = subject { (digest(subject)) }
            }
            td { (transfer.user.as_deref().unwrap_or("–")) " " small { (transfer.client.to_string()) } }
            td { (source(transfer)) }
            td { (progress(sent, transfer.length)) }
            td class="number" { (units::bytes(rate as u64)) "/s" }
        }
    }
}

/// Returns where the bytes come from.
fn source(transfer: &Transfer) -> String {
    let upstream = transfer.upstream.as_deref().unwrap_or("the upstream");
    match transfer.cache {
        Some("hit" | "stale" | "revalidated") => "cache".to_owned(),
        Some("peer") => "another replica".to_owned(),
        Some("fill") => format!("a download from {upstream} under way"),
        _ => upstream.to_owned(),
    }
}

fn progress(sent: u64, length: Option<u64>) -> Markup {
    let Some(length) = length else { return html! { (units::bytes(sent)) } };
    let text = format!("{} of {}", units::bytes(sent), units::bytes(length));
    html! {
        progress value=(sent) max=(length.max(1)) aria-label=(text) {}
        " "
        small { (text) }
    }
}

/// Renders a digest by its first digits, with the whole for those who point at it.
pub(super) fn digest(digest: &str) -> Markup {
    let short = digest.split_once(':').map_or(digest, |(_, hex)| hex.get(..12).unwrap_or(hex));
    html! { " " code title=(digest) { (short) } }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;
    use crate::proto::RepositoryName;

    fn transfer(user: &str, cache: Option<&'static str>) -> Transfer {
        Transfer {
            repository: RepositoryName::parse("team/app").unwrap(),
            subject: None,
            user: Some(user.into()),
            client: [192, 0, 2, 1].into(),
            upstream: Some("docker.io".into()),
            cache,
            length: Some(4_000_000),
            began: clock::now(),
            sent: AtomicU64::new(1_000_000),
        }
    }

    #[test]
    fn a_hostile_name_is_escaped() {
        let transfer = transfer("<img src=x onerror=alert(1)>", Some("hit"));
        let row = row(&transfer, transfer.began + Duration::from_secs(2)).into_string();
        assert!(row.contains("&lt;img src=x onerror=alert(1)&gt;") && !row.contains("<img"), "{row}");
    }

    #[test]
    fn a_transfer_tells_its_source_progress_and_rate() {
        let transfer = transfer("alice", Some("fill"));
        let row = row(&transfer, transfer.began + Duration::from_secs(2)).into_string();
        for part in ["a download from docker.io under way", "1.0 MB of 4.0 MB", "max=\"4000000\"", "500 kB/s"]
        {
            assert!(row.contains(part), "{part} is not in {row}");
        }
        assert_eq!(source(&self::transfer("alice", Some("hit"))), "cache");
        assert_eq!(source(&self::transfer("alice", Some("miss"))), "docker.io");
    }

    #[test]
    fn digests_are_cut() {
        let digest = digest("sha256:0123456789abcdef").into_string();
        assert_eq!(digest, " <code title=\"sha256:0123456789abcdef\">0123456789ab</code>");
    }
}
