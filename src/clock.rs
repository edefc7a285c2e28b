//! The one reader of time. Everything else takes time as an argument or asks here.

use std::time::{Instant, SystemTime};

/// The monotonic time, for deadlines and ages.
///
/// Under tokio's paused test clock this is tokio's time, so that tests can hold and advance it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock, for what is written down or compared with another machine's time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
