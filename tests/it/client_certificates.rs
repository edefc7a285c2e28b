//! Clients that show a certificate.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::harness::{Client, EMPTY_INDEX, Gateway, Http2, Reply, Request, Upstream, soon};
use crate::workloads::now;

const MANIFEST: &str = "/v2/team/app/manifests/1.0";

/// An authority of clients.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, names: &[SanType]) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        self.issue_until(names, Duration::from_secs(3600))
    }

    fn issue_until(
        &self,
        names: &[SanType],
        life: Duration,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now()) + life;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// The settings of a client with this certificate. It resumes sessions.
fn client(
    gateway: &Gateway,
    shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(gateway.ca().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match shown {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    })
}

/// The same client, which speaks HTTP/2.
async fn connect_http2(gateway: &Gateway, config: &Arc<ClientConfig>) -> Http2 {
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = connect(gateway, &Arc::new(config)).await.unwrap();
    Http2::over(client.into_io()).await
}

async fn connect(gateway: &Gateway, config: &Arc<ClientConfig>) -> std::io::Result<Client> {
    let server = ServerName::try_from("localhost".to_owned()).unwrap();
    let connecting = TlsConnector::from(config.clone()).connect(server, gateway.tcp().await);
    Ok(Client::of(soon("a handshake", connecting).await?))
}

async fn started(upstream: &Upstream, ca: &str) -> Gateway {
    upstream.always("GET", MANIFEST, |_| Reply::ok(EMPTY_INDEX));
    let auth = "challenge = \"basic\"\n[auth.token]\n[auth.client_certificate]\nuser = \"san:dns\"\n";
    let builder = Gateway::builder().user("alice", "secret").tls(&["localhost"]).auth(auth);
    let builder = builder.client_ca(ca).rule(&["dns:node*.example"], &["team/**"], &["pull"]);
    builder.rule(&["alice"], &["home/**"], &["*"]).upstream("up", "", upstream.address).start().await
}

#[tokio::test]
async fn a_certificate_is_a_login_where_no_other_is_shown() {
    let (upstream, authority) = (Upstream::start().await, Authority::new());
    let gateway = started(&upstream, &authority.pem).await;
    let node = client(&gateway, Some(authority.issue(&[dns("node7.example")])));
    let mut connection = connect(&gateway, &node).await.unwrap();
    connection.ask(&Request::get("/v2/")).await.is(200);
    connection.ask(&Request::get(MANIFEST)).await.is(200);
    connection.ask(&Request::get("/v2/home/a/manifests/x")).await.is(403);
    // What the request carries decides, right or wrong.
    connection.ask(&Request::get(MANIFEST).login("alice", "secret")).await.is(403);
    connection.ask(&Request::get(MANIFEST).login("alice", "wrong")).await.is(401);
    let mut stranger = connect(&gateway, &client(&gateway, None)).await.unwrap();
    stranger.ask(&Request::get(MANIFEST)).await.is(401);
    stranger.ask(&Request::get("/v2/").login("alice", "secret")).await.is(200);
}

#[tokio::test]
async fn a_certificate_of_another_authority_ends_the_handshake() {
    let (upstream, authority, other) = (Upstream::start().await, Authority::new(), Authority::new());
    let gateway = started(&upstream, &authority.pem).await;
    let forged = client(&gateway, Some(other.issue(&[dns("node7.example")])));
    // In TLS 1.3 the client is told with its first bytes.
    if let Ok(mut connection) = connect(&gateway, &forged).await {
        let _ = connection.try_send(Request::get("/v2/").bytes("localhost")).await;
        assert!(connection.try_head_or_none().await.is_none());
    }
}

#[tokio::test]
async fn a_certificate_without_one_name_is_no_login() {
    let (upstream, authority) = (Upstream::start().await, Authority::new());
    let gateway = started(&upstream, &authority.pem).await;
    for names in [vec![], vec![dns("node1.example"), dns("node2.example")], vec![dns("*.example")]] {
        let nameless = client(&gateway, Some(authority.issue(&names)));
        let mut connection = connect(&gateway, &nameless).await.unwrap();
        connection.ask(&Request::get(MANIFEST)).await.is(401);
    }
}

