//! A list of tags on its way to the client, with the client's name for the repository put in.
//!
//! Lists have no longest length: 85,000 tags and 4.3 MB are real (skopeo#907). So they are read as they pass, and never
//! held whole.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

use crate::body::{Body, BodyError, Stream};
use crate::budget::{Lease, hold};

/// Takes a list as the upstream sent it, once all of it has come.
pub(super) type Keep = Box<dyn FnOnce(Bytes) + Send>;

/// A list of tags that is read as it passes.
pub(super) struct TagList {
    body: Body,
    scanner: Scanner,
    /// The pieces that have come, for the one who keeps them.
    kept: Option<Kept>,
    most_kept: usize,
    /// Bytes that are ready to be sent.
    ready: Bytes,
    ended: bool,
}

/// The list as it has come so far.
struct Kept {
    bytes: BytesMut,
    keep: Keep,
    /// Grows with the bytes. Without room for them the list is not kept.
    room: Lease,
}

impl TagList {
    /// Reads the beginning of the list in `body`, which is to be called `name`. Where all of it comes and is no longer than
    /// `most_kept`, `keep` is given it as it came.
    ///
    /// # Errors
    /// The reason why it is no list of tags: a page, an error, half an object.
    pub(super) async fn open(
        body: Body,
        name: &str,
        most_kept: usize,
        keep: Option<(Keep, Lease)>,
    ) -> Result<Self, &'static str> {
        let kept = keep.map(|(keep, room)| Kept { bytes: BytesMut::new(), keep, room });
        let scanner = Scanner::new(name);
        let mut list = Self { body, scanner, kept, most_kept, ready: Bytes::new(), ended: false };
        let mut begun = BytesMut::new();
        while !list.scanner.is_list && begun.len() < BEGINNING_BYTES {
            match poll_fn(|cx| list.poll_piece(cx)).await {
                Some(Ok(piece)) => begun.extend_from_slice(&piece),
                Some(Err(BodyError::List)) => return Err("a list of tags that is not a JSON object"),
                Some(Err(_)) => return Err("a list of tags that broke off"),
                None => break,
            }
        }
        if list.ended && !list.scanner.is_list {
            return Err("a list of tags without a name and tags");
        }
        list.ready = begun.freeze();
        Ok(list)
    }

    /// Returns the list as a body, whose length is not known beforehand.
    pub(super) fn into_body(self) -> Body {
        Body::stream(self)
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = ready!(self.body.poll_data(cx));
        let mut out = BytesMut::new();
        let read = match item {
            Some(Ok(piece)) => {
                self.keep(&piece);
                self.scanner.read(&piece, &mut out)
            }
            Some(Err(error)) => Err(error),
            None => {
                self.ended = true;
                self.scanner.end(&mut out)
            }
        };
        self.ended |= read.is_err();
        if self.ended
            && read.is_ok()
            && let Some(Kept { bytes, keep, room }) = self.kept.take()
        {
            keep(hold(bytes.freeze(), room));
        }
        Poll::Ready(Some(read.map(|()| out.freeze())))
    }

    fn keep(&mut self, piece: &[u8]) {
        let Some(kept) = &mut self.kept else { return };
        let length = kept.bytes.len() + piece.len();
        if length <= self.most_kept && kept.room.try_cover(length) {
            kept.bytes.extend_from_slice(piece);
        } else {
            self.kept = None;
        }
    }
}

