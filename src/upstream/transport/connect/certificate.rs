//! Reads certificates for display (RFC 5280 section 4.1). Nothing is decided by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The owner, issuer and validity of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// Its owner: `CN=registry.example.com, O=Example`. Empty where only its names say so.
    pub subject: String,
    /// The name of the signer.
    pub issuer: String,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// The end of its validity.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads the DER of a certificate. `None` where it is malformed.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let (certificate, _) = Element::first(der)?;
        let (signed, _) = Element::first(certificate.content)?;
        let mut fields = Elements(signed.content).filter(|field| field.tag != VERSION);
        // The serial number and the algorithm.
        let (_, _) = (fields.next()?, fields.next()?);
        let (issuer, validity, subject) = (fields.next()?, fields.next()?, fields.next()?);
        let mut times = Elements(validity.content);
        Some(Self {
            subject: name(&subject),
            issuer: name(&issuer),
            not_before: time(&times.next()?)?,
            not_after: time(&times.next()?)?,
        })
    }
}

const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// The attributes of a name that are shown (RFC 5280 appendix A.1), by their number below 2.5.4.
const ATTRIBUTES: [(u8, &str); 2] = [(3, "CN"), (10, "O")];

/// An element of DER (X.690 section 8.1): a tag of one byte and its content.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

impl<'a> Element<'a> {
    /// Splits off the first element.
    fn first(der: &'a [u8]) -> Option<(Self, &'a [u8])> {
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
        Some((Self { tag, content }, rest))
    }
}

/// Elements that follow each other, up to one that is malformed.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let (element, rest) = Element::first(self.0)?;
        self.0 = rest;
        Some(element)
    }
}

/// Renders a name: a sequence of sets of pairs of a type and a value.
fn name(name: &Element<'_>) -> String {
    let pairs = Elements(name.content).flat_map(|set| Elements(set.content));
    let shown = pairs.filter_map(|pair| {
        let mut pair = Elements(pair.content);
        let (kind, value) = (pair.next()?, pair.next()?);
        Some(format!("{}={}", attribute(&kind)?, text(value.content)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn attribute(kind: &Element<'_>) -> Option<&'static str> {
    let [0x55, 0x04, last] = *kind.content else { return None };
    let known = ATTRIBUTES.iter().find(|(number, _)| kind.tag == OBJECT_IDENTIFIER && *number == last);
    known.map(|(_, name)| *name)
}

/// Removes what could disturb a terminal: the server has chosen the text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

const LONGEST: usize = 128;

/// `YYMMDDHHMMSSZ`, of 1950 to 2049, or with four digits of the year (RFC 5280 section 4.1.2.5).
fn time(element: &Element<'_>) -> Option<SystemTime> {
    let digits = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    let century = match digits.as_bytes().first()? {
        _ if element.tag != UTC_TIME => "",
        b'0'..=b'4' => "20",
        _ => "19",
    };
    let digits = [century, digits].concat();
    if digits.len() != 14 || !digits.is_ascii() {
        return None;
    }
    let part = |from: usize, to: usize| &digits[from..to];
    let written = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4),
        part(4, 6),
        part(6, 8),
        part(8, 10),
        part(10, 12),
        part(12, 14)
    );
    let time: jiff::Timestamp = written.parse().ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn der(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "registry.example\u{1b}[31m");
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn owner_signer_and_times_are_read() {
        let read = Certificate::parse(&der((2000, 2, 29), (2100, 3, 1))).unwrap();
        for name in [&read.subject, &read.issuer] {
            assert!(name.contains("CN=registry.example[31m") && name.contains("O=Example"), "{name}");
        }
        assert_eq!((read.not_before, read.not_after), (at(951_782_400), at(4_107_542_400)));
    }

    #[test]
    fn truncated_certificates_are_refused() {
        let der = der((2000, 1, 1), (2001, 1, 1));
        for length in 0..100 {
            assert_eq!(Certificate::parse(&der[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(place in 0_usize..200, byte: u8, bytes: Vec<u8>) {
            let _ = Certificate::parse(&bytes);
            let mut der = der((2000, 1, 1), (2001, 1, 1));
            let place = place % der.len();
            der[place] = byte;
            let _ = Certificate::parse(&der);
        }
    }
}
