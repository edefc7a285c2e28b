//! DER, as certificates and keys are written (X.690).

/// An element of DER (X.690 section 8.1): a tag of one byte and its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// The element with its tag and length.
    pub(super) whole: &'a [u8],
}

impl<'a> Element<'a> {
    /// Splits off the first element.
    pub(super) fn first(der: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&tag, rest) = der.split_first()?;
        let (&short, rest) = rest.split_first()?;
        let (length, rest) = match short {
            0..=0x7f => (usize::from(short), rest),
            0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
                (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = &der[..der.len() - rest.len()];
        Some((Self { tag, content, whole }, rest))
    }
}

impl<'a> Element<'a> {
    /// Splits off an element that is all there is.
    pub(super) fn only(der: &'a [u8]) -> Option<Self> {
        Self::first(der).filter(|(_, rest)| rest.is_empty()).map(|(element, _)| element)
    }

    /// Returns the elements within it.
    pub(super) fn parts(self) -> Elements<'a> {
        Elements(self.content)
    }

    /// Returns the bits of a BIT STRING that fills its last byte.
    pub(super) fn bits(self) -> Option<&'a [u8]> {
        self.content.strip_prefix(&[0]).filter(|_| self.tag == BIT_STRING)
    }
}

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const SEQUENCE: u8 = 0x30;

/// Formats the content of an OBJECT IDENTIFIER: `1.3.132.0.10` (X.690 section 8.19).
pub(super) fn dotted(content: &[u8]) -> String {
    let (mut numbers, mut number) = (Vec::new(), 0_u64);
    for byte in content {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    if let Some(first) = numbers.first().copied() {
        let root = (first / 40).min(2);
        numbers.splice(..1, [root, first - 40 * root]);
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// Elements that follow each other, up to one that is malformed.
pub(super) struct Elements<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let (element, rest) = Element::first(self.0)?;
        self.0 = rest;
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_identifiers_are_written_with_dots() {
        assert_eq!(dotted(&[0x2b, 0x81, 0x04, 0x00, 0x0a]), "1.3.132.0.10");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]), "1.2.840.10045.3.1.7");
        assert_eq!(dotted(&[0x55, 0x1d, 0x11]), "2.5.29.17");
        assert_eq!(dotted(&[]), "");
        dotted(&[0xff; 40]);
    }

    #[test]
    fn lengths_beyond_the_end_are_refused() {
        for der in [
            &[][..],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x30, 0x82, 0, 9, 1],
        ] {
            assert!(Element::first(der).is_none(), "{der:?}");
        }
        assert!(Element::only(&[0x30, 0]).is_some() && Element::only(&[0x30, 0, 0]).is_none());
    }
}
