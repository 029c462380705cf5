//! Derives one migration attempt from the marks of one process: states, rounds, stop and start. The order of marks decides; numbers
//! of states are looked up by version, and an impossible order shows that the table is wrong.

use std::sync::Arc;

use dwcp_observer_ebpf::phase::MarkKind;

use super::{
    MarkReading,
    remaining::{Left, Pass},
    states::Names,
};
use crate::model::qemu::{MigratorState, Request, RunState};

/// Rounds that keep their own figures; a migration that never converges has thousands.
pub const MAX_ROUNDS: usize = 4096;
/// State changes, requests and throttle steps that are kept of each.
const MAX_CHANGES: usize = 64;

/// A moment, and what the process had handed to its sockets by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Bytes since the attempt began.
    pub sent_bytes: u64,
}

/// How the guest was stopped at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// `pause_all_vcpus` was entered, `CLOCK_MONOTONIC` ns.
    pub asked: Moment,
    /// It returned: all vCPU threads have parked. `None` while they have not.
    pub paused_ns: Option<u64>,
}

/// What a mark asks for.
const fn request(kind: MarkKind) -> Option<Request> {
    Some(match kind {
        MarkKind::Migrate => Request::Migrate,
        MarkKind::MigrateContinue => Request::MigrateContinue,
        MarkKind::Cancel => Request::MigrateCancel,
        MarkKind::StartPostcopy => Request::MigrateStartPostcopy,
        MarkKind::Recover => Request::MigrateRecover,
        MarkKind::Continue => Request::Cont,
        MarkKind::Halt => Request::Stop,
        _ => return None,
    })
}

/// One attempt of one process, outgoing or incoming.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Counts attempts of the process.
    pub attempt: u64,
    /// State changes that took place, in order.
    pub states: Vec<(u64, MigratorState)>,
    /// Passes over RAM so far.
    pub syncs: u64,
    /// Begin of each of the first [`MAX_ROUNDS`] passes.
    pub rounds: Vec<Pass>,
    /// The migration has stopped the guest here, and it has not run here since.
    pub stop: Option<Stop>,
    /// Its manager or operator has stopped the guest here (run state `paused`), and it has not run here since.
    pub manager_stop: Option<Stop>,
    /// What the guest did at its source, as the destination was told (`global_state_get_runstate`).
    pub arrived_as: Option<RunState>,
    /// A former stop, and when the guest ran on here: the switch-over failed.
    ran_on: Option<(Stop, u64)>,
    /// Begin of the last pass over RAM.
    pub last_pass: Option<Moment>,
    /// Begin of saving the device state.
    pub device: Option<Moment>,
    /// All is written to the sockets.
    pub sent: Option<Moment>,
    /// The destination has loaded the device state, ns.
    pub loaded_ns: Option<u64>,
    /// The destination lets the guest run, ns.
    pub resumed_ns: Option<u64>,
    /// `vm_start` was entered last before that, ns.
    pub vm_start_ns: Option<u64>,
    /// Everything is loaded and the guest is left standing: since when, ns. The manager is to let it run.
    pub left_standing_ns: Option<u64>,
    /// The guest ran again at a source that had completed, ns: the manager took it back, or it runs twice.
    pub restarted_ns: Option<u64>,
    /// What the manager asked for, in order, ns.
    pub requests: Vec<(u64, Request)>,
    /// The share of their time that the guest's CPUs are kept from running to slow it, and since when, ns, %.
    pub throttle: Vec<(u64, u32)>,
    /// The destination began to announce the guest to the network, ns.
    pub announced_ns: Option<u64>,
    /// What the migrator said first of what went wrong.
    pub error: Option<String>,
    /// The operator has stopped the guest.
    pub paused_by_operator: bool,
    /// The attempt was heard from its first state on: what it did not say did not happen.
    pub is_whole: bool,
    /// Loaded, and let run, before any state was heard: by an attempt that was under way when its probes came, or at QEMU's start.
    early: [Option<u64>; 2],
    names: Arc<Names>,
    object: Option<u32>,
    first_bytes: u64,
    run_state: Option<RunState>,
    /// Stopped, by whom is not known yet: some versions change the run state after they have paused the vCPUs.
    undecided: Option<Stop>,
}

impl Timeline {
    /// No mark yet.
    #[must_use]
    pub fn new(names: Arc<Names>) -> Self {
        Self { names, ..Self::default() }
    }

    /// The same process before its next attempt.
    #[must_use]
    pub fn blank(&self) -> Self {
        Self {
            attempt: self.attempt + 1,
            run_state: self.run_state,
            manager_stop: self.manager_stop,
            paused_by_operator: self.paused_by_operator,
            names: Arc::clone(&self.names),
            ..Self::default()
        }
    }

