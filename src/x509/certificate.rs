//! Reads certificates (RFC 5280 section 4.1): for display, and for what a server must know of its own. No trust is decided
//! by it.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs;

use crate::proto::Authority;
use crate::x509::der::{Element, Elements, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, UTC_TIME};
use crate::x509::key_kind::KeyKind;

/// The owner, issuer, validity, names and key of a certificate.
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
    /// The version of X.509: 3, or 1 in old ones.
    pub version: u8,
    /// The host names and addresses that it is for, in lower case.
    pub names: Vec<String>,
    /// True if they are those of a subjectAltName, which clients want.
    pub has_san: bool,
    /// Its key.
    pub key: KeyKind,
    /// The key with its algorithm (SubjectPublicKeyInfo).
    pub(super) key_der: Vec<u8>,
    subject_der: Vec<u8>,
    issuer_der: Vec<u8>,
    /// What is signed, how, and the signature.
    signed: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

/// The names of a certificate's owner. `None` stands for each that cannot stand in a rule and in a line of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SubjectNames {
    pub(super) common: Vec<Option<String>>,
    /// In lower case.
    pub(super) dns: Vec<Option<String>>,
    pub(super) uris: Vec<Option<String>>,
    pub(super) emails: Vec<Option<String>>,
}

impl Certificate {
    /// Reads the DER of a certificate. `None` where it is malformed.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let certificate = Element::only(der).filter(|all| all.tag == SEQUENCE)?;
        let mut parts = certificate.parts();
        let signed = parts.next().filter(|signed| signed.tag == SEQUENCE)?;
        let (algorithm, signature) = (parts.next()?, parts.next()?.bits()?);
        let mut fields = signed.parts().peekable();
        let version = fields.next_if(|field| field.tag == VERSION).map_or(1, version_of);
        // The serial number and the algorithm.
        let (_, _) = (fields.next()?, fields.next()?);
        let (issuer, validity, subject) = (fields.next()?, fields.next()?, fields.next()?);
        let key = fields.next()?;
        let mut times = validity.parts();
        Some(Self {
            subject: name(&subject),
            issuer: name(&issuer),
            not_before: time(&times.next()?)?,
            not_after: time(&times.next()?)?,
            version,
            names: names(&subject, fields.find(|field| field.tag == EXTENSIONS)),
            has_san: alternative_names(signed.parts().find(|field| field.tag == EXTENSIONS)).is_some(),
            key: KeyKind::of_certificate(&key),
            key_der: key.whole.to_vec(),
            subject_der: subject.whole.to_vec(),
            issuer_der: issuer.whole.to_vec(),
            signed: signed.whole.to_vec(),
            algorithm: algorithm.content.to_vec(),
            signature: signature.to_vec(),
        })
    }

    /// Reads the DER of a client's certificate, and the names of its owner.
    pub(super) fn parse_with_names(der: &[u8]) -> Option<(Self, SubjectNames)> {
        let certificate = Self::parse(der)?;
        let signed = Element::only(&certificate.signed)?;
        let subject = Element::only(&certificate.subject_der)?;
        let named = |tag: u8| {
            let extensions = signed.parts().find(|field| field.tag == EXTENSIONS);
            let names = alternatives(extensions).into_iter().flat_map(Element::parts);
            // IA5String (RFC 5280 section 4.2.1.6).
            let ascii = |name: Element<'_>| nameable(name.content).filter(|text| text.is_ascii());
            names.filter(move |name| name.tag == tag).map(ascii).collect::<Vec<Option<String>>>()
        };
        let lower = |name: Option<String>| name.map(|name| name.to_ascii_lowercase());
        let names = SubjectNames {
            common: common_names(&subject).collect(),
            dns: named(DNS_NAME).into_iter().map(lower).collect(),
            uris: named(URI),
            emails: named(EMAIL),
        };
        Some((certificate, names))
    }

    /// Returns true if `issuer` may have signed it: by the names (RFC 5280 section 6.1.3).
    pub(super) fn is_issued_by(&self, issuer: &Self) -> bool {
        self.issuer_der == issuer.subject_der
    }

    /// Returns true unless its signature is not of this issuer's key. A signature of an unknown kind may be.
    pub(super) fn may_be_signed_by(&self, issuer: &Self) -> bool {
        self.is_signed_by(issuer).unwrap_or(true)
    }

    fn is_signed_by(&self, issuer: &Self) -> Option<bool> {
        let mut key = Element::only(&issuer.key_der)?.parts();
        let (kind, key) = (key.next()?, key.next()?.bits()?);
        let known = aws_lc_rs::default_provider().signature_verification_algorithms;
        let algorithm = known.all.iter().find(|known| {
            known.public_key_alg_id().as_ref() == kind.content
                && known.signature_alg_id().as_ref() == self.algorithm
        })?;
        Some(algorithm.verify_signature(key, &self.signed, &self.signature).is_ok())
    }

    /// Returns true if it names itself as its issuer.
    pub(super) fn is_self_issued(&self) -> bool {
        self.issuer_der == self.subject_der
    }
}

const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// Returns 3 for `[0] { INTEGER 2 }`.
fn version_of(field: Element<'_>) -> u8 {
    field
        .parts()
        .next()
        .and_then(|number| number.content.first().copied())
        .map_or(1, |number| number.saturating_add(1))
}

