//! Times, lengths of time and foreign texts, in words for people.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Returns seconds since 1970; before that, 0.
pub(super) fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Formats seconds since 1970 as `2026-11-22 10:00:00 UTC`; `None` before 1970 and after 9999.
pub(super) fn utc(seconds: i64) -> Option<String> {
    let time = Timestamp::from_second(seconds).ok().filter(|_| seconds >= 0)?;
    Some(time.strftime("%F %T UTC").to_string())
}

/// Formats a duration in its two greatest units: `4 min 58 s`, `1 h`, `2 d 3 h`.
pub(in crate::cli) fn duration(seconds: u64) -> String {
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(units.len() - 1);
    let shown = units[first..].iter().take(2).enumerate();
    let shown = shown.filter(|(place, (count, _))| *place == 0 || *count > 0);
    shown.map(|(_, (count, unit))| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

/// Formats a time relative to `now`: `in 4 min 58 s`, `2 h ago`, `now`.
pub(super) fn relative(at: i64, now: i64) -> String {
    let apart = duration(at.abs_diff(now));
    match at.cmp(&now) {
        std::cmp::Ordering::Greater => format!("in {apart}"),
        std::cmp::Ordering::Less => format!("{apart} ago"),
        std::cmp::Ordering::Equal => "now".to_owned(),
    }
}

/// Formats a time twice: `2026-11-22 10:00:00 UTC, in 4 min 58 s`; `None` as [`utc`].
pub(super) fn moment(at: i64, now: i64) -> Option<String> {
    Some(format!("{}, {}", utc(at)?, relative(at, now)))
}

/// Makes a foreign `text` safe for a terminal, and cuts it: control characters and those
/// that turn the direction of writing are escaped.
pub(in crate::cli) fn plain(text: &str) -> String {
    let mut plain = String::new();
    for (place, character) in text.chars().enumerate() {
        if place == LONGEST {
            plain.push('\u{2026}');
            break;
        }
        if speaks_to_terminals(character) {
            plain.extend(character.escape_unicode());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// Returns true for a control character, and for one that turns the direction of writing.
pub(in crate::cli) fn speaks_to_terminals(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes in JSON, as JSON does it, what [`speaks_to_terminals`] and JSON leaves as it is.
pub(in crate::cli) fn plain_json(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for character in json.chars() {
        if character != '\n' && speaks_to_terminals(character) {
            plain.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            plain.push(character);
        }
    }
    plain
}

/// In characters.
const LONGEST: usize = 400;

/// Formats an error and its sources, each only where it says something new.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        next = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_their_two_greatest_units() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (298, "4 min 58 s"),
            (3600, "1 h"),
            (3601, "1 h"),
            (3660, "1 h 1 min"),
            (183_600, "2 d 3 h"),
            (86_400 + 59, "1 d"),
        ] {
            assert_eq!(duration(seconds), words);
        }
        assert!(duration(u64::MAX).contains(" d"));
    }

    #[test]
    fn moments_are_told_twice() {
        let at = 1_795_341_600;
        assert_eq!(moment(at, at - 298).as_deref(), Some("2026-11-22 10:00:00 UTC, in 4 min 58 s"));
        assert_eq!(moment(at, at + 7200).as_deref(), Some("2026-11-22 10:00:00 UTC, 2 h ago"));
        assert_eq!(moment(at, at).as_deref(), Some("2026-11-22 10:00:00 UTC, now"));
        for never in [-1, i64::MIN, i64::MAX, 253_402_300_800] {
            assert_eq!(moment(never, at), None);
        }
    }

    #[test]
    fn foreign_text_can_not_speak_to_the_terminal() {
        assert_eq!(plain("a\u{1b}[31m\u{9b}b\r\n\u{202e}c"), "a\\u{1b}[31m\\u{9b}b\\u{d}\\u{a}\\u{202e}c");
        assert_eq!(plain("Österreich \u{2013} 漢"), "Österreich \u{2013} 漢");
        assert_eq!(plain(&"x".repeat(1000)).chars().count(), LONGEST + 1);
    }

    #[test]
    fn json_stays_json_when_it_is_made_plain() {
        let value = serde_json::json!({ "a\u{9b}": "\u{202e}b\u{1b}\u{7f}\n" });
        let plain = plain_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            !plain.chars().any(|character| character != '\n' && speaks_to_terminals(character)),
            "{plain}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&plain).unwrap(), value);
    }
}
