//! Certificates and keys as openssl, CAs and people write them.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::harness::{Client, Gateway, Request, Upstream, soon};

/// A file that openssl wrote. `root` signed `int`, which signed `leaf-*`; `enc.*` are encrypted.
macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("certificates/", $name, ".pem"))
    };
}

const TLS: &str = "[server.tls]\ncertificate = \"a.crt\"\nkey = \"a.key\"";

async fn serving(upstream: &Upstream, certificate: &str, key: &str) -> Gateway {
    let builder = Gateway::builder().file("a.crt", certificate).file("a.key", key).server(TLS);
    builder.upstream("up", "", upstream.address).start().await
}

async fn verified(gateway: &Gateway) -> Client {
    let stream = gateway.tcp().await;
    Client::tls(stream, pem!("root"), "localhost", "http/1.1").await.expect("a chain up to the root")
}

#[tokio::test]
async fn a_chain_in_any_order_with_its_key_is_served() {
    let upstream = Upstream::start().await;
    let (leaf, intermediate, root) = (pem!("leaf-ec"), pem!("int"), pem!("root"));
    let all = [root, pem!("ec.sec1"), intermediate, leaf].concat();
    for (certificate, key) in [
        ([leaf, intermediate].concat(), pem!("ec.pk8").to_owned()),
        ([intermediate, leaf].concat(), pem!("ec.sec1").to_owned()),
        (all.clone(), all),
        (format!("\u{feff}{}", [pem!("leaf-rsa"), intermediate].concat()), pem!("rsa.pk1").to_owned()),
        ([pem!("leaf-ed"), intermediate].concat().replace('\n', "\r\n"), pem!("ed.key").to_owned()),
    ] {
        let gateway = serving(&upstream, &certificate, &key).await;
        verified(&gateway).await.ask(&Request::get("/v2/")).await.is(200);
    }
}

#[tokio::test]
async fn a_damaged_chain_changes_nothing_when_reloaded() {
    let upstream = Upstream::start().await;
    let chain = [pem!("leaf-ec"), pem!("int")].concat();
    let gateway = serving(&upstream, &chain, pem!("ec.pk8")).await;
    for broken in [
        format!("{}{}", pem!("leaf-ec").trim_end(), pem!("int")),
        format!("{}{}", pem!("leaf-ec"), pem!("int").replacen("MII", "MIA", 1)),
        pem!("v1").to_owned(),
    ] {
        gateway.rewrite("a.crt", &broken);
        verified(&gateway).await.ask(&Request::get("/v2/")).await.is(200);
    }
}

/// Takes any certificate: clients of old do, which look at the common name.
#[derive(Debug)]
struct Credulous(CryptoProvider);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn status(gateway: &Gateway, host: &str) -> u16 {
    let provider = aws_lc_rs::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider.clone()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().dangerous();
    let config =
        builder.with_custom_certificate_verifier(Arc::new(Credulous(provider))).with_no_client_auth();
    let server = ServerName::try_from("common.example").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(server, gateway.tcp().await);
    let mut client = Client::of(soon("a handshake", connecting).await.unwrap());
    client.ask(&Request::get("/v2/").header("Host", host)).await.status
}

#[tokio::test]
async fn without_a_san_the_common_name_is_served() {
    let upstream = Upstream::start().await;
    let gateway = serving(&upstream, pem!("cn"), pem!("ec.pk8")).await;
    for (host, expected) in
        [("common.example", 200), ("COMMON.example:5000", 200), ("localhost", 200), ("evil", 421)]
    {
        assert_eq!(status(&gateway, host).await, expected, "{host}");
    }
}

#[tokio::test]
async fn with_a_certificate_without_names_any_host_is_served() {
    let upstream = Upstream::start().await;
    let gateway = serving(&upstream, pem!("nameless"), pem!("ec.pk8")).await;
    for host in ["common.example", "192.0.2.1:5000", "My.Registry"] {
        assert_eq!(status(&gateway, host).await, 200, "{host}");
    }
}

#[test]
fn check_names_the_file_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let rule = "[[access]]\nusers = [\"anonymous\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n";
    let config = format!("{TLS}\n{rule}[[upstream]]\nurl = \"http://127.0.0.1:9\"\nprefix = \"\"\n");
    std::fs::write(dir.path().join("dockgate.toml"), config).unwrap();
    let glued = format!("{}{}", pem!("leaf-ec").trim_end(), pem!("int"));
    for (certificate, key, code, words) in [
        (
            pem!("v1"),
            pem!("ec.pk8"),
            2,
            ["toml:2: server.tls.certificate: a.crt cannot be used", "X.509 version 1"],
        ),
        (
            pem!("small"),
            pem!("small.key"),
            2,
            ["toml:2: server.tls.certificate: a.crt", "RSA key of 1024 bits"],
        ),
        (pem!("k1"), pem!("k1.sec1"), 2, ["toml:2: server.tls.certificate: a.crt", "curve secp256k1"]),
        (pem!("leaf-ec"), pem!("enc.pk8"), 2, ["toml:3: server.tls.key: a.key is encrypted", "openssl pkey"]),
        (&glued, pem!("ec.pk8"), 2, ["toml:2: server.tls.certificate: a.crt is damaged: line 12", "newline"]),
        (
            pem!("cn"),
            pem!("ec.pk8"),
            0,
            ["warning: a.crt: the certificate has no subjectAltName", "common.example"],
        ),
        (pem!("leaf-ec"), pem!("ec.sec1"), 0, ["", ""]),
    ] {
        std::fs::write(dir.path().join("a.crt"), certificate).unwrap();
        std::fs::write(dir.path().join("a.key"), key).unwrap();
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_dockgate"));
        let output = check.arg("check").env_clear().current_dir(dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(code) && words.iter().all(|part| said.contains(part)),
            "{words:?}: {said}"
        );
    }
}
