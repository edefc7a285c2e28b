//! The upstreams: health, latency, tokens and rate limits.

use std::time::SystemTime;

use maud::{Markup, html};

use crate::admin::dashboard::table::{Tone, ago, badge, table};
use crate::admin::dashboard::units;
use crate::admin::state::AdminState;
use crate::admin::upstream_state::UpstreamState;
use crate::clock;
use crate::upstream::Upstream;

/// Renders the upstreams.
pub(super) fn render(state: &AdminState) -> Markup {
    let (core, now) = (state.core(), clock::wall());
    let states = UpstreamState::all(&core);
    let rows = html! {
        @for (upstream, state) in core.settings.upstreams.iter().zip(&states) {
            tr {
                td { (state.name) br; small { (upstream.settings().url.to_string()) } }
                td { (health(state, now)) }
                td class="number" { (latency(upstream)) }
                td class="number" { (answers(upstream)) }
                td { (tokens(upstream)) }
                td { (rate_limits(upstream, now)) }
            }
        }
    };
    let heads = ["Upstream", "State", "#Answers in", "#Answers, failures", "Tokens", "Rate limit"];
    table("Upstreams", &heads, &rows)
}

fn health(state: &UpstreamState, now: SystemTime) -> Markup {
    let tone = match state.health {
        "ok" => Tone::Good,
        "failing" => Tone::Bad,
        _ => Tone::Neutral,
    };
    let word = if state.health == "unknown" { "not asked yet" } else { state.health };
    html! {
        (badge(word, tone))
        @if let Some(since) = state.since { " " small { "since " (ago(since, now)) } }
        @if let Some(circuit) = &state.circuit {
            @if circuit.is_open {
                br;
                (badge("circuit open", Tone::Bad))
                @if let Some(since) = circuit.since { " " small { (ago(since, now)) } }
            }
        }
        @if let Some(failure) = &state.failure { p class="reason" { (&**failure) } }
    }
}

fn latency(upstream: &Upstream) -> String {
    upstream.counters().latency().map_or_else(|| "–".to_owned(), units::latency)
}

fn answers(upstream: &Upstream) -> String {
    let counters = upstream.counters();
    let sum = |counts: &[(&'static str, u64)]| counts.iter().map(|(_, count)| count).sum::<u64>();
    let (answers, errors) = (sum(&counters.answers()), sum(&counters.errors()));
    format!("{}, {}", units::count(answers), units::count(errors))
}

fn tokens(upstream: &Upstream) -> Markup {
    let tokens = upstream.tokens();
    html! {
        @match tokens.valid {
            0 => "none",
            1 => "1 valid",
            valid => { (units::count(valid as u64)) " valid" },
        }
        @if let Some(failure) = &tokens.failure { p class="reason" { (failure) } }
    }
}

fn rate_limits(upstream: &Upstream, now: SystemTime) -> Markup {
    let limits = upstream.rate_limits();
    html! {
        @if limits.is_empty() { "none told" }
        @for (account, told) in &limits {
            div {
                (account) ": "
                @if told.limit.is_low() {
                    (badge(&left(told.limit.remaining, told.limit.limit), Tone::Warning))
                } @else {
                    (left(told.limit.remaining, told.limit.limit))
                }
                " "
                small {
                    @if let Some(reset) = told.limit.reset() {
                        "begins anew in " (units::span(reset)) ", told " (ago(told.at, now))
                    } @else if let Some(window) = told.limit.window {
                        "in any " (units::span(window)) ", told " (ago(told.at, now))
                    } @else {
                        "told " (ago(told.at, now))
                    }
                }
            }
        }
    }
}

fn left(remaining: u64, limit: Option<u64>) -> String {
    match limit {
        Some(limit) => format!("{} of {} left", units::count(remaining), units::count(limit)),
        None => format!("{} left", units::count(remaining)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::admin::upstream_state::Circuit;

    #[test]
    fn an_open_circuit_is_told_with_the_failure() {
        let (since, now) = (UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(120));
        let circuit = Some(Circuit { is_open: true, since: Some(since), openings: 1 });
        let failure = Some("it answered <b>502</b>".into());
        let name = "docker.io".to_owned();
        let state = UpstreamState { name, health: "failing", since: Some(since), failure, circuit };
        let text = health(&state, now).into_string();
        for part in ["failing", "circuit open", "2 min ago", "it answered &lt;b&gt;502&lt;/b&gt;"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn what_is_left_of_a_rate_limit_is_told() {
        assert_eq!((left(76, Some(100)), left(5, None)), ("76 of 100 left".into(), "5 left".into()));
    }
}
