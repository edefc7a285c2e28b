//! An S3-compatible store in this process, that behaves otherwise where it is told to. It checks what a real one checks of a body,
//! and that each request is signed by the key; the signature itself is checked by the real ones of tests/clients.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use dockgate::internals::clock::wall;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// The store.
pub(crate) struct Bucket {
    pub(crate) address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Default)]
struct Shelf {
    /// With the time at which each was written.
    objects: BTreeMap<String, (Bytes, SystemTime)>,
    /// Uploads under way, by their id.
    uploads: HashMap<String, Upload>,
    requests: Vec<String>,
    checksums: usize,
    mood: Mood,
}

struct Upload {
    name: String,
    begun: SystemTime,
    parts: BTreeMap<u32, Bytes>,
}

/// How a store behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    #[default]
    Well,
    /// Each answer is this error.
    Ill(u16),
    /// No answer comes.
    Hangs,
    /// Objects break off after so many bytes.
    Breaks(usize),
    /// Objects stop after so many bytes, and the connection stays.
    Stalls(usize),
    /// Parts of an upload are refused.
    RefusesParts,
}

type Body = StreamBody<futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

impl Bucket {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shelf = Arc::<Mutex<Shelf>>::default();
        let own = shelf.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shelf = own.clone();
                let service = service_fn(move |request| answer(shelf.clone(), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, shelf }
    }

    /// The lines of a configuration that name it.
    pub(crate) fn lines(&self) -> String {
        format!(
            "[cache.store]\nurl = \"s3://bucket/pre/fix\"\nendpoint = \"http://{}\"\n\
             credentials = {{ access_key = \"me\", secret_key = \"hunter2\" }}\ntimeout = \"1s\"\n",
            self.address
        )
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.shelf.lock().mood = mood;
    }

    /// The names of all objects, without the prefix.
    pub(crate) fn names(&self) -> Vec<String> {
        let shelf = self.shelf.lock();
        shelf.objects.keys().map(|name| name.trim_start_matches("pre/fix/v1/").to_owned()).collect()
    }

    /// The names of the objects in one folder.
    pub(crate) fn folder(&self, name: &str) -> Vec<String> {
        self.names().into_iter().filter(|object| object.starts_with(name)).collect()
    }

    pub(crate) fn object(&self, name: &str) -> Option<Bytes> {
        self.shelf.lock().objects.get(&format!("pre/fix/v1/{name}")).map(|(bytes, _)| bytes.clone())
    }

    pub(crate) fn set_object(&self, name: &str, bytes: impl Into<Bytes>) {
        self.set_old_object(name, bytes, Duration::ZERO);
    }

    /// Puts an object there that was written so long ago.
    pub(crate) fn set_old_object(&self, name: &str, bytes: impl Into<Bytes>, age: Duration) {
        self.shelf.lock().objects.insert(format!("pre/fix/v1/{name}"), (bytes.into(), wall() - age));
    }

    pub(crate) fn removes(&self, name: &str) {
        self.shelf.lock().objects.remove(&format!("pre/fix/v1/{name}"));
    }

    /// How long ago an object was written.
    pub(crate) fn age(&self, name: &str) -> Duration {
        let shelf = self.shelf.lock();
        let (_, written) = shelf.objects.get(&format!("pre/fix/v1/{name}")).expect("an object");
        wall().duration_since(*written).unwrap_or_default()
    }

    /// Begins an upload so long ago.
    pub(crate) fn set_upload(&self, id: &str, age: Duration) {
        let upload = Upload { name: "pre/fix/v1/a".to_owned(), begun: wall() - age, parts: BTreeMap::new() };
        self.shelf.lock().uploads.insert(id.to_owned(), upload);
    }

    /// Uploads that have been begun, and neither completed nor given up.
    pub(crate) fn uploads(&self) -> Vec<String> {
        self.shelf.lock().uploads.keys().cloned().collect()
    }

    /// Each request: its method, and the name with its query.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shelf.lock().requests.clone()
    }

    pub(crate) fn forgets_requests(&self) {
        self.shelf.lock().requests.clear();
    }

    /// How many bodies have come with their SHA-256.
    pub(crate) fn checksums(&self) -> usize {
        self.shelf.lock().checksums
    }
}

