//! Progress on a terminal.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use crate::cache::maintenance::{Event, Progress};
use crate::cli::cache::lists::short;
use crate::cli::cache::tally::Tally;
use crate::cli::probe::format::{duration, plain};
use crate::clock;

/// A bar for all, and one for each blob that comes.
pub(super) struct Bars {
    multi: MultiProgress,
    all: Bar,
    layers: HashMap<String, Bar>,
}

/// A bar, with its speed. That of indicatif is what a bar shows at first divided by the microseconds since it was made:
/// terabytes a second.
struct Bar {
    bar: ProgressBar,
    speed: Speed,
}

const KNOWN: &str = "{prefix:19} [{bar:30}] {bytes:>11} of {total_bytes:>11}  {msg}";
const UNKNOWN: &str = "{prefix:19} {bytes:>11}  {msg}";

impl Bar {
    fn new(multi: &MultiProgress, total: u64, template: &str, prefix: String) -> Self {
        let bar = ProgressBar::new(total).with_style(style(template)).with_prefix(prefix);
        Self { bar: multi.add(bar), speed: Speed::default() }
    }

    fn at(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(self.speed.text(clock::now(), done, total));
    }
}

/// The speed of a transfer since it was first seen.
#[derive(Default)]
struct Speed(Option<(Instant, u64)>);

impl Speed {
    /// Returns the speed, and how long the rest takes at it. Nothing in the first second, in which it says nothing yet.
    fn text(&mut self, now: Instant, done: u64, total: u64) -> String {
        // A download that begins anew counts from 0 again.
        let (since, before) = *self.0.get_or_insert((now, done));
        if done < before {
            self.0 = Some((now, done));
            return String::new();
        }
        let elapsed = now.duration_since(since);
        let rate = ((done - before) as f64 / elapsed.as_secs_f64().max(f64::EPSILON)) as u64;
        if elapsed < FIRST || rate == 0 {
            return String::new();
        }
        let rate_text = format!("{}/s", HumanBytes(rate));
        match total.checked_sub(done).filter(|left| *left > 0) {
            Some(left) => format!("{rate_text:>13}  {} left", duration(left.div_ceil(rate))),
            None => format!("{rate_text:>13}"),
        }
    }
}

const FIRST: Duration = Duration::from_secs(1);

impl Bars {
    /// Creates the bars, on standard error.
    pub(super) fn new(word: &'static str) -> Self {
        let multi = MultiProgress::new();
        let all = Bar::new(&multi, 0, KNOWN, word.to_owned());
        Self { multi, all, layers: HashMap::new() }
    }

    /// Prints a line above the bars.
    pub(super) fn say(&self, line: &str) {
        // A closed standard error leaves no other place to report to.
        let _ = self.multi.println(line);
    }

    pub(super) fn at(&mut self, done: u64, total: u64) {
        self.all.at(done, total);
    }

    pub(super) fn warmed(&mut self, event: &Event, tally: &Tally) {
        if let Event::Layer { digest, size, done, progress } = event {
            self.layer(digest, *size, *done, *progress);
        }
        if let Event::Failed { digest: Some(digest), .. } = event {
            self.layer_ends(digest);
        }
        self.at(tally.done(), tally.total());
    }

    fn layer(&mut self, digest: &str, size: u64, done: u64, progress: Progress) {
        if progress != Progress::Coming {
            return self.layer_ends(digest);
        }
        let multi = &self.multi;
        let style = if size > 0 { KNOWN } else { UNKNOWN };
        let bar = self.layers.entry(digest.to_owned());
        let bar = bar.or_insert_with(|| Bar::new(multi, size, style, plain(&short(digest))));
        bar.at(done, size);
    }

    fn layer_ends(&mut self, digest: &str) {
        if let Some(Bar { bar, .. }) = self.layers.remove(digest) {
            bar.finish_and_clear();
            self.multi.remove(&bar);
        }
    }

    /// Takes all bars away.
    pub(super) fn end(&self) {
        self.all.bar.finish_and_clear();
        // A closed standard error leaves no other place to report to.
        let _ = self.multi.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_shown_after_a_second_and_counts_what_has_come_since() {
        let (start, mut speed) = (clock::now(), Speed::default());
        let mut text =
            |millis: u64, done: u64| speed.text(start + Duration::from_millis(millis), done, 100 << 20);
        assert_eq!([text(0, 40 << 20), text(1, 41 << 20), text(999, 49 << 20)], ["", "", ""]);
        assert_eq!(text(1000, 50 << 20).trim(), "10.00 MiB/s  5 s left");
        assert_eq!(text(2000, 100 << 20).trim(), "30.00 MiB/s");
        assert_eq!(text(2001, 10 << 20), "", "it began anew");
        assert_eq!(text(4001, 30 << 20).trim(), "10.00 MiB/s  7 s left");
    }

    #[test]
    fn a_transfer_that_stands_still_has_no_speed() {
        let (start, mut speed) = (clock::now(), Speed::default());
        assert_eq!(speed.text(start, 5, 10), "");
        assert_eq!(speed.text(start + Duration::from_secs(9), 5, 10), "");
    }

    #[test]
    fn the_templates_can_be_read() {
        for template in [KNOWN, UNKNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
