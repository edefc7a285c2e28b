//! All that is known of the requests of a running gateway.

use crate::telemetry::last_pulls::LastPulls;
use crate::telemetry::metrics::{LoginMetrics, RequestMetrics};
use crate::telemetry::recent_problems::RecentProblems;
use crate::telemetry::transfers::Transfers;

/// The requests of a gateway: in numbers, and the ones that an operator may want to see.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// The requests in numbers.
    pub requests: RequestMetrics,
    /// The logins in numbers.
    pub logins: LoginMetrics,
    /// The transfers under way.
    pub transfers: Transfers,
    /// The last requests that were refused or failed.
    pub problems: RecentProblems,
    /// The last pull of each image.
    pub pulls: LastPulls,
}

impl Traffic {
    /// Returns the traffic of a gateway with `workers` workers, which has had none.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            requests: RequestMetrics::new(workers),
            logins: LoginMetrics::default(),
            transfers: Transfers::default(),
            problems: RecentProblems::default(),
            pulls: LastPulls::new(workers),
        }
    }
}
