//! The lifetime of a token.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::limits;
use crate::proto::TokenAnswer;

/// The lifetime of a token, from the moment at which it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// When a token that is in use is renewed.
    pub(crate) until_renewal: Duration,
    /// When it is not presented any more.
    pub(crate) until_end: Duration,
}

impl Lifetime {
    /// The lifetime of a token that does not say it.
    pub(crate) const UNKNOWN: Self =
        Self { until_renewal: Duration::from_secs(45), until_end: Duration::from_secs(60) };

    /// Returns the lifetime of a token that came at `now`, when the token endpoint's own clock said `date`.
    ///
    /// `expires_in` counts from `issued_at` where the answer has one (token auth, token.md), which is a time of the
    /// endpoint's clock: its age is measured on that clock, so that ours may be wrong. An `issued_at` that is more than a
    /// day off says nothing: some endpoints send Go's zero time, the year 1 (external-auth-server PR#162).
    pub(crate) fn of(answer: &TokenAnswer, date: Option<SystemTime>, now: SystemTime) -> Self {
        let whole = match answer.lifetime() {
            0 => crate::proto::token::DEFAULT_LIFETIME,
            seconds => seconds.min(limits::TOKEN_LIFETIME_MOST.as_secs()),
        };
        let age = answer.issued_at_unix().map(|issued| seconds(date.unwrap_or(now)).saturating_sub(issued));
        let age = age.filter(|age| age.unsigned_abs() <= DAY).and_then(|age| u64::try_from(age).ok());
        let age = age.unwrap_or_default();
        // A token that seems expired was issued this moment: one of the clocks is wrong.
        let left = whole.saturating_sub(age).max(whole.min(SHORTEST));
        Self::lasting(Duration::from_secs(left))
    }

    /// Leaves a tenth, and at most half a minute, for the way and for clocks that differ.
    fn lasting(left: Duration) -> Self {
        let until_end = left - (left / 10).min(MARGIN);
        Self { until_renewal: until_end * 3 / 4, until_end }
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

const MARGIN: Duration = Duration::from_secs(30);

/// Seconds that `issued_at` may be off the endpoint's own date.
const DAY: u64 = 24 * 60 * 60;

/// The shortest lifetime, in seconds, that is believed. A 401 ends it earlier.
const SHORTEST: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUED: &str = r#""issued_at":"2026-01-01T00:00:00Z""#;

    fn at(seconds: i64) -> SystemTime {
        let issued = 1_767_225_600;
        UNIX_EPOCH + Duration::from_secs(u64::try_from(issued + seconds).unwrap())
    }

    fn end(answer: &str, date: Option<SystemTime>, now: SystemTime) -> u64 {
        let answer = TokenAnswer::parse(format!(r#"{{"token":"t"{answer}}}"#).as_bytes()).unwrap();
        let lifetime = Lifetime::of(&answer, date, now);
        assert!(lifetime.until_renewal < lifetime.until_end);
        lifetime.until_end.as_secs()
    }

    #[test]
    fn a_token_serves_for_its_time_less_a_margin() {
        assert_eq!(end("", None, at(0)), 54, "60 s when the answer does not say");
        assert_eq!(end(r#","expires_in":300"#, None, at(0)), 270);
        assert_eq!(end(r#","expires_in":3600"#, None, at(0)), 3570);
        assert_eq!(end(r#","expires_in":10"#, None, at(0)), 9);
        assert_eq!(end(r#","expires_in":0"#, None, at(0)), 54);
    }

    #[test]
    fn it_counts_from_issued_at() {
        let answer = format!(r#","expires_in":300,{ISSUED}"#);
        assert_eq!(end(&answer, None, at(100)), 180);
        assert_eq!(end(&answer, Some(at(100)), at(100)), 180);
    }

    #[test]
    fn the_endpoints_date_outweighs_the_local_clock() {
        let answer = format!(r#","expires_in":300,{ISSUED}"#);
        assert_eq!(end(&answer, Some(at(0)), at(7200)), 270, "ours is fast");
        assert_eq!(end(&answer, Some(at(0)), at(-7200)), 270, "ours is slow");
    }

    #[test]
    fn a_token_issued_expired_serves_for_a_moment() {
        let answer = format!(r#","expires_in":300,{ISSUED}"#);
        assert_eq!(end(&answer, None, at(7200)), 9);
        assert_eq!(end(&answer, None, at(-7200)), 270, "issued in the future");
    }

    #[test]
    fn an_absurd_issued_at_is_ignored() {
        for issued in
            ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2025-12-30T23:59:59Z", "9999-12-31T23:59:59Z"]
        {
            let answer = format!(r#","expires_in":300,"issued_at":"{issued}""#);
            assert_eq!(end(&answer, None, at(0)), 270, "{issued}");
            assert_eq!(end(&answer, Some(at(0)), at(-7200)), 270, "{issued}");
        }
        let answer = r#","expires_in":172800,"issued_at":"2025-12-31T00:00:00Z""#;
        assert_eq!(end(answer, None, at(0)), 9, "a day is believed");
    }

    #[test]
    fn nothing_lasts_for_ever() {
        let most = limits::TOKEN_LIFETIME_MOST.as_secs();
        assert!(end(r#","expires_in":99999999999999"#, None, at(0)) < most);
    }
}
