//! The most recent frames of a stream, for the readers at its head.

use std::collections::VecDeque;

use bytes::Bytes;

/// Consecutive frames, each with the offset of its first byte. Between two of them there may be a gap of bytes that others have
/// put into the file.
#[derive(Debug)]
pub(crate) struct Ring {
    frames: VecDeque<(u64, Bytes)>,
    start: u64,
    end: u64,
    /// Bytes of the frames.
    held: u64,
}

/// The place of a byte relative to the ring.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The byte is in the ring. Holds its frame, from the byte on.
    Here(Bytes),
    /// The byte lies before the ring, or in a gap: the file has it.
    Before,
    /// The byte lies behind the ring: it has not arrived yet.
    Ahead,
}

impl Ring {
    /// Returns an empty ring that begins at `start`.
    pub(crate) fn at(start: u64) -> Self {
        Self { frames: VecDeque::new(), start, end: start, held: 0 }
    }

    /// Returns the offset of the next byte to come.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Returns the length of the last frame in bytes, 0 without one.
    pub(crate) fn last_length(&self) -> u64 {
        self.frames.back().map_or(0, |(_, frame)| frame.len() as u64)
    }

    /// Adds the next frame. Small frames are joined: each costs more than its bytes.
    pub(crate) fn push(&mut self, frame: Bytes) {
        let at = self.end;
        self.end += frame.len() as u64;
        self.held += frame.len() as u64;
        match self.frames.back_mut() {
            Some((first, last))
                if last.len() + frame.len() <= SMALL_BYTES && *first + last.len() as u64 == at =>
            {
                *last = [&**last, &*frame].concat().into();
            }
            _ => self.frames.push_back((at, frame)),
        }
    }

    /// Goes on at `end`: the file has what comes before.
    pub(crate) fn pass(&mut self, end: u64) {
        self.end = end;
        if self.frames.is_empty() {
            self.start = end;
        }
    }

    /// Drops the first frames while the ring holds more than `most` bytes, but only frames that end at or before `safe`.
    pub(crate) fn trim(&mut self, most: u64, safe: u64) {
        while self.held > most
            && let Some((at, frame)) = self.frames.front()
            && at + frame.len() as u64 <= safe
        {
            self.held -= frame.len() as u64;
            self.frames.pop_front();
            self.start = self.frames.front().map_or(self.end, |(at, _)| *at);
        }
    }

    /// Returns the place of the byte at offset `at`.
    pub(crate) fn look(&self, at: u64) -> Place {
        if at < self.start {
            return Place::Before;
        }
        if at >= self.end {
            return Place::Ahead;
        }
        let behind = self.frames.partition_point(|(first, _)| *first <= at);
        match self.frames.get(behind.saturating_sub(1)) {
            Some((first, frame)) if (*first..*first + frame.len() as u64).contains(&at) => {
                Place::Here(frame.slice(usize::try_from(at - first).unwrap_or(0)..))
            }
            _ => Place::Before,
        }
    }
}

/// The size up to which small frames are joined, in bytes.
const SMALL_BYTES: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_until_they_are_trimmed() {
        let mut ring = Ring::at(10);
        let large = Bytes::from(vec![b'x'; 5000]);
        ring.push(large.clone());
        ring.push(Bytes::from_static(b"abc"));
        ring.push(Bytes::from_static(b"de"));
        assert_eq!(ring.look(9), Place::Before);
        assert_eq!(ring.look(10), Place::Here(large.clone()));
        assert_eq!(ring.look(5009), Place::Here(Bytes::from_static(b"x")));
        assert_eq!(ring.look(5010), Place::Here(Bytes::from_static(b"abcde")), "small frames are joined");
        assert_eq!(ring.look(5014), Place::Here(Bytes::from_static(b"e")));
        assert_eq!(ring.look(5015), Place::Ahead);
        ring.trim(5, 5009);
        assert_eq!(ring.look(10), Place::Here(large), "not written yet");
        ring.trim(5, 5010);
        assert_eq!((ring.look(5009), ring.end(), ring.last_length()), (Place::Before, 5015, 5));
        ring.trim(0, 5015);
        assert_eq!((ring.look(5014), ring.look(5015)), (Place::Before, Place::Ahead));
    }

    #[test]
    fn a_gap_is_no_bytes_of_the_ring() {
        let (mut ring, frame) = (Ring::at(0), Bytes::from_static(b"abc"));
        ring.push(frame.clone());
        ring.pass(10);
        ring.push(frame.clone());
        for (at, place) in [(2, Place::Here(frame.slice(2..))), (10, Place::Here(frame.clone()))] {
            assert_eq!(ring.look(at), place, "{at}");
        }
        for at in [3, 9] {
            assert_eq!(ring.look(at), Place::Before, "{at}");
        }
        assert_eq!((ring.look(13), ring.end()), (Place::Ahead, 13));
        ring.trim(6, 13);
        assert_eq!(ring.look(0), Place::Here(frame.clone()), "a gap takes no memory");
        ring.trim(5, 13);
        assert_eq!((ring.look(0), ring.look(5)), (Place::Before, Place::Before));
        assert_eq!(ring.look(10), Place::Here(frame));
        ring.trim(0, 13);
        ring.pass(20);
        assert_eq!(
            (ring.look(12), ring.look(19), ring.look(20)),
            (Place::Before, Place::Before, Place::Ahead)
        );
    }
}
