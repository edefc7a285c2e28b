//! Charts of the last hour, as inline SVG.

use maud::{Markup, html};

/// A chart of one or two lines over the last hour.
pub(super) struct Chart<'a> {
    /// The title.
    pub(super) title: &'a str,
    /// The value of now, in words.
    pub(super) now: String,
    /// The greatest value that it has room for, in words.
    pub(super) most: String,
    /// The lines.
    pub(super) lines: Vec<Line>,
    /// The greatest value that it has room for.
    pub(super) top: f64,
}

/// A line of a chart.
pub(super) struct Line {
    /// The name in the legend.
    pub(super) name: &'static str,
    /// The class that gives it its colour.
    pub(super) class: &'static str,
    /// The values, the oldest first, each with its age as a share of the hour: 1 is an hour ago. Without a value there is a
    /// gap.
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// The size of a chart, in its own units; the page stretches it.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

impl Chart<'_> {
    /// Renders the chart, with its title and the values of now in text: nothing is told by colour alone.
    pub(super) fn render(&self) -> Markup {
        let summary = format!("{}: {} now, {} at most in the last hour", self.title, self.now, self.most);
        html! {
            figure class="chart" {
                figcaption {
                    span class="title" { (self.title) }
                    @if self.lines.len() > 1 {
                        @for line in &self.lines {
                            span class={ "key " (line.class) } { (line.name) }
                        }
                    }
                    span class="now" { (self.now) }
                }
                svg viewBox="0 0 600 120" preserveAspectRatio="none" role="img" aria-label=(summary) {
                    path class="grid" d="M0 30H600M0 60H600M0 90H600" {}
                    @for line in &self.lines {
                        path class={ "area " (line.class) } d=(self.area(line)) {}
                        path class={ "line " (line.class) } d=(self.path(line)) {}
                    }
                }
                div class="axis" aria-hidden="true" {
                    span { "1 h ago" }
                    span { "30 min" }
                    span { "now, top " (self.most) }
                }
            }
        }
    }

    fn path(&self, line: &Line) -> String {
        let mut path = String::new();
        for run in self.runs(line) {
            for (place, (x, y)) in run.iter().enumerate() {
                path.push_str(&format!("{}{x:.1} {y:.1}", if place == 0 { "M" } else { "L" }));
            }
        }
        path
    }

    /// Returns the path around the area below a line.
    fn area(&self, line: &Line) -> String {
        let mut path = String::new();
        for run in self.runs(line) {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { continue };
            path.push_str(&format!("M{first:.1} {HEIGHT}"));
            run.iter().for_each(|(x, y)| path.push_str(&format!("L{x:.1} {y:.1}")));
            path.push_str(&format!("L{last:.1} {HEIGHT}Z"));
        }
        path
    }

    /// Returns the places of the points between the gaps.
    fn runs(&self, line: &Line) -> Vec<Vec<(f64, f64)>> {
        let place = |age: f64, value: f64| {
            let share = if self.top > 0.0 { (value / self.top).clamp(0.0, 1.0) } else { 0.0 };
            ((1.0 - age.clamp(0.0, 1.0)) * WIDTH, HEIGHT - share * (HEIGHT - 2.0) - 1.0)
        };
        let mut runs = vec![Vec::new()];
        for (age, value) in &line.points {
            match (value, runs.last_mut()) {
                (Some(value), Some(run)) => run.push(place(*age, *value)),
                _ => runs.push(Vec::new()),
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }
}

/// Returns a round number that is no less than the greatest value.
pub(super) fn top(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.fold(0.0_f64, f64::max);
    if most <= 0.0 {
        return 1.0;
    }
    let unit = 10.0_f64.powf(most.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.into_iter().find(|step| step * unit >= most).unwrap_or(10.0);
    step * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, Option<f64>)>) -> (Chart<'static>, Line) {
        let (now, most) = ("3/s".to_owned(), "10/s".to_owned());
        let line = Line { name: "all", class: "first", points };
        (Chart { title: "Requests", now, most, lines: Vec::new(), top: 10.0 }, line)
    }

    #[test]
    fn points_stand_at_their_age_and_value() {
        let (chart, line) = chart(vec![(1.0, Some(0.0)), (0.5, Some(10.0)), (0.0, Some(5.0))]);
        assert_eq!(chart.path(&line), "M0.0 119.0L300.0 1.0L600.0 60.0");
        assert_eq!(chart.area(&line), "M0.0 120L0.0 119.0L300.0 1.0L600.0 60.0L600.0 120Z");
    }

    #[test]
    fn a_gap_divides_a_line() {
        let (chart, line) = chart(vec![(1.0, Some(0.0)), (0.5, None), (0.0, Some(20.0))]);
        assert_eq!(chart.path(&line), "M0.0 119.0M600.0 1.0");
    }

    #[test]
    fn the_top_of_a_chart_is_round() {
        for (most, round) in [(0.0, 1.0), (0.3, 0.5), (1.0, 1.0), (1.1, 2.0), (37.0, 50.0), (900.0, 1000.0)] {
            let top = top([0.0, most].into_iter());
            assert!((top - round).abs() < 1e-9, "{most}: {top}");
        }
    }

    #[test]
    fn a_chart_says_in_words_what_it_shows() {
        let (mut chart, line) = chart(vec![(0.0, Some(1.0))]);
        chart.lines.push(line);
        let svg = chart.render().into_string();
        assert!(svg.contains("aria-label=\"Requests: 3/s now, 10/s at most in the last hour\""), "{svg}");
        assert!(svg.contains("</path></svg>"), "paths are closed: {svg}");
        assert!(!svg.contains("style="), "the policy forbids styles in markup: {svg}");
    }
}
