//! Files as bodies, read without waiting on a worker's thread.
//!
//! Pages that the system has in memory are read at once (`preadv2` with `RWF_NOWAIT`), others on the threads that wait
//! for the disk.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;

use crate::body::{Body, BodyError, Stream};
use crate::cache::store::disk_pool::{DiskPool, Use};
use crate::cache::store::{Content, files};
use crate::read_size::ReadSize;

/// The most bytes of unused pieces that a thread keeps.
const SPARE_BYTES: usize = 8 * 1024 * 1024;

thread_local! {
    static SPARES: RefCell<Spares> = const { RefCell::new(Spares { pieces: Vec::new(), bytes: 0 }) };
}

/// Pieces of memory that are free.
struct Spares {
    pieces: Vec<Box<[u8]>>,
    bytes: usize,
}

impl Spares {
    fn take(&mut self, size: usize) -> Option<Box<[u8]>> {
        let place = self.pieces.iter().rposition(|piece| piece.len() == size)?;
        self.bytes -= size;
        Some(self.pieces.swap_remove(place))
    }

    fn put(&mut self, piece: Box<[u8]>) {
        if self.bytes + piece.len() <= SPARE_BYTES {
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }
}

/// A piece of memory that is used again and again: neither asked of the allocator nor cleared for every read.
struct Piece {
    bytes: Option<Box<[u8]>>,
    length: usize,
}

impl Piece {
    fn new(size: usize) -> Self {
        let spare = SPARES.with_borrow_mut(|spares| spares.take(size));
        Self { bytes: Some(spare.unwrap_or_else(|| vec![0; size].into_boxed_slice())), length: 0 }
    }

    fn room(&mut self, most: u64) -> &mut [u8] {
        self.bytes.as_deref_mut().map_or(&mut [], |bytes| {
            let most = usize::try_from(most).unwrap_or(bytes.len()).min(bytes.len());
            &mut bytes[..most]
        })
    }

    fn freeze(mut self, length: usize) -> Bytes {
        self.length = length;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_deref().map_or(&[], |bytes| &bytes[..self.length])
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            // At the end of a thread there is no place to keep it.
            let _ = SPARES.try_with(|spares| {
                if let Ok(mut spares) = spares.try_borrow_mut() {
                    spares.put(bytes);
                }
            });
        }
    }
}

/// Reads pieces of a file.
pub(crate) struct FileReader {
    disk: Arc<DiskPool>,
    file: Option<Arc<File>>,
    pending: Option<Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>>,
    read_size: ReadSize,
}

/// The result of a read.
pub(crate) enum Read {
    /// The read is done.
    Now(io::Result<Bytes>),
    /// The read goes on, see [`FileReader::poll_pending`].
    Later,
}

impl FileReader {
    /// Returns a reader that has no file yet, and waits for the disk on these threads.
    pub(crate) fn new(disk: Arc<DiskPool>) -> Self {
        Self { disk, file: None, pending: None, read_size: ReadSize::of_file() }
    }

    pub(crate) fn file(&self) -> Option<&Arc<File>> {
        self.file.as_ref()
    }

    pub(crate) fn set(&mut self, file: Arc<File>) {
        self.file = Some(file);
    }

    /// Polls the read that goes on, if there is one.
    pub(crate) fn poll_pending(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Bytes>>> {
        let pending = self.pending.as_mut()?;
        let read = pending.as_mut().poll(cx);
        if read.is_ready() {
            self.pending = None;
        }
        Some(read)
    }

    /// Reads from `at`, up to `to` and no more than a piece. `at` must be before `to`.
    pub(crate) fn read(&mut self, at: u64, to: u64) -> Read {
        let Some(file) = &self.file else { return Read::Now(Err(io::ErrorKind::NotFound.into())) };
        let mut piece = Piece::new(self.read_size.get());
        match files::read_cached(file, piece.room(to - at), at) {
            Ok(0) => Read::Now(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(length) => {
                self.read_size.adapt(length);
                Read::Now(Ok(piece.freeze(length)))
            }
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => self.read_later(piece, at, to),
            Err(Errno::INTR) => self.read(at, to),
            Err(error) => Read::Now(Err(error.into())),
        }
    }

    fn read_later(&mut self, mut piece: Piece, at: u64, to: u64) -> Read {
        let Some(file) = self.file.clone() else { return Read::Now(Err(io::ErrorKind::NotFound.into())) };
        let read = move || {
            let length = files::read_at(&file, piece.room(to - at), at)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(piece.freeze(length))
        };
        let disk = self.disk.clone();
        self.pending = Some(Box::pin(async move { disk.run(Use::Read, "reading a blob", read).await? }));
        Read::Later
    }
}

/// The body of an answer from kept content.
pub(crate) struct FileBody {
    reader: FileReader,
    /// Keeps it from being evicted.
    content: Arc<Content>,
    at: u64,
    end: u64,
    rest: Rest,
}

/// A request to the upstream for the bytes from one offset up to another.
pub(crate) type RestRequest = Box<dyn FnOnce(u64, u64) -> AskedRest + Send>;

type AskedRest = Pin<Box<dyn Future<Output = Result<Body, BodyError>> + Send>>;

/// The bytes that follow once the file cannot be read.
enum Rest {
    Unneeded(RestRequest),
    Asked(AskedRest),
    Reading(Body),
    Over,
}

impl FileBody {
    /// Returns the bytes from `at` up to `end`, both within the content. If the file cannot be read, `rest` asks for those that
    /// are missing.
    pub(crate) fn new(content: Arc<Content>, at: u64, end: u64, rest: RestRequest) -> Self {
        let mut reader = FileReader::new(content.disk().clone());
        reader.set(content.file.clone());
        Self { reader, content, at, end, rest: Rest::Unneeded(rest) }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            self.rest = match std::mem::replace(&mut self.rest, Rest::Over) {
                Rest::Unneeded(ask) => Rest::Asked(ask(self.at, self.end)),
                Rest::Asked(mut asked) => match asked.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.rest = Rest::Asked(asked);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(body)) => Rest::Reading(body),
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                },
                Rest::Reading(mut body) => {
                    let item = body.poll_data(cx);
                    self.rest = Rest::Reading(body);
                    if let Poll::Ready(Some(Ok(data))) = &item {
                        self.at += data.len() as u64;
                    }
                    return item;
                }
                Rest::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for FileBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.at == self.end {
            return Poll::Ready(None);
        }
        if !matches!(self.rest, Rest::Unneeded(_)) {
            return self.poll_rest(cx);
        }
        let read = match self.reader.poll_pending(cx) {
            Some(read) => ready!(read),
            None => match self.reader.read(self.at, self.end) {
                Read::Now(read) => read,
                Read::Later => return self.poll_data(cx),
            },
        };
        match read {
            Ok(data) => {
                self.at += data.len() as u64;
                Poll::Ready(Some(Ok(data)))
            }
            Err(error) => {
                self.content.failed(&error);
                self.poll_rest(cx)
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.end - self.at)
    }
}
