//! The server: directory, accounts, orders, challenges.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::authority::Authority;
use super::validation::greet;
use crate::harness::{Gate, soon};

/// The life of a certificate around now, in days.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    pub(crate) past_days: u64,
    pub(crate) left_days: u64,
}

impl Life {
    /// As Let's Encrypt issues it.
    pub(crate) const NEW: Self = Self { past_days: 0, left_days: 90 };
    /// Past two thirds.
    pub(crate) const DUE: Self = Self { past_days: 70, left_days: 20 };
}

pub(crate) struct AcmeServer {
    state: Arc<State>,
}

struct State {
    origin: String,
    authority: Authority,
    /// Where all names lead; validations wait until it is known.
    gateway: watch::Sender<Option<SocketAddr>>,
    script: Mutex<Script>,
    record: Mutex<Record>,
}

/// The server's behaviour.
struct Script {
    life: Life,
    /// Answers 503, without JSON.
    is_out: bool,
    /// Fails each validation with this reason.
    refusal: Option<String>,
    /// Signing waits for it.
    gate: Option<Gate>,
}

/// The requests and validations that the server has seen.
#[derive(Default)]
struct Record {
    accounts: Vec<Account>,
    orders: Vec<Order>,
}

struct Account {
    thumbprint: String,
    contact: Value,
    forgotten: bool,
}

struct Order {
    account: usize,
    names: Vec<String>,
    /// Of each name: None while it is pending, then what is wrong with it, if anything.
    validations: Vec<Option<Result<(), String>>>,
    chain: Option<String>,
}

