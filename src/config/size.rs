//! Numbers of bytes as people write them: `100GiB`, `500MB`, `4096`.

use crate::config::value_error::ValueError;

/// The units and their bytes, the larger first.
const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1000),
    ("kB", 1000),
];

/// Parses a number of bytes, zero among them.
pub(super) fn parse(written: &str) -> Result<u64, ValueError> {
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let with_unit = UNITS.iter().find_map(|(unit, factor)| Some((written.strip_suffix(unit)?, *factor)));
    let (digits, factor) = with_unit.unwrap_or((written, 1));
    if !is_number(digits) {
        return Err(ValueError::value("is not a size; write for example \"100GiB\" or \"500MB\""));
    }
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.ok_or_else(|| ValueError::value("is more than any disk holds"))
}

/// Formats a size in the largest unit that divides it.
pub(crate) fn render(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    match UNITS.iter().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_numbers_with_units_of_1024_or_of_1000() {
        for (written, bytes) in [
            ("100GiB", 100 * 1024 * 1024 * 1024),
            ("500MB", 500_000_000),
            ("2TiB", 2 * 1024_u64.pow(4)),
            ("2TB", 2_000_000_000_000),
            ("7GB", 7_000_000_000),
            ("3MiB", 3 * 1024 * 1024),
            ("1KiB", 1024),
            ("1KB", 1000),
            ("1kB", 1000),
            ("4096", 4096),
            ("0", 0),
        ] {
            assert_eq!(parse(written).unwrap(), bytes, "{written}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for written in ["", "GiB", "100 GiB", "1.5GiB", "-1GB", "+1", "10g", "10gib", "5%", "10PiB", "0x10"] {
            assert!(parse(written).is_err(), "{written}");
        }
        for written in ["99999999999999999999", "99999999TiB"] {
            assert_eq!(parse(written), Err(ValueError::value("is more than any disk holds")), "{written}");
        }
    }

    #[test]
    fn a_size_is_shown_in_the_largest_unit_that_fits() {
        for written in ["100GiB", "1TiB", "1536MiB", "500MB", "3TB"] {
            assert_eq!(render(parse(written).unwrap()), written);
        }
        assert_eq!((render(0).as_str(), render(1025).as_str()), ("0 bytes", "1025 bytes"));
    }

    proptest! {
        #[test]
        fn no_input_panics(written in "\\PC{0,30}") {
            let _ = parse(&written);
        }

        #[test]
        fn what_is_shown_can_be_read_again(bytes in any::<u64>()) {
            prop_assert_eq!(parse(render(bytes).trim_end_matches(" bytes")).unwrap(), bytes);
        }
    }
}
