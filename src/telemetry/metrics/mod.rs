//! Numbers that count what the gateway does, cheap enough for every request.

mod counter;
mod histogram;
mod logins;
mod requests;

pub(crate) use counter::Counter;
pub(crate) use histogram::{Distribution, Histogram};
pub(crate) use logins::{LoginMethod, LoginMetrics, LoginResult};
pub(crate) use requests::{FinishedRequest, RequestMetrics, RequestTotals};
