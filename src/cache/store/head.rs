//! The file beside a partial that says what is known of the blob: an HTTP header block, readable with `cat`.

use std::io;
use std::path::Path;

use http::HeaderValue;
use http::header::{CONTENT_LENGTH, ETAG};

use crate::cache::store::layout::Layout;
use crate::cache::store::segments::Segments;
use crate::cache::store::{files, integrity};
use crate::proto::Digest;

/// The description of a blob on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) digest: Digest,
    /// The upstream's name.
    pub(crate) upstream: String,
    /// Bytes of the whole.
    pub(crate) total: Option<u64>,
    /// The upstream's strong validator.
    pub(crate) etag: Option<HeaderValue>,
    /// Bytes from the first on that are written and synced.
    pub(crate) reached: u64,
    /// The boot of the machine in which it was written.
    pub(crate) boot: i64,
    /// The parts that were written, of a blob that does not come in order; none as long as it does.
    pub(crate) scattered: Option<Scattered>,
}

/// The parts of a blob that does not come in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scattered {
    /// The parts that are written.
    pub(crate) written: Segments,
    /// The parts that are synced.
    pub(crate) synced: Segments,
}

impl Head {
    /// Returns the head of a blob of which nothing is written. A weak validator is not kept: it cannot prove that a rest belongs
    /// to a beginning (RFC 9110, 13.1.5).
    pub(crate) fn new(
        upstream: &str,
        digest: &Digest,
        total: Option<u64>,
        etag: Option<&HeaderValue>,
    ) -> Self {
        let etag = etag.filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned();
        Self {
            digest: digest.clone(),
            upstream: upstream.to_owned(),
            total,
            etag,
            reached: 0,
            boot: integrity::boot(),
            scattered: None,
        }
    }

    /// Reads the head of the partial called `name`; none if there is none, or if it is incomplete.
    pub(crate) fn read(layout: &Layout, name: &str) -> Option<Self> {
        Self::parse(&files::read_small(&layout.partial(name, "head")).ok()?)
    }

    /// Returns the parts of a partial's file of `length` bytes that were written as they came: those that were synced. As long
    /// as the machine has not booted since, the system has all that was written, whatever became of the process.
    ///
    /// Of a blob that comes in order, the length of the file tells what was written, but a kill may have left one byte too many,
    /// see [`files::truncate`]. Of others only what was noted after it had been written counts: before the first byte is
    /// written out of order it is noted that the length tells nothing any more.
    pub(crate) fn written(&self, length: u64) -> Segments {
        const BLOCK: u64 = 4096;
        let is_of_this_boot = self.boot != 0 && self.boot == integrity::boot();
        if let Some(Scattered { written, synced }) = &self.scattered {
            let mut segments = synced.clone();
            if is_of_this_boot {
                segments.add(written);
            }
            segments.truncate(length);
            return segments;
        }
        let synced = self.reached.min(length);
        let in_order = length.saturating_sub(1) / BLOCK * BLOCK;
        Segments::prefix_of(if is_of_this_boot { synced.max(in_order) } else { synced })
    }

    /// Returns true if parts lie within the blob, as far as its length is known.
    pub(crate) fn is_within(&self, segments: &Segments) -> bool {
        self.total.is_none_or(|total| segments.end() <= total)
    }

    /// Writes it where [`put`](Self::put) will find it. `synced`: waits until it is on the disk.
    pub(crate) fn write(&self, new: &Path, synced: bool) -> io::Result<()> {
        let file = files::create(new)?;
        if synced {
            return files::write_and_sync(&file, &self.render());
        }
        files::write_all(&file, &self.render())
    }

    /// Replaces the head by what was written.
    pub(crate) fn put(layout: &Layout, name: &str) -> io::Result<()> {
        files::rename(&layout.partial(name, "new"), &layout.partial(name, "head"))
    }

    /// Returns what the names of all partials of this blob from this upstream begin with.
    pub(crate) fn stem(&self) -> String {
        let upstream = Digest::sha256_of(self.upstream.as_bytes());
        let upstream = upstream.encoded().get(..16).unwrap_or_default();
        format!("{}-{upstream}", self.digest.as_str().replace(':', "-"))
    }

