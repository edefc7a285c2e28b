//! Several parts of a blob in one answer: `multipart/byteranges` (RFC 9110 section 14.6).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderValue;

use crate::body::{Body, BodyError, Stream};
use crate::cache::error::CacheError;
use crate::proto::{ContentRange, Span};

/// A part of a blob, on its way.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Body, CacheError>> + Send>>;

/// The parts of a blob that a client is sent in one answer.
#[derive(Debug, Clone)]
pub(crate) struct Multipart {
    boundary: String,
    content_type: HeaderValue,
    /// Bytes of the whole blob.
    total: u64,
    spans: Vec<Span>,
}

impl Multipart {
    /// Returns the parts that `spans` ask for. Those that overlap, or between which there is less than a part's own head, are
    /// joined (RFC 9110 section 15.3.7.2); otherwise their order is kept. `content_type` is the blob's.
    pub(crate) fn new(spans: &[Span], total: u64, content_type: HeaderValue) -> Self {
        let mut parts = Self { boundary: boundary(), content_type, total, spans: Vec::new() };
        parts.spans = parts.joined(spans);
        parts
    }

    /// Returns the parts.
    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Returns the type of the answer.
    pub(crate) fn media_type(&self) -> HeaderValue {
        let text = format!("multipart/byteranges; boundary={}", self.boundary);
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("multipart/byteranges"))
    }

    /// Returns the bytes of the answer's body.
    pub(crate) fn length(&self) -> u64 {
        let part = |(index, span): (usize, &Span)| self.head(index, *span).len() as u64 + span.length();
        self.spans.iter().enumerate().map(part).sum::<u64>() + self.end().len() as u64
    }

    /// Returns the body. `first` has the bytes of the first part; `open` gets those of a later one when its turn comes.
    pub(crate) fn into_body(self, first: Body, open: impl Fn(Span) -> Opening + Send + 'static) -> Body {
        let left = self.length();
        let state = State::Head(Some(first));
        Body::stream(PartsBody { parts: self, index: 0, state, open: Box::new(open), left })
    }

    fn joined(&self, spans: &[Span]) -> Vec<Span> {
        let mut order: Vec<_> = spans.iter().copied().enumerate().collect();
        order.sort_by_key(|(_, span)| span.first);
        let mut joined: Vec<(usize, Span)> = Vec::new();
        for (index, span) in order {
            let gap = self.head(1, span).len() as u64;
            match joined.last_mut() {
                Some((first, last)) if span.first <= last.last.saturating_add(gap) => {
                    last.last = last.last.max(span.last);
                    *first = (*first).min(index);
                }
                _ => joined.push((index, span)),
            }
        }
        joined.sort_by_key(|(index, _)| *index);
        joined.into_iter().map(|(_, span)| span).collect()
    }

    fn head(&self, index: usize, span: Span) -> Bytes {
        let range = ContentRange::Part { span, total: Some(self.total) };
        let before = if index == 0 { "" } else { "\r\n" };
        let kind = self.content_type.to_str().unwrap_or("application/octet-stream");
        let boundary = &self.boundary;
        format!("{before}--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {range}\r\n\r\n").into()
    }

    fn end(&self) -> Bytes {
        format!("\r\n--{}--\r\n", self.boundary).into()
    }
}

/// Returns a text that stands in no blob by accident.
fn boundary() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness it is only easier to guess.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    format!("{:032x}", u128::from_be_bytes(bytes))
}

struct PartsBody {
    parts: Multipart,
    /// The part that is being sent.
    index: usize,
    state: State,
    open: Box<dyn Fn(Span) -> Opening + Send>,
    /// Bytes still to come.
    left: u64,
}

enum State {
    /// Before the part's head. Holds its bytes, if they are here.
    Head(Option<Body>),
    Opening(Opening),
    /// Within the part, of which so many bytes are to come.
    Part(Body, u64),
    Ended,
}