/// Returns the names that a certificate is for: those of its subjectAltName; where it has none, the common name of its
/// subject, as clients did before RFC 6125 and some still do.
fn names(subject: &Element<'_>, extensions: Option<Element<'_>>) -> Vec<String> {
    if let Some(names) = alternative_names(extensions) {
        return names;
    }
    let common = attributes(subject).filter(|(name, _)| *name == "CN").map(|(_, value)| value);
    common.filter_map(|name| host_name(&name)).collect()
}

/// Returns the DNS names and addresses of the subjectAltName (RFC 5280 section 4.2.1.6).
fn alternative_names(extensions: Option<Element<'_>>) -> Option<Vec<String>> {
    let names = alternatives(extensions)?.parts().filter_map(|name| match name.tag {
        DNS_NAME => host_name(&String::from_utf8_lossy(name.content)),
        IP_ADDRESS => address(name.content).map(|address| address.to_string()),
        _ => None,
    });
    Some(names.collect())
}

/// Returns the sequence of names of the subjectAltName.
fn alternatives(extensions: Option<Element<'_>>) -> Option<Element<'_>> {
    let list = extensions?.parts().next()?;
    let extension = list.parts().find(|extension| {
        extension
            .parts()
            .next()
            .is_some_and(|id| id.tag == OBJECT_IDENTIFIER && id.content == SUBJECT_ALT_NAME)
    })?;
    let value = extension.parts().find(|part| part.tag == OCTET_STRING)?;
    Element::only(value.content)
}

/// Returns the common names of a name; `None` for each that is in no coding of which UTF-8 is a superset: read as UTF-8 it would
/// be another one than its authority has seen.
fn common_names(name: &Element<'_>) -> impl Iterator<Item = Option<String>> {
    let pairs = Elements(name.content).flat_map(Element::parts);
    pairs.filter_map(|pair| {
        let mut pair = pair.parts();
        let (kind, value) = (pair.next()?, pair.next()?);
        let plain = matches!(value.tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING);
        (attribute(&kind)? == "CN").then(|| nameable(value.content).filter(|_| plain))
    })
}

const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;

/// Returns a name as it is, if no rule reads any of it as a pattern, and it stays on one line.
fn nameable(bytes: &[u8]) -> Option<String> {
    let text =
        std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty() && text.len() <= LONGEST_NAME)?;
    let odd = |c: char| c.is_control() || matches!(c, '*' | '?' | '[' | ']' | '{' | '}');
    (!text.contains(odd)).then(|| text.to_owned())
}

/// The longest name of a client, in bytes.
const LONGEST_NAME: usize = 512;

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const EMAIL: u8 = 0x81;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const IP_ADDRESS: u8 = 0x87;

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Returns a host name or address in lower case; a wildcard name begins with `*.`.
fn host_name(text: &str) -> Option<String> {
    let text = text.trim_end_matches('.').to_ascii_lowercase();
    let bare = text.strip_prefix("*.").unwrap_or(&text);
    let is_host =
        bare.parse::<IpAddr>().is_ok() || Authority::parse(bare).is_ok_and(|known| known.port.is_none());
    is_host.then_some(text)
}

/// The attributes of a name that are shown (RFC 5280 appendix A.1), by their number below 2.5.4.
const ATTRIBUTES: [(u8, &str); 2] = [(3, "CN"), (10, "O")];

/// Renders a name.
fn name(name: &Element<'_>) -> String {
    let shown = attributes(name).map(|(kind, value)| format!("{kind}={value}"));
    shown.collect::<Vec<_>>().join(", ")
}

/// Returns the known attributes of a name: a sequence of sets of pairs of a type and a value.
fn attributes(name: &Element<'_>) -> impl Iterator<Item = (&'static str, String)> {
    let pairs = Elements(name.content).flat_map(Element::parts);
    pairs.filter_map(|pair| {
        let mut pair = pair.parts();
        let (kind, value) = (pair.next()?, pair.next()?);
        Some((attribute(&kind)?, text(value.content)))
    })
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
    fn the_names_are_those_of_the_subject_alt_name_else_the_common_name() {
        let names = |alternative: &[&str], common: &str| {
            let names: Vec<String> = alternative.iter().map(ToString::to_string).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, common);
            let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
            let read = Certificate::parse(&der).unwrap();
            assert_eq!((read.version, read.has_san), (3, !alternative.is_empty()));
            read.names
        };
        let several = ["A.example", "*.b.example", "192.0.2.1", "2001:db8::1"];
        assert_eq!(names(&several, "cn.example"), ["a.example", "*.b.example", "192.0.2.1", "2001:db8::1"]);
        assert_eq!(names(&[], "Registry.example."), ["registry.example"]);
        assert_eq!(names(&[], "192.0.2.1"), ["192.0.2.1"]);
        for none in ["My Registry", "", "a/b", "a:5000"] {
            assert_eq!(names(&[], none), Vec::<String>::new(), "{none}");
        }
    }

    #[test]
    fn truncated_certificates_are_refused() {
        let der = der((2000, 1, 1), (2001, 1, 1));
        for length in 0..der.len() {
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