    fn render(&self) -> Vec<u8> {
        let mut text = format!("{DIGEST}: {}\r\n{UPSTREAM}: {}\r\n", self.digest, self.upstream).into_bytes();
        if let Some(total) = self.total {
            text.extend(format!("{CONTENT_LENGTH}: {total}\r\n").into_bytes());
        }
        if let Some(etag) = &self.etag {
            text.extend([b"etag: ", etag.as_bytes(), b"\r\n"].concat());
        }
        // A program that knows no scattered parts takes the length of a file of this boot for what was written.
        let boot = if self.scattered.is_some() { 0 } else { self.boot };
        text.extend(format!("{REACHED}: {}\r\n{BOOT}: {boot}\r\n", self.reached).into_bytes());
        if let Some(Scattered { written, synced }) = &self.scattered {
            let boot = self.boot;
            let parts = format!("{WRITTEN}: {written}\r\n{SYNCED}: {synced}\r\n{WRITTEN_BOOT}: {boot}\r\n");
            text.extend(parts.into_bytes());
        }
        text.extend(b"\r\n");
        text
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut slots = [httparse::EMPTY_HEADER; FIELDS];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(bytes, &mut slots) else {
            return None;
        };
        let value = |name: &str| {
            fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
        };
        let text = |name| value(name).and_then(|value| std::str::from_utf8(value).ok());
        let scattered = match text(WRITTEN) {
            Some(written) => {
                let (written, synced) = (Segments::parse(written)?, Segments::parse(text(SYNCED)?)?);
                Some(Scattered { written, synced })
            }
            None => None,
        };
        let boot = if scattered.is_some() { WRITTEN_BOOT } else { BOOT };
        Some(Self {
            digest: Digest::parse(text(DIGEST)?).ok()?,
            upstream: text(UPSTREAM)?.to_owned(),
            total: match text(CONTENT_LENGTH.as_str()) {
                Some(total) => Some(total.parse().ok()?),
                None => None,
            },
            etag: value(ETAG.as_str()).and_then(|etag| HeaderValue::from_bytes(etag).ok()),
            reached: text(REACHED)?.parse().ok()?,
            boot: text(boot).and_then(|boot| boot.parse().ok()).unwrap_or_default(),
            scattered,
        })
    }
}

const DIGEST: &str = "docker-content-digest";
const UPSTREAM: &str = "dockgate-upstream";
const REACHED: &str = "dockgate-reached";
const BOOT: &str = "dockgate-boot";
const WRITTEN: &str = "dockgate-written";
const SYNCED: &str = "dockgate-synced";
const WRITTEN_BOOT: &str = "dockgate-written-boot";

/// Nine are written at most; a file with more than this is not a head.
const FIELDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            digest: Digest::sha256(&[7; 32]),
            upstream: "docker.io".into(),
            total: Some(12),
            etag: Some(HeaderValue::from_static("\"a:b\"")),
            reached: 3,
            boot: 7,
            scattered: None,
        }
    }

    #[test]
    fn a_head_reads_back_as_it_was_written() {
        let segments = |text| Segments::parse(text).unwrap();
        let scattered = Scattered { written: segments("0-4,6-9"), synced: segments("") };
        for head in [
            head(),
            Head { total: None, etag: None, ..head() },
            Head { scattered: Some(scattered), ..head() },
        ] {
            assert_eq!(Head::parse(&head.render()), Some(head));
        }
    }

    #[test]
    fn a_truncated_head_is_none() {
        let whole = head().render();
        for length in 0..whole.len() {
            assert_eq!(Head::parse(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn what_was_written_counts_until_the_next_boot() {
        let boot = integrity::boot();
        for (boot, length, written) in [
            (boot, 10_000, 8192),
            (boot, 4097, 4096),
            (boot, 4096, 3),
            (boot, 0, 0),
            (boot + 1, 10_000, 3),
            (0, 10_000, 3),
        ] {
            let prefix = Segments::prefix_of(written);
            assert_eq!(Head { boot, ..head() }.written(length), prefix, "{boot} {length}");
        }
    }

    #[test]
    fn of_scattered_parts_only_those_noted_count() {
        let boot = integrity::boot();
        let segments = |text| Segments::parse(text).unwrap();
        let scattered = Scattered { written: segments("0-4,60-90"), synced: segments("60-80") };
        for (boot, length, written) in [
            (boot, 10_000, "0-4,60-90"),
            (boot, 70, "0-4,60-70"),
            (boot + 1, 10_000, "60-80"),
            (0, 10_000, "60-80"),
            (boot, 0, ""),
        ] {
            let head = Head { boot, scattered: Some(scattered.clone()), ..head() };
            assert_eq!(head.written(length), segments(written), "{boot} {length}");
        }
        // A program that knows no scattered parts must not take the length for what was written.
        let head = Head { boot, scattered: Some(scattered), ..head() };
        let text = String::from_utf8(head.render()).unwrap();
        assert!(text.contains("dockgate-boot: 0\r\n"), "{text}");
    }

    #[test]
    fn a_weak_validator_is_not_kept() {
        for (given, kept) in [("W/\"a\"", false), ("\"a\"", true), ("a", false)] {
            let given = HeaderValue::from_static(given);
            let head = Head::new("hub", &Digest::sha256(&[1; 32]), None, Some(&given));
            assert_eq!(head.etag.is_some(), kept, "{given:?}");
        }
    }
}
