//! Times as JSON documents write them.

/// The seconds since 1970 of a `date-time` (RFC 3339 section 5.6), fractions cut off. A leap second counts as the
/// second after it.
pub(crate) fn unix_seconds(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (time, rest) = rest.strip_prefix(['T', 't'])?.split_at_checked(8)?;
    let [year, month, day] = numbers(date, b'-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, b':', [2, 2, 2])?;
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let local = days_since_1970(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
    Some(local - offset(fraction(rest)?)?)
}

/// Parts of fixed widths with a divider between them.
fn numbers(text: &str, divider: u8, widths: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(char::from(divider));
    let parts = widths.map(|width| parts.next().and_then(|part| number(part, width)));
    let [Some(a), Some(b), Some(c)] = parts else { return None };
    Some([a, b, c])
}

fn number(text: &str, width: usize) -> Option<i64> {
    let digits = text.len() == width && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// `time-secfrac = "." 1*DIGIT`, skipped.
fn fraction(text: &str) -> Option<&str> {
    match text.strip_prefix('.') {
        Some(digits) => {
            let rest = digits.trim_start_matches(|c: char| c.is_ascii_digit());
            (rest.len() < digits.len()).then_some(rest)
        }
        None => Some(text),
    }
}

/// `time-offset = "Z" / ("+" / "-") time-hour ":" time-minute`, in seconds east.
fn offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, text) = match text.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, text.strip_prefix('-')?),
    };
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute) = (number(hour, 2)?, number(minute, 2)?);
    (hour <= 23 && minute <= 59).then_some(sign * (hour * 3600 + minute * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts in years that begin with March, so that the leap day is the last of one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2015-05-20T12:34:56.789Z", 1_432_125_296),
            ("2026-07-16T23:59:59.123456789+02:00", 1_784_239_199),
            ("1969-12-31T16:00:00-08:00", 0),
            ("2016-12-31t23:59:60z", 1_483_228_800),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("0000-01-01T00:00:00Z", -62_167_219_200),
        ];
        for (text, seconds) in cases {
            assert_eq!(unix_seconds(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let bad = [
            "",
            "2015-05-20",
            "2015-05-20T12:34:56",
            "2015-05-20 12:34:56Z",
            "2015-13-20T12:34:56Z",
            "2015-02-29T00:00:00Z",
            "2015-00-20T12:34:56Z",
            "2015-05-00T12:34:56Z",
            "2015-05-20T24:00:00Z",
            "2015-05-20T12:60:00Z",
            "2015-05-20T12:34:56.Z",
            "2015-05-20T12:34:56+2:00",
            "2015-05-20T12:34:56+02:00x",
            "2015-05-20T12:34:56Zx",
            "+015-05-20T12:34:56Z",
            "2015-05-2éT12:34:56Z",
            "2015-05-20T12:34:5é",
        ];
        for text in bad {
            assert_eq!(unix_seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn days_follow_each_other(year in 0_i64..9999, month in 1_i64..=12) {
            let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            let last = days_since_1970(year, month, days_in(year, month));
            prop_assert_eq!(last + 1, days_since_1970(next_year, next_month, 1));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,30}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\PC{0,8}") {
            let _ = unix_seconds(&text);
        }
    }
}
