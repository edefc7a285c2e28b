//! A whole gateway in this process, made from a configuration file as a real one is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use dockgate::internals::Secret;
use dockgate::internals::certificate;
use dockgate::internals::htpasswd;
use dockgate::internals::registry::Registry;
use dockgate::internals::telemetry;
use dockgate::internals::{App, Origin};
use dockgate::internals::{Config, Environment};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Answer, Client, Http2, Request, Upstream, soon};

/// Writes the configuration.
pub(crate) struct Builder {
    dir: TempDir,
    addresses: Vec<String>,
    server: String,
    tls: Option<Vec<String>>,
    sni: Vec<Vec<String>>,
    users: Vec<(String, String)>,
    admin: Option<String>,
    operators: Vec<(String, String)>,
    log: Option<String>,
    /// With an audit log; true if it has pulls.
    audit: Option<bool>,
    client_ca: bool,
    auth: String,
    rules: String,
    upstreams: String,
    cache: String,
    peers: String,
}

pub(crate) struct Gateway {
    pub(crate) app: App,
    pub(crate) address: SocketAddr,
    pub(crate) dir: TempDir,
    ca: Option<String>,
    sni: Vec<(String, String)>,
}

/// The level at which every gateway logs that a test starts; without it only those that say so log.
pub(crate) const LOGGING: &str = "DOCKGATE_IT_LOGGING";

/// A registry without anything in it, on a port of its own.
pub(crate) async fn demo_registry() -> (Registry, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let registry = Registry::new();
    tokio::spawn(registry.clone().serve(listener, std::future::pending::<()>()));
    (registry, address)
}

impl Gateway {
    pub(crate) fn builder() -> Builder {
        Builder {
            dir: tempfile::tempdir().expect("a directory"),
            addresses: vec!["127.0.0.1:0".to_owned()],
            server: String::new(),
            tls: None,
            sni: Vec::new(),
            users: Vec::new(),
            admin: None,
            operators: Vec::new(),
            log: std::env::var(LOGGING).ok(),
            audit: None,
            client_ca: false,
            auth: "challenge = \"basic\"".to_owned(),
            rules: String::new(),
            upstreams: String::new(),
            cache: String::new(),
            peers: String::new(),
        }
    }

    /// Creates a gateway that allows everything, in front of one scripted upstream that takes all names.
    pub(crate) async fn open(upstream: &Upstream) -> Self {
        Self::builder().upstream("up", "", upstream.address).start().await
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> Client {
        match &self.ca {
            None => Client::tcp(self.address).await,
            Some(_) => self.connect_tls("localhost").await,
        }
    }

    /// A new TLS connection for a server name, that speaks HTTP/1.1.
    pub(crate) async fn connect_tls(&self, name: &str) -> Client {
        Client::tls(self.tcp().await, self.ca(), name, "http/1.1").await.expect("a handshake")
    }

    /// Connects, trusting the authority of the `place`th further certificate.
    pub(crate) async fn connect_sni(&self, place: usize, name: &str) -> Client {
        Client::tls(self.tcp().await, &self.sni[place].1, name, "http/1.1").await.expect("a handshake")
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        soon("a connection", TcpStream::connect(self.address)).await.expect("a connection")
    }

    /// A new plain connection from another address of this machine: another client.
    pub(crate) async fn connect_from(&self, address: [u8; 4]) -> Client {
        Client::of(self.tcp_from(address).await)
    }

    pub(crate) async fn tcp_from(&self, address: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("an address of this machine");
        soon("a connection", socket.connect(self.address)).await.expect("a connection")
    }

    /// A connection that speaks HTTP/2.
    pub(crate) async fn http2(&self) -> Http2 {
        let client = Client::tls(self.tcp().await, self.ca(), "localhost", "h2").await.expect("a handshake");
        Http2::over(client.into_io()).await
    }

    /// A TLS connection on which HTTP/2 was agreed, and nothing said yet.
    pub(crate) async fn http2_bytes(&self) -> Client {
        Client::tls(self.tcp().await, self.ca(), "localhost", "h2").await.expect("a handshake")
    }

    pub(crate) fn ca(&self) -> &str {
        self.ca.as_deref().expect("a gateway with TLS")
    }

    /// Asks on a connection of its own.
    pub(crate) async fn ask(&self, request: Request) -> Answer {
        self.connect().await.ask(&request).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask(Request::get(target)).await
    }

    /// Asks the admin listener.
    pub(crate) async fn admin(&self, target: &str) -> Answer {
        let mut client = Client::tcp(self.app.admin_address().expect("an admin listener")).await;
        client.ask(&Request::get(target)).await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of the gateway's and has everything read again, as SIGHUP does.
    pub(crate) fn rewrite(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
        self.app.reload();
    }

    /// Changes the configuration file by replacing `old`, and has everything read again.
    pub(crate) fn reconfigure(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.path("dockgate.toml")).expect("the configuration");
        assert!(text.contains(old), "{text}");
        self.rewrite("dockgate.toml", &text.replace(old, new));
    }
}

/// An htpasswd file of these users.
pub(crate) fn htpasswd(users: &[(String, String)]) -> String {
    let line = |(name, password): &(String, String)| {
        let hash = htpasswd::hash(&Secret::new(password.as_str()), 4).expect("a hash");
        format!("{name}:{hash}\n")
    };
    users.iter().map(line).collect()
}

impl Builder {
    pub(crate) fn upstream(self, name: &str, prefix: &str, address: SocketAddr) -> Self {
        self.upstream_with(name, prefix, address, "")
    }

