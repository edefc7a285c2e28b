//! Connections to the registries behind the gateway.
//! thin
use std::sync::{Arc, Mutex};
use std::time::Duration;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use crate::body::{Body, Lease, Relay, RequestBody};
use crate::io::{Socket, WriteStall};

type Idle = Arc<Mutex<Vec<SendRequest<RequestBody>>>>;
/// thin
#[derive(Clone, Debug)]
pub struct Pool { idle: Idle, addr: String, tls: Option<Arc<rustls::ClientConfig>> }

struct Back { idle: Idle, sender: SendRequest<RequestBody> }
impl Lease for Back { fn release(self: Box<Self>) { let Self { idle, sender } = *self; idle.lock().unwrap().push(sender); } }

#[derive(Debug)]
struct NoVerify;
impl rustls::client::danger::ServerCertVerifier for NoVerify {
    fn verify_server_cert(&self, _: &rustls::pki_types::CertificateDer<'_>, _: &[rustls::pki_types::CertificateDer<'_>], _: &rustls::pki_types::ServerName<'_>, _: &[u8], _: rustls::pki_types::UnixTime) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> { Ok(rustls::client::danger::ServerCertVerified::assertion()) }
    fn verify_tls12_signature(&self, _: &[u8], _: &rustls::pki_types::CertificateDer<'_>, _: &rustls::DigitallySignedStruct) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> { Ok(rustls::client::danger::HandshakeSignatureValid::assertion()) }
    fn verify_tls13_signature(&self, _: &[u8], _: &rustls::pki_types::CertificateDer<'_>, _: &rustls::DigitallySignedStruct) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> { Ok(rustls::client::danger::HandshakeSignatureValid::assertion()) }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> { rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes() }
}

impl Pool {
    /// thin
    pub fn new(addr: String, tls: bool) -> Self {
        let tls = tls.then(|| Arc::new(rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider())).with_safe_default_protocol_versions().unwrap().dangerous().with_custom_certificate_verifier(Arc::new(NoVerify)).with_no_client_auth()));
        Self { idle: Idle::default(), addr, tls }
    }
    async fn get(&self) -> SendRequest<RequestBody> {
        loop {
            let Some(s) = self.idle.lock().unwrap().pop() else { break };
            if s.is_ready() { return s; }
        }
        let stream = TcpStream::connect(&self.addr).await.unwrap();
        let _ = stream.set_nodelay(true);
        let socket = Socket::Tcp(stream);
        match &self.tls {
            None => shake(WriteStall::new(socket, Duration::from_secs(60))).await,
            Some(c) => {
                let s = tokio_rustls::TlsConnector::from(c.clone()).connect("localhost".try_into().unwrap(), socket).await.unwrap();
                shake(WriteStall::new(s, Duration::from_secs(60))).await
            }
        }
    }
    /// thin
    pub async fn send(&self, mut request: Request<Incoming>, h2: bool) -> Response<Body> {
        let mut sender = self.get().await;
        let uri: http::Uri = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_11;
        request.headers_mut().insert("host", self.addr.parse().unwrap());
        let request = request.map(|b| { if http_body::Body::is_end_stream(&b) { RequestBody::empty() } else { RequestBody::relay(Relay::new(b, h2, Duration::from_secs(60))) } });
        let mut response = sender.send_request(request).await.unwrap();
        if h2 { response.headers_mut().remove("connection"); response.headers_mut().remove("keep-alive"); }
        let idle = self.idle.clone();
        response.map(|b| { let back = Box::new(Back { idle, sender });
            if http_body::Body::is_end_stream(&b) { back.release(); Body::empty() } else { Body::relay(Relay::new(b, false, Duration::from_secs(60)).with_lease(back)) } })
    }
}
async fn shake<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static>(io: T) -> SendRequest<RequestBody> {
    let (s, c) = hyper::client::conn::http1::Builder::new().max_buf_size(std::env::var("RB").ok().and_then(|s| s.parse().ok()).unwrap_or(64 * 1024)).handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(c);
    s
}
