//! Migrators that dump processes and end with their work (CRIU): their exit tells how it went.

use super::{
    live::{EndState, Live},
    look::World,
    record::{DumpedProcess, Role},
};
use crate::identify::facts::ProcessId;

/// Time after the last close in which a dump may still write its images before it exits, ns.
const WRITING_NS: u64 = 30_000_000_000;

/// Whether a migrator moves processes and ends by exiting.
#[must_use]
pub fn ends_by_exit(migrator: &str) -> bool {
    migrator == "criu"
}

/// Whether the end waits for the exit of a dump: of the source's program, else of the one that takes the pages in.
#[must_use]
pub(super) fn is_held(live: &Live, closed_ns: u64, now_ns: u64) -> bool {
    let end = live.end(Role::Source).or_else(|| live.end(Role::Destination));
    end.is_some_and(|end| end.exited_ns.is_none())
        && closed_ns != 0
        && now_ns.saturating_sub(closed_ns) < WRITING_NS
}

/// When the last of its programs exited, ns; 0 while none has.
#[must_use]
pub(super) fn exited_ns(live: &Live) -> u64 {
    live.ends.iter().filter_map(|end| end.exited_ns).max().unwrap_or_default()
}

/// The process that a `criu dump` was told to dump, while that program traces it: a number alone may be of another pid namespace.
pub(super) fn dumped(
    criu: ProcessId,
    cmdline: &[String],
    world: &mut impl World,
) -> Option<DumpedProcess> {
    let pid = target(cmdline)?;
    Some(DumpedProcess { pid, name: world.traced_name(pid, criu)? })
}

/// What `-t` or `--tree` names.
fn target(cmdline: &[String]) -> Option<u32> {
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
pub(super) fn exit_code(live: &Live, end: &EndState) -> Option<u32> {
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
