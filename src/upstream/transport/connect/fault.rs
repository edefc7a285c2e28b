//! Faults of certificates.

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls::CertificateError;
use rustls::pki_types::UnixTime;

use crate::upstream::transport::connect::verifier::Distrust;

/// The reason why a server's certificate is not accepted. `Display` continues "the certificate of HOST is refused:".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CertificateFault {
    /// The certificate, or one that it depends on, has expired.
    Expired {
        /// When it was last valid.
        not_after: Option<SystemTime>,
    },
    /// The certificate, or one that it depends on, is not valid yet; or the local clock is behind.
    NotYetValid {
        /// When it becomes valid.
        not_before: Option<SystemTime>,
    },
    /// The certificate is another host's.
    NameMismatch {
        /// The first names and addresses that it is for.
        names: Vec<String>,
    },
    /// No trusted authority has issued it, or the server leaves out the intermediate certificates.
    UnknownIssuer,
    /// The certificate is self-signed.
    SelfSigned,
    /// An authority with a trusted name has issued it with another key: it may have been created anew.
    OtherKey,
    /// The certificate is an authority's own certificate.
    Authority,
    /// There are no trusted roots.
    NoRoots,
    /// The certificate is not for a server.
    Purpose,
    /// Another error of rustls.
    Other(String),
}

impl CertificateFault {
    pub(crate) fn of(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired => Self::Expired { not_after: None },
            E::ExpiredContext { not_after, .. } => Self::Expired { not_after: Some(time(*not_after)) },
            E::NotValidYet => Self::NotYetValid { not_before: None },
            E::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid { not_before: Some(time(*not_before)) }
            }
            E::NotValidForName => Self::NameMismatch { names: Vec::new() },
            E::NotValidForNameContext { presented, .. } => Self::NameMismatch { names: presented.clone() },
            E::UnknownIssuer => Self::UnknownIssuer,
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::Purpose,
            other => Self::distrust(other).unwrap_or_else(|| Self::Other(other.to_string())),
        }
    }

    fn distrust(error: &CertificateError) -> Option<Self> {
        let CertificateError::Other(other) = error else { return None };
        Some(match other.0.downcast_ref()? {
            Distrust::SelfSigned => Self::SelfSigned,
            Distrust::OtherKey => Self::OtherKey,
            Distrust::Authority => Self::Authority,
            Distrust::NoRoots => Self::NoRoots,
        })
    }

    /// Returns true if another file of `upstream.ca` may help.
    pub(crate) fn is_distrust(&self) -> bool {
        matches!(self, Self::UnknownIssuer | Self::SelfSigned | Self::OtherKey | Self::NoRoots)
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { not_after: Some(time) } => {
                write!(f, "it expired on {}", httpdate::fmt_http_date(*time))
            }
            Self::Expired { not_after: None } => f.write_str("it has expired"),
            Self::NotYetValid { not_before: Some(time) } => {
                write!(f, "it is not valid before {}", httpdate::fmt_http_date(*time))
            }
            Self::NotYetValid { not_before: None } => f.write_str("it is not valid yet"),
            Self::NameMismatch { names } if names.is_empty() => f.write_str(
                "it is for another host, or for none (its subjectAltName names hosts, not its CN)",
            ),
            Self::NameMismatch { names } => write!(f, "it is for {}", names.join(", ")),
            Self::UnknownIssuer => f.write_str("no trusted authority has issued it"),
            Self::SelfSigned => write!(f, "{}", Distrust::SelfSigned),
            Self::OtherKey => write!(f, "{}", Distrust::OtherKey),
            Self::Authority => write!(f, "{}", Distrust::Authority),
            Self::NoRoots => write!(f, "{}", Distrust::NoRoots),
            Self::Purpose => f.write_str("it is not for a server"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

fn time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}
