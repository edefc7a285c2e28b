//! Progress on a terminal.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cache::maintenance::{Event, Progress};
use crate::cli::cache::lists::short;
use crate::cli::cache::tally::Tally;

/// A bar for all, and one for each blob that comes.
pub(super) struct Bars {
    multi: MultiProgress,
    all: ProgressBar,
    layers: HashMap<String, ProgressBar>,
}

const ALL: &str =
    "{prefix:19} [{bar:30}] {bytes:>11} of {total_bytes:>11}  {bytes_per_sec:>13}  {eta:>4} left";
const LAYER: &str =
    "{prefix:19} [{bar:30}] {bytes:>11} of {total_bytes:>11}  {bytes_per_sec:>13}  {eta:>4} left";
const UNKNOWN: &str = "{prefix:19} {bytes:>11}  {bytes_per_sec:>13}";

impl Bars {
    /// Creates the bars, on standard error.
    pub(super) fn new(word: &'static str) -> Self {
        let multi = MultiProgress::new();
        let all = multi.add(ProgressBar::new(0).with_style(style(ALL)).with_prefix(word));
        Self { multi, all, layers: HashMap::new() }
    }

    /// Prints a line above the bars.
    pub(super) fn say(&self, line: &str) {
        // A closed standard error leaves no other place to report to.
        let _ = self.multi.println(line);
    }

    pub(super) fn at(&self, done: u64, total: u64) {
        self.all.set_length(total);
        self.all.set_position(done);
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
        let bar = self.layers.entry(digest.to_owned()).or_insert_with(|| {
            let style = style(if size > 0 { LAYER } else { UNKNOWN });
            multi.add(ProgressBar::new(size).with_style(style).with_prefix(short(digest)))
        });
        bar.set_position(done);
    }

    fn layer_ends(&mut self, digest: &str) {
        if let Some(bar) = self.layers.remove(digest) {
            bar.finish_and_clear();
            self.multi.remove(&bar);
        }
    }

    /// Takes all bars away.
    pub(super) fn end(&self) {
        self.all.finish_and_clear();
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
    fn the_templates_can_be_read() {
        for template in [ALL, LAYER, UNKNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
