//! The certificate that a client has shown in its handshake: the names in it, and its validity.
//!
//! That it is good was proved by TLS (RFC 8446 section 4.4.3). A resumed session shows none, and keeps what the first one
//! had shown: so its validity is looked at again here.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::x509::certificate::{Certificate, SubjectNames};

/// The certificate of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    names: SubjectNames,
    not_before: SystemTime,
    not_after: SystemTime,
    withdrawn: bool,
}

/// The kinds of names by which a certificate may name its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameKind {
    /// The subject's common name.
    Common,
    /// A DNS name of the subjectAltName.
    Dns,
    /// A URI of it: SPIFFE's.
    Uri,
    /// An e-mail address of it.
    Email,
}

impl NameKind {
    /// Returns the word before the colon in identities of this kind.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Common => "cn",
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::Email => "email",
        }
    }
}

impl ClientCertificate {
    /// Reads the DER of a certificate. `None` where it is malformed.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let (certificate, names) = Certificate::parse_with_names(der)?;
        let (not_before, not_after) = (certificate.not_before, certificate.not_after);
        Some(Self { names, not_before, not_after, withdrawn: false })
    }

    /// Returns it as one whose authority is not trusted any more.
    pub(crate) fn withdrawn(&self) -> Self {
        Self { withdrawn: true, ..self.clone() }
    }

    /// Returns true if its authority was trusted when it was shown, and is not any more.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// Returns the last second of its validity, since 1970.
    pub(crate) fn expires(&self) -> u64 {
        self.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// Returns true if it is valid at `time` (RFC 5280 section 4.1.2.5).
    pub(crate) fn is_valid(&self, time: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&time)
    }

    /// Returns its one name of a kind; none if it has none, or several: which of them it means cannot be told, and the authority
    /// may have looked at another one.
    pub(crate) fn name(&self, kind: NameKind) -> Option<&str> {
        let names = match kind {
            NameKind::Common => &self.names.common,
            NameKind::Dns => &self.names.dns,
            NameKind::Uri => &self.names.uris,
            NameKind::Email => &self.names.emails,
        };
        match names.as_slice() {
            [Some(one)] => Some(one),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn certificate(common: &str, alternatives: Vec<SanType>) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = alternatives;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::parse(der.der()).unwrap()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    #[test]
    fn each_kind_of_name_is_read() {
        let read = certificate(
            "Node 7",
            vec![
                dns("Node7.example"),
                SanType::URI("spiffe://example/ns/ci".try_into().unwrap()),
                SanType::Rfc822Name("ci@example.com".try_into().unwrap()),
            ],
        );
        for (kind, name) in [
            (NameKind::Common, "Node 7"),
            (NameKind::Dns, "node7.example"),
            (NameKind::Uri, "spiffe://example/ns/ci"),
            (NameKind::Email, "ci@example.com"),
        ] {
            assert_eq!(read.name(kind), Some(name));
        }
    }

    #[test]
    fn several_names_of_a_kind_are_none() {
        let read = certificate("a", vec![dns("a.example"), dns("b.example")]);
        assert_eq!((read.name(NameKind::Dns), read.name(NameKind::Uri)), (None, None));
        assert_eq!(read.name(NameKind::Common), Some("a"));
    }

    #[test]
    fn names_that_logs_and_rules_would_read_otherwise_are_none() {
        for common in ["a\nb", "a*", "{user}", "a\u{1b}[m", ""] {
            assert_eq!(certificate(common, Vec::new()).name(NameKind::Common), None, "{common:?}");
        }
        for names in [vec![dns("*.example")], vec![dns("*.example"), dns("a.example")]] {
            assert_eq!(
                certificate("a", names).name(NameKind::Dns),
                None,
                "a name that counts for nothing counts as one"
            );
        }
    }

    #[test]
    fn a_common_name_in_another_coding_is_none() {
        // In UTF-16, these bytes are two other letters; an authority has looked at those.
        for kind in [
            DnValue::BmpString("\u{6164}\u{6d69}".try_into().unwrap()),
            DnValue::TeletexString("a".try_into().unwrap()),
        ] {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, kind);
            let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(ClientCertificate::parse(der.der()).unwrap().name(NameKind::Common), None);
        }
    }

    #[test]
    fn it_is_valid_from_its_first_to_its_last_second() {
        let read = certificate("a", Vec::new());
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let (first, last) = (1_577_836_800, 1_893_456_000);
        for (second, valid) in [(first - 1, false), (first, true), (last, true), (last + 1, false)] {
            assert_eq!(read.is_valid(at(second)), valid, "{second}");
        }
    }
}
