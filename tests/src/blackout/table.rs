//! The comparison as a table for people.

use std::fmt::Write;

use super::compare::{Comparison, Spread, Summary};

/// One line a run and the sums below, all in ms.
#[must_use]
pub fn render(runs: &[Comparison]) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{arguments}");
    };
    line(format_args!(
        "{:<31} {:>4} {:>9} {:>9} {:>8} {:>9} {:>9} {:>6} {:>6} {:>6} {:>7} {:>7} {:>7} {:>6} {:>5} {:>5}  notes",
        "migration",
        "MiB",
        "truth",
        "blackout",
        "error",
        "functions",
        "scheduler",
        "QEMU",
        "stop",
        "start",
        "period",
        "p99",
        "late",
        "other",
        "sum%",
        "syncs",
    ));
    for run in runs {
        line(format_args!(
            "{:<31} {:>4} {:>9.3} {:>9} {:>8} {:>9} {:>9} {:>6} {:>6} {:>6} {:>7.3} {:>7.3} {:>7.1} {:>6.1} {:>5} {:>5}  {}",
            run.name,
            run.memory_mib,
            1e3 * run.truth,
            ms(run.seconds),
            signed_ms(run.error()),
            ms(run.phase_functions),
            ms(run.vcpu_scheduling),
            run.qemu_downtime.map_or_else(dash, |seconds| format!("{:.0}", 1e3 * seconds)),
            signed_ms(run.stop_after_tick),
            signed_ms(run.tick_after_start),
            1e3 * run.period,
            1e3 * run.period_p99,
            1e3 * run.late_before,
            1e3 * run.largest_other,
            run.breakdown_off.map_or_else(dash, |share| format!("{:.2}", 100.0 * share)),
            format!("{}/{}", run.rounds, run.dirty_syncs),
            notes(run),
        ));
    }
    let all = Summary::of(runs);
    let quiet = Summary::of(runs.iter().filter(|run| !run.disturbed));
    line(format_args!(
        "\n{:<42} {:^25}   {:^25}\n{:<42} {:>9} {:>9} {:>5}   {:>9} {:>9} {:>5}",
        "", "all", "undisturbed", "ms", "median", "worst", "runs", "median", "worst", "runs",
    ));
    for (what, figure) in FIGURES {
        line(format_args!("{what:<42} {}   {}", spread(figure(&all)), spread(figure(&quiet))));
    }
    line(format_args!(
        "\nwithin 0.5 ms + period: {} of {}, undisturbed {} of {}; {} with wrong phases, states, \
         rounds, sums or outcome",
        all.within, all.runs, quiet.within, quiet.runs, all.faulty
    ));
    line(format_args!(
        "truth: last tick on the source to first tick on the destination, by the kernel's stamps of \
         the guest's\ndatagrams. stop: from the last tick to the record's stop; start: from its start \
         to the first tick. period, p99:\nof the guest's clock on the source; late: what it missed \
         in its last second there by not being run;\nother: its largest other gap, anywhere.\ndisturbed: one of the 5 ticks before or after the switch-over came over 10 \
         periods late, so that the truth itself is as uncertain."
    ));
    text
}

type Figure = fn(&Summary) -> Option<Spread>;

const FIGURES: [(&str, Figure); 6] = [
    ("blackout - truth", |summary| summary.error),
    ("  by phase functions - truth", |summary| summary.phase_functions),
    ("  by vCPU scheduling - truth", |summary| summary.vcpu_scheduling),
    ("between the two methods", |summary| summary.methods_apart),
    ("QEMU's downtime - truth", |summary| summary.qemu),
    ("states against QEMU's MIGRATION events", |summary| summary.state_off),
];

fn spread(spread: Option<Spread>) -> String {
    let figure = |value: fn(&Spread) -> f64| signed_ms(spread.as_ref().map(value));
    format!(
        "{:>9} {:>9} {:>5}",
        figure(|spread| spread.median),
        figure(|spread| spread.worst),
        spread.map_or(0, |spread| spread.count)
    )
}

fn notes(run: &Comparison) -> String {
    let mut notes = Vec::new();
    if run.disturbed {
        notes.push(format!(
            "disturbed (no tick for {:.1} ms before, {:.1} ms after)",
            1e3 * run.before_stop,
            1e3 * run.after_start
        ));
    }
    notes.extend(run.method.map(|method| method.as_str().to_owned()));
    notes.extend(run.faults.iter().map(|fault| format!("WRONG: {fault}")));
    notes.join("; ")
}

fn ms(seconds: Option<f64>) -> String {
    seconds.map_or_else(dash, |seconds| format!("{:.3}", 1e3 * seconds))
}

fn signed_ms(seconds: Option<f64>) -> String {
    seconds.map_or_else(dash, |seconds| format!("{:+.3}", 1e3 * seconds))
}

fn dash() -> String {
    "-".to_owned()
}
