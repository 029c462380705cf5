//! Metrics of the history on disk.

use prometheus::proto::MetricFamily;

use super::{exporter::single, table};
use crate::history::{State, Status};

/// Nothing when it is switched off.
pub(super) fn history(status: &Status, families: &mut Vec<MetricFamily>) {
    if status.state == State::Off {
        return;
    }
    let up = f64::from(u8::from(status.state == State::Writing));
    single(&table::HISTORY_UP, Some(up), families);
    single(&table::HISTORY_WRITTEN, Some(status.written as f64), families);
    single(&table::HISTORY_DROPPED, Some(status.dropped as f64), families);
    single(&table::HISTORY_FAILURES, Some(status.failures as f64), families);
    single(&table::HISTORY_PRUNED, Some(status.pruned as f64), families);
    single(&table::HISTORY_BYTES, status.bytes.map(|bytes| bytes as f64), families);
}