#[tokio::test]
async fn a_withdrawn_authority_ends_resumed_sessions() {
    let (upstream, authority, next) = (Upstream::start().await, Authority::new(), Authority::new());
    let gateway = started(&upstream, &authority.pem).await;
    let node = client(&gateway, Some(authority.issue(&[dns("node7.example")])));
    for _ in 0..2 {
        let mut connection = connect(&gateway, &node).await.unwrap();
        connection.ask(&Request::get(MANIFEST)).await.is(200);
    }
    gateway.rewrite("clients.crt", &next.pem);
    if let Ok(mut connection) = connect(&gateway, &node).await {
        let _ = connection.try_send(Request::get(MANIFEST).bytes("localhost")).await;
        assert!(connection.try_head_or_none().await.is_none(), "the old session is not resumed");
    }
    let renewed = client(&gateway, Some(next.issue(&[dns("node7.example")])));
    connect(&gateway, &renewed).await.unwrap().ask(&Request::get(MANIFEST)).await.is(200);
}

#[tokio::test]
async fn open_connections_end_with_a_withdrawn_authority() {
    let (upstream, authority, next) = (Upstream::start().await, Authority::new(), Authority::new());
    let gateway = started(&upstream, &authority.pem).await;
    let node = client(&gateway, Some(authority.issue(&[dns("node7.example")])));
    let mut connection = connect(&gateway, &node).await.unwrap();
    let mut by_password = connect(&gateway, &node).await.unwrap();
    let mut http2 = connect_http2(&gateway, &node).await;
    connection.ask(&Request::get(MANIFEST)).await.is(200);
    by_password.ask(&Request::get(MANIFEST)).await.is(200);
    http2.ask(&Request::get(MANIFEST)).await.is(200);
    // One more authority changes nothing for those whose own is still there.
    gateway.rewrite("clients.crt", &format!("{}{}", next.pem, authority.pem));
    connection.ask(&Request::get(MANIFEST)).await.is(200);
    http2.ask(&Request::get(MANIFEST)).await.is(200);
    gateway.rewrite("clients.crt", &next.pem);
    let refused = connection.ask(&Request::get(MANIFEST)).await.is(401);
    assert_eq!(refused.header("connection"), Some("close"), "the client has to connect anew");
    assert!(connection.try_head_or_none().await.is_none());
    by_password.ask(&Request::get("/v2/").login("alice", "secret")).await.is(200);
    http2.ask(&Request::get(MANIFEST)).await.is(401);
}

#[tokio::test]
async fn a_certificate_that_expires_is_no_login_any_more() {
    let (upstream, authority) = (Upstream::start().await, Authority::new());
    let gateway = started(&upstream, &authority.pem).await;
    let brief = authority.issue_until(&[dns("node7.example")], Duration::from_secs(3));
    let mut connection = connect(&gateway, &client(&gateway, Some(brief))).await.unwrap();
    connection.ask(&Request::get(MANIFEST)).await.is(200);
    // The clock of certificates is the machine's, which no test can advance.
    tokio::time::sleep(Duration::from_secs(4)).await;
    connection.ask(&Request::get(MANIFEST)).await.is(401);
}

#[tokio::test]
async fn a_certificates_token_dies_with_it() {
    let (upstream, authority, next) = (Upstream::start().await, Authority::new(), Authority::new());
    let gateway = started(&upstream, &authority.pem).await;
    let brief = authority.issue_until(&[dns("node7.example")], Duration::from_secs(90));
    let mut connection = connect(&gateway, &client(&gateway, Some(brief))).await.unwrap();
    let answer = connection.ask(&Request::get("/token?scope=repository:team/app:pull")).await.is(200).json();
    assert!(answer["expires_in"].as_u64().unwrap() <= 90, "{answer}");
    let shown = format!("Bearer {}", answer["token"].as_str().unwrap());
    let by_token = || gateway.ask(Request::get(MANIFEST).header("Authorization", &shown));
    by_token().await.is(200);
    gateway.rewrite("clients.crt", &next.pem);
    by_token().await.is(401);
}
