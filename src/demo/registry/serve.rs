//! The registry on a socket.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::demo::registry::state::Registry;

/// The time for requests under way after the shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// The pause when no connection can be accepted, mostly for want of file descriptors.
const BACKOFF: Duration = Duration::from_millis(100);

/// The time for a request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

impl Registry {
    /// Serves plain HTTP/1.1 and HTTP/2 (with prior knowledge) until `shutdown` is ready and the requests under way
    /// are answered, which is given 5 s.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future) {
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                _ = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.spawn(&mut connections, &graceful, stream),
                    Err(_) => tokio::time::sleep(BACKOFF).await,
                },
            }
        }
        drop(listener);
        // Connections that are left after this are closed when the set is dropped.
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    }

    fn spawn(&self, connections: &mut JoinSet<()>, graceful: &GracefulShutdown, stream: TcpStream) {
        let watcher = graceful.watcher();
        let registry = self.clone();
        connections.spawn(async move {
            // Without it the last segment of an answer waits for the client's acknowledgement.
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| {
                let registry = registry.clone();
                async move { Ok::<_, Infallible>(registry.handle(request).await) }
            });
            let builder = builder();
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            // A client that breaks off is no event here.
            let _ = watcher.watch(connection).await;
        });
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Without a timer hyper has no header timeout at all.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    builder
}