    /// An upstream with further lines of configuration.
    pub(crate) fn upstream_with(
        mut self,
        name: &str,
        prefix: &str,
        address: SocketAddr,
        lines: &str,
    ) -> Self {
        let url =
            if lines.contains("url =") { String::new() } else { format!("url = \"http://{address}\"\n") };
        // Writing to a String can't fail.
        let _ = write!(
            self.upstreams,
            "[[upstream]]\nname = \"{name}\"\nprefix = \"{prefix}\"\n{url}{lines}\n\n"
        );
        self
    }

    /// A file in the gateway's directory.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.dir.path().join(name), text).expect("a file");
        self
    }

    /// A line of `[server]`.
    pub(crate) fn server(mut self, line: &str) -> Self {
        self.server += line;
        self.server.push('\n');
        self
    }

    /// Another address, or `unix:NAME` for a socket in the gateway's directory.
    pub(crate) fn address(mut self, address: &str) -> Self {
        self.addresses.push(address.replace("unix:", &format!("unix:{}/", self.dir.path().display())));
        self
    }

    pub(crate) fn tls(mut self, names: &[&str]) -> Self {
        self.tls = Some(names.iter().map(ToString::to_string).collect());
        self
    }

    /// Asks clients for certificates of this authority, to the path `clients.crt`.
    pub(crate) fn client_ca(mut self, pem: &str) -> Self {
        self.client_ca = true;
        self.file("clients.crt", pem)
    }

    /// Gets its certificate from an ACME server, for these names, and keeps it in `folder`.
    pub(crate) fn acme(mut self, directory: &str, domains: &[&str], folder: &Path) -> Self {
        let _ = write!(
            self.upstreams,
            "[server.tls.acme]\ndomains = {domains:?}\nemail = \"ops@example.com\"\ndirectory = {directory:?}\npath = {folder:?}\n\n"
        );
        self
    }

    /// A further certificate, chosen by server name.
    pub(crate) fn sni(mut self, names: &[&str]) -> Self {
        self.sni.push(names.iter().map(ToString::to_string).collect());
        self
    }

