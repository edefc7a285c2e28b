//! The other replicas of the gateway: which of them answer, and what came from each.

use maud::{Markup, html};

use crate::admin::dashboard::table::{Tone, badge, nothing, table};
use crate::admin::dashboard::units;
use crate::admin::state::AdminState;
use crate::cache::MemberReport;

/// Renders the members of the fleet.
pub(super) fn render(state: &AdminState) -> Markup {
    let Some(fleet) = state.fleet() else { return nothing("This gateway is alone.") };
    let (answered, sent) = fleet.answers.totals();
    html! {
        @if let Some(problem) = fleet.membership.problem() {
            p { (badge("not looked up", Tone::Warning)) " " (problem) }
        }
        (table("Replicas of this gateway", &["Replica", "State", "#Asked", "#Failed", "#Received"], &rows(&fleet.membership.report())))
        p class="note" {
            (units::count(answered)) " questions of other replicas answered with " (units::bytes(sent)) " since the start"
        }
    }
}

fn rows(members: &[MemberReport]) -> Markup {
    html! {
        @for member in members {
            tr {
                td { (member.name) }
                td {
                    @if member.is_own {
                        (badge("this one", Tone::Neutral))
                    } @else if let Some(reason) = &member.resting {
                        (badge("passed over", Tone::Bad)) " " (reason)
                    } @else {
                        (badge("ok", Tone::Good))
                    }
                }
                td class="number" { (units::count(member.asked)) }
                td class="number" { (units::count(member.failed)) }
                td class="number" { (units::bytes(member.bytes)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_does_not_answer_is_shown_with_its_reason() {
        let member = |name: &str, is_own, resting: Option<&str>| MemberReport {
            name: name.into(),
            is_own,
            resting: resting.map(Into::into),
            asked: 12,
            failed: 1,
            bytes: 5_000_000,
        };
        let rows = rows(&[
            member("a:1", true, None),
            member("b:1", false, Some("<refused>")),
            member("c:1", false, None),
        ]);
        let text = rows.into_string();
        assert!(
            text.contains("this one") && text.contains("&lt;refused&gt;") && text.contains("5.0 MB"),
            "{text}"
        );
        assert_eq!(text.matches("badge good").count(), 1);
    }
}
