//! What the observer costs two tasks that do nothing but wake one another.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::bpf::EmptyProgram;
use super::load::{Setup, last_cpu, number_of, stop};
use super::row::{Group, Row};
use super::samples::Samples;
use crate::shell::find;

const MESSAGES: u32 = 300_000;

/// Measures.
///
/// # Errors
/// When the observer or `perf` does not work.
pub(super) fn run(setup: &Setup) -> Result<Vec<Row>> {
    let Some(perf) = find("perf") else {
        let reason = "perf is not installed: run `cargo xtask setup`";
        return Ok(vec![Row::not_measured(Group::Scheduler, "perf bench sched pipe", reason)]);
    };
    let cpu = last_cpu()?.to_string();
    let pipe = || {
        // Prints the seconds of the whole run.
        let mut command = Command::new("taskset");
        command.args(["-c", &cpu]).arg(&perf).args(["bench", "-f", "simple", "sched", "pipe"]);
        let seconds = number_of(command.args(["-l", &MESSAGES.to_string()]))?;
        Ok(seconds * 1e6 / f64::from(MESSAGES))
    };
    // What any program at these two tracepoints costs, before it does anything.
    let with_empty = || {
        let _switch = EmptyProgram::attach("sched_switch")?;
        let _wakeup = EmptyProgram::attach("sched_wakeup")?;
        pipe()
    };
    let with_observer = || {
        let observer = setup.observer()?;
        // Its start is not what is measured.
        std::thread::sleep(Duration::from_millis(300));
        let figure: Result<f64> = pipe();
        stop(observer)?;
        figure
    };
    pipe()?;
    let (mut off, mut on, mut empty) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..setup.times(9, 3) {
        // Turns about, so that a drift of the machine meets all.
        if pair % 2 == 0 {
            off.push(pipe()?);
            empty.push(with_empty()?);
            on.push(with_observer()?);
        } else {
            on.push(with_observer()?);
            empty.push(with_empty()?);
            off.push(pipe()?);
        }
    }
    let against_off = |name: &str, other: &[f64]| {
        let by_pair = off.iter().zip(other).map(|(off, other)| (other / off - 1.0) * 100.0);
        let medians = Samples::new(off.clone()).median().zip(Samples::new(other.to_vec()).median());
        let change = medians.map(|(off, other)| (other / off - 1.0) * 100.0);
        let figure = change.and_then(|change| Samples::new(by_pair).figure_of(change));
        Row::of(Group::Scheduler, name, "%", figure)
            .note("ratio of the medians; least and most by pair")
    };
    let row = |name: &str, values: &[f64]| {
        Row::new(Group::Scheduler, name, "us/message", &Samples::new(values.to_vec()))
    };
    Ok(vec![
        row("sched pipe, observer off", &off),
        row("sched pipe, observer on", &on).note("no migration running"),
        row("sched pipe, two empty programs", &empty).note("sched_switch and sched_wakeup"),
        against_off("sched pipe, observer on against off", &on).at_most(3.0),
        against_off("sched pipe, two empty programs against off", &empty),
    ])
}
