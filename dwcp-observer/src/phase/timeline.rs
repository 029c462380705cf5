//! What one process' marks say about one attempt to migrate: states, rounds, stop and start. Driven by the order of marks; numbers
//! of states are looked up by version, and an impossible order is what betrays a wrong table.

use std::sync::Arc;

use dwcp_observer_ebpf::phase::MarkKind;

use super::{
    MarkReading,
    states::{MigratorState, Names, RunState},
};

/// Rounds that keep their own figures; a migration that never converges has thousands.
pub const MAX_ROUNDS: usize = 4096;
/// State changes that are kept.
const MAX_STATES: usize = 64;

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
    pub rounds: Vec<Moment>,
    /// The migration has stopped the guest here, and it has not run here since.
    pub stop: Option<Stop>,
    /// A former stop, and when the guest ran on here: the switch-over failed.
    pub ran_on: Option<(Stop, u64)>,
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
    /// The operator has stopped the guest.
    pub paused_by_operator: bool,
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

    /// Takes in the next mark of the process.
    pub fn push(&mut self, mark: &MarkReading) {
        match mark.kind {
            MarkKind::State => self.state_changes(mark),
            MarkKind::RunState => self.run_state_changes(mark.new),
            MarkKind::Pause => {
                let stop = Stop { asked: self.moment(mark), paused_ns: None };
                if self.run_state == Some(RunState::FinishMigrate) {
                    self.stop = Some(stop);
                } else {
                    self.undecided = Some(stop);
                }
            }
            MarkKind::Paused => {
                let pending =
                    if self.undecided.is_some() { &mut self.undecided } else { &mut self.stop };
                if let Some(stop) = pending.as_mut().filter(|stop| stop.paused_ns.is_none()) {
                    stop.paused_ns = Some(mark.at_ns);
                }
            }
            MarkKind::Resume => self.resumes(mark.at_ns),
            MarkKind::Sync => {
                self.syncs += 1;
                if self.rounds.len() < MAX_ROUNDS {
                    self.rounds.push(self.moment(mark));
                }
            }
            MarkKind::LastPass if self.stop.is_some() => {
                let moment = self.moment(mark);
                self.last_pass.get_or_insert(moment);
            }
            MarkKind::Device if self.stop.is_some() => {
                let moment = self.moment(mark);
                self.device.get_or_insert(moment);
            }
            // Postcopy writes twice: RAM that cannot be fetched later, then the device state.
            MarkKind::Sent if self.stop.is_some() => self.sent = Some(self.moment(mark)),
            MarkKind::Loaded if self.state().is_some() => self.loaded_ns = Some(mark.at_ns),
            _ => {}
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
                paused_by_operator: self.paused_by_operator,
                names: Arc::clone(&self.names),
                ..Self::default()
            };
        }
        self.object = Some(mark.object);
        // The function swaps atomically: a change from a state that is not the present one does not happen.
        let happens = self.state().is_none_or(|present| Some(present) == old);
        if let Some(new) = new.filter(|_| happens && self.states.len() < MAX_STATES) {
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

    fn run_state_changes(&mut self, new: u32) {
        self.run_state = self.names.run_state(new);
        match self.run_state {
            Some(RunState::FinishMigrate) => {
                if let Some(stop) = self.undecided.take() {
                    self.stop = Some(stop);
                }
            }
            Some(RunState::Paused) => {
                self.undecided = None;
                self.paused_by_operator = true;
            }
            Some(RunState::Running) => self.paused_by_operator = false,
            _ => {}
        }
    }

    fn resumes(&mut self, at_ns: u64) {
        self.undecided = None;
        if let Some(stop) = self.stop.take() {
            self.ran_on = Some((stop, at_ns));
            (self.last_pass, self.device, self.sent) = (None, None, None);
        } else if self.loaded_ns.is_some() {
            self.resumed_ns.get_or_insert(at_ns);
        }
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