    /// Takes in the next mark of the process.
    pub fn push(&mut self, mark: &MarkReading) {
        match mark.kind {
            MarkKind::State => self.state_changes(mark),
            MarkKind::RunState => self.run_state_changes(mark.new, mark.at_ns),
            MarkKind::Pause => {
                let stop = Stop { asked: self.moment(mark), paused_ns: None };
                match self.run_state {
                    Some(RunState::FinishMigrate) => self.stop = Some(stop),
                    Some(RunState::Paused) => self.manager_stop = Some(stop),
                    _ => self.undecided = Some(stop),
                }
            }
            MarkKind::Paused => {
                let stops = [&mut self.undecided, &mut self.manager_stop, &mut self.stop];
                let mut pending = stops.into_iter().flatten().filter(|it| it.paused_ns.is_none());
                if let Some(stop) = pending.next() {
                    stop.paused_ns = Some(mark.at_ns);
                }
            }
            MarkKind::GlobalState => self.arrived_as = self.names.run_state(mark.new),
            MarkKind::Resume => self.resumes(mark.at_ns),
            MarkKind::VmStart if self.resumed_ns.is_none() => self.vm_start_ns = Some(mark.at_ns),
            // The migration has left its loop: what is fetched now is of the last pass, also of a guest that stood before.
            MarkKind::Sync if self.names.counts_rounds_in_loop() && self.is_finishing() => {}
            MarkKind::Sync => {
                self.syncs += 1;
                if self.rounds.len() < MAX_ROUNDS {
                    self.rounds.push(Pass { begin: self.moment(mark), left: None });
                }
            }
            // The first look after a fetch tells what the pass begins with.
            MarkKind::Pending if self.rounds.len() as u64 == self.syncs => {
                let left = Left::of(mark.remaining, self.names.pending_form());
                if let Some(last) = self.rounds.last_mut() {
                    last.left.get_or_insert(left);
                }
            }
            MarkKind::LastPass if self.is_finishing() => {
                let moment = self.moment(mark);
                self.last_pass.get_or_insert(moment);
            }
            MarkKind::Device if self.is_finishing() => {
                let moment = self.moment(mark);
                self.device.get_or_insert(moment);
            }
            // Postcopy writes twice: RAM that cannot be fetched later, then the device state.
            MarkKind::Sent if self.is_finishing() => self.sent = Some(self.moment(mark)),
            MarkKind::Loaded if self.state().is_some() => self.loaded_ns = Some(mark.at_ns),
            MarkKind::Loaded => self.early = [Some(mark.at_ns), None],
            MarkKind::Throttle if self.throttle.len() < MAX_CHANGES => {
                self.throttle.push((mark.at_ns, mark.new.min(100)));
            }
            MarkKind::Announce if self.loaded_ns.is_some() => {
                self.announced_ns.get_or_insert(mark.at_ns);
            }
            kind => {
                let request = request(kind).filter(|_| self.requests.len() < MAX_CHANGES);
                self.requests.extend(request.map(|request| (mark.at_ns, request)));
            }
        }
    }

    /// Whether the migration has stopped the guest, or has found it stopped and sends the last of it.
    fn is_finishing(&self) -> bool {
        self.stop.is_some() || self.run_state == Some(RunState::FinishMigrate)
    }

    /// Whether the guest ran at its source when its state was sent; `None`: the destination was not told, or did not look.
    #[must_use]
    pub fn ran_at_source(&self) -> Option<bool> {
        self.arrived_as.map(RunState::is_live)
    }

    /// Takes in what the migrator says of an error. The first is the cause, what follows from it comes later.
    pub fn fails(&mut self, text: &str) {
        if !text.is_empty() {
            self.error.get_or_insert_with(|| text.to_owned());
        }
    }

    /// The share of their time that the guest's CPUs are kept from running now, %; `None` while they are not.
    #[must_use]
    pub fn throttle_percent(&self) -> Option<u32> {
        self.throttle.last().map(|(_, percent)| *percent).filter(|percent| *percent > 0)
    }

    /// When the manager first asked for something at this attempt, ns.
    #[must_use]
    pub fn requested(&self, wanted: Request) -> Option<u64> {
        self.requests.iter().find(|(_, request)| *request == wanted).map(|(at, _)| *at)
    }

    /// When the present state was entered, ns.
    #[must_use]
    pub fn since(&self) -> Option<u64> {
        self.states.last().map(|(at, _)| *at)
    }

