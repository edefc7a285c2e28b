use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::{Config, Environment};
use crate::proto::{Action, RepositoryName};
use crate::upstream::auth::credentials::program::tests::install;

/// A registry like ECR: 401 without a password, 403 to one that has expired, and 200 to `robot:two`.
async fn registry() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap().to_lowercase();
            // robot:two, in lower case here.
            let status = match head.split_once("authorization: ") {
                None => "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"ecr\"",
                Some((_, shown)) if shown.starts_with("basic cm9ib3q6dhdv") => "200 OK",
                Some(_) => "403 Forbidden",
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

fn settings(directory: &std::path::Path, port: u16) -> config::Upstream {
    let path = directory.join("dockgate.toml");
    let text = format!(
        "[[access]]\nusers = [\"anonymous\"]\nrepositories = [\"**\"]\nactions = [\"*\"]\n\
         [[upstream]]\nname = \"up\"\nurl = \"http://127.0.0.1:{port}\"\nprefix = \"\"\n"
    );
    std::fs::write(&path, text).unwrap();
    Config::check(Some(&path), &Environment::from([("", ""); 0])).unwrap().upstreams.remove(0)
}

/// amazon-ecr-credential-helper#7, rules_img#715.
#[tokio::test]
async fn a_403_to_a_password_that_expired_asks_the_helper_again() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "one").unwrap();
    let script = r#"echo '{"Username":"robot","Secret":"'"$(cat "$(dirname "$0")/secret")"'"}'"#;
    let credentials = Credentials::of_helper(install(directory.path(), "ecr", script));
    let settings = settings(directory.path(), registry().await);
    let client = Arc::new(HttpClient::new(&settings, Duration::from_secs(20), 1).unwrap());
    let egress = Arc::new(EgressPolicy::new(&settings));
    let authenticator = Authenticator::new(&settings, client, egress.clone(), Arc::new(credentials));
    let status = || async {
        let mut request = Request {
            method: Method::GET,
            target: "/v2/a/manifests/x".to_owned(),
            headers: HeaderMap::new(),
            body: &mut RequestBody::empty(),
            scope: RequiredScope::Repository(RepositoryName::parse("a").unwrap(), Action::Pull),
            purpose: Purpose::Other,
        };
        let destination = egress.own(request.target.clone());
        authenticator.send(&UpstreamIdentity::Gateway, &destination, &mut request).await.unwrap().status
    };
    assert_eq!(status().await, StatusCode::FORBIDDEN, "the helper has no other");
    std::fs::write(&secret, "two").unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    assert_eq!(status().await, StatusCode::OK);
}
