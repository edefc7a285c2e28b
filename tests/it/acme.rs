//! The certificate that an ACME server issues: validation, renewal, outage.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{AcmeServer, Client, Gate, Gateway, Life, Request, Upstream, greet, soon};

const NAME: &str = "registry.example.com";

/// A gateway whose certificate is to come from a server, and the folder of that certificate.
struct Setting {
    server: AcmeServer,
    gateway: Gateway,
    folder: TempDir,
    _upstream: Upstream,
}

impl Setting {
    async fn start(server: AcmeServer) -> Self {
        let folder = private_folder();
        let (upstream, gateway) = start(&server, &[NAME], folder.path()).await;
        Self { server, gateway, folder, _upstream: upstream }
    }

    /// Waits until clients find a certificate that they trust.
    async fn is_served(&self) {
        soon("the certificate", async {
            while connect(&self.gateway, &self.server, NAME).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// The certificate that is shown to clients.
    async fn served(&self) -> Vec<u8> {
        greet(self.gateway.address, NAME, &["http/1.1"]).await.expect("a handshake").certificate
    }

    async fn problems(&self) -> Vec<String> {
        let json = self.gateway.admin("/readyz").await.is(200).json();
        let problems = json["problems"].as_array().expect("problems").iter();
        problems.map(|problem| problem.as_str().expect("text").to_owned()).collect()
    }

    async fn has_metric(&self, line: &str) -> bool {
        let metrics = self.gateway.admin("/metrics").await.is(200).text();
        metrics.lines().any(|known| known == line)
    }

    /// Waits until `/readyz` names a problem.
    async fn problem(&self) -> String {
        soon("a problem", async {
            loop {
                if let Some(problem) = self.problems().await.pop() {
                    return problem;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Waits until `/readyz` names none.
    async fn is_well(&self) {
        soon("no problem", async {
            while !self.problems().await.is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

fn private_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).expect("a directory of ours");
    folder
}

async fn start(server: &AcmeServer, names: &[&str], folder: &Path) -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    let builder = Gateway::builder().admin_listener().acme(&server.directory(), names, folder);
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    server.lead_to(gateway.address);
    (upstream, gateway)
}

async fn connect(gateway: &Gateway, server: &AcmeServer, name: &str) -> std::io::Result<Client> {
    Client::tls(gateway.tcp().await, server.ca(), name, "http/1.1").await
}

#[tokio::test]
async fn a_certificate_is_issued_and_served() {
    let setting = Setting::start(AcmeServer::start().await).await;
    setting.is_served().await;
    let mut client = connect(&setting.gateway, &setting.server, NAME).await.unwrap();
    client.ask(&Request::get("/v2/").header("Host", NAME)).await.is(200);
    setting.is_well().await;
    assert!(setting.has_metric("dockgate_acme_orders_total{outcome=\"issued\"} 1").await);
    assert_eq!(setting.server.contacts(), [json!(["mailto:ops@example.com"])]);
    for file in std::fs::read_dir(setting.folder.path()).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn one_certificate_is_for_all_names() {
    let server = AcmeServer::start().await;
    let folder = private_folder();
    let names = [NAME, "mirror.example.com"];
    let (_upstream, gateway) = start(&server, &names, folder.path()).await;
    let setting = Setting { server, gateway, folder, _upstream };
    setting.is_served().await;
    connect(&setting.gateway, &setting.server, names[1]).await.unwrap();
    assert_eq!(setting.server.orders(), 1);
}

#[tokio::test]
async fn the_gateway_runs_before_it_has_a_certificate() {
    let server = AcmeServer::start().await;
    let gate = Gate::shut();
    server.hold(&gate);
    let setting = Setting::start(server).await;
    setting.server.until_orders(1).await;
    assert!(greet(setting.gateway.address, NAME, &["http/1.1"]).await.is_err());
    assert_eq!(setting.gateway.admin("/readyz").await.is(200).json()["status"], "ready");
    gate.open();
    setting.is_served().await;
}

#[tokio::test]
async fn only_a_validating_server_gets_the_challenge() {
    let setting = Setting::start(AcmeServer::start().await).await;
    setting.is_served().await;
    let address = setting.gateway.address;
    assert!(greet(address, NAME, &["acme-tls/1"]).await.is_err(), "nothing is being validated");
    let both = greet(address, NAME, &["acme-tls/1", "h2"]).await.unwrap();
    assert_eq!(both.protocol.as_deref(), Some(b"h2".as_slice()));
    assert_eq!(both.certificate, setting.served().await);
}

#[tokio::test]
async fn a_restart_finds_account_and_certificate() {
    let Setting { server, gateway, folder, _upstream } = {
        let setting = Setting::start(AcmeServer::start().await).await;
        setting.is_served().await;
        setting
    };
    drop(gateway);
    server.set_out(true);
    let (_upstream, gateway) = start(&server, &[NAME], folder.path()).await;
    connect(&gateway, &server, NAME).await.expect("the certificate of before");
    drop(gateway);
    server.set_out(false);
    let (_upstream, gateway) = start(&server, &["other.example.com"], folder.path()).await;
    server.until_orders(2).await;
    let setting = Setting { server, gateway, folder, _upstream };
    setting.is_well().await;
    assert_eq!(setting.server.contacts().len(), 1, "the account of before");
}

#[tokio::test]
async fn past_two_thirds_of_its_life_it_is_renewed() {
    let server = AcmeServer::start().await;
    server.set_life(Life::DUE);
    let setting = Setting::start(server).await;
    setting.is_served().await;
    let old = setting.served().await;
    let gate = Gate::shut();
    setting.server.hold(&gate);
    setting.server.set_life(Life::NEW);
    setting.gateway.app.reload();
    setting.server.until_orders(2).await;
    assert_eq!(setting.served().await, old, "the old one is served until the new is there");
    gate.open();
    soon("the new certificate", async {
        while setting.served().await == old {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    connect(&setting.gateway, &setting.server, NAME).await.expect("a certificate that clients trust");
}

#[tokio::test]
async fn an_outage_leaves_the_old_certificate_and_is_told() {
    let server = AcmeServer::start().await;
    server.set_life(Life::DUE);
    let setting = Setting::start(server).await;
    setting.is_served().await;
    let old = setting.served().await;
    setting.server.set_out(true);
    setting.gateway.app.reload();
    let problem = setting.problem().await;
    let begin = format!("acme: cannot get a certificate for {NAME}: ");
    assert!(problem.starts_with(&begin) && problem.contains("503"), "{problem}");
    assert!(problem.contains("; the one in force is valid until 20"), "{problem}");
    assert!(setting.has_metric("dockgate_acme_orders_total{outcome=\"failed\"} 1").await);
    assert_eq!(setting.served().await, old);
    setting.server.set_out(false);
    setting.server.set_life(Life::NEW);
    setting.gateway.app.reload();
    setting.is_well().await;
    assert_ne!(setting.served().await, old);
}

#[tokio::test]
async fn the_servers_reason_is_told() {
    let server = AcmeServer::start().await;
    server.refuse("Connection refused by 192.0.2.7:443");
    let setting = Setting::start(server).await;
    let problem = setting.problem().await;
    assert!(problem.contains(&format!("{NAME}: Connection refused by 192.0.2.7:443")), "{problem}");
}

#[tokio::test]
async fn a_forgotten_account_is_made_anew() {
    let server = AcmeServer::start().await;
    server.set_life(Life::DUE);
    let setting = Setting::start(server).await;
    setting.is_served().await;
    setting.server.forget_accounts();
    setting.server.set_life(Life::NEW);
    setting.gateway.app.reload();
    setting.server.until_orders(2).await;
    setting.is_well().await;
    assert_eq!(setting.server.contacts().len(), 2);
}

#[tokio::test]
async fn a_removed_certificate_is_served_until_the_next() {
    let setting = Setting::start(AcmeServer::start().await).await;
    setting.is_served().await;
    let old = setting.served().await;
    let gate = Gate::shut();
    setting.server.hold(&gate);
    std::fs::remove_file(setting.folder.path().join("certificate.pem")).unwrap();
    setting.gateway.app.reload();
    setting.server.until_orders(2).await;
    assert_eq!(setting.served().await, old);
    gate.open();
    soon("the new certificate", async {
        while setting.served().await == old {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_damaged_certificate_is_ordered_again() {
    let server = AcmeServer::start().await;
    let folder = private_folder();
    std::fs::write(folder.path().join("certificate.pem"), "-----BEGIN").unwrap();
    let (_upstream, gateway) = start(&server, &[NAME], folder.path()).await;
    let setting = Setting { server, gateway, folder, _upstream };
    setting.is_served().await;
}
