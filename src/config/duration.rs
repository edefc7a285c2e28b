//! Lengths of time as Go and systemd write them: `10s`, `1m30s`, `500ms`, `7d`.

use std::time::Duration;

use super::limits::TIMEOUT_MOST;
use super::reader::Wrong;

/// The units and their milliseconds. `ms` stands before `m`.
const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A length of time up to [`TIMEOUT_MOST`], zero among them.
pub(super) fn parse(written: &str) -> Result<Duration, Wrong> {
    let length = units(written).ok_or("is not a duration; write for example \"10s\", \"5m\" or \"1h30m\"")?;
    if length > TIMEOUT_MOST {
        return Err(Wrong::value("is too long; write at most \"365d\""));
    }
    Ok(length)
}

/// As [`parse`], and longer than nothing: where zero would mean that nothing is ever in time.
pub(super) fn parse_positive(written: &str) -> Result<Duration, Wrong> {
    match parse(written)? {
        Duration::ZERO => Err(Wrong::value("leaves no time at all; write for example \"10s\"")),
        length => Ok(length),
    }
}

fn units(written: &str) -> Option<Duration> {
    let mut rest = written;
    let mut milliseconds = 0_u64;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        milliseconds = milliseconds.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = after.strip_prefix(unit)?;
    }
    (!written.is_empty()).then_some(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (written, milliseconds) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(written).unwrap(), Duration::from_millis(milliseconds), "{written}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let wrong =
            ["", "10", "s", "10 s", "-1s", "1.5s", "10 parsecs", "1w", "99999999999999999999s", "366d"];
        for written in wrong {
            assert!(parse(written).is_err(), "{written}");
        }
        assert!(parse_positive("0s").is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(written in "\\PC{0,30}") {
            let _ = parse(&written);
        }

        #[test]
        fn seconds_are_seconds(seconds in 0_u64..31_536_000) {
            prop_assert_eq!(parse(&format!("{seconds}s")).unwrap(), Duration::from_secs(seconds));
        }
    }
}
