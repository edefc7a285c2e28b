//! The progress of long work: bars on a terminal, lines elsewhere.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

use crate::cache::maintenance::{Event, Progress, Verified};
use crate::cli::cache::bars::Bars;
use crate::cli::cache::lists::{count, short};
use crate::cli::cache::tally::Tally;
use crate::cli::probe::format::{duration, plain};
use crate::clock;

/// The progress display.
pub(super) struct Look {
    bars: Option<Bars>,
    tally: Tally,
    said: Instant,
}

/// The interval between progress lines where no bars are drawn.
const PACE: Duration = Duration::from_secs(5);

impl Look {
    pub(super) fn new(terminal: bool) -> Self {
        let now = clock::now();
        Self { bars: terminal.then(|| Bars::new("all")), tally: Tally::new(now), said: now }
    }

    /// Tells of a verification.
    ///
    /// # Errors
    /// Where that can't be written.
    pub(super) fn verified(
        &mut self,
        event: &Verified,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<()> {
        match event {
            Verified::Progress { done, total } => {
                if let Some(bars) = &mut self.bars {
                    bars.at(*done, *total);
                } else if self.is_time() {
                    writeln!(out, "{} of {}", HumanBytes(*done), HumanBytes(*total))?;
                }
            }
            Verified::Wrong { digest, why } => {
                self.complain(&format!("{}: {}", plain(digest), plain(why)), err)?
            }
            Verified::Unfinished { why } => self.complain(&plain(why), err)?,
            Verified::Place { place, contents, wrong } => {
                self.say(&format!("{}: {}", plain(place), verdict(*contents, *wrong)), out)?;
            }
            Verified::Done { contents, wrong } => {
                self.end();
                writeln!(out, "{}", verdict(*contents, *wrong))?;
            }
        }
        Ok(())
    }

    /// Tells of a pull.
    ///
    /// # Errors
    /// Where that can't be written.
    pub(super) fn warmed(
        &mut self,
        event: &Event,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<()> {
        self.tally.add(event);
        match event {
            Event::Image { image, digest, layers, bytes } => {
                let (image, digest) = (plain(image), short(&plain(digest)));
                let what = format!("{}, {}", count(*layers, "blob"), HumanBytes(*bytes));
                self.say(&format!("{image}  {digest}  {what}"), out)?;
            }
            Event::Layer { digest, size, done, progress } => {
                self.layer(&plain(digest), (*size).max(*done), *progress, out)?;
            }
            Event::Failed { image, digest, why } => {
                let digest = digest.as_deref().map(|digest| format!(" {}", plain(digest)));
                let line = format!("{}{}: {}", plain(image), digest.unwrap_or_default(), plain(why));
                self.complain(&line, err)?;
            }
            Event::Done { images, failed } => {
                self.end();
                writeln!(out, "{}", outcome(*images, *failed))?;
            }
        }
        if let Some(bars) = &mut self.bars {
            bars.warmed(event, &self.tally);
        }
        Ok(())
    }

    fn layer(&mut self, digest: &str, size: u64, progress: Progress, out: &mut dyn Write) -> io::Result<()> {
        if self.bars.is_some() {
            return Ok(());
        }
        let (digest, size) = (short(digest), HumanBytes(size));
        match progress {
            Progress::Fetched => writeln!(out, "  {digest}  {size}"),
            Progress::Here => writeln!(out, "  {digest}  {size}, was here"),
            Progress::Coming if self.is_time() => self.summary(out),
            Progress::Coming => Ok(()),
        }
    }

    fn summary(&self, out: &mut dyn Write) -> io::Result<()> {
        let now = clock::now();
        let (done, total) = (HumanBytes(self.tally.done()), HumanBytes(self.tally.total()));
        let left = self.tally.left(now).map(|left| format!(", {} left", duration(left.as_secs())));
        let rate = HumanBytes(self.tally.rate(now));
        writeln!(out, "{done} of {total}, {rate}/s{}", left.unwrap_or_default())
    }

    fn is_time(&mut self) -> bool {
        let now = clock::now();
        let time = now.duration_since(self.said) >= PACE;
        if time {
            self.said = now;
        }
        time
    }

    fn say(&self, line: &str, out: &mut dyn Write) -> io::Result<()> {
        match &self.bars {
            Some(bars) => bars.say(line),
            None => writeln!(out, "{line}")?,
        }
        Ok(())
    }

    fn complain(&self, line: &str, err: &mut dyn Write) -> io::Result<()> {
        match &self.bars {
            Some(bars) => bars.say(line),
            None => writeln!(err, "{line}")?,
        }
        Ok(())
    }

    fn end(&self) {
        if let Some(bars) = &self.bars {
            bars.end();
        }
    }
}

fn verdict(contents: u64, wrong: u64) -> String {
    let files = count(contents, "file");
    match wrong {
        0 => format!("{files}, all of them what their names say"),
        wrong => format!("{files}, {wrong} wrong"),
    }
}

fn outcome(images: u64, failed: u64) -> String {
    let here = format!("{} {} here", count(images, "image"), if images == 1 { "is" } else { "are" });
    match failed {
        0 => here,
        1 => format!("{here}, 1 is not"),
        failed => format!("{here}, {failed} are not"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text of output and messages.
    fn told(events: &[Event]) -> (String, String) {
        let mut look = Look::new(false);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for event in events {
            look.warmed(event, &mut out, &mut err).unwrap();
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn layer(digit: &str, done: u64, progress: Progress) -> Event {
        Event::Layer { digest: format!("sha256:{}", digit.repeat(64)), size: 2048, done, progress }
    }

    #[test]
    fn elsewhere_than_on_a_terminal_each_finished_blob_is_a_line() {
        let digest = format!("sha256:{}", "d".repeat(64));
        let (out, err) = told(&[
            Event::Image { image: "alpine".into(), digest, layers: 2, bytes: 4096 },
            layer("a", 1024, Progress::Coming),
            layer("b", 2048, Progress::Here),
            layer("a", 2048, Progress::Fetched),
            Event::Done { images: 1, failed: 0 },
        ]);
        assert_eq!(
            out,
            "alpine  sha256:dddddddddddd  2 blobs, 4.00 KiB\n  sha256:bbbbbbbbbbbb  2.00 KiB, was here\n  \
             sha256:aaaaaaaaaaaa  2.00 KiB\n1 image is here\n"
        );
        assert_eq!(err, "");
    }

    #[tokio::test(start_paused = true)]
    async fn every_few_seconds_it_is_said_how_far_it_is() {
        let mut look = Look::new(false);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let image = Event::Image { image: "a".into(), digest: "sha256:d".into(), layers: 1, bytes: 2048 };
        look.warmed(&image, &mut out, &mut err).unwrap();
        out.clear();
        for (seconds, done) in [(1, 100), (4, 1024), (1, 1100)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            look.warmed(&layer("a", done, Progress::Coming), &mut out, &mut err).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), "1.00 KiB of 2.00 KiB, 204 B/s, 6 s left\n");
    }

    #[test]
    fn what_failed_is_named() {
        let image = Event::Failed { image: "a\u{1b}".into(), digest: None, why: "no".into() };
        let blob = Event::Failed { image: "b".into(), digest: Some("sha256:x".into()), why: "gone".into() };
        let (out, err) = told(&[image, blob, Event::Done { images: 0, failed: 2 }]);
        assert_eq!(out, "0 images are here, 2 are not\n");
        assert_eq!(err, "a\\u{1b}: no\nb sha256:x: gone\n");
    }

    #[test]
    fn a_verification_ends_with_a_count() {
        let mut look = Look::new(false);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for event in [
            Verified::Progress { done: 1, total: 2 },
            Verified::Wrong { digest: "sha256:x".into(), why: "bad".into() },
            Verified::Place { place: "here".into(), contents: 1, wrong: 0 },
            Verified::Done { contents: 2, wrong: 1 },
        ] {
            look.verified(&event, &mut out, &mut err).unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "here: 1 file, all of them what their names say\n2 files, 1 wrong\n"
        );
        assert_eq!(String::from_utf8(err).unwrap(), "sha256:x: bad\n");
    }
}
