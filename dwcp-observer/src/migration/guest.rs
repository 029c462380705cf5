//! What the guest felt: gathers stops, starts and edges from a migration's ends.

use dwcp_observer_ebpf::sched::CpuTimes;

use super::{
    blackout::{self, Breakdown, Edges, Instants, Method},
    live::{EndState, Live},
    record::{Role, ThreadRole},
};

/// A blackout, or the half of it that is seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Felt {
    /// Which method gave `instants`.
    pub method: Method,
    /// When the guest stopped and ran again.
    pub instants: Instants,
    /// What each method gave, in the order of [`Method::ALL`].
    pub by_method: [Instants; 2],
    /// The guest ran on at the source.
    pub ran_on_at_source: bool,
    /// Parts; `None` while an end is unknown.
    pub breakdown: Option<Breakdown>,
}

/// What is known of the blackout so far; `None` while the guest has not been stopped, or was not running in the first place.
#[must_use]
pub fn felt(live: &Live, now_ns: u64) -> Option<Felt> {
    let (source, destination) = (live.end(Role::Source), live.end(Role::Destination));
    let timelines = (source.map(|end| &end.timeline), destination.map(|end| &end.timeline));
    let functions = blackout::by_phase_functions(timelines.0, timelines.1);
    let ran_on_at_source =
        timelines.0.is_some_and(|source| source.ran_on.is_some() && source.stop.is_none());
    let scheduling = if ran_on_at_source {
        Instants::default()
    } else {
        by_scheduling(live, source, destination, now_ns)
    };
    let (method, instants) = choose(live, functions, scheduling, now_ns)?;
    let edges = edges(source, destination, instants.started_ns);
    let breakdown = match (instants.stopped_ns, instants.started_ns) {
        (Some(stopped), Some(started)) if started >= stopped && !ran_on_at_source => {
            Some(Breakdown::split(stopped, started, edges))
        }
        _ => None,
    };
    Some(Felt { method, instants, by_method: [functions, scheduling], ran_on_at_source, breakdown })
}

fn choose(
    live: &Live,
    functions: Instants,
    scheduling: Instants,
    now_ns: u64,
) -> Option<(Method, Instants)> {
    let known = |instants: Instants| {
        (instants.stopped_ns.is_some() || instants.started_ns.is_some()).then_some(instants)
    };
    let probed = live.ends.iter().any(EndState::probed);
    if !probed {
        return known(scheduling).map(|instants| (Method::VcpuScheduling, instants));
    }
    let functions = known(functions)?;
    // The functions say that and about when; the guest's CPUs say when to the microsecond, if they were busy.
    let refined = refine(live, functions, now_ns);
    Some(match refined {
        Some(instants) => (Method::VcpuScheduling, instants),
        None => (Method::PhaseFunctions, functions),
    })
}

/// The instants by the guest's CPUs next to those of the functions.
fn refine(live: &Live, functions: Instants, now_ns: u64) -> Option<Instants> {
    let cpus = |role| live.end(role).map(guest_cpus).unwrap_or_default();
    let stopped_ns = match functions.stopped_ns {
        None => None,
        Some(paused) => Some(blackout::last_ran(&cpus(Role::Source), Some(paused))?),
    };
    let started_ns = match functions.started_ns {
        None => None,
        Some(resumed) => {
            Some(blackout::ran_once_allowed(&cpus(Role::Destination), resumed, now_ns)?)
        }
    };
    Some(Instants { stopped_ns, started_ns })
}

/// Whether the guest was let run at a destination whose guest CPUs are followed, and none of them has run since.
#[must_use]
pub fn start_is_awaited(live: &Live, now_ns: u64) -> bool {
    let Some(end) = live.end(Role::Destination) else { return false };
    let cpus = guest_cpus(end);
    end.timeline.resumed_ns.is_some_and(|resumed| {
        !cpus.is_empty() && blackout::ran_once_allowed(&cpus, resumed, now_ns).is_none()
    })
}

/// The scheduler alone, as for a migrator whose functions are not known.
fn by_scheduling(
    live: &Live,
    source: Option<&EndState>,
    destination: Option<&EndState>,
    now_ns: u64,
) -> Instants {
    let over = live.life.is_finished();
    let stopped_ns = source.and_then(|end| blackout::last_ran(&guest_cpus(end), None));
    let started_ns =
        destination.and_then(|end| blackout::first_ran(&guest_cpus(end), stopped_ns, now_ns));
    // A source whose guest CPUs are off at this very moment has not stopped: the destination runs, or the streams are closed.
    if started_ns.is_none() && !(over && destination.is_none()) {
        return Instants::default();
    }
    Instants { stopped_ns, started_ns }
}

fn guest_cpus(end: &EndState) -> Vec<CpuTimes> {
    end.threads
        .values()
        .filter(|thread| thread.role == ThreadRole::Vcpu)
        .map(|thread| thread.reading.cpu)
        .collect()
}

fn edges(
    source: Option<&EndState>,
    destination: Option<&EndState>,
    started_ns: Option<u64>,
) -> Edges {
    let at = |moment: Option<crate::phase::timeline::Moment>| moment.map(|moment| moment.at_ns);
    let loaded = destination.and_then(|end| end.timeline.loaded_ns);
    Edges {
        last_pass: source.and_then(|end| at(end.timeline.last_pass)),
        device: source.and_then(|end| at(end.timeline.device)),
        sent: source.and_then(|end| at(end.timeline.sent)),
        // Postcopy goes on to send: when the last of the device state came is not known then.
        received: destination
            .and_then(last_arrival)
            .filter(|arrived| started_ns.is_none_or(|started| *arrived <= started)),
        loaded,
    }
}

/// When the last payload arrived.
fn last_arrival(end: &EndState) -> Option<u64> {
    end.flows.values().filter_map(|flow| flow.reading.arrived_ns).max()
}
