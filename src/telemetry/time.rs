//! Times as logs have them: RFC 3339, in UTC, to the microsecond.

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

/// The time so many seconds after 1970: `2000-02-29T00:00:00`, in UTC.
pub(crate) fn date_and_time(seconds: u64) -> String {
    let (days, seconds) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The date that is `days` after 1970-01-01, in the Gregorian calendar. Counts in eras of 400 years that begin on
/// 1 March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
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
