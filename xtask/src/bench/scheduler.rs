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
    let (mut off, mut on, mut empty) = (vec![pipe()?], Vec::new(), Vec::new());
    for _ in 0..setup.times(11, 3) {
        // Each figure stands between two without anything, which take up the drift of the machine.
        on.push(with_observer()?);
        off.push(pipe()?);
        empty.push(with_empty()?);
        off.push(pipe()?);
    }
    // `first`: where in `off` the run before the first figure is.
    let against_off = |name: &str, first: usize, figures: &[f64]| {
        let neighbours = off[first..].windows(2).step_by(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        let changes = neighbours.zip(figures).map(|(off, figure)| (figure / off - 1.0) * 100.0);
        Row::new(Group::Scheduler, name, "%", &Samples::new(changes.collect::<Vec<_>>()))
            .note("median of the changes against the mean of the runs before and after")
    };
    let still = off.windows(2).map(|pair| (pair[1] / pair[0] - 1.0) * 100.0).collect::<Vec<_>>();
    let row = |name: &str, values: &[f64]| {
        Row::new(Group::Scheduler, name, "us/message", &Samples::new(values.to_vec()))
    };
    Ok(vec![
        row("sched pipe, observer off", &off),
        row("sched pipe, observer on", &on).note("no migration running"),
        row("sched pipe, two empty programs", &empty).note("sched_switch and sched_wakeup"),
        against_off("sched pipe, observer on against off", 0, &on).at_most(3.0),
        against_off("sched pipe, two empty programs against off", 1, &empty),
        Row::new(Group::Scheduler, "sched pipe, off against off", "%", &Samples::new(still))
            .note("what the machine does by itself from one run to the next"),
    ])
}
