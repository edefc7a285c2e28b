//! `dockgate health`: asks the local `/healthz`, for container health checks.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::{Config, ConfigErrors, Environment, LocalAddress};

/// Ask the gateway on this machine whether it is alive
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  HEALTHCHECK CMD [\"dockgate\", \"health\"]")]
pub(crate) struct HealthArgs {
    /// The configuration that names the admin listener's address
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// The reason why the gateway does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HealthError {
    /// The configuration can't be read.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// There is no admin listener.
    #[error("admin.address is \"\": there is no admin listener to ask")]
    Off,
    /// The admin listener does not answer.
    #[error("{address}: {source}")]
    Io {
        /// The admin listener.
        address: LocalAddress,
        /// The cause.
        source: io::Error,
    },
    /// The answer is not 200.
    #[error("{address}: not healthy")]
    Unhealthy {
        /// The admin listener.
        address: LocalAddress,
    },
}

impl HealthError {
    /// Returns 2 for a wrong configuration, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, Self::Config(_)) { 2 } else { 1 }
    }
}

/// The time within which the listener must accept the connection, and send each piece of its answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the admin listener. Any answer but 200 is an error.
///
/// # Errors
/// [`HealthError`].
pub(crate) fn run(
    args: &HealthArgs,
    environment: &Environment,
    output: &mut dyn Write,
) -> Result<(), HealthError> {
    let config = Config::load(args.config.as_deref(), environment)?;
    let address = config.admin.ok_or(HealthError::Off)?.local_address();
    let failed = |source| HealthError::Io { address: address.clone(), source };
    match ask(&address).map_err(failed)? {
        Some(200) => writeln!(output, "ok").map_err(failed),
        _ => Err(HealthError::Unhealthy { address }),
    }
}

fn ask(address: &LocalAddress) -> io::Result<Option<u16>> {
    match address {
        LocalAddress::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            status_of(stream, &address.to_string())
        }
        LocalAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            status_of(stream, "localhost")
        }
    }
}

fn status_of(mut stream: impl Read + Write, host: &str) -> io::Result<Option<u16>> {
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    // A malformed answer has no status.
    let _ = response.parse(&answer);
    Ok(response.code)
}
