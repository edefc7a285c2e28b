//! `dockgate demo`: everything in one process, to try it out.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::net::TcpListener;

use crate::app::App;
use crate::authn::htpasswd::hash;
use crate::cli::certificate;
use crate::cli::exit::fail;
use crate::cli::serve::{block_on, serve_until_signal};
use crate::cli::service_manager::ServiceManager;
use crate::config::{Config, Environment};
use crate::demo::image;
use crate::demo::registry::Registry;
use crate::proto::Secret;
use crate::telemetry;

/// Try it out: a registry, a certificate, a user and the gateway in one process
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  dockgate demo --listen 127.0.0.1:5000")]
pub(crate) struct DemoArgs {
    /// Where the gateway listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Where its certificate, htpasswd file and configuration go; else a new temporary directory, removed in the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The words of every registry tutorial.
const USER: &str = "registryuser";
const PASSWORD: &str = "password";

/// The cost of the demo's one hash: the usual.
const COST: u32 = 10;

/// Serves until Ctrl-C. The answer is the exit code.
pub(super) fn run(args: &DemoArgs) -> u8 {
    let directory = match DemoDirectory::new(args.dir.as_deref()) {
        Ok(directory) => directory,
        Err(error) => return fail(&error, 1),
    };
    let code = block_on(serve(args.listen, &directory.path)).map_or_else(|error| fail(&error, 1), |()| 0);
    telemetry::flush();
    code
}

/// The demo's directory; a temporary one goes with it.
struct DemoDirectory {
    path: PathBuf,
    temporary: bool,
}

impl DemoDirectory {
    fn new(dir: Option<&Path>) -> io::Result<Self> {
        if let Some(dir) = dir {
            fs::create_dir_all(dir)?;
            return Ok(Self { path: dir.canonicalize()?, temporary: false });
        }
        // A name that cannot be guessed, in a directory that every user may write to.
        let mut random = [0u8; 4];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("this machine has no randomness"))?;
        let path = std::env::temp_dir().join(format!("dockgate-demo-{:08x}", u32::from_be_bytes(random)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, temporary: true })
    }
}

impl Drop for DemoDirectory {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

async fn serve(listen: SocketAddr, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::new();
    image::seed(&registry)?;
    let upstream = TcpListener::bind("127.0.0.1:0").await?;
    let config = configure(listen, upstream.local_addr()?, dir)?;
    tokio::spawn(registry.serve(upstream, std::future::pending::<()>()));

    let access_log = telemetry::start(&config.log)?;
    let app = App::start(config, None, access_log).await?;
    let address = app.addresses().first().copied().unwrap_or(listen);
    io::stdout().write_all(greeting(address, dir).as_bytes())?;
    serve_until_signal(&app, &ServiceManager::of(&Environment::default())).await?;
    Ok(())
}

/// Writes the files that a real gateway has, and reads them as it would.
fn configure(
    listen: SocketAddr,
    upstream: SocketAddr,
    dir: &Path,
) -> Result<Config, Box<dyn std::error::Error>> {
    let certificate = certificate::issue(&names(listen))?;
    write(&dir.join("ca.crt"), &certificate.ca_pem)?;
    // Apart from the CA: clients take every file beside that for one of theirs.
    let own = dir.join("gateway");
    fs::create_dir_all(&own)?;
    write(&own.join("domain.crt"), &certificate.cert_pem)?;
    write(&own.join("domain.key"), &certificate.key_pem)?;
    let line = hash(&Secret::new(PASSWORD), COST)?;
    write(&own.join("htpasswd"), &format!("{USER}:{line}\n"))?;
    let text = format!(
        r#"# The demo's configuration: a gateway with TLS and a password, in front of a registry that has neither.
[server]
address = "{listen}"

[server.tls]
certificate = "domain.crt"
key = "domain.key"

[admin]
address = ""

[log]
level = "warn,access=info"

[auth.htpasswd]
path = "htpasswd"

[[upstream]]
name = "demo"
prefix = ""
url = "http://{upstream}"
"#
    );
    let file = own.join("dockgate.toml");
    write(&file, &text)?;
    // Variables are for gateways that are meant to last.
    Ok(Config::check(Some(&file), &Environment::from([("", ""); 0]))?)
}

fn names(listen: SocketAddr) -> Vec<String> {
    let mut names: Vec<String> = certificate::DEFAULT_NAMES.iter().map(ToString::to_string).collect();
    let address = listen.ip().to_string();
    if !listen.ip().is_unspecified() && !names.contains(&address) {
        names.push(address);
    }
    names
}

/// Writes a file that is readable by its owner alone from its first byte on.
fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let _ = fs::remove_file(path);
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn greeting(address: SocketAddr, dir: &Path) -> String {
    let host = if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    let ca = dir.join("ca.crt");
    let (ca, dir) = (ca.display(), dir.display());
    format!(
        "
dockgate demo: https://{host}, in front of a registry that has no password of its own

  user      {USER}
  password  {PASSWORD}
  CA        {ca}

Without a login it is closed, with one it is a registry:

  curl --cacert {ca} https://{host}/v2/
  curl --cacert {ca} -u {USER}:{PASSWORD} https://{host}/v2/hello/tags/list

Docker takes any certificate from 127.0.0.1; for another name, put the CA into /etc/docker/certs.d/{host}/ca.crt

  docker login -u {USER} -p {PASSWORD} {host}
  docker pull {host}/hello:latest
  docker tag {host}/hello:latest {host}/team/hello:mine
  docker push {host}/team/hello:mine
  docker logout {host}

Skopeo needs no daemon:

  skopeo inspect --cert-dir {dir} --creds {USER}:{PASSWORD} docker://{host}/hello:latest
  skopeo copy --src-cert-dir {dir} --dest-cert-dir {dir} --src-creds {USER}:{PASSWORD} --dest-creds {USER}:{PASSWORD} docker://{host}/hello:latest docker://{host}/team/copy:latest

Ctrl-C ends it.
"
    )
}
