//! The configuration in force and the certificates, both without secrets.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use crate::admin::dashboard::table::{Tone, ago, badge, nothing, table};
use crate::admin::dashboard::units;
use crate::admin::state::AdminState;
use crate::clock;
use crate::server::{CertificateInForce, Certificates};

/// The days that are left when a certificate should have been renewed: Let's Encrypt's clients renew with thirty left.
const SOON: u64 = 21;

/// The seconds of a day.
const DAY: u64 = 24 * 60 * 60;

/// Renders the certificates that are served.
pub(super) fn certificates(state: &AdminState) -> Markup {
    let (certificates, now) = (state.certificates().map(Certificates::in_force), clock::wall());
    let Some(certificates) = certificates else { return nothing("TLS does not end here.") };
    let rows = html! {
        @for certificate in &certificates {
            tr {
                td { (certificate.names.join(", ")) br; small { (certificate.file.display().to_string()) } }
                td { (left(certificate, now)) }
                td { (units::timestamp(certificate.not_after)) }
            }
        }
    };
    table("Certificates", &["Names", "Left", "Ends"], &rows)
}

fn left(certificate: &CertificateInForce, now: SystemTime) -> Markup {
    match certificate.not_after.duration_since(now) {
        Err(_) => badge("over", Tone::Bad),
        Ok(left) => {
            let tone = if left < Duration::from_secs(SOON * DAY) { Tone::Warning } else { Tone::Good };
            let days = left.as_secs() / DAY;
            let days = if days == 1 { "1 day".to_owned() } else { format!("{} days", units::count(days)) };
            badge(&days, tone)
        }
    }
}

/// Renders the configuration in force, and when its parts were reloaded.
pub(super) fn configuration(state: &AdminState) -> Markup {
    let now = clock::wall();
    let lines = state.configuration();
    html! {
        dl class="configuration" {
            @for (what, how) in &lines {
                dt { (what) }
                dd { (how) }
            }
        }
        p class="note" {
            "dockgate " (env!("CARGO_PKG_VERSION")) ", started " (ago(state.started(), now)) "."
            @for reload in state.reloads() {
                " "
                @if reload.problem.is_none() {
                    (reload.what) " reloaded " (ago(reload.at, now)) "."
                } @else {
                    (badge(reload.what, Tone::Bad)) " could not be reloaded " (ago(reload.at, now)) "."
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_certificate_near_its_end_is_marked() {
        let certificate = |days: u64| CertificateInForce {
            file: "certs/domain.crt".into(),
            names: vec!["localhost".to_owned()],
            not_after: UNIX_EPOCH + Duration::from_secs(days * DAY),
        };
        let left =
            |days: u64| left(&certificate(days), UNIX_EPOCH + Duration::from_secs(10 * DAY)).into_string();
        assert_eq!(left(100), "<span class=\"badge good\">90 days</span>");
        assert_eq!(left(11), "<span class=\"badge warning\">1 day</span>");
        assert_eq!(left(9), "<span class=\"badge bad\">over</span>");
    }
}
