//! Timestamps of log lines: RFC 3339, in UTC, to the microsecond.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::clock;

/// A second that has been written, which the next line most likely shares.
pub(super) struct Timestamp {
    second: u64,
    text: String,
}

impl Timestamp {
    /// Appends the time now.
    pub(super) fn push_now(out: &mut String) {
        thread_local! {
            static LAST: RefCell<Timestamp> = const { RefCell::new(Timestamp { second: 0, text: String::new() }) };
        }
        LAST.with_borrow_mut(|last| last.push(clock::wall(), out));
    }

    fn push(&mut self, time: SystemTime, out: &mut String) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.text.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            self.text = date_and_time(self.second);
        }
        out.push_str(&self.text);
        // Writing to a String can't fail.
        let _ = write!(out, ".{:06}Z", since.subsec_micros());
    }
}

/// Formats the second `seconds` after 1970: `2000-02-29T00:00:00`, in UTC.
fn date_and_time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or_default();
    jiff::Timestamp::from_second(seconds).unwrap_or_default().strftime("%FT%T").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ];
        let mut timestamp = Timestamp { second: 0, text: String::new() };
        for (seconds, text) in cases {
            let mut out = String::new();
            timestamp.push(UNIX_EPOCH + Duration::from_secs(seconds), &mut out);
            assert_eq!(out, text);
        }
    }
}
