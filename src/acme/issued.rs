//! A certificate that was issued, and when it is to be renewed.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use crate::x509::{Certificate, Chain, Keys, PairError, pair};

/// The validity and the names of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IssuedCertificate {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    names: Vec<String>,
}

impl IssuedCertificate {
    /// Reads a file that holds a certificate, its chain and its key.
    ///
    /// # Errors
    /// Why it can't be used, as the end of a sentence about it.
    pub(super) fn parse(pem: &[u8]) -> Result<Self, String> {
        let (chain, keys) = (Chain::parse(pem)?, Keys::parse(pem)?);
        let pair = pair(chain, &keys).map_err(|error| match error {
            PairError::Certificate(why) | PairError::Key(why) => why,
            PairError::Mismatch => "is not for the key that was made for it".to_owned(),
        })?;
        let read = pair.cert.first().and_then(|first: &CertificateDer<'_>| Certificate::parse(first));
        let Certificate { not_before, not_after, names, .. } = read.ok_or("cannot be read")?;
        Ok(Self { not_before, not_after, names })
    }

    /// Returns when it is to be renewed: at two thirds of its life.
    fn renewed_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life * 2 / 3
    }

    /// Returns the time until it is to be renewed; None if that has come.
    pub(super) fn left(&self, now: SystemTime) -> Option<Duration> {
        self.renewed_at().duration_since(now).ok().filter(|left| !left.is_zero())
    }

    /// Returns true if it is for all of these names.
    pub(super) fn covers(&self, domains: &[String]) -> bool {
        domains.iter().all(|domain| self.names.contains(domain))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn pem(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 4, 1);
        let key = KeyPair::generate().unwrap();
        (key.serialize_pem(), params.self_signed(&key).unwrap().pem())
    }

    #[test]
    fn a_certificate_of_ninety_days_is_renewed_after_sixty() {
        let (key, certificate) = pem(&["a.example", "b.example"]);
        let issued = IssuedCertificate::parse(format!("{key}{certificate}").as_bytes()).unwrap();
        let (day, begin) = (Duration::from_secs(86_400), issued.not_before);
        assert_eq!(issued.left(begin), Some(day * 60));
        assert_eq!(issued.left(begin + day * 59), Some(day));
        assert_eq!([60, 61, 100].map(|days| issued.left(begin + day * days)), [None; 3]);
        assert!(issued.covers(&["b.example".to_owned(), "a.example".to_owned()]));
        assert!(!issued.covers(&["a.example".to_owned(), "c.example".to_owned()]));
    }

    #[test]
    fn a_life_that_ends_before_it_begins_is_due() {
        let names = Vec::new();
        let issued = IssuedCertificate {
            not_before: UNIX_EPOCH + Duration::from_secs(9),
            not_after: UNIX_EPOCH,
            names,
        };
        assert_eq!(issued.left(issued.not_before), None);
    }

    #[test]
    fn files_that_cannot_serve_are_refused() {
        let ((key, certificate), (other, _)) = (pem(&["a.example"]), pem(&["a.example"]));
        for (file, why) in [
            (String::new(), "is not in PEM form"),
            (certificate.clone(), "holds no private key"),
            (key.clone(), "holds no certificate"),
            (format!("{other}{certificate}"), "is not for the key that was made for it"),
        ] {
            let error = IssuedCertificate::parse(file.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
