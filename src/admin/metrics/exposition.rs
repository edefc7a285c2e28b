//! Writing metrics in the text formats of OpenMetrics and Prometheus.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::telemetry::metrics::Distribution;

/// An encoder of metrics.
pub(super) struct Exposition<'a>(pub(super) DescriptorEncoder<'a>);

impl Exposition<'_> {
    /// Writes a counter without labels. The encoder appends `_total` to the name of every counter.
    pub(super) fn total(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// Writes a gauge without labels.
    pub(super) fn one(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// Writes a counter for each set of labels.
    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        values: &[(impl EncodeLabelSet, u64)],
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, values, |mut metric, value| {
            metric.encode_counter::<NoLabelSet, _, u64>(value, None)
        })
    }

    /// Writes a gauge for each set of labels.
    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        values: &[(impl EncodeLabelSet, u64)],
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, values, |mut metric, value| metric.encode_gauge(value))
    }

    /// Writes a histogram for each set of labels.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        values: &[(impl EncodeLabelSet, Distribution)],
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, values, |mut metric, value| {
            let (sum, count, buckets) = (value.sum_seconds(), value.count(), value.buckets());
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }

    /// Writes a metric for each set of labels by `encode`; nothing, not even its name, where there is none.
    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: &[(impl EncodeLabelSet, V)],
        encode: impl Fn(MetricEncoder<'_>, &V) -> fmt::Result,
    ) -> fmt::Result {
        if values.is_empty() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        values.iter().try_for_each(|(labels, value)| encode(metric.encode_family(labels)?, value))
    }
}

/// Labels each value with its word.
pub(super) fn labelled<N: Copy>(
    label: &'static str,
    values: &[(&'static str, N)],
) -> Vec<([(&'static str, &'static str); 1], N)> {
    values.iter().map(|(word, value)| ([(label, *word)], *value)).collect()
}

/// Returns a text of OpenMetrics in Prometheus' own format, in which the name of a counter has its `_total` in the
/// lines of its help and type as well: without it they describe a metric that is not there, and the samples have none.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut lines = open_metrics.lines().filter(|line| *line != "# EOF").peekable();
    while let Some(line) = lines.next() {
        let name = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
        let of_counter = name.filter(|(name, _)| {
            lines.peek().is_some_and(|next| next.strip_prefix("# TYPE ") == Some(&*format!("{name} counter")))
        });
        match of_counter {
            Some((name, help)) => {
                text.push_str(&format!("# HELP {name}_total {help}\n# TYPE {name}_total counter\n"));
                lines.next();
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_their_whole_name_in_prometheus_format() {
        let open = "# HELP a Help of a.\n# TYPE a counter\na_total 1\n\
                    # HELP b Help of b.\n# TYPE b gauge\nb{x=\"# HELP\"} 2\n# EOF\n";
        assert_eq!(
            to_prometheus(open),
            "# HELP a_total Help of a.\n# TYPE a_total counter\na_total 1\n\
             # HELP b Help of b.\n# TYPE b gauge\nb{x=\"# HELP\"} 2\n"
        );
    }
}
