//! Scans the heads of requests before hyper reads them.
//!
//! hyper takes a request with both Transfer-Encoding and Content-Length, as RFC 9112 section 6.3 allows, and drops the
//! length before a handler could see it. The gateway refuses such a request: its purpose is that two programs on the way
//! read it differently. What is sent upstream is framed anew in any case, so the framing is safe without this scan; a
//! head that was sent before the last answer, behind a body, is not scanned.

/// The bytes of a line that are kept: more than the names that are looked for have.
const LINE: usize = 24;

/// The state of the scan.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    reading: bool,
    /// The beginning of the line that is being read.
    line: [u8; LINE],
    length: usize,
    transfer_encoding: bool,
    content_length: bool,
}

impl HeadScan {
    /// Scans `bytes`. `idle` says that no request was under way when they arrived, so that a head begins here. Returns true if
    /// a head that ends here has both lengths.
    pub(super) fn read(&mut self, bytes: &[u8], idle: bool) -> bool {
        if !self.reading {
            if !idle {
                return false;
            }
            *self = Self { reading: true, ..Self::default() };
        }
        let mut both = false;
        let mut rest = bytes;
        while self.reading {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.keep(rest);
                break;
            };
            self.keep(&rest[..end]);
            both |= self.end_line();
            rest = &rest[end + 1..];
        }
        both
    }

    fn keep(&mut self, part: &[u8]) {
        let room = (LINE - self.length).min(part.len());
        self.line[self.length..self.length + room].copy_from_slice(&part[..room]);
        self.length += room;
    }

    fn end_line(&mut self) -> bool {
        let line = &self.line[..self.length];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let named =
            |name: &[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        self.transfer_encoding |= named(b"transfer-encoding:");
        self.content_length |= named(b"content-length:");
        let ended = line.is_empty();
        self.length = 0;
        if !ended {
            return false;
        }
        // The next head may follow one without a body. The end of a body is not known here.
        self.reading = !(self.transfer_encoding || self.content_length);
        self.transfer_encoding && self.content_length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[u8] =
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: y\r\ncontent-LENGTH: 3\r\n\r\n";

    #[test]
    fn both_lengths_are_found_however_the_head_is_cut() {
        for cut in 0..BOTH.len() {
            let mut scan = HeadScan::default();
            assert!(!scan.read(&BOTH[..cut], true));
            assert!(scan.read(&BOTH[cut..], cut == 0), "cut at {cut}");
        }
    }

    #[test]
    fn one_length_is_accepted() {
        let heads = [
            "Transfer-Encoding: chunked",
            "Content-Length: 3",
            "X-Content-Length: 3\r\nTransfer-Encoding: chunked",
        ];
        for head in heads {
            let head =
                format!("PUT / HTTP/1.1\r\n{head}\r\n\r\nTransfer-Encoding: x\r\nContent-Length: 3\r\n\r\n");
            assert!(!HeadScan::default().read(head.as_bytes(), true), "{head}");
        }
    }

    #[test]
    fn a_pipelined_head_is_scanned_too() {
        let two = [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], BOTH].concat();
        assert!(HeadScan::default().read(&two, true));
    }

    #[test]
    fn bytes_during_a_request_are_its_body() {
        assert!(!HeadScan::default().read(BOTH, false));
    }
}
