//! Counters of connections and TLS handshakes.

use std::io;

use rustls::AlertDescription as Alert;

use crate::telemetry::metrics::{Counter, Distribution, Histogram};

/// The connections since the start.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounters {
    accepted: Counter,
    refused: Counter,
    handshakes: Histogram,
    resumed: Counter,
    failures: [Counter; HandshakeFailure::ALL.len()],
}

/// The cause of a TLS handshake that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    /// The client does not trust the gateway's certificate.
    CertificateRejected,
    /// The client's own certificate is not trusted.
    ClientCertificate,
    /// The client and the gateway have no protocol or cipher in common.
    NothingInCommon,
    /// The client spoke plain HTTP.
    PlainHttp,
    /// The client took too long.
    Timeout,
    /// The client broke off.
    BrokenOff,
    /// The client broke the protocol, or sent another alert.
    Protocol,
}

impl HandshakeFailure {
    /// All causes.
    pub(crate) const ALL: [Self; 7] = [
        Self::CertificateRejected,
        Self::ClientCertificate,
        Self::NothingInCommon,
        Self::PlainHttp,
        Self::Timeout,
        Self::BrokenOff,
        Self::Protocol,
    ];

    /// Returns the word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CertificateRejected => "certificate_rejected",
            Self::ClientCertificate => "client_certificate",
            Self::NothingInCommon => "nothing_in_common",
            Self::PlainHttp => "plain_http",
            Self::Timeout => "timeout",
            Self::BrokenOff => "broken_off",
            Self::Protocol => "protocol",
        }
    }

    /// Returns the cause that an error of tokio-rustls tells.
    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::of_alert(*alert),
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                Self::ClientCertificate
            }
            Some(rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol) => {
                Self::NothingInCommon
            }
            Some(_) => Self::Protocol,
            None => Self::BrokenOff,
        }
    }

    fn of_alert(alert: Alert) -> Self {
        match alert {
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate => Self::CertificateRejected,
            Alert::HandshakeFailure | Alert::ProtocolVersion | Alert::NoApplicationProtocol => {
                Self::NothingInCommon
            }
            Alert::UserCanceled | Alert::CloseNotify => Self::BrokenOff,
            _ => Self::Protocol,
        }
    }
}

impl ConnectionCounters {
    /// Counts a connection that was accepted.
    pub(super) fn accept(&self) {
        self.accepted.increment();
    }

    /// Counts a connection that was refused: there are too many, in all or of its client.
    pub(super) fn refuse(&self) {
        self.refused.increment();
    }

    /// Counts a TLS handshake.
    pub(super) fn shake_hands(&self, duration: std::time::Duration, is_resumed: bool) {
        self.handshakes.observe(duration);
        if is_resumed {
            self.resumed.increment();
        }
    }

    /// Counts a TLS handshake that failed with `error`.
    pub(super) fn fail(&self, error: &io::Error) {
        self.fail_by(HandshakeFailure::of(error));
    }

    /// Counts a TLS handshake that failed.
    pub(super) fn fail_by(&self, failure: HandshakeFailure) {
        self.failures[failure as usize].increment();
    }

    /// Returns the connections that were accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// Returns the connections that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Returns the times that TLS handshakes took.
    pub(crate) fn handshakes(&self) -> Distribution {
        Distribution::of(&self.handshakes)
    }

    /// Returns the handshakes that resumed a session.
    pub(crate) fn resumed(&self) -> u64 {
        self.resumed.get()
    }

    /// Returns the handshakes that failed so.
    pub(crate) fn failures(&self, failure: HandshakeFailure) -> u64 {
        self.failures[failure as usize].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(error: rustls::Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn handshake_failures_are_told_apart() {
        for (error, failure) in [
            (tls(rustls::Error::AlertReceived(Alert::UnknownCA)), HandshakeFailure::CertificateRejected),
            (tls(rustls::Error::NoCertificatesPresented), HandshakeFailure::ClientCertificate),
            (tls(rustls::Error::NoApplicationProtocol), HandshakeFailure::NothingInCommon),
            (tls(rustls::Error::DecryptError), HandshakeFailure::Protocol),
            (io::ErrorKind::UnexpectedEof.into(), HandshakeFailure::BrokenOff),
        ] {
            let counters = ConnectionCounters::default();
            counters.fail(&error);
            assert_eq!(counters.failures(failure), 1, "{error}");
        }
    }

    #[test]
    fn places_of_failures_are_their_numbers() {
        let mut all = HandshakeFailure::ALL.iter().enumerate();
        assert!(all.all(|(place, failure)| *failure as usize == place));
    }
}
