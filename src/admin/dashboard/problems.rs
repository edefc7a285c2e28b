//! The last errors and denials.

use std::time::SystemTime;

use maud::{Markup, html};

use crate::admin::dashboard::table::{Tone, ago, badge, nothing, table};
use crate::admin::dashboard::transfers::digest;
use crate::admin::state::AdminState;
use crate::clock;
use crate::telemetry::RecentProblem;

/// The problems that are shown.
const SHOWN: usize = 20;

/// Renders the last problems: first those of the gateway itself, which last, and then those of requests.
pub(super) fn render(state: &AdminState) -> Markup {
    let (lasting, last, now) = (state.problems(), state.traffic().problems.last(SHOWN), clock::wall());
    if lasting.is_empty() && last.is_empty() {
        return nothing("No request was refused or failed lately.");
    }
    let rows = html! {
        @for problem in &last { (row(problem, now)) }
    };
    html! {
        @for problem in &lasting {
            p { (badge("old version in force", Tone::Bad)) " " (problem) }
        }
        @if !last.is_empty() {
            (table("Recent errors and denials", &["When", "Client", "Request", "Answer", "Why"], &rows))
        }
    }
}

fn row(problem: &RecentProblem, now: SystemTime) -> Markup {
    let tone = if problem.status >= 500 { Tone::Bad } else { Tone::Warning };
    html! {
        tr {
            td { (ago(problem.at, now)) br; small { code title="request id" { (problem.request_id.as_str()) } } }
            td { (problem.user.as_deref().unwrap_or("–")) br; small { (problem.client.to_string()) } }
            td {
                (problem.operation)
                @if let Some(subject) = &problem.subject { br; small { (subject_of(subject)) } }
            }
            td { (badge(&problem.status.to_string(), tone)) br; small class="whole" { (problem.cause) } }
            td {
                (problem.reason)
                @if let Some(upstream) = &problem.upstream { " " small { "(" (&**upstream) ")" } }
                @if let Some(rule) = &problem.rule { p class="reason" { "Rule: " (rule) } }
            }
        }
    }
}

/// Renders a repository and what follows it, a digest shortened.
fn subject_of(subject: &str) -> Markup {
    match subject.split_once(' ') {
        Some((repository, reference)) if reference.contains(':') => {
            html! { (repository) (digest(reference)) }
        }
        _ => html! { (subject) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::RequestId;

    #[test]
    fn a_denial_is_told_with_reason_and_rule() {
        let now = clock::wall();
        let problem = RecentProblem {
            at: now,
            request_id: RequestId::next(),
            client: [192, 0, 2, 1].into(),
            user: Some("<b>bob</b>".into()),
            operation: "start_upload",
            subject: Some("team/app latest".to_owned()),
            upstream: Some("docker.io".into()),
            status: 403,
            cause: "denied",
            reason: "bob may not push team/app".to_owned(),
            rule: Some("dockgate.toml:12 *: pull in **".to_owned()),
        };
        let row = row(&problem, now).into_string();
        for part in [
            "&lt;b&gt;bob&lt;/b&gt;",
            "192.0.2.1",
            "team/app latest",
            "badge warning\">403",
            "bob may not push team/app",
            "Rule: dockgate.toml:12",
            problem.request_id.as_str(),
        ] {
            assert!(row.contains(part), "{part} is not in {row}");
        }
    }
}
