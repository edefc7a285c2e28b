//! The chunked transfer coding, as a reader (RFC 9112 section 7.1).

use bytes::{Buf, Bytes, BytesMut};

/// The longest chunk-size line, extensions included, and the longest trailer section, in bytes.
///
/// No registry sends either; a server that sends more is broken or hostile.
const LINE_LIMIT: usize = 4096;

/// The coding is malformed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The state of reading a chunked body.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    /// Bytes of the trailer section seen so far.
    trailer: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    Done,
}

/// A step of reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A piece of the body.
    Data(Bytes),
    /// The buffer holds no further piece: read more.
    More,
    /// The last chunk and the trailer section have been read.
    End,
}

impl Chunked {
    /// Takes the next piece out of `buf`, which holds what has been read.
    pub(crate) fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = take_line(buf)? else { return Ok(Step::More) };
                    self.state = match chunk_size(&line)? {
                        0 => State::Trailer,
                        size => State::Data(size),
                    };
                }
                State::Data(_) if buf.is_empty() => return Ok(Step::More),
                State::Data(left) => {
                    let length = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
                    let rest = left - length as u64;
                    self.state = if rest == 0 { State::DataEnd } else { State::Data(rest) };
                    return Ok(Step::Data(buf.split_to(length).freeze()));
                }
                State::DataEnd => match buf.get(..2) {
                    Some(b"\r\n") => {
                        buf.advance(2);
                        self.state = State::Size;
                    }
                    Some(_) => return Err(Malformed),
                    None => return Ok(Step::More),
                },
                State::Trailer => {
                    let Some(line) = take_line(buf)? else { return Ok(Step::More) };
                    self.trailer += line.len() + 2;
                    if line.is_empty() {
                        self.state = State::Done;
                    } else if self.trailer > LINE_LIMIT {
                        return Err(Malformed);
                    }
                }
                State::Done => return Ok(Step::End),
            }
        }
    }
}

/// Takes a line up to CRLF, without it; `None` while it is incomplete. A bare LF or CR is not a line end.
fn take_line(buf: &mut BytesMut) -> Result<Option<BytesMut>, Malformed> {
    let Some(end) = buf.iter().take(LINE_LIMIT).position(|&byte| byte == b'\n') else {
        return if buf.len() >= LINE_LIMIT { Err(Malformed) } else { Ok(None) };
    };
    let mut line = buf.split_to(end + 1);
    if end == 0 || line[end - 1] != b'\r' || line[..end - 1].contains(&b'\r') {
        return Err(Malformed);
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// Parses `chunk-size [ chunk-ext ]`; extensions are ignored.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|&byte| byte == b';' || byte == b' ' || byte == b'\t').next().unwrap_or_default();
    if digits.is_empty() || digits.len() > 15 {
        return Err(Malformed);
    }
    digits.iter().try_fold(0u64, |size, &digit| {
        let value = char::from(digit).to_digit(16).ok_or(Malformed)?;
        Ok(size << 4 | u64::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `input` in two pieces cut at `cut`.
    fn read(input: &[u8], cut: usize) -> Result<(Vec<u8>, bool), Malformed> {
        let (mut chunked, mut body, mut buf) = (Chunked::default(), Vec::new(), BytesMut::new());
        for piece in [&input[..cut], &input[cut..]] {
            buf.extend_from_slice(piece);
            loop {
                match chunked.step(&mut buf)? {
                    Step::Data(data) => body.extend_from_slice(&data),
                    Step::More => break,
                    Step::End => return Ok((body, true)),
                }
            }
        }
        Ok((body, false))
    }

    #[test]
    fn a_body_is_the_same_wherever_it_is_cut() {
        let input = b"5\r\nhello\r\n1;name=\"value\"\r\n \r\n6\r\nworld!\r\n0\r\nX-Trailer: dropped\r\n\r\n";
        for cut in 0..=input.len() {
            assert_eq!(read(input, cut).unwrap(), (b"hello world!".to_vec(), true), "cut at {cut}");
        }
    }

    #[test]
    fn no_prefix_of_a_body_is_its_end() {
        let input = b"5\r\nhello\r\n0\r\n\r\n";
        for cut in 0..input.len() {
            assert!(!read(&input[..cut], 0).unwrap().1, "a cut at {cut} looks complete");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        let cases: [&[u8]; 9] = [
            b"\r\n",
            b"g\r\n",
            b"-1\r\n",
            b"5\nhello",
            b"5\r\nhelloX\r\n",
            b"5\r\r\nhello",
            b"1000000000000000\r\n",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
        ];
        for case in cases {
            assert_eq!(read(case, 0), Err(Malformed), "{:?}", String::from_utf8_lossy(case));
        }
    }

    #[test]
    fn endless_lines_and_trailers_are_refused() {
        assert_eq!(read(&[b'1'; LINE_LIMIT + 1], 0), Err(Malformed));
        let trailers = [b"0\r\n".to_vec(), b"A: b\r\n".repeat(LINE_LIMIT)].concat();
        assert_eq!(read(&trailers, 0), Err(Malformed));
    }
}
