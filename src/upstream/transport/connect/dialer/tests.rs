use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, SanType};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::config::{Credentials, Http2, KeyPair, Login, NoProxy, Redirects, UpstreamUrl, limits};
use crate::proto::Secret;
use crate::upstream::egress::Addresses;
use crate::upstream::transport::connect::CertificateFault;
use crate::upstream::transport::connect::dialer::*;

const LIMIT: Duration = Duration::from_secs(20);

/// An authority whose certificates, and those made with it, are files that go with it.
struct Authority {
    issuer: CertifiedIssuer<'static, rcgen::KeyPair>,
    files: TempDir,
}

/// A certificate and its key, as a server takes them.
struct Identity(CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Self {
        Self::called("the tests' authority")
    }

    fn called(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let files = TempDir::new().unwrap();
        std::fs::write(files.path().join("ca.crt"), issuer.pem()).unwrap();
        Self { issuer, files }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    fn server(&self) -> Identity {
        self.issue(for_loopback())
    }

    fn issue(&self, params: CertificateParams) -> Identity {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity(certificate.der().clone(), key.serialize_der().try_into().unwrap())
    }

    /// Written as `client.crt` and `client.key`.
    fn client(&self) -> KeyPair {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = KeyPair { certificate: self.file("client.crt"), key: self.file("client.key") };
        std::fs::write(&pair.certificate, certificate.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }

    /// Trusts this authority.
    fn settings(&self) -> config::Upstream {
        config::Upstream { ca: Some(self.file("ca.crt")), ..settings() }
    }
}

fn for_loopback() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    params
}

fn self_signed() -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = for_loopback().self_signed(&key).unwrap();
    Identity(certificate.der().clone(), key.serialize_der().try_into().unwrap())
}

fn settings() -> config::Upstream {
    config::Upstream {
        name: "registry".to_owned(),
        url: UpstreamUrl { https: true, host: "127.0.0.1".to_owned(), port: 443, path: String::new() },
        prefix: String::new(),
        hosts: Vec::new(),
        ca: None,
        insecure: false,
        connect_timeout: LIMIT,
        response_timeout: LIMIT,
        retries: 0,
        max_connections: 1,
        read_only: false,
        library: false,
        client_certificate: None,
        proxy: None,
        http2: Http2::Auto,
        redirects: Redirects::Follow,
        realm_hosts: Vec::new(),
        redirect_hosts: Vec::new(),
        credentials: Credentials::default(),
        cache: None,
    }
}

fn origin(https: bool, host: &str, port: u16) -> Origin {
    Origin { https, host: host.to_owned(), port }
}

/// By plain HTTP, to where no rule has looked.
fn plain(host: &str, port: u16, addresses: Addresses) -> Destination {
    Destination::unchecked(origin(false, host, port), addresses, false, false)
}

fn own(port: u16) -> Destination {
    Destination::unchecked(origin(true, "127.0.0.1", port), Addresses::Any, true, false)
}

fn other(port: u16) -> Destination {
    Destination::unchecked(origin(true, "127.0.0.1", port), Addresses::Any, false, false)
}

async fn dial(settings: &config::Upstream, destination: &Destination) -> Result<Connected, DialError> {
    Dialer::new(settings).unwrap().dial(destination, Protocols::Http1, LIMIT).await
}

async fn refusal(settings: &config::Upstream, destination: &Destination) -> DialError {
    dial(settings, destination).await.err().expect("no server listens there")
}

