//! When a certificate is ordered: where there is none, at two thirds of its life, and again after a failure.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::acme::error::AcmeError;
use crate::acme::folder::{Folder, blocking};
use crate::acme::issued::IssuedCertificate;
use crate::acme::status::AcmeStatus;
use crate::acme::{account, order};
use crate::clock;
use crate::config::{Acme, Tls, limits};
use crate::server::Certificates;

/// The task that keeps the certificate, until this is dropped.
pub(crate) struct Renewal {
    task: JoinHandle<()>,
    wake: Arc<Notify>,
}

impl Renewal {
    /// Begins to keep the certificate of `tls`. Must be called within a runtime. `None` if the operator keeps it.
    pub(crate) fn start(tls: &Tls, certificates: Arc<Certificates>, status: Arc<AcmeStatus>) -> Option<Self> {
        let settings = tls.acme.clone()?;
        let wake = Arc::new(Notify::new());
        let keeper =
            Keeper { file: tls.default.certificate.clone(), settings, certificates, status, failures: 0 };
        Some(Self { task: tokio::spawn(keeper.run(wake.clone())), wake })
    }

    /// Orders at once what is due, whatever has failed before: the operator may have removed the cause.
    pub(crate) fn retry(&self) {
        self.wake.notify_one();
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    settings: Acme,
    /// The file of the certificate and its key.
    file: PathBuf,
    certificates: Arc<Certificates>,
    status: Arc<AcmeStatus>,
    /// Orders that have failed since the last that succeeded.
    failures: u32,
}

/// The outcome of an order that has not failed.
enum Renewed {
    Here(IssuedCertificate),
    /// Another process of the same folder orders at this moment.
    Elsewhere,
}

impl Keeper {
    async fn run(mut self, wake: Arc<Notify>) {
        loop {
            let pause = self.look().await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wake.notified() => {}
            }
        }
    }

    /// Orders a certificate if one is due. Returns how long to wait before the next look.
    async fn look(&mut self) -> Duration {
        let held = self.held().await;
        self.status.hold(held.as_ref().map(|held| held.not_after));
        let fitting = held.as_ref().filter(|held| held.covers(&self.settings.domains));
        if let Some(left) = fitting.and_then(|held| held.left(clock::wall())) {
            self.failures = 0;
            self.status.clear();
            return left.min(limits::ACME_LOOK_INTERVAL);
        }
        match self.renew().await {
            Ok(Renewed::Here(issued)) => self.note_issued(&issued),
            Ok(Renewed::Elsewhere) => limits::ACME_RENEWAL_LEAST,
            Err(error) => self.note_failure(&error, fitting.map(|held| held.not_after)),
        }
    }

    /// Reads the certificate that is there. A file that can't be used is as good as none.
    async fn held(&self) -> Option<IssuedCertificate> {
        let file = self.file.clone();
        let read = blocking(move || std::fs::read(file)).await.ok()?;
        IssuedCertificate::parse(&read).ok()
    }

    async fn renew(&self) -> Result<Renewed, AcmeError> {
        let path = self.settings.path.clone();
        let folder = blocking(move || Folder::open(&path)).await?;
        let own = folder.clone();
        let Some(_lock) = blocking(move || own.lock()).await? else { return Ok(Renewed::Elsewhere) };
        let ordered = Box::pin(self.order(&folder));
        let ordered = tokio::time::timeout(limits::ACME_ORDER_DEADLINE, ordered).await;
        let (pem, issued) = ordered.map_err(|_| AcmeError::Timeout)??;
        let file = self.file.clone();
        blocking(move || folder.save_certificate(&file, &pem)).await?;
        Ok(Renewed::Here(issued))
    }

    /// Orders a certificate, with a new account if the server does not know the old one any more.
    async fn order(&self, folder: &Folder) -> Result<(String, IssuedCertificate), AcmeError> {
        match self.order_once(folder).await {
            Err(error) if error.is_unknown_account() => {
                tracing::warn!(%error, "the ACME server does not know the account; making a new one");
                account::forget(folder).await?;
                self.order_once(folder).await
            }
            ordered => ordered,
        }
    }

    async fn order_once(&self, folder: &Folder) -> Result<(String, IssuedCertificate), AcmeError> {
        let account = account::open(&self.settings, folder).await?;
        order::issue(&account, &self.settings.domains, &self.certificates.challenges()).await
    }

    fn note_issued(&mut self, issued: &IssuedCertificate) -> Duration {
        self.failures = 0;
        self.status.succeed();
        self.status.hold(Some(issued.not_after));
        match self.certificates.take_issued() {
            Ok(()) => {
                self.status.clear();
                let (domains, until) = (self.settings.domains.join(", "), shown(issued.not_after));
                tracing::info!(domains, until, "certificate issued by the ACME server");
            }
            Err(error) => tracing::error!(%error, "cannot use the certificate that was issued; trying again"),
        }
        limits::ACME_RENEWAL_LEAST
    }

    fn note_failure(&mut self, error: &AcmeError, valid_until: Option<SystemTime>) -> Duration {
        let pause = pause_after(self.failures);
        self.failures += 1;
        let (domains, retry_s) = (self.settings.domains.join(", "), pause.as_secs());
        let until = valid_until.map(shown);
        let valid_until = until.as_deref();
        tracing::error!(domains, %error, retry_s, valid_until, "cannot get a certificate from the ACME server");
        let old =
            until.map_or_else(String::new, |until| format!("; the one in force is valid until {until}"));
        self.status.fail(format!(
            "cannot get a certificate for {domains}: {error}; trying again in {retry_s} s{old}"
        ));
        pause
    }
}

/// Returns the pause after so many failures before: it doubles, up to a limit.
fn pause_after(failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures);
    limits::ACME_RETRY.saturating_mul(factor).min(limits::ACME_RETRY_MOST)
}

fn shown(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_each_failure_up_to_a_limit() {
        let minutes = [0, 1, 2, 3, 4, 5, 6, 7, 40].map(|failures| pause_after(failures).as_secs() / 60);
        assert_eq!(minutes, [2, 4, 8, 16, 32, 64, 128, 180, 180]);
    }

    #[test]
    fn five_failures_within_an_hour_are_the_most() {
        // Let's Encrypt's limit: five failed validations of a name per hour.
        let begun: Duration = (0..5).map(pause_after).sum();
        assert!(begun >= Duration::from_secs(3600), "{begun:?}");
    }
}