    /// Whether the attempt is over, by its state.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state().is_some_and(MigratorState::is_final)
    }

    /// The stop after which the guest ran on at the source, and when, ns.
    #[must_use]
    pub fn ran_on(&self) -> Option<(Stop, u64)> {
        match (self.stop, self.restarted_ns) {
            (Some(stop), Some(at)) => Some((stop, at)),
            (Some(_), None) => None,
            (None, _) => self.ran_on,
        }
    }

    /// The last state.
    #[must_use]
    pub fn state(&self) -> Option<MigratorState> {
        self.states.last().map(|(_, state)| *state)
    }

    /// When a state was first entered, ns.
    #[must_use]
    pub fn entered(&self, wanted: MigratorState) -> Option<u64> {
        self.states.iter().find(|(_, state)| *state == wanted).map(|(at, _)| *at)
    }

    /// When a state was last entered, ns.
    #[must_use]
    pub fn last_entered(&self, wanted: MigratorState) -> Option<u64> {
        self.states.iter().rev().find(|(_, state)| *state == wanted).map(|(at, _)| *at)
    }

    /// The request that this attempt follows from: the last one, unless the former attempt heeded it.
    fn requests_ahead(&self) -> Vec<(u64, Request)> {
        let last = self.requests.last().filter(|(at, request)| {
            *request == Request::Migrate && self.since().is_none_or(|since| *at >= since)
        });
        last.copied().into_iter().collect()
    }

    fn moment(&self, mark: &MarkReading) -> Moment {
        Moment { at_ns: mark.at_ns, sent_bytes: mark.sent_bytes.saturating_sub(self.first_bytes) }
    }

    fn state_changes(&mut self, mark: &MarkReading) {
        let (old, new) = (self.names.state(mark.old), self.names.state(mark.new));
        if old == Some(MigratorState::None) || self.object.is_some_and(|known| known != mark.object)
        {
            *self = Self {
                attempt: self.attempt + 1,
                object: Some(mark.object),
                first_bytes: mark.sent_bytes,
                run_state: self.run_state,
                manager_stop: self.manager_stop,
                paused_by_operator: self.paused_by_operator,
                requests: self.requests_ahead(),
                names: Arc::clone(&self.names),
                is_whole: old == Some(MigratorState::None),
                ..Self::default()
            };
        }
        if self.object.is_none() {
            // The first word of the process that is heard: its attempt began before.
            self.attempt += 1;
            [self.loaded_ns, self.resumed_ns] = self.early;
        }
        self.object = Some(mark.object);
        // The function swaps atomically: a change from a state that is not the present one does not happen.
        let happens = self.state().is_none_or(|present| Some(present) == old);
        if let Some(new) = new.filter(|_| happens && self.states.len() < MAX_CHANGES) {
            self.states.push((mark.at_ns, self.plausible(new)));
        }
    }

    /// Where numbers are a guess, `completed` and `failed` of older tables share those of `completed` and the recovery of postcopy:
    /// everything written and no fault before means completed.
    fn plausible(&self, new: MigratorState) -> MigratorState {
        use MigratorState::{Completed, Failed, PostcopyRecover, PostcopyRecoverSetup};

        let over = self.sent.is_some() || self.resumed_ns.is_some();
        let recovers = self.entered(MigratorState::PostcopyPaused).is_some();
        match new {
            other if !self.names.are_guessed() || recovers => other,
            Completed | PostcopyRecover | PostcopyRecoverSetup if over => Completed,
            Completed | PostcopyRecover | PostcopyRecoverSetup => Failed,
            other => other,
        }
    }

    fn run_state_changes(&mut self, new: u32, at_ns: u64) {
        self.run_state = self.names.run_state(new);
        match self.run_state {
            Some(RunState::FinishMigrate) => {
                if let Some(stop) = self.undecided.take() {
                    self.stop = Some(stop);
                }
            }
            // A destination that is not to let its guest run by itself (`-S`) ends up like this.
            Some(RunState::Paused) if self.loaded_ns.is_some() && self.resumed_ns.is_none() => {
                self.left_standing_ns.get_or_insert(at_ns);
            }
            Some(RunState::Paused) => {
                self.manager_stop = self.undecided.take().or(self.manager_stop);
                self.paused_by_operator = true;
            }
            Some(RunState::Running) => self.paused_by_operator = false,
            _ => {}
        }
    }

    fn resumes(&mut self, at_ns: u64) {
        (self.undecided, self.manager_stop) = (None, None);
        if self.stop.is_some() && self.state() == Some(MigratorState::Completed) {
            self.restarted_ns.get_or_insert(at_ns);
        } else if let Some(stop) = self.stop.take() {
            self.ran_on = Some((stop, at_ns));
            (self.last_pass, self.device, self.sent) = (None, None, None);
        } else if self.loaded_ns.is_some() {
            self.resumed_ns.get_or_insert(at_ns);
        } else if let [Some(_), resumed] = &mut self.early {
            resumed.get_or_insert(at_ns);
        }
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