async fn answer(shelf: Arc<Mutex<Shelf>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
    let mood = {
        let mut shelf = shelf.lock();
        shelf.requests.push(format!("{} {target}", parts.method));
        shelf.mood
    };
    let Ok(body) = body.collect().await else { return Ok(plain(StatusCode::BAD_REQUEST, "")) };
    let body = body.to_bytes();
    match mood {
        Mood::Hangs => std::future::pending().await,
        Mood::Ill(status) => {
            let status = StatusCode::from_u16(status).expect("a status");
            return Ok(plain(status, "<Error><Code>SlowDown</Code></Error>"));
        }
        Mood::Well | Mood::Breaks(_) | Mood::Stalls(_) | Mood::RefusesParts => {}
    }
    if !is_signed(&parts.headers, &body) {
        return Ok(plain(StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>"));
    }
    let Some(name) = parts.uri.path().strip_prefix("/bucket") else {
        return Ok(plain(StatusCode::NOT_FOUND, "<Error><Code>NoSuchBucket</Code></Error>"));
    };
    let name = name.trim_start_matches('/').to_owned();
    let query: HashMap<String, String> = parts.uri.query().map(pairs).unwrap_or_default();
    let response = match (&parts.method, query.get("uploadId")) {
        (&Method::POST, None) if query.contains_key("uploads") => begin(&shelf, &name),
        (&Method::PUT, Some(_)) if mood == Mood::RefusesParts => plain(StatusCode::FORBIDDEN, "<Error/>"),
        (&Method::PUT, Some(id)) => part(&shelf, id, &query["partNumber"], body),
        (&Method::POST, Some(id)) => complete(&shelf, id, &name),
        (&Method::DELETE, Some(id)) => {
            shelf.lock().uploads.remove(id);
            plain(StatusCode::NO_CONTENT, "")
        }
        (&Method::PUT, None) => put(&shelf, &name, &parts.headers, body),
        (&Method::DELETE, None) => {
            shelf.lock().objects.remove(&name);
            plain(StatusCode::NO_CONTENT, "")
        }
        (&Method::GET, None) if query.contains_key("list-type") => {
            list(&shelf, &query["prefix"], query.contains_key("delimiter"))
        }
        (&Method::GET, None) if query.contains_key("uploads") => list_uploads(&shelf),
        (&Method::GET | &Method::HEAD, None) => {
            let object = shelf.lock().objects.get(&name).cloned();
            get(object, &parts.method, &parts.headers, mood)
        }
        _ => plain(StatusCode::NOT_IMPLEMENTED, ""),
    };
    Ok(response)
}

/// Checks what can be checked without the secret: who signs, and that the body is the signed one.
fn is_signed(headers: &HeaderMap, body: &Bytes) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let hash = digest(&SHA256, body);
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    text("authorization").starts_with("AWS4-HMAC-SHA256 Credential=me/")
        && (text("x-amz-content-sha256") == hash
            || (body.is_empty() && !text("x-amz-content-sha256").is_empty()))
}

fn pairs(query: &str) -> HashMap<String, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.replace("%2F", "/"))
    };
    query.split('&').map(pair).collect()
}

fn put(shelf: &Mutex<Shelf>, name: &str, headers: &HeaderMap, body: Bytes) -> Response<Body> {
    let mut shelf = shelf.lock();
    if let Some(sum) = headers.get("x-amz-checksum-sha256") {
        if sum.as_bytes() != BASE64_STANDARD.encode(digest(&SHA256, &body)).as_bytes() {
            return plain(StatusCode::BAD_REQUEST, "<Error><Code>BadDigest</Code></Error>");
        }
        shelf.checksums += 1;
    }
    shelf.objects.insert(name.to_owned(), (body, wall()));
    tagged(plain(StatusCode::OK, ""))
}

fn begin(shelf: &Mutex<Shelf>, name: &str) -> Response<Body> {
    let mut shelf = shelf.lock();
    let id = format!("upload{}", shelf.requests.len());
    let upload = Upload { name: name.to_owned(), begun: wall(), parts: BTreeMap::new() };
    shelf.uploads.insert(id.clone(), upload);
    let text = format!(
        "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>{name}</Key><UploadId>{id}</UploadId>\
         </InitiateMultipartUploadResult>"
    );
    plain(StatusCode::OK, &text)
}

fn part(shelf: &Mutex<Shelf>, id: &str, number: &str, body: Bytes) -> Response<Body> {
    let mut shelf = shelf.lock();
    let Some(upload) = shelf.uploads.get_mut(id) else { return plain(StatusCode::NOT_FOUND, "<Error/>") };
    upload.parts.insert(number.parse().expect("a number"), body);
    tagged(plain(StatusCode::OK, ""))
}

