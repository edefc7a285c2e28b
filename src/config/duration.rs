//! Lengths of time as Go and systemd write them: `10s`, `1m30s`, `500ms`, `7d`.

use std::time::Duration;

use crate::config::limits::TIMEOUT_MOST;
use crate::config::value_error::ValueError;

/// The units and their milliseconds. `ms` stands before `m`.
const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Go's units and their nanoseconds; there are no days. `ns`, `us` and `ms` stand before `s` and `m`.
const GO_UNITS: &[(&str, f64)] =
    &[("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Parses a duration up to [`TIMEOUT_MOST`]. Zero needs no unit.
pub(super) fn parse(written: &str) -> Result<Duration, ValueError> {
    if written == "0" {
        return Ok(Duration::ZERO);
    }
    let length = units(written).ok_or("is not a duration; write for example \"10s\", \"5m\" or \"1h30m\"")?;
    if length > TIMEOUT_MOST {
        return Err(ValueError::value("is too long; write at most \"365d\""));
    }
    Ok(length)
}

/// Parses a duration as [`parse`] does, and refuses zero.
pub(super) fn parse_positive(written: &str) -> Result<Duration, ValueError> {
    match parse(written)? {
        Duration::ZERO => Err(ValueError::value("leaves no time at all; write for example \"10s\"")),
        length => Ok(length),
    }
}

/// Parses a duration as Go's `time.ParseDuration` does, for the `registry` image's variables: `168h`, `1.5h`, and
/// `-1s` too, which is as good as none.
pub(super) fn parse_go(written: &str) -> Result<Duration, ValueError> {
    let unsigned = written.strip_prefix(['-', '+']).unwrap_or(written);
    let length = if unsigned == "0" { Some(0.0) } else { go_units(unsigned) };
    let seconds = length.ok_or("is not a duration; write for example \"168h\"")? / 1e9;
    if written.starts_with('-') {
        return Ok(Duration::ZERO);
    }
    Ok(Duration::try_from_secs_f64(seconds).map_or(TIMEOUT_MOST, |length| length.min(TIMEOUT_MOST)))
}

/// Parses Go's units into nanoseconds.
fn go_units(written: &str) -> Option<f64> {
    let mut rest = written;
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, factor) = GO_UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        nanoseconds += number.parse::<f64>().ok()? * factor;
        rest = after.strip_prefix(unit)?;
    }
    (!written.is_empty()).then_some(nanoseconds)
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
            ("0", 0),
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

    #[test]
    fn the_registrys_durations_are_gos() {
        for (written, seconds) in [
            ("168h", 604_800.0),
            ("1.5h", 5400.0),
            ("1h30m0s", 5400.0),
            (".5s", 0.5),
            ("250us", 0.000_25),
            ("250µs", 0.000_25),
            ("+1m", 60.0),
            ("0", 0.0),
            ("-24h", 0.0),
            ("1000000000000000000h", TIMEOUT_MOST.as_secs_f64()),
        ] {
            assert_eq!(parse_go(written).unwrap(), Duration::from_secs_f64(seconds), "{written}");
        }
        for wrong in ["", "-", "168", "7d", "1 h", "h", "1.2.3h", ".h", "1e3s", "nan", "infs"] {
            assert!(parse_go(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(written in "\\PC{0,30}") {
            let _ = parse(&written);
            let _ = parse_go(&written);
        }

        #[test]
        fn seconds_are_seconds(seconds in 0_u64..31_536_000) {
            prop_assert_eq!(parse(&format!("{seconds}s")).unwrap(), Duration::from_secs(seconds));
        }
    }
}
