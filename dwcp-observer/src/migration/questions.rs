//! What the registry wants to know beyond the readings, and the answers: it reads nothing of the system itself.

use std::{collections::HashMap, hash::Hash, path::PathBuf};

use dwcp_observer_ebpf::netdev::{Tap, TapKey};

use super::end::FlowKey;
use crate::{
    keeper::ProcessReading,
    model::{
        facts::{ProcessFacts, ProcessId, ThreadFacts, Unread},
        record::Quantiles,
    },
    phase::attach::Coverage,
};

/// What is to be answered before a look is over.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    /// Processes that are new: what `/proc` says of them, and the coverage of what may be QEMU.
    pub facts: Vec<ProcessReading>,
    /// Processes whose phase functions are to be probed, unless they are already.
    pub coverage: Vec<ProcessReading>,
    /// Processes whose arguments were not known when their facts were asked for.
    pub arguments: Vec<ProcessId>,
    /// Whatever process has this id now.
    pub strangers: Vec<u32>,
    /// Processes whose threads are wanted.
    pub threads: Vec<ProcessId>,
    /// Ends of migrations whose tap devices are to be watched from now on.
    pub surroundings: Vec<ProcessId>,
    /// The name of the process with this id while the other one traces it.
    pub traced: Vec<(u32, ProcessId)>,
    /// What keeps a process from running, and where the CPU quotas around it show.
    pub hindrances: Vec<(ProcessId, Vec<PathBuf>)>,
    /// What a watched device has carried.
    pub taps: Vec<TapKey>,
    /// RTT quantiles of a flow that still holds its slot.
    pub rtts: Vec<FlowKey>,
    /// Run-queue waits of a thread that still holds its slot.
    pub waits: Vec<u32>,
}

impl Questions {
    /// Whether nothing is asked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        let Self {
            facts,
            coverage,
            arguments,
            strangers,
            threads,
            surroundings,
            traced,
            hindrances,
            taps,
            rtts,
            waits,
        } = self;
        facts.is_empty()
            && coverage.is_empty()
            && arguments.is_empty()
            && strangers.is_empty()
            && threads.is_empty()
            && surroundings.is_empty()
            && traced.is_empty()
            && hindrances.is_empty()
            && taps.is_empty()
            && rtts.is_empty()
            && waits.is_empty()
    }
}

/// What was asked in a look and is answered by now.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Facts about a process; `None` when it is gone. Its arguments may come later.
    pub facts: HashMap<ProcessId, Option<ProcessFacts>>,
    /// Coverage of its phase functions; `None` while they are looked for, and when it is gone.
    pub coverage: HashMap<ProcessId, Option<Coverage>>,
    /// Arguments, or why they are not known; none when it is gone.
    pub arguments: HashMap<ProcessId, Result<Vec<String>, Unread>>,
    /// Facts about whatever process had this id; `None` when there was none.
    pub strangers: HashMap<u32, Option<ProcessFacts>>,
    /// Threads of a process; none when it is gone.
    pub threads: HashMap<ProcessId, Vec<ThreadFacts>>,
    /// What surrounds an end.
    pub surroundings: HashMap<ProcessId, Surroundings>,
    /// The name of the process with this id; `None` while the other one does not trace it.
    pub traced: HashMap<(u32, ProcessId), Option<String>>,
    /// What keeps a process from running.
    pub hindrances: HashMap<ProcessId, Hindrances>,
    /// What a device has carried.
    pub taps: HashMap<TapKey, Option<Tap>>,
    /// RTT quantiles.
    pub rtts: HashMap<FlowKey, Option<Quantiles>>,
    /// Run-queue waits.
    pub waits: HashMap<u32, Option<Quantiles>>,
}

impl Answers {
    /// What holds for other readings of the same look as well: all but figures.
    #[must_use]
    pub fn of_processes(self) -> Self {
        let Self { facts, coverage, arguments, strangers, threads, surroundings, traced, .. } =
            self;
        let figures = Self::default();
        Self { facts, coverage, arguments, strangers, threads, surroundings, traced, ..figures }
    }
}

/// What surrounds an end of a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Its tap devices, which are watched now.
    pub taps: Vec<TapKey>,
    /// Where the CPU quotas of its cgroup and of those around it show.
    pub quota_files: Vec<PathBuf>,
}

/// What keeps a process from running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hindrances {
    /// How long the CPU quota has held its cgroup back so far, ns; `None` without one.
    pub quota_throttled_ns: Option<u64>,
    /// It is stopped by a signal.
    pub stopped: bool,
}

/// The answer; what is not answered yet is asked, once.
pub(super) fn answered<'a, K: Clone + Eq + Hash, A>(
    answers: &'a HashMap<K, A>,
    ask: &mut Vec<K>,
    question: &K,
) -> Option<&'a A> {
    let found = answers.get(question);
    if found.is_none() && !ask.contains(question) {
        ask.push(question.clone());
    }
    found
}