/// All parts but the last must be equally long.
fn complete(shelf: &Mutex<Shelf>, id: &str, name: &str) -> Response<Body> {
    let mut shelf = shelf.lock();
    let Some(upload) = shelf.uploads.remove(id) else { return plain(StatusCode::NOT_FOUND, "<Error/>") };
    let lengths: Vec<_> = upload.parts.values().map(Bytes::len).collect();
    if lengths.windows(2).any(|pair| pair[0] < pair[1])
        || lengths.windows(3).any(|three| three[0] != three[1])
    {
        return plain(StatusCode::BAD_REQUEST, "<Error><Code>InvalidPart</Code></Error>");
    }
    let whole: Vec<u8> = upload.parts.values().flat_map(|part| part.iter().copied()).collect();
    shelf.objects.insert(name.to_owned(), (whole.into(), wall()));
    let text = "<CompleteMultipartUploadResult><ETag>\"tag\"</ETag></CompleteMultipartUploadResult>";
    plain(StatusCode::OK, text)
}

/// Lists the objects whose names begin so.
/// Lists the objects whose names begin so; with `in_folders` those in that folder alone, and the folders that are in it.
fn list(shelf: &Mutex<Shelf>, prefix: &str, in_folders: bool) -> Response<Body> {
    let shelf = shelf.lock();
    let (mut entries, mut folders) = (String::new(), BTreeSet::new());
    for (name, (bytes, written)) in &shelf.objects {
        let Some(below) = name.strip_prefix(prefix) else { continue };
        match below.split_once('/') {
            Some((folder, _)) if in_folders => drop(folders.insert(format!("{prefix}{folder}/"))),
            _ => entries.push_str(&format!(
                "<Contents><Key>{name}</Key><LastModified>{}</LastModified><ETag>\"tag\"</ETag><Size>{}</Size></Contents>",
                iso(*written),
                bytes.len()
            )),
        }
    }
    let folders: String = folders
        .into_iter()
        .map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"))
        .collect();
    plain(StatusCode::OK, &format!("<ListBucketResult>{entries}{folders}</ListBucketResult>"))
}

fn list_uploads(shelf: &Mutex<Shelf>) -> Response<Body> {
    let shelf = shelf.lock();
    let entry = |(id, upload): (&String, &Upload)| {
        let (name, begun) = (&upload.name, iso(upload.begun));
        format!("<Upload><Key>{name}</Key><UploadId>{id}</UploadId><Initiated>{begun}</Initiated></Upload>")
    };
    let entries: String = shelf.uploads.iter().map(entry).collect();
    plain(StatusCode::OK, &format!("<ListMultipartUploadsResult>{entries}</ListMultipartUploadsResult>"))
}

fn iso(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).expect("a time").to_string()
}

fn get(
    object: Option<(Bytes, SystemTime)>,
    method: &Method,
    headers: &HeaderMap,
    mood: Mood,
) -> Response<Body> {
    let Some((object, written)) = object else {
        return plain(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>");
    };
    let total = object.len();
    let range =
        headers.get("range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let (status, first, end) = match range {
        None => (StatusCode::OK, 0, total),
        Some((first, last)) => {
            let first: usize = first.parse().expect("a number");
            let end = last.parse::<usize>().map_or(total, |last| (last + 1).min(total));
            (StatusCode::PARTIAL_CONTENT, first, end)
        }
    };
    if first >= end && total > 0 {
        return plain(StatusCode::RANGE_NOT_SATISFIABLE, "<Error/>");
    }
    let bytes = object.slice(first..end);
    let mut response = tagged(Response::new(sending(bytes.clone(), mood)));
    if *method == Method::HEAD {
        *response.body_mut() = sending(Bytes::new(), Mood::Well);
    }
    *response.status_mut() = status;
    response.headers_mut().insert("content-length", bytes.len().into());
    let modified = httpdate::fmt_http_date(written);
    let modified = modified.parse().expect("a value");
    response.headers_mut().insert("last-modified", modified);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{total}", end - 1);
        response.headers_mut().insert("content-range", range.parse().expect("a value"));
    }
    response
}

/// Sends bytes as the mood has it.
fn sending(bytes: Bytes, mood: Mood) -> Body {
    use futures_util::stream::{self, StreamExt};
    let end = match mood {
        Mood::Breaks(end) | Mood::Stalls(end) => end.min(bytes.len()),
        Mood::Well | Mood::Ill(_) | Mood::Hangs | Mood::RefusesParts => bytes.len(),
    };
    let whole = end == bytes.len();
    let begun = stream::iter([Ok(Frame::data(bytes.slice(..end)))]);
    let then = stream::once(async move {
        if matches!(mood, Mood::Stalls(_)) {
            std::future::pending::<()>().await;
        }
        // What was sent before goes out first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(std::io::Error::other("broken off"))
    });
    StreamBody::new(if whole { begun.boxed() } else { begun.chain(then).boxed() })
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(sending(Bytes::from(text.to_owned()), Mood::Well));
    *response.status_mut() = status;
    response
}

fn tagged(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert("etag", "\"tag\"".parse().expect("a value"));
    response
}
