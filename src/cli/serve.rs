//! `dockgate serve`: runs the gateway.

use std::future::Future;
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{App, Origin};
use crate::cli::exit::fail;
use crate::cli::service_manager::ServiceManager;
use crate::config::{Config, Environment};
use crate::telemetry;
use crate::worker_id;

/// Run the gateway (what dockgate does without a command)
#[derive(Args, Debug, Default)]
#[command(after_help = "Examples:\n  dockgate serve --config /etc/dockgate/dockgate.toml\n  \
    REGISTRY_HTTP_ADDR=127.0.0.1:5000 REGISTRY_AUTH=htpasswd REGISTRY_AUTH_HTPASSWD_PATH=auth/htpasswd \\\n    \
    REGISTRY_PROXY_REMOTEURL=http://127.0.0.1:5002 dockgate")]
pub(crate) struct ServeArgs {
    /// The configuration; else $DOCKGATE_CONFIG, ./dockgate.toml, /etc/dockgate/dockgate.toml, or variables alone
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Runs until SIGTERM or SIGINT. The answer is the exit code: 0 after a drain, 1 when it can't run, 2 when the
/// configuration is wrong.
pub(crate) fn run(args: &ServeArgs, environment: Environment) -> u8 {
    let config = match Config::check(args.config.as_deref(), &environment) {
        Ok(config) => config,
        Err(errors) => return fail(&errors, 2),
    };
    let origin = Origin { path: args.config.clone(), environment };
    let code = block_on(serve(config, origin)).map_or_else(|error| fail(&error, 1), |()| 0);
    telemetry::flush();
    code
}

async fn serve(config: Config, origin: Origin) -> Result<(), Box<dyn std::error::Error>> {
    let access_log = telemetry::start(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let admin = config.admin.as_ref().map(|admin| admin.address.clone());
    let manager = ServiceManager::of(&origin.environment);
    let app = App::start_as_service(config, Some(origin), access_log).await?;
    // This thread accepts connections and answers the admin listener.
    worker_id::answer();
    for address in app.addresses() {
        tracing::info!(%address, "listening");
    }
    match (app.admin_address(), admin) {
        (Some(address), _) => tracing::info!(%address, "admin listener"),
        (None, Some(address)) => tracing::info!(%address, "admin listener"),
        (None, None) => {}
    }
    serve_until_signal(&app, &manager).await?;
    Ok(())
}

/// Serves until SIGTERM or SIGINT, then drains; a second signal ends the drain.
pub(super) async fn serve_until_signal(app: &App, manager: &ServiceManager) -> std::io::Result<()> {
    let mut end = End::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let reloading = async {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: reading everything again");
            app.reload();
        }
    };
    // Only now: a signal that comes at once drains, too.
    manager.ready();
    tokio::select! {
        () = app.watch() => {}
        () = reloading => {}
        () = manager.keep_alive(|| !app.is_stuck()) => {}
        () = end.recv() => {}
    }
    tracing::info!("draining");
    manager.stopping();
    tokio::select! {
        finished = app.drain() => tracing::info!(finished, "drained"),
        () = end.recv() => tracing::info!("second signal: exiting without waiting for transfers"),
    }
    Ok(())
}

/// Runs `work` on a runtime of this thread, which accepts and watches; connections have threads of their own.
pub(super) fn block_on<T>(
    work: impl Future<Output = Result<T, Box<dyn std::error::Error>>>,
) -> Result<T, Box<dyn std::error::Error>> {
    without_huge_pages();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // Threads that wait for a disk that hangs must not keep the process from ending.
    runtime.shutdown_background();
    done
}

/// Has the process use small pages alone. The allocator asks for huge ones, and the first use of one clears 2 MiB before it goes on: a
/// worker stands for milliseconds where the host of a virtual machine has to find the memory, and most of what is cleared is never
/// used. Resident memory was twice as large, and no request was cheaper.
fn without_huge_pages() {
    // A kernel that has no such switch has no huge pages either.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// The signals that end the process.
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
