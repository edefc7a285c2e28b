//! thin
use dockgate::{server, upstream};
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let file = std::env::args().nth(3).unwrap();
    let t: toml::Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let addr: String = t["server"]["address"].as_str().unwrap().into();
    let tls = t["server"].get("tls").map(|x| server::tls::load(x["certificate"].as_str().unwrap(), x["key"].as_str().unwrap()));
    let url = t["upstream"][0]["url"].as_str().unwrap();
    let uptls = url.starts_with("https");
    let up = url.split("//").nth(1).unwrap().to_string();
    let mode = std::env::var("MODE").unwrap_or("percore".into());
    let listener = std::net::TcpListener::bind(&addr).unwrap();
    listener.set_nonblocking(true).unwrap();
    if mode == "multi" {
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        rt.block_on(async move {
            let l = tokio::net::TcpListener::from_std(listener).unwrap();
            let pool = upstream::Pool::new(up, uptls);
            loop {
                let (s, _) = l.accept().await.unwrap();
                let (tls, pool) = (tls.clone(), pool.clone());
                tokio::spawn(server::connection::serve(s, tls, move |r| { let p = pool.clone(); async move { let h2 = r.version() == http::Version::HTTP_2; p.send(r, h2).await } }));
            }
        });
    }
    let mut txs = vec![];
    for _ in 0..2 {
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel::<std::net::TcpStream>();
        txs.push(tx);
        let (tls, up) = (tls.clone(), up.clone());
        std::thread::spawn(move || {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            rt.block_on(async move {
                let pool = upstream::Pool::new(up, uptls);
                while let Some(s) = rx.recv().await {
                    let s = tokio::net::TcpStream::from_std(s).unwrap();
                    let (tls, pool) = (tls.clone(), pool.clone());
                    tokio::spawn(server::connection::serve(s, tls, move |r| { let p = pool.clone(); async move { let h2 = r.version() == http::Version::HTTP_2; p.send(r, h2).await } }));
                }
            });
        });
    }
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async move {
        let l = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut i = 0;
        loop {
            let (s, _) = l.accept().await.unwrap();
            txs[i % 2].send(s.into_std().unwrap()).unwrap();
            i += 1;
        }
    });
}
