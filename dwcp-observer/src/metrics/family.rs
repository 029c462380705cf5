//! Builds the families of one exposition, checked against the table.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramProto, LabelPair, Metric, MetricFamily,
};

use super::table::{Definition, Kind};
use crate::model::histogram::Histogram;

/// A family that is being filled.
pub(super) struct Family {
    definition: &'static Definition,
    metrics: Vec<Metric>,
}

impl Family {
    pub(super) fn new(definition: &'static Definition) -> Self {
        Self { definition, metrics: Vec::new() }
    }

    /// Adds a sample of a counter or a gauge; `labels` are the values, in the order of the table.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        let mut metric = Metric::from_label(self.pairs(labels));
        match self.definition.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Histogram => debug_assert!(false, "{} is a histogram", self.definition.name),
        }
        self.metrics.push(metric);
    }

    /// Adds a sample where there is one.
    pub(super) fn add_some(&mut self, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.add(labels, value);
        }
    }

    /// Adds a histogram; one without bounds was never measured and is left out.
    pub(super) fn add_histogram(&mut self, labels: &[&str], histogram: &Histogram) {
        debug_assert_eq!(self.definition.kind, Kind::Histogram, "{}", self.definition.name);
        if histogram.bounds.is_empty() {
            return;
        }
        let mut cumulative = 0;
        let buckets = histogram
            .bounds
            .iter()
            .zip(&histogram.counts)
            .map(|(bound, count)| {
                cumulative += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulative);
                bucket
            })
            .collect();
        let mut proto = HistogramProto::default();
        proto.set_bucket(buckets);
        proto.set_sample_count(histogram.count());
        proto.set_sample_sum(histogram.sum);
        let mut metric = Metric::from_label(self.pairs(labels));
        metric.set_histogram(proto);
        self.metrics.push(metric);
    }

    fn pairs(&self, values: &[&str]) -> Vec<LabelPair> {
        let names = self.definition.labels;
        debug_assert_eq!(names.len(), values.len(), "labels of {}", self.definition.name);
        names
            .iter()
            .zip(values)
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            })
            .collect()
    }

    /// Appends the family unless it is empty: an empty one would claim a measurement.
    pub(super) fn finish(self, families: &mut Vec<MetricFamily>) {
        if self.metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(self.definition.name.to_owned());
        family.set_help(self.definition.help.to_owned());
        family.set_field_type(self.definition.kind.proto());
        family.set_metric(self.metrics);
        families.push(family);
    }
}
