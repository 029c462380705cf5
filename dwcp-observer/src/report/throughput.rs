//! Throughput and streams.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    data::Data,
    document::Document,
    figures,
    words::{percent, some},
};
use crate::{history::minute::Minute, model::record::Migration};

/// Contract: most streams of AMST.
const MAX_STREAMS: f64 = 512.0;

fn gigabytes(rate: f64) -> String {
    format!("{:.3} GB/s", rate / 1e9)
}

pub(super) fn throughput(data: &Data, document: &mut Document) {
    document.heading(2, "2 Throughput");
    document.heading(3, "2.1 All migrations");
    let sum = data.sum();
    let target = data.targets().throughput_bytes_per_second;
    let Some(mean) = sum.throughput.mean() else {
        document.text("No transfer was measured in this period.");
        return;
    };
    let bytes: u64 = data.v3().filter_map(Migration::transferred).sum();
    document.table(
        &["What", "Value"],
        vec![
            vec!["average while a transfer was active".into(), gigabytes(mean)],
            vec!["peak second".into(), gigabytes(sum.throughput.max)],
            vec!["slowest second".into(), gigabytes(sum.throughput.min)],
            vec!["target".into(), gigabytes(target)],
            vec!["average of target".into(), percent(mean, target)],
            vec!["seconds with a transfer".into(), sum.counts.transfer_seconds.to_string()],
            vec![
                "payload of the migrations that ended".into(),
                format!("{:.3} GB", bytes as f64 / 1e9),
            ],
        ],
    );
    document.figure(figures::throughput(data));
    document.heading(3, "2.2 By transport");
    let rows = sum
        .throughput_by_transport
        .iter()
        .map(|(transport, rate)| {
            vec![
                transport.clone(),
                some(rate.mean().map(|rate| rate / 1e9), "GB/s", 3),
                gigabytes(rate.max),
                rate.count.to_string(),
            ]
        })
        .collect();
    document.table(&["Transport", "Average", "Peak second", "Seconds"], rows);
    document.heading(3, "2.3 Streams");
    let streams = &sum.streams;
    document.table(
        &["What", "Value"],
        vec![
            vec!["open at most".into(), format!("{:.0} of {MAX_STREAMS:.0}", streams.max)],
            vec!["open on average".into(), some(streams.mean(), "", 1).trim().to_owned()],
            vec![
                "rate per stream".into(),
                some(streams.mean().map(|count| mean * 8.0 / 1e6 / count.max(1.0)), "Mbit/s", 0),
            ],
        ],
    );
    over_the_period(data, document);
    verdicts(&sum.verdict_seconds, document);
}

/// How the minutes differ, and which stand out.
fn over_the_period(data: &Data, document: &mut Document) {
    document.heading(3, "2.4 Over the period");
    let minutes: Vec<(&Minute, f64)> = data
        .minutes
        .iter()
        .filter_map(|minute| Some((minute, minute.throughput.mean()?)))
        .collect();
    let (Some(peak), Some(trough)) = (
        minutes.iter().max_by(|(_, one), (_, other)| one.total_cmp(other)),
        minutes.iter().min_by(|(_, one), (_, other)| one.total_cmp(other)),
    ) else {
        return;
    };
    let count = minutes.len() as f64;
    let mean = minutes.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = minutes.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let line = |what: &str, (minute, rate): &(&Minute, f64)| {
        let at = Timestamp::from_second(minute.at).unwrap_or_default();
        vec![what.to_owned(), gigabytes(*rate), at.strftime("%d %b %H:%M").to_string()]
    };
    document.text(format!("Averages of the {count} minutes with a transfer."));
    document.table(
        &["What", "Value", "Minute (UTC)"],
        vec![
            line("peak", peak),
            line("trough", trough),
            vec!["mean".into(), gigabytes(mean), "-".into()],
            vec!["standard deviation".into(), gigabytes(variance.sqrt()), "-".into()],
        ],
    );
}

fn verdicts(seconds: &BTreeMap<String, f64>, document: &mut Document) {
    document.heading(3, "2.5 How transfers went");
    let whole: f64 = seconds.values().sum();
    if whole <= 0.0 {
        document.text("No verdict in this period.");
        return;
    }
    let rows = seconds
        .iter()
        .map(|(state, time)| vec![state.clone(), format!("{time:.0}"), percent(*time, whole)])
        .collect();
    document.text("Seconds of running migrations by verdict; causes are in dwcp_v3_verdict_seconds_total and in each record.");
    document.table(&["Verdict", "Seconds", "Share"], rows);
}
