//! Migrators that dump processes and end with their work (CRIU): their exit tells how it went.

use super::{clock::WallClock, end::EndState, live::LiveMigration};
use crate::{
    freeze::FreezeReading,
    model::record::{DumpedProcess, FreezeEnd, FreezeMethod, Frozen, PhaseName, Role},
};

/// Time after the last close in which a dump may still write its images before it exits, ns.
const WRITING_NS: u64 = 30_000_000_000;

/// Whether a migrator moves processes and ends by exiting.
#[must_use]
pub fn ends_by_exit(migrator: &str) -> bool {
    migrator == "criu"
}

/// Whether the end waits for the exit of a dump: of the source's program, else of the one that takes the pages in.
#[must_use]
pub(super) fn is_held(live: &LiveMigration, closed_ns: u64, now_ns: u64) -> bool {
    let end = live.end(Role::Source).or_else(|| live.end(Role::Destination));
    end.is_some_and(|end| end.exited_ns.is_none())
        && closed_ns != 0
        && now_ns.saturating_sub(closed_ns) < WRITING_NS
}

/// When the last of its programs exited, ns; 0 while none has.
#[must_use]
pub(super) fn exited_ns(live: &LiveMigration) -> u64 {
    live.ends.iter().filter_map(|end| end.exited_ns).max().unwrap_or_default()
}

/// The process that is dumped, by the command line, else as the kernel saw it stopped.
pub(super) fn dumped_process(live: &LiveMigration, wall: WallClock) -> Option<DumpedProcess> {
    let end = live.end(Role::Source).filter(|_| ends_by_exit(&live.migrator))?;
    let stopped = || end.freeze.as_ref().map(|freeze| (freeze.tgid, freeze.comm.clone()));
    let (pid, name) = end.dumped.clone().or_else(stopped)?;
    Some(DumpedProcess { pid, name, frozen: frozen(live, end, wall) })
}

fn frozen(live: &LiveMigration, end: &EndState, wall: WallClock) -> Frozen {
    let none = Frozen {
        seconds: None,
        incomplete: None,
        method: None,
        started_at: None,
        ended_at: None,
        ended_by: None,
        tasks: None,
    };
    let freeze = match begin(live, end) {
        Ok(freeze) => freeze,
        Err(why) => return Frozen { incomplete: Some(why.to_owned()), ..none },
    };
    let ended = ended(freeze, end);
    let by_cgroup = freeze.began_ns() < freeze.stopped_ns;
    Frozen {
        seconds: ended.ok().map(|(ns, _)| ns.saturating_sub(freeze.began_ns()) as f64 / 1e9),
        incomplete: ended.err().map(str::to_owned),
        method: Some(match by_cgroup {
            true => FreezeMethod::CgroupFreezer,
            false => FreezeMethod::PtraceStop,
        }),
        started_at: Some(wall.at(freeze.began_ns())),
        ended_at: ended.ok().map(|(ns, _)| wall.at(ns)),
        ended_by: ended.ok().map(|(_, how)| how),
        tasks: Some(freeze.stops),
    }
}

/// The freeze of a dump, if its begin is known; else why not.
fn begin<'a>(live: &LiveMigration, end: &'a EndState) -> Result<&'a FreezeReading, &'static str> {
    let by_cgroup = end.facts.cmdline.iter().any(|word| word.starts_with("--freeze-cgroup"));
    match &end.freeze {
        None => Err("the observer did not see its stop"),
        Some(_) if live.found_under_way() => Err("it was stopped before it was observed"),
        Some(freeze) if by_cgroup && freeze.cgroup_ns.is_none() => {
            Err("its cgroup was frozen first, and the kernel does not report when (cgroup v1)")
        }
        Some(freeze) => Ok(freeze),
    }
}

/// When and by what it ended, if that is known; else why not.
fn ended(freeze: &FreezeReading, end: &EndState) -> Result<(u64, FreezeEnd), &'static str> {
    match freeze.ended {
        // A dump that has succeeded has killed it, if it was still traced: its death is near.
        Some((_, FreezeEnd::TracerExit)) if end.exit_code == 0 => {
            Err("the observer did not see its exit")
        }
        Some(ended) => Ok(ended),
        None if end.exited_ns.is_none() => Err("it is stopped"),
        None => Err("the observer did not see when it ran again"),
    }
}

/// Where the phases of a dump begin: connected, first task stopped, all stopped, let go. None where its stop was not seen.
pub(super) fn edges(live: &LiveMigration) -> Vec<(PhaseName, u64)> {
    let Some(end) = live.end(Role::Source) else { return Vec::new() };
    let Ok(freeze) = begin(live, end) else { return Vec::new() };
    let began_ns = freeze.began_ns();
    let setup = (live.started_ns < began_ns).then_some((PhaseName::Setup, live.started_ns));
    let over = ended(freeze, end).ok().map(|(ns, _)| (PhaseName::Completion, ns));
    let stands = [(PhaseName::Freeze, began_ns), (PhaseName::Dump, freeze.all_stopped_ns)];
    setup.into_iter().chain(stands).chain(over).collect()
}

/// The process that a `criu dump` was told to dump: what `-t` or `--tree` names. A number alone may be of another pid namespace.
pub(super) fn target(cmdline: &[String]) -> Option<u32> {
    let rest = cmdline.iter().position(|argument| argument == "dump" || argument == "pre-dump")?;
    let mut arguments = cmdline.iter().skip(rest + 1);
    while let Some(argument) = arguments.next() {
        let value = match argument.as_str() {
            "-t" | "--tree" => arguments.next().map(String::as_str),
            other => other.strip_prefix("--tree=").or_else(|| other.strip_prefix("-t")),
        };
        if let Some(pid) = value.and_then(|value| value.parse().ok()) {
            return Some(pid);
        }
    }
    None
}

/// Whether the end is one of a migrator that says nothing until it exits: its exit code as `wait(2)` gives it.
pub(super) fn exit_code(live: &LiveMigration, end: &EndState) -> Option<u32> {
    end.exited_ns.filter(|_| ends_by_exit(&live.migrator)).map(|_| end.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_dumped_process_is_on_the_command_line() {
        for line in ["criu dump -t 70 -D x", "criu dump -D x --tree 70", "criu pre-dump --tree=70"]
        {
            assert_eq!(target(&words(line)), Some(70), "{line}");
        }
        for line in ["criu page-server --port 70", "criu dump --tcp-established", "criu -t 70"] {
            assert_eq!(target(&words(line)), None, "{line}");
        }
    }
}