impl AcmeServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let script = Script { life: Life::NEW, is_out: false, refusal: None, gate: None };
        let state = Arc::new(State {
            origin: format!("http://{address}"),
            authority: Authority::new(),
            gateway: watch::channel(None).0,
            script: Mutex::new(script),
            record: Mutex::default(),
        });
        tokio::spawn(serve(listener, state.clone()));
        Self { state }
    }

    /// The URL of its directory.
    pub(crate) fn directory(&self) -> String {
        format!("{}/dir", self.state.origin)
    }

    /// The certificate that signs those that it issues.
    pub(crate) fn ca(&self) -> &str {
        self.state.authority.pem()
    }

    /// Has all names lead to this address.
    pub(crate) fn lead_to(&self, address: SocketAddr) {
        self.state.gateway.send_replace(Some(address));
    }

    /// Issues certificates with this life from now on.
    pub(crate) fn set_life(&self, life: Life) {
        self.script(|script| script.life = life);
    }

    /// Fails, or answers again.
    pub(crate) fn set_out(&self, is_out: bool) {
        self.script(|script| script.is_out = is_out);
    }

    /// Refuses all names with this reason from now on.
    pub(crate) fn refuse(&self, reason: &str) {
        self.script(|script| script.refusal = Some(reason.to_owned()));
    }

    /// Signs the next certificate when the gate opens.
    pub(crate) fn hold(&self, gate: &Gate) {
        self.script(|script| script.gate = Some(gate.clone()));
    }

    /// Knows no account any more.
    pub(crate) fn forget_accounts(&self) {
        let mut record = self.state.record.lock().unwrap();
        record.accounts.iter_mut().for_each(|account| account.forgotten = true);
    }

    /// The contacts of the accounts that were made.
    pub(crate) fn contacts(&self) -> Vec<Value> {
        self.state.record.lock().unwrap().accounts.iter().map(|account| account.contact.clone()).collect()
    }

    /// The number of orders that were made.
    pub(crate) fn orders(&self) -> usize {
        self.state.record.lock().unwrap().orders.len()
    }

    /// Waits until so many orders were made.
    pub(crate) async fn until_orders(&self, count: usize) {
        soon("an order", async {
            while self.orders() < count {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state.script.lock().unwrap());
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        let answering = service_fn(move |request| answer(state.clone(), request));
        tokio::spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answering).await;
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a request").to_bytes();
    let is_out = state.script.lock().unwrap().is_out;
    let reply = match parts.method {
        _ if is_out => {
            Reply { status: 503, location: None, kind: "text/html", body: "<html>down</html>".into() }
        }
        Method::GET => Reply::json(200, &state.directory()),
        Method::HEAD => Reply::json(200, &json!({})),
        _ => state.post(parts.uri.path(), &Signed::read(&body)).await,
    };
    Ok(reply.response(&state.origin))
}

/// A signed request (RFC 8555 section 6.2). The signature is not verified: a wrong one is the crate's fault, which pebble finds.
struct Signed {
    header: Value,
    /// None for POST-as-GET.
    payload: Option<Value>,
}

impl Signed {
    fn read(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).expect("JSON");
        let part =
            |name: &str| URL_SAFE_NO_PAD.decode(body[name].as_str().expect("a part")).expect("base64url");
        let payload = part("payload");
        let payload = (!payload.is_empty()).then(|| serde_json::from_slice(&payload).expect("JSON"));
        Self { header: serde_json::from_slice(&part("protected")).expect("JSON"), payload }
    }

    /// The thumbprint of the key in its header (RFC 7638).
    fn thumbprint(&self) -> String {
        let key = &self.header["jwk"];
        let members =
            format!(r#"{{"crv":{},"kty":{},"x":{},"y":{}}}"#, key["crv"], key["kty"], key["x"], key["y"]);
        URL_SAFE_NO_PAD.encode(sha256(members.as_bytes()))
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

struct Reply {
    status: u16,
    location: Option<String>,
    kind: &'static str,
    body: Bytes,
}

impl Reply {
    fn json(status: u16, body: &Value) -> Self {
        Self { status, location: None, kind: "application/json", body: body.to_string().into() }
    }

    fn at(self, path: String) -> Self {
        Self { location: Some(path), ..self }
    }

    fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        let reply = Self::json(status, &json!({ "type": kind, "detail": detail }));
        Self { kind: "application/problem+json", ..reply }
    }

    fn response(self, origin: &str) -> Response<Full<Bytes>> {
        let builder = Response::builder().status(self.status).header("Content-Type", self.kind);
        let builder = builder.header("Replay-Nonce", "bm9uY2U");
        let builder = match self.location {
            Some(path) => builder.header("Location", format!("{origin}{path}")),
            None => builder,
        };
        builder.body(Full::new(self.body)).expect("a response")
    }
}

impl State {
    fn directory(&self) -> Value {
        let url = |path: &str| format!("{}{path}", self.origin);
        json!({ "newNonce": url("/nonce"), "newAccount": url("/account"), "newOrder": url("/order") })
    }

    async fn post(&self, path: &str, signed: &Signed) -> Reply {
        let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let number = |at: usize| words[at].parse::<usize>().expect("a number");
        match words[0] {
            "account" => self.new_account(signed),
            "order" if words.len() == 1 => self.new_order(signed),
            "order" if words.len() == 3 => self.finalize(number(1), signed).await,
            "order" => Reply::json(200, &self.order(number(1))),
            "authorization" => Reply::json(200, &self.authorization(number(1), number(2))),
            "challenge" => self.validate(number(1), number(2)).await,
            "certificate" => {
                let chain = self.record.lock().unwrap().orders[number(1)].chain.clone().expect("a chain");
                Reply {
                    status: 200,
                    location: None,
                    kind: "application/pem-certificate-chain",
                    body: chain.into(),
                }
            }
            _ => panic!("the ACME server was asked for {path}"),
        }
    }

    fn new_account(&self, signed: &Signed) -> Reply {
        let mut record = self.record.lock().unwrap();
        let contact = signed.payload.as_ref().expect("a payload")["contact"].clone();
        record.accounts.push(Account { thumbprint: signed.thumbprint(), contact, forgotten: false });
        Reply::json(201, &json!({ "status": "valid" })).at(format!("/account/{}", record.accounts.len() - 1))
    }

    fn new_order(&self, signed: &Signed) -> Reply {
        let account =
            signed.header["kid"].as_str().and_then(|kid| kid.rsplit('/').next()?.parse::<usize>().ok());
        let account = account.expect("an account");
        let mut record = self.record.lock().unwrap();
        if record.accounts[account].forgotten {
            return Reply::problem(400, "accountDoesNotExist", "the account is unknown");
        }
        let identifiers = signed.payload.as_ref().expect("a payload")["identifiers"].clone();
        let identifiers = identifiers.as_array().expect("identifiers").iter();
        let names: Vec<String> =
            identifiers.map(|one| one["value"].as_str().expect("a name").to_owned()).collect();
        let validations = vec![None; names.len()];
        record.orders.push(Order { account, names, validations, chain: None });
        let number = record.orders.len() - 1;
        drop(record);
        Reply::json(201, &self.order(number)).at(format!("/order/{number}"))
    }

    fn order(&self, number: usize) -> Value {
        let record = self.record.lock().unwrap();
        let order = &record.orders[number];
        let is_invalid = order.validations.iter().any(|known| matches!(known, Some(Err(_))));
        let is_ready = order.validations.iter().all(Option::is_some);
        let status = match () {
            () if is_invalid => "invalid",
            () if order.chain.is_some() => "valid",
            () if is_ready => "ready",
            () => "pending",
        };
        let url = |path: String| format!("{}{path}", self.origin);
        let authorizations: Vec<String> =
            (0..order.names.len()).map(|name| url(format!("/authorization/{number}/{name}"))).collect();
        json!({
            "status": status,
            "authorizations": authorizations,
            "finalize": url(format!("/order/{number}/finalize")),
            "certificate": order.chain.as_ref().map(|_| url(format!("/certificate/{number}"))),
        })
    }

    fn authorization(&self, number: usize, name: usize) -> Value {
        let record = self.record.lock().unwrap();
        let order = &record.orders[number];
        json!({
            "status": status_of(order.validations[name].as_ref()),
            "identifier": { "type": "dns", "value": order.names[name] },
            "challenges": [{ "type": "http-01", "status": "pending", "url": "x", "token": "x" },
                self.challenge(order, number, name)],
        })
    }

    fn challenge(&self, order: &Order, number: usize, name: usize) -> Value {
        let known = order.validations[name].as_ref();
        let error = known.and_then(|known| known.as_ref().err());
        let error =
            error.map(|why| json!({ "type": "urn:ietf:params:acme:error:connection", "detail": why }));
        let url = format!("{}/challenge/{number}/{name}", self.origin);
        json!({ "type": "tls-alpn-01", "status": status_of(known), "url": url, "token": token(number, name), "error": error })
    }

    /// Connects to the gateway at once. The answer is that of a server that does so later: errors are in the authorization.
    async fn validate(&self, number: usize, name: usize) -> Reply {
        let result = self.validated(number, name).await;
        let mut record = self.record.lock().unwrap();
        let order = &mut record.orders[number];
        let url = format!("{}/challenge/{number}/{name}", self.origin);
        order.validations[name] = Some(result);
        let challenge = json!({ "type": "tls-alpn-01", "status": "processing", "url": url, "token": token(number, name) });
        Reply::json(200, &challenge)
    }

    async fn validated(&self, number: usize, name: usize) -> Result<(), String> {
        if let Some(reason) = self.script.lock().unwrap().refusal.clone() {
            return Err(reason);
        }
        let (domain, proof) = {
            let record = self.record.lock().unwrap();
            let order = &record.orders[number];
            let thumbprint = &record.accounts[order.account].thumbprint;
            (order.names[name].clone(), sha256(format!("{}.{thumbprint}", token(number, name)).as_bytes()))
        };
        let mut gateway = self.gateway.subscribe();
        let address = gateway.wait_for(Option::is_some).await.expect("a gateway").expect("an address");
        let shown = greet(address, &domain, &["acme-tls/1"]).await.map_err(|error| error.to_string())?;
        if shown.proves(&proof) { Ok(()) } else { Err("another certificate was shown".to_owned()) }
    }

    async fn finalize(&self, number: usize, signed: &Signed) -> Reply {
        let (gate, life) = {
            let mut script = self.script.lock().unwrap();
            (script.gate.take(), script.life)
        };
        if let Some(gate) = gate {
            gate.wait().await;
        }
        let csr = signed.payload.as_ref().expect("a payload")["csr"].as_str().expect("a request").to_owned();
        let csr = URL_SAFE_NO_PAD.decode(csr).expect("base64url");
        let names = self.record.lock().unwrap().orders[number].names.clone();
        let chain = self.authority.sign(&csr, &names, life);
        self.record.lock().unwrap().orders[number].chain = Some(chain);
        Reply::json(200, &self.order(number))
    }
}

fn token(number: usize, name: usize) -> String {
    format!("token-{number}-{name}")
}

fn status_of(known: Option<&Result<(), String>>) -> &'static str {
    match known {
        None => "pending",
        Some(Ok(())) => "valid",
        Some(Err(_)) => "invalid",
    }
}
