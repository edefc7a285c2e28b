//! The metrics of the certificate that an ACME server issues.

use std::fmt;

use crate::acme::AcmeStatus;
use crate::admin::metrics::exposition::{Exposition, labelled};

/// The orders so far, and the certificate that is there.
#[derive(Debug)]
pub(super) struct AcmeSnapshot {
    orders: [(&'static str, u64); 2],
    not_after: u64,
}

impl AcmeSnapshot {
    pub(super) fn of(status: &AcmeStatus) -> Self {
        let orders = [("issued", status.issued()), ("failed", status.failed())];
        Self { orders, not_after: status.not_after() }
    }

    /// Writes them.
    pub(super) fn encode(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.counter(
            "dockgate_acme_orders",
            "Orders of a certificate from the ACME server, by outcome",
            &labelled("outcome", &self.orders),
        )?;
        out.one(
            "dockgate_acme_certificate_not_after_timestamp_seconds",
            "The end of the certificate in seconds since 1970, 0 while there is none",
            self.not_after,
        )
    }
}

/// Returns values of which each is another.
#[cfg(test)]
pub(super) fn sample() -> AcmeSnapshot {
    AcmeSnapshot { orders: [("issued", 2), ("failed", 1)], not_after: 1_800_000_000 }
}
