//! thin
use std::sync::Arc;
use std::time::Duration;
use hyper::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer, TokioExecutor};
use crate::body::Body;
use crate::io::{Socket, WriteStall};
use tokio::net::TcpStream;

/// thin
pub async fn serve<H, F>(stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>, handler: H)
where H: Fn(Request<Incoming>) -> F + Clone + Send + 'static, F: Future<Output = Response<Body>> + Send + 'static {
    let _ = stream.set_nodelay(true);
    let socket = Socket::Tcp(stream);
    match tls {
        None => http1(WriteStall::new(socket, Duration::from_secs(60)), handler).await,
        Some(config) => {
            let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(socket).await else { return };
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let io = WriteStall::new(stream, Duration::from_secs(60));
            if h2 { http2(io, handler).await } else { http1(io, handler).await }
        }
    }
}

async fn http1<T, H, F>(io: T, handler: H)
where T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
 H: Fn(Request<Incoming>) -> F + Clone + Send + 'static, F: Future<Output = Response<Body>> + Send + 'static {
    let service = hyper::service::service_fn(move |r| { let f = handler(r); async move { Ok::<_, std::convert::Infallible>(f.await) } });
    let _ = hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(75))
        .max_buf_size(64 * 1024).serve_connection(TokioIo::new(io), service).await;
}

async fn http2<T, H, F>(io: T, handler: H)
where T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
 H: Fn(Request<Incoming>) -> F + Clone + Send + 'static, F: Future<Output = Response<Body>> + Send + 'static {
    let service = hyper::service::service_fn(move |r| { let f = handler(r); async move { Ok::<_, std::convert::Infallible>(f.await) } });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).timer(TokioTimer::new())
        .initial_stream_window_size(4 << 20).initial_connection_window_size(8 << 20).max_concurrent_streams(100).max_send_buf_size(256 << 10)
        .serve_connection(TokioIo::new(io), service).await;
}