/// An error and all that caused it.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A TLS server that says how many certificates it was shown, and ends.
async fn tls_server(identity: Identity, clients: Option<&Authority>, alpn: &[&[u8]]) -> u16 {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider)
                .allow_unauthenticated()
                .build()
                .unwrap(),
        ),
    };
    let mut config = builder.with_single_cert(vec![identity.0], identity.1).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            let shown = stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
            let _ = stream.write_all(format!("{shown} shown").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

async fn said(connected: Connected) -> String {
    let mut io = connected.io;
    let mut text = String::new();
    io.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn private_addresses_are_dialled_only_if_allowed() {
    let (_listener, port) = listener().await;
    // The last two are what the C library takes for 127.0.0.1.
    for host in ["127.0.0.1", "localhost", "127.1", "2130706433"] {
        let error = refusal(&settings(), &plain(host, port, Addresses::Public)).await;
        assert!(matches!(error, DialError::Private { .. }), "{host}: {error:?}");
        assert!(error.to_string().contains(&format!("redirect_hosts = [\"{host}:{port}\"]")), "{error}");
        assert!(error.to_string().contains("realm_hosts"), "{error}");
        assert!(!error.is_transient(), "{host}");
        assert!(dial(&settings(), &plain(host, port, Addresses::Any)).await.is_ok(), "{host}");
    }
    // Plain http is let in by an entry with the port alone.
    let error = refusal(&settings(), &plain("127.0.0.1", 80, Addresses::Public)).await.to_string();
    assert!(error.contains("redirect_hosts = [\"127.0.0.1:80\"]") && error.contains("a star"), "{error}");
}

#[tokio::test]
async fn a_host_that_refuses_connections_is_named() {
    let (listener, port) = listener().await;
    drop(listener);
    let error = refusal(&settings(), &plain("127.0.0.1", port, Addresses::Any)).await;
    assert!(matches!(error, DialError::Connect { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("cannot connect to 127.0.0.1:{port}"));
    assert!(error.is_transient());
}

#[tokio::test]
async fn the_client_certificate_goes_to_the_upstream_alone() {
    let authority = Authority::new();
    let port = tls_server(authority.server(), Some(&authority), &[]).await;
    let pair = authority.client();
    let settings = config::Upstream { client_certificate: Some(pair), ..authority.settings() };
    let dialer = Dialer::new(&settings).unwrap();
    // By turns and over again: neither resumes a session of the other's.
    for _ in 0..2 {
        for (destination, shown) in [(own(port), "1 shown"), (other(port), "0 shown")] {
            let connected = dialer.dial(&destination, Protocols::Http1, LIMIT).await.unwrap();
            assert_eq!(said(connected).await, shown, "{destination:?}");
        }
    }
}

#[test]
fn an_unusable_client_certificate_names_its_key() {
    let authority = Authority::new();
    let pair = authority.client();
    let foreign = authority.file("foreign.key");
    std::fs::write(&foreign, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let missing = authority.file("missing");
    let (certificate, key) = (&pair.certificate, &pair.key);
    let cases = [
        (&missing, key, "upstream.client_certificate: "),
        (key, key, "holds no certificate"),
        (certificate, &missing, "upstream.client_key: "),
        (certificate, certificate, "holds no private key"),
        (certificate, &foreign, "is not the key of upstream.client_certificate"),
    ];
    for (certificate, key, words) in cases {
        let pair = KeyPair { certificate: certificate.clone(), key: key.clone() };
        let settings = config::Upstream { client_certificate: Some(pair), ..settings() };
        let error = Dialer::new(&settings).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn only_the_upstream_itself_may_be_insecure() {
    let port = tls_server(self_signed(), None, &[]).await;
    let authority = Authority::new();
    let settings = config::Upstream { insecure: true, ..authority.settings() };
    assert_eq!(said(dial(&settings, &own(port)).await.unwrap()).await, "0 shown");
    let error = refusal(&settings, &other(port)).await;
    assert_eq!(error.certificate_fault(), Some(CertificateFault::SelfSigned));
    assert!(error.to_string().contains("upstream.ca"), "{error}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn http2_is_used_if_offered_and_accepted() {
    let authority = Authority::new();
    let dialer = Dialer::new(&authority.settings()).unwrap();
    let cases: [(&[&[u8]], Protocols, bool); 4] = [
        (&[b"h2", b"http/1.1"], Protocols::Http2, true),
        (&[b"h2", b"http/1.1"], Protocols::Http1, false),
        (&[b"http/1.1"], Protocols::Http2, false),
        (&[], Protocols::Http2, false),
    ];
    for (alpn, protocols, http2) in cases {
        let port = tls_server(authority.server(), None, alpn).await;
        let connected = dialer.dial(&own(port), protocols, LIMIT).await.unwrap();
        assert_eq!(connected.http2, http2, "{alpn:?} {protocols:?}");
    }
}

#[tokio::test]
async fn a_server_without_http1_is_told_apart() {
    let authority = Authority::new();
    let port = tls_server(authority.server(), None, &[b"h2"]).await;
    let error = refusal(&authority.settings(), &own(port)).await;
    assert!(error.is_no_protocol(), "{error:?}");
    assert!(!error.is_transient());
    assert_eq!(error.certificate_fault(), None);
    assert_eq!(error.to_string(), format!("TLS with 127.0.0.1:{port} failed"));
}

#[tokio::test]
async fn certificate_faults_are_explained() {
    let authority = Authority::new();
    let mut expired = for_loopback();
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 2, 3);
    let mut early = for_loopback();
    early.not_before = rcgen::date_time_ymd(2998, 1, 1);
    early.not_after = rcgen::date_time_ymd(2999, 1, 1);
    let names = ["other.example", "*.other.example"].map(str::to_owned);
    let mut mismatched = CertificateParams::new(names.to_vec()).unwrap();
    mismatched.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::new(192, 0, 2, 1).into()));
    let mut a_ca = for_loopback();
    a_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let nameless = CertificateParams::new(Vec::<String>::new()).unwrap();
    let cases = [
        (
            authority.issue(nameless),
            "it is for another host, or for none (its subjectAltName names hosts, not its CN)",
        ),
        (authority.issue(expired), "it expired on Wed, 03 Feb 2021 00:00:00 GMT"),
        (authority.issue(early), "it is not valid before Mon, 01 Jan 2998 00:00:00 GMT"),
        (authority.issue(mismatched), "it is for other.example, *.other.example, 192.0.2.1"),
        (authority.issue(a_ca), "it is an authority's own certificate and not a server's"),
        (Authority::called("another").server(), "no trusted authority has issued it"),
        (Authority::new().server(), "an authority with a trusted name has issued it, but with another key"),
        (self_signed(), "it is self-signed and not trusted"),
    ];
    for (identity, fault) in cases {
        let port = tls_server(identity, None, &[]).await;
        let error = refusal(&authority.settings(), &own(port)).await;
        assert_eq!(error.certificate_fault().map(|fault| fault.to_string()).as_deref(), Some(fault));
        assert!(error.to_string().contains(fault), "{error}");
    }
}

/// `openssl req -x509` makes an authority's certificate, which many registries show as their own (guest-components#1569,
/// lnd#5450, rke2#775): it is accepted where `ca` holds it.
#[tokio::test]
async fn a_root_that_is_a_servers_certificate_is_accepted() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut root = for_loopback();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut expired = root.clone();
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 2, 3);
    let mut mismatched = root.clone();
    mismatched.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::new(192, 0, 2, 1).into())];
    let files = TempDir::new().unwrap();
    let settings = config::Upstream { ca: Some(files.path().join("ca.crt")), ..settings() };
    for (params, fault) in [
        (root.clone(), None),
        (expired, Some("it expired on Wed, 03 Feb 2021 00:00:00 GMT")),
        (mismatched, Some("it is for 192.0.2.1")),
    ] {
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(files.path().join("ca.crt"), certificate.pem()).unwrap();
        let identity = Identity(certificate.der().clone(), key.serialize_der().try_into().unwrap());
        let port = tls_server(identity, None, &[]).await;
        let seen = dial(&settings, &own(port)).await.err().and_then(|error| error.certificate_fault());
        assert_eq!(seen.map(|fault| fault.to_string()).as_deref(), fault);
    }
    // The same name, but another key.
    let other = rcgen::KeyPair::generate().unwrap();
    let certificate = root.self_signed(&other).unwrap();
    let identity = Identity(certificate.der().clone(), other.serialize_der().try_into().unwrap());
    let port = tls_server(identity, None, &[]).await;
    assert_eq!(refusal(&settings, &own(port)).await.certificate_fault(), Some(CertificateFault::Authority));
}

#[tokio::test]
async fn a_name_in_a_certificate_disturbs_no_log() {
    let authority = Authority::new();
    let mut params = CertificateParams::new(vec!["good.example".to_owned()]).unwrap();
    let name = rcgen::string::Ia5String::try_from("bad\u{1b}[2J.example").unwrap();
    params.subject_alt_names.push(SanType::DnsName(name));
    let port = tls_server(authority.issue(params), None, &[]).await;
    let error = refusal(&authority.settings(), &own(port)).await;
    let good = vec!["good.example".to_owned()];
    assert_eq!(error.certificate_fault(), Some(CertificateFault::NameMismatch { names: good }));
    assert!(!words(&error).chars().any(char::is_control), "{error:?}");
}

/// A proxy that answers with `answer`, whatever it is asked, and then echoes. What it was asked is kept.
async fn proxy(answer: impl Into<Vec<u8>>) -> (Proxy, Arc<Mutex<String>>) {
    let (listener, port) = listener().await;
    let (answer, asked) = (answer.into(), Arc::new(Mutex::new(String::new())));
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            *seen.lock().unwrap() = head(&mut tcp).await;
            let _ = tcp.write_all(&answer).await;
            let (mut read, mut write) = tcp.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    (Proxy { host: "127.0.0.1".to_owned(), port, login: None, except: NoProxy::default() }, asked)
}

async fn head(tcp: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn with_login(proxy: Proxy) -> Proxy {
    let login = Login { username: "robot".to_owned(), password: Secret::new("open:sesame") };
    Proxy { login: Some(login), ..proxy }
}

fn behind(proxy: &Proxy) -> config::Upstream {
    config::Upstream { proxy: Some(proxy.clone()), ..settings() }
}

fn tunnelled(https: bool, host: &str, port: u16) -> Destination {
    Destination::unchecked(origin(https, host, port), Addresses::Any, true, true)
}

#[tokio::test]
async fn a_tunnel_carries_the_bytes_after_the_answer() {
    // A head in two parts, an interim answer, and a field that must be ignored in a success.
    let answer =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n";
    let (proxy, asked) = proxy(answer).await;
    let destination = tunnelled(false, "registry.example", 80);
    let mut io = dial(&behind(&proxy), &destination).await.unwrap().io;
    assert_eq!(
        *asked.lock().unwrap(),
        "CONNECT registry.example:80 HTTP/1.1\r\nHost: registry.example:80\r\n\r\n"
    );
    io.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    io.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
    assert!(!io.is_stale());
}

#[tokio::test]
async fn a_proxy_receives_login_and_bracketed_ipv6_address() {
    let (proxy, asked) = proxy("HTTP/1.1 200 OK\r\n\r\n").await;
    let proxy = with_login(proxy);
    assert!(dial(&behind(&proxy), &tunnelled(false, "2001:db8::1", 5000)).await.is_ok());
    assert_eq!(
        *asked.lock().unwrap(),
        "CONNECT [2001:db8::1]:5000 HTTP/1.1\r\nHost: [2001:db8::1]:5000\r\n\
         Proxy-Authorization: Basic cm9ib3Q6b3BlbjpzZXNhbWU=\r\n\r\n"
    );
}

#[tokio::test]
async fn tls_passes_through_a_tunnel() {
    let authority = Authority::new();
    let server = tls_server(authority.server(), None, &[b"http/1.1"]).await;
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        assert!(head(&mut client).await.starts_with(&format!("CONNECT 127.0.0.1:{server} ")));
        client.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    let proxy = Proxy { host: "127.0.0.1".to_owned(), port, login: None, except: NoProxy::default() };
    let settings = config::Upstream { proxy: Some(proxy), ..authority.settings() };
    let connected = dial(&settings, &tunnelled(true, "127.0.0.1", server)).await.unwrap();
    assert_eq!(said(connected).await, "0 shown");
}

#[tokio::test]
async fn a_hop_without_the_proxy_is_dialled_directly() {
    let (proxy, asked) = proxy("HTTP/1.1 200 OK\r\n\r\n").await;
    let (_listener, port) = listener().await;
    assert!(dial(&behind(&proxy), &plain("127.0.0.1", port, Addresses::Any)).await.is_ok());
    assert_eq!(*asked.lock().unwrap(), "");
}

#[tokio::test]
async fn private_addresses_do_not_go_through_a_proxy() {
    let (proxy, asked) = proxy("HTTP/1.1 200 OK\r\n\r\n").await;
    let destination = Destination::unchecked(origin(false, "127.0.0.1", 80), Addresses::Public, false, true);
    let error = refusal(&behind(&proxy), &destination).await;
    assert!(matches!(error, DialError::Private { .. }), "{error:?}");
    assert_eq!(*asked.lock().unwrap(), "");
}

#[tokio::test]
async fn errors_of_a_proxy_never_show_the_login() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(limits::PROXY_ANSWER_BYTES));
    let cases = [
        ("HTTP/1.1 407 open:sesame\r\n\r\n", "does not take the name and password", false),
        ("HTTP/1.1 403 Forbidden\r\n\r\n<html>", "403 Forbidden to CONNECT registry.example:443", false),
        ("HTTP/1.1 503 Busy\r\n\r\n", "503 Service Unavailable to CONNECT", true),
        ("HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", "302 Found", false),
        ("HTTP/1.1 200 OK\r\n\r\nearly", "something comes ahead of the tunnel", false),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "switches protocols unasked", false),
        ("SSH-2.0-OpenSSH_9.9\r\n\r\n", "it is not HTTP", false),
        (long.as_str(), "it is too long", false),
    ];
    for (answer, told, transient) in cases {
        let proxy = with_login(proxy(answer).await.0);
        let error = refusal(&behind(&proxy), &tunnelled(true, "registry.example", 443)).await;
        assert!(matches!(error, DialError::Proxy { .. }), "{error:?}");
        assert_eq!(error.is_transient(), transient, "{error:?}");
        let words = words(&error);
        assert!(words.starts_with(&format!("the proxy 127.0.0.1:{} ", proxy.port)), "{words}");
        assert!(words.contains(told), "{words}");
        for text in [words, format!("{error:?}"), format!("{proxy:?}")] {
            assert!(!text.contains("sesame") && !text.contains("cm9ib3Q6"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_missing_proxy_login_is_told_from_a_wrong_one() {
    let (proxy, _) = proxy("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    let error = refusal(&behind(&proxy), &tunnelled(true, "registry.example", 443)).await;
    assert!(words(&error).contains("it wants a name and a password: upstream.proxy"), "{error:?}");
}

#[tokio::test]
async fn a_closing_or_missing_proxy_is_named() {
    let (listener, port) = listener().await;
    let hung_up = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        head(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 20").await.unwrap();
    });
    let proxy = Proxy { host: "127.0.0.1".to_owned(), port, login: None, except: NoProxy::default() };
    let destination = tunnelled(false, "registry.example", 80);
    let error = refusal(&behind(&proxy), &destination).await;
    assert!(words(&error).contains("it is cut short"), "{error:?}");
    hung_up.await.unwrap();
    let error = refusal(&behind(&proxy), &destination).await;
    assert!(words(&error).contains("it cannot be connected to"), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_slow_proxy_counts_against_connect_timeout() {
    let (proxy, _) = proxy("HTTP/1.1 200 ").await;
    let dialer = Dialer::new(&behind(&proxy)).unwrap();
    let destination = tunnelled(true, "registry.example", 443);
    let error = dialer.dial(&destination, Protocols::Http1, Duration::from_millis(100)).await.err().unwrap();
    assert!(matches!(error, DialError::Timeout { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("through the proxy 127.0.0.1:{}", proxy.port)), "{error}");
}