impl Stream for TagList {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if !self.ready.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut self.ready))));
            }
            match ready!(self.poll_piece(cx)) {
                Some(Ok(piece)) => self.ready = piece,
                other => return Poll::Ready(other),
            }
            if self.ready.is_empty() && self.ended {
                return Poll::Ready(None);
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

/// Reads a JSON object (RFC 8259) as far as its outermost members, and writes it anew with another `name`. The other
/// members pass as they are, unparsed.
struct Scanner {
    state: State,
    /// The object's first bytes, until they have been written.
    head: Bytes,
    /// A member that every list of tags has, `name` or `tags`, has begun. Some registries leave out tags that are none.
    is_list: bool,
}

enum State {
    /// Before the object: the bytes of a byte order mark that have come.
    Before(usize),
    /// Before a member or the object's end.
    Member,
    /// Within a member's name; the bytes so far, with the quotation mark.
    Key { raw: Vec<u8>, escaped: bool },
    /// Before the colon behind a member's name.
    Colon(Vec<u8>),
    /// Within a member's value.
    Value { passes: bool, depth: usize, string: bool, escaped: bool },
    /// Behind the object, whose last brace is written when it is certain that nothing follows.
    Behind,
}

impl Scanner {
    fn new(name: &str) -> Self {
        // Text can always be written.
        let name = serde_json::value::to_raw_value(name).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self { state: State::Before(0), head: format!("{{\"name\":{name}").into(), is_list: false }
    }

    /// Reads a piece and writes what is to be sent of it.
    fn read(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<(), BodyError> {
        let mut rest = piece;
        while let Some((&byte, behind)) = rest.split_first() {
            if let State::Value { passes, string: true, escaped: false, .. } = self.state {
                // Most of a list lies within strings.
                let length = rest.iter().take_while(|&&byte| byte != b'"' && byte != b'\\').count();
                if length > 0 {
                    if passes {
                        out.extend_from_slice(&rest[..length]);
                    }
                    rest = &rest[length..];
                    continue;
                }
            }
            self.step(byte, out)?;
            rest = behind;
        }
        Ok(())
    }

    /// Writes what is held back. An object that has not ended is an error.
    fn end(&mut self, out: &mut BytesMut) -> Result<(), BodyError> {
        if !matches!(self.state, State::Behind) {
            return Err(BodyError::List);
        }
        out.extend_from_slice(b"}");
        Ok(())
    }

    fn step(&mut self, byte: u8, out: &mut BytesMut) -> Result<(), BodyError> {
        let space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match &mut self.state {
            State::Before(mark) => match byte {
                b'{' => {
                    out.extend_from_slice(&self.head);
                    self.state = State::Member;
                }
                _ if space => {}
                _ if BYTE_ORDER_MARK.get(*mark) == Some(&byte) => *mark += 1,
                _ => return Err(BodyError::List),
            },
            State::Member => match byte {
                b'"' => self.state = State::Key { raw: vec![byte], escaped: false },
                b'}' => self.state = State::Behind,
                b',' => {}
                _ if space => {}
                _ => return Err(BodyError::List),
            },
            State::Key { raw, escaped } => {
                raw.push(byte);
                if raw.len() > KEY_BYTES {
                    return Err(BodyError::List);
                }
                if byte == b'"' && !*escaped {
                    self.state = State::Colon(std::mem::take(raw));
                } else {
                    *escaped = byte == b'\\' && !*escaped;
                }
            }
            State::Colon(raw) => match byte {
                b':' => {
                    let raw = std::mem::take(raw);
                    self.begin_value(&raw, out)?;
                }
                _ if space => {}
                _ => return Err(BodyError::List),
            },
            State::Value { .. } => self.step_in_value(byte, out)?,
            State::Behind if space => {}
            State::Behind => return Err(BodyError::List),
        }
        Ok(())
    }

    fn begin_value(&mut self, raw: &[u8], out: &mut BytesMut) -> Result<(), BodyError> {
        // Escapes undone: `"na\u006de"` is the same name.
        let key: String = serde_json::from_slice(raw).map_err(|_| BodyError::List)?;
        let passes = key != "name";
        self.is_list |= key == "tags" || key == "name";
        if passes {
            out.extend_from_slice(b",");
            out.extend_from_slice(raw);
            out.extend_from_slice(b":");
        }
        self.state = State::Value { passes, depth: 0, string: false, escaped: false };
        Ok(())
    }

    fn step_in_value(&mut self, byte: u8, out: &mut BytesMut) -> Result<(), BodyError> {
        let State::Value { passes, depth, string, escaped } = &mut self.state else { return Ok(()) };
        if *string {
            let ends = byte == b'"' && !*escaped;
            *escaped = byte == b'\\' && !*escaped;
            *string = !ends;
        } else {
            match byte {
                b'"' => *string = true,
                b'[' | b'{' => *depth += 1,
                b']' | b'}' if *depth > 0 => *depth -= 1,
                b',' if *depth == 0 => {
                    self.state = State::Member;
                    return Ok(());
                }
                b'}' => {
                    self.state = State::Behind;
                    return Ok(());
                }
                b']' => return Err(BodyError::List),
                _ => {}
            }
        }
        if *passes {
            out.extend_from_slice(&[byte]);
        }
        Ok(())
    }
}

/// Some servers begin JSON with it, though RFC 8259 section 8.1 forbids it.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// The longest name of a member, in bytes. Those of the specification have four.
const KEY_BYTES: usize = 4096;

/// The bytes in which the tags must begin for an answer to be taken for no list before its head is passed on.
const BEGINNING_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::budget::{Budget, Client};

    /// A body in pieces of some bytes.
    struct Pieces(Bytes, usize);

    impl Stream for Pieces {
        fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            let length = self.1.min(self.0.len());
            Poll::Ready((length > 0).then(|| Ok(self.0.split_to(length))))
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    async fn renamed(list: &[u8], piece: usize, name: &str) -> Result<Vec<u8>, String> {
        let body = Body::stream(Pieces(Bytes::copy_from_slice(list), piece));
        let mut list = TagList::open(body, name, 0, None).await?.into_body();
        let mut whole = Vec::new();
        while let Some(piece) = poll_fn(|cx| list.poll_data(cx)).await {
            whole.extend_from_slice(&piece.map_err(|error| error.to_string())?);
        }
        Ok(whole)
    }

    #[tokio::test]
    async fn the_name_is_put_in_and_the_rest_stays() {
        for (list, renamed_list) in [
            (r#"{"name":"x","tags":["a","b"]}"#, r#"{"name":"up/x","tags":["a","b"]}"#),
            (r#"{"tags":["a"],"name":"x"}"#, r#"{"name":"up/x","tags":["a"]}"#),
            (r#" { "tags" : null , "na\u006de" : {"name":"}"} } "#, r#"{"name":"up/x","tags": null }"#),
            (
                r#"{"tags":["a\"]}\\"],"child":{"name":"y","a":[1]}}"#,
                r#"{"name":"up/x","tags":["a\"]}\\"],"child":{"name":"y","a":[1]}}"#,
            ),
            ("\u{feff}{\"tags\":[]}", r#"{"name":"up/x","tags":[]}"#),
        ] {
            for piece in [1, 2, 7, 4096] {
                let out = renamed(list.as_bytes(), piece, "up/x").await.unwrap();
                assert_eq!(String::from_utf8(out).unwrap(), renamed_list, "{piece}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_list_of_tags_is_refused_at_its_beginning() {
        for list in
            ["", "<html>", "[]", "null", "{}", r#"{"errors":[{"code":"UNKNOWN"}]}"#, r#"{"name":"x"#, "{,x}"]
        {
            assert!(renamed(list.as_bytes(), 3, "x").await.is_err(), "{list}");
        }
    }

    #[tokio::test]
    async fn a_list_that_is_cut_never_ends_well() {
        let list = r#"{"name":"x","tags":["a","b"],"more":{"a":[1,"\\"]}}"#.as_bytes();
        for length in 0..list.len() {
            assert!(renamed(&list[..length], 5, "x").await.is_err(), "{length}");
        }
        let more = [list, b"x"].concat();
        assert!(renamed(&more, 5, "x").await.is_err());
    }

    #[tokio::test]
    async fn a_whole_list_is_kept_as_it_came() {
        let list = br#"{"name":"x","tags":["a"]}"#;
        for (most, whole) in [(list.len(), true), (list.len() - 1, false)] {
            let (sender, receiver) = std::sync::mpsc::channel();
            let keep: Keep = Box::new(move |bytes| sender.send(bytes).unwrap());
            let body = Body::stream(Pieces(Bytes::from_static(list), 4));
            let budget = Budget::new("held_bytes", 1 << 20, 1 << 20, Duration::ZERO);
            let room = budget.try_take(Client::Trusted, 1).unwrap();
            let mut out = TagList::open(body, "up/x", most, Some((keep, room))).await.unwrap().into_body();
            while poll_fn(|cx| out.poll_data(cx)).await.is_some() {}
            assert_eq!(receiver.try_recv().ok().as_deref(), whole.then_some(&list[..]));
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_json_parser(tags in proptest::collection::vec("\\PC{0,8}", 0..6), key in "\\PC{0,6}", piece in 1usize..20, name in "\\PC{0,8}") {
            let list = json!({ "a": { key.clone(): tags.clone() }, "tags": tags, key: 1, "z": [{}] });
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let out = runtime.block_on(renamed(list.to_string().as_bytes(), piece, &name));
            let mut expected = list;
            expected["name"] = Value::from(name);
            // A key called `tags` may have taken the place of the list.
            prop_assert_eq!(serde_json::from_slice::<Value>(&out.unwrap()).unwrap(), expected);
        }
    }
}