    pub(crate) fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    /// The lines of `[auth]`, in place of those that ask for passwords.
    pub(crate) fn auth(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.auth);
        self
    }

    pub(crate) fn admin_listener(self) -> Self {
        self.admin_at("127.0.0.1:0")
    }

    pub(crate) fn admin_at(mut self, address: &str) -> Self {
        self.admin = Some(address.to_owned());
        self
    }

    /// Lets these users alone ask the admin listener.
    pub(crate) fn operator(mut self, name: &str, password: &str) -> Self {
        self.operators.push((name.to_owned(), password.to_owned()));
        self
    }

    /// Writes an audit log, to the path `audit.log`.
    pub(crate) fn audit(mut self, pulls: bool) -> Self {
        self.audit = Some(pulls);
        self
    }

    /// Logs at this level, with an access log; other gateways log nothing.
    pub(crate) fn logging(mut self, level: &str) -> Self {
        self.log = Some(level.to_owned());
        self
    }

    /// Adds an `[[access]]` rule for the members of groups.
    pub(crate) fn rule_of_groups(mut self, groups: &[&str], repositories: &[&str], actions: &[&str]) -> Self {
        let _ = write!(
            self.rules,
            "[[access]]\ngroups = {groups:?}\nrepositories = {repositories:?}\nactions = {actions:?}\n\n"
        );
        self
    }

    /// Adds an `[[access]]` rule. Without any, every client may do everything.
    pub(crate) fn rule(mut self, users: &[&str], repositories: &[&str], actions: &[&str]) -> Self {
        let _ = write!(
            self.rules,
            "[[access]]\nusers = {users:?}\nrepositories = {repositories:?}\nactions = {actions:?}\n\n"
        );
        self
    }

    /// An `[[access]]` rule that denies.
    pub(crate) fn denial(mut self, users: &[&str], repositories: &[&str], actions: &[&str]) -> Self {
        self = self.rule(users, repositories, actions);
        self.rules.truncate(self.rules.trim_end().len());
        self.rules += "\neffect = \"deny\"\n\n";
        self
    }

    /// `[cache]` in a directory of its own, with further lines.
    pub(crate) fn cache(self, lines: &str) -> Self {
        let path = self.dir.path().join("cache");
        self.cache_at(&path, lines)
    }

    /// `[cache]` in a directory that outlives the gateway, or is another's too.
    /// How full this machine's disk is makes no difference, unless they say otherwise.
    pub(crate) fn cache_at(mut self, path: &Path, lines: &str) -> Self {
        if path.exists() {
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(path, private).expect("a directory of ours");
        }
        let free = if lines.contains("min_free") { "" } else { "min_free = \"1MiB\"\n" };
        self.cache = format!("[cache]\npath = {path:?}\n{free}{lines}\n\n");
        self
    }

    /// `[peers]` with these lines.
    pub(crate) fn peers(mut self, lines: &str) -> Self {
        self.peers = format!("[peers]\n{lines}\n\n");
        self
    }

    /// Without other replicas.
    pub(crate) fn peerless(mut self) -> Self {
        self.peers.clear();
        self
    }

    /// Replaces the secret.
    pub(crate) fn secret(mut self, old: &str, new: &str) -> Self {
        assert!(self.server.contains(old), "{}", self.server);
        self.server = self.server.replace(old, new);
        self
    }

    /// Lets clients write to the upstream called `name`, or not.
    pub(crate) fn read_only(mut self, name: &str, read_only: bool) -> Self {
        let line = format!("name = \"{name}\"\n");
        assert!(self.upstreams.contains(&line), "{}", self.upstreams);
        self.upstreams = self.upstreams.replace(&line, &format!("{line}read_only = {read_only}\n"));
        self
    }

    /// A denial before all rules so far.
    pub(crate) fn denial_first(mut self, users: &[&str], repositories: &[&str], actions: &[&str]) -> Self {
        let after = std::mem::take(&mut self.rules);
        self = self.denial(users, repositories, actions);
        self.rules += &after;
        self
    }

    /// The configuration, for a process of its own on `address`.
    pub(crate) fn configuration(mut self, address: SocketAddr) -> String {
        self.addresses = vec![address.to_string()];
        self.text(false, &[])
    }

    pub(crate) async fn start(mut self) -> Gateway {
        let ca = self.tls.take().map(|names| write_certificate(self.dir.path(), "domain", &names));
        let further = std::mem::take(&mut self.sni).into_iter().enumerate();
        let sni = further.map(|(place, names)| {
            let name = format!("sni{place}");
            let ca = write_certificate(self.dir.path(), &name, &names);
            (name, ca)
        });
        let sni: Vec<_> = sni.collect();
        let path = self.dir.path().join("dockgate.toml");
        std::fs::write(self.dir.path().join("htpasswd"), htpasswd(&self.users)).expect("a file");
        std::fs::write(self.dir.path().join("operators"), htpasswd(&self.operators)).expect("a file");
        std::fs::write(&path, self.text(ca.is_some(), &sni)).expect("a file");
        let environment = Environment::from([("", ""); 0]);
        let config = Config::check(Some(&path), &environment).unwrap_or_else(|error| panic!("{error}"));
        let origin = Origin { path: Some(path), environment };
        let access_log = self.log.and_then(|_| telemetry::start(&config.log).expect("a level"));
        let app =
            App::start(config, Some(origin), access_log).await.unwrap_or_else(|error| panic!("{error}"));
        let address = app.addresses()[0];
        Gateway { app, address, dir: self.dir, ca, sni }
    }

    fn text(&self, tls: bool, sni: &[(String, String)]) -> String {
        let Self { addresses, server, rules, upstreams, .. } = self;
        let mut text = format!("[server]\naddress = {addresses:?}\n{server}\n");
        if tls {
            text += "[server.tls]\ncertificate = \"domain.crt\"\nkey = \"domain.key\"\n";
            text += if self.client_ca { "client_ca = \"clients.crt\"\n\n" } else { "\n" };
        }
        for (name, _) in sni {
            text += &format!("[[server.tls.sni]]\ncertificate = \"{name}.crt\"\nkey = \"{name}.key\"\n\n");
        }
        text += "[log]\n";
        if let Some(level) = &self.log {
            text += &format!("level = {level:?}\n");
        }
        if let Some(pulls) = self.audit {
            text += &format!("audit = \"audit.log\"\naudit_pulls = {pulls}\n");
        }
        let admin = self.admin.as_deref().unwrap_or_default();
        let operators = if self.operators.is_empty() { "" } else { "operators" };
        text += &format!("[admin]\naddress = \"{admin}\"\nhtpasswd = \"{operators}\"\n\n");
        text += &format!("[auth]\n{}\n\n", self.auth);
        if !self.users.is_empty() {
            text += "[auth.htpasswd]\npath = \"htpasswd\"\n\n";
        }
        if rules.is_empty() && self.users.is_empty() {
            text += "[[access]]\nusers = [\"anonymous\"]\nrepositories = [\"**\"]\nactions = [\"*\"]\n\n";
        }
        text + rules + &self.cache + &self.peers + upstreams
    }
}

/// Writes `NAME.crt` and `NAME.key` for `names`; the answer is the CA.
pub(crate) fn write_certificate(dir: &Path, name: &str, names: &[String]) -> String {
    let issued = certificate::issue(names).expect("a certificate");
    std::fs::write(dir.join(format!("{name}.crt")), &issued.cert_pem).expect("a file");
    std::fs::write(dir.join(format!("{name}.key")), &issued.key_pem).expect("a file");
    issued.ca_pem
}
