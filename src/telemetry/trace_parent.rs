//! The `traceparent` field (W3C Trace Context, section 3.2).

/// The place of a request in a trace, as a proxy in front has written it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent([u8; LENGTH]);

/// The length of version 00: `00-TRACE-PARENT-FLAGS`.
const LENGTH: usize = 55;

impl TraceParent {
    /// Reads the value of the field. Of a later version only the parts that version 00 has are read, as the
    /// specification asks.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let known: [u8; LENGTH] = value.get(..LENGTH)?.try_into().ok()?;
        let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let parts = [&known[..2], &known[3..35], &known[36..52], &known[53..]];
        let divided = [2, 35, 52].iter().all(|place| known[*place] == b'-');
        let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
        let version = &known[..2];
        let ends = if version == b"00" { value.len() == LENGTH } else { ends_or_goes_on(value) };
        let valid = divided
            && ends
            && version != b"ff"
            && parts.iter().all(|part| is_hex(part))
            && !is_zero(parts[1])
            && !is_zero(parts[2]);
        valid.then_some(Self(known))
    }

    /// Returns the text.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Returns the id of the trace: 32 hexadecimal digits.
    pub(crate) fn trace_id(&self) -> &[u8] {
        &self.0[3..35]
    }
}

fn ends_or_goes_on(value: &[u8]) -> bool {
    value.get(LENGTH).is_none_or(|next| *next == b'-')
}

impl std::fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_parent_has_its_trace() {
        let read = TraceParent::parse(GOOD.as_bytes()).unwrap();
        assert_eq!((read.as_str(), read.trace_id()), (GOOD, &b"4bf92f3577b34da6a3ce929d0e0e4736"[..]));
        let later = format!("cc{}-more", &GOOD[2..]);
        assert!(TraceParent::parse(later.as_bytes()).is_some());
    }

    #[test]
    fn a_malformed_trace_parent_does_not_count() {
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            &*GOOD.to_uppercase(),
            &*format!("{GOOD}-more"),
            &*format!("ff{}", &GOOD[2..]),
            &*GOOD.replace('-', "_"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(TraceParent::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