impl PartsBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Head(body) => {
                    let Some(span) = self.parts.spans.get(self.index).copied() else {
                        self.state = State::Ended;
                        return Poll::Ready(Some(Ok(self.parts.end())));
                    };
                    self.state = match body.take() {
                        Some(body) => State::Part(body, span.length()),
                        None => State::Opening((self.open)(span)),
                    };
                    return Poll::Ready(Some(Ok(self.parts.head(self.index, span))));
                }
                State::Opening(opening) => {
                    let missing = self.left;
                    let opened = ready!(opening.as_mut().poll(cx));
                    let length = self.parts.spans[self.index].length();
                    let body = opened.map_err(|_| BodyError::Short { missing });
                    match body {
                        Ok(body) => self.state = State::Part(body, length),
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    }
                }
                State::Part(_, 0) => {
                    self.index += 1;
                    self.state = State::Head(None);
                }
                State::Part(body, left) => {
                    let Some(item) = ready!(body.poll_data(cx)) else {
                        return Poll::Ready(Some(Err(BodyError::Short { missing: *left })));
                    };
                    let data = match item {
                        Ok(data) if data.len() as u64 <= *left => data,
                        Ok(_) => return Poll::Ready(Some(Err(BodyError::Chunk))),
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    };
                    *left -= data.len() as u64;
                    return Poll::Ready(Some(Ok(data)));
                }
            }
        }
    }
}

impl Stream for PartsBody {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let item = ready!(self.poll_next(cx));
        match &item {
            Some(Ok(data)) => self.left = self.left.saturating_sub(data.len() as u64),
            Some(Err(_)) | None => self.state = State::Ended,
        }
        Poll::Ready(item)
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn span(first: u64, last: u64) -> Span {
        Span { first, last }
    }

    fn parts(spans: &[(u64, u64)], total: u64) -> Multipart {
        let spans: Vec<_> = spans.iter().map(|&(first, last)| span(first, last)).collect();
        Multipart::new(&spans, total, HeaderValue::from_static("application/octet-stream"))
    }

    #[test]
    fn only_close_ranges_are_joined() {
        for (spans, joined) in [
            (&[(0, 9), (100_000, 100_009)][..], &[(0, 9), (100_000, 100_009)][..]),
            (&[(0, 9), (10, 19)], &[(0, 19)]),
            (&[(0, 9), (60, 69)], &[(0, 69)]),
            (&[(0, 9), (300, 309)], &[(0, 9), (300, 309)]),
            (&[(5000, 5009), (0, 9)], &[(5000, 5009), (0, 9)]),
            (&[(5000, 5009), (0, 9), (5005, 5019)], &[(5000, 5019), (0, 9)]),
            (&[(0, 9000), (5, 6), (8000, 9999)], &[(0, 9999)]),
        ] {
            let expected: Vec<_> = joined.iter().map(|&(first, last)| span(first, last)).collect();
            assert_eq!(parts(spans, 1_000_000).spans(), expected, "{spans:?}");
        }
    }

    #[tokio::test]
    async fn parts_follow_one_another_as_they_were_asked_for() {
        let blob: Vec<u8> = (0..=255).cycle().take(2000).collect();
        let parts = parts(&[(1500, 1502), (7, 9)], 2000);
        let (length, kind) = (parts.length(), parts.media_type());
        let boundary = kind.to_str().unwrap().split_once("boundary=").unwrap().1.to_owned();
        let bytes = blob.clone();
        let open = move |span: Span| -> Opening {
            let part = bytes[span.first as usize..=span.last as usize].to_vec();
            Box::pin(async move { Ok(Body::full(part)) })
        };
        let mut body = parts.into_body(Body::full(blob[1500..1503].to_vec()), open);
        assert_eq!(body.remaining(), Some(length));
        let mut whole = Vec::new();
        while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
            whole.extend_from_slice(&piece.unwrap());
        }
        let mut expected = Vec::new();
        for (before, range, part) in [("", "1500-1502", &blob[1500..1503]), ("\r\n", "7-9", &blob[7..10])] {
            let head = format!(
                "{before}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {range}/2000\r\n\r\n"
            );
            expected.extend_from_slice(head.as_bytes());
            expected.extend_from_slice(part);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(whole == expected && whole.len() as u64 == length, "{}", whole.escape_ascii());
    }

    #[tokio::test]
    async fn a_part_that_fails_breaks_the_answer() {
        for opened in [Ok(Body::full("ab")), Err(CacheError::Retry)] {
            let opened = parking_lot::Mutex::new(Some(opened));
            let open = move |_: Span| -> Opening {
                let opened = opened.lock().take().unwrap();
                Box::pin(async move { opened })
            };
            let mut body = parts(&[(0, 2), (1000, 1002)], 2000).into_body(Body::full("abc"), open);
            let mut broke = false;
            while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
                broke |= piece.is_err();
            }
            assert!(broke);
        }
    }
}
