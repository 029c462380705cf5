//! What the guest measured: gathers stops, starts and edges from a migration's ends.

use dwcp_observer_ebpf::sched::CpuTimes;

use super::{
    blackout::{self, Breakdown, Edges, Instants},
    cpus::{self, Arrival, StopMarks},
    end::EndState,
    fate::{self, Still},
    live::LiveMigration,
};
use crate::model::record::{Method, Role, ThreadRole};
use crate::{
    model::{qemu::Request, verdict::Standing},
    phase::{attach::Coverage, timeline::Timeline},
};

/// A blackout, or the half of it that is seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestBlackout {
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
pub fn measure(live: &LiveMigration, now_ns: u64) -> Option<GuestBlackout> {
    let (source, destination) = (live.end(Role::Source), live.end(Role::Destination));
    let timelines = (source.map(|end| &end.timeline), destination.map(|end| &end.timeline));
    let by_manager = fate::manager_stop(live);
    if source.is_some() && by_manager.is_none() && fate::paused_all_along(live) {
        return None;
    }
    let mut functions = blackout::by_phase_functions(timelines.0, timelines.1);
    let is_paused = destination.is_some() && functions.started_ns.is_none();
    if let Some(stop) = by_manager.filter(|_| !is_paused) {
        functions.stopped_ns = stop.paused_ns;
    }
    let arrived = timelines.1.is_some_and(|destination| destination.resumed_ns.is_some());
    let ran_on_at_source = !arrived && timelines.0.is_some_and(|source| source.ran_on().is_some());
    let scheduling = if ran_on_at_source {
        Instants::default()
    } else {
        not_refuted(by_scheduling(live, source, destination, now_ns), functions)
    };
    let (method, instants) = choose(live, functions, scheduling, now_ns)?;
    let edges = edges(source, destination, instants.started_ns);
    let breakdown = match (instants.stopped_ns, instants.started_ns) {
        (Some(stopped), Some(started)) if started >= stopped && !ran_on_at_source => {
            Some(Breakdown::split(stopped, started, edges))
        }
        _ => None,
    };
    Some(GuestBlackout {
        method,
        instants,
        by_method: [functions, scheduling],
        ran_on_at_source,
        breakdown,
    })
}

/// The guest that stands still now, for the verdict.
#[must_use]
pub fn standing(live: &LiveMigration, now_ns: u64) -> Option<Standing> {
    let Still { at, since_ns, awaits } = fate::still(live)?;
    Some(Standing {
        at,
        pid: live.end(at).map(|end| end.facts.pid),
        seconds: now_ns.saturating_sub(since_ns) as f64 / 1e9,
        awaits,
    })
}

/// Why the length of a blackout is not known.
#[must_use]
pub fn incomplete(live: &LiveMigration, measured: &GuestBlackout) -> Option<String> {
    if measured.instants.length().is_some() {
        return None;
    }
    let missing = match measured.instants.stopped_ns {
        None => Role::Source,
        Some(_) => Role::Destination,
    };
    let name = missing.as_str();
    let Some(end) = live.end(missing) else {
        return Some(format!("the {name} is on another host"));
    };
    if fate::still(live).is_some() {
        return Some("the guest is stopped".to_owned());
    }
    let event = match missing {
        Role::Source => "stopped",
        Role::Destination => "ran again",
    };
    let why = match &end.coverage {
        Some(Coverage::Probed { since_ns, .. }) if *since_ns > live.started_ns => {
            let late = (since_ns - live.started_ns) as f64 / 1e9;
            format!(", its functions were probed {late:.3} s after the migration began")
        }
        Some(Coverage::Probed { .. }) => String::new(),
        Some(Coverage::Unprobed(reason)) => format!(", its executable {reason}"),
        None => ", its functions are not probed".to_owned(),
    };
    Some(format!("the observer did not see when the guest {event} at the {name}{why}"))
}

/// Each instant from the best that is known of its end.
fn choose(
    live: &LiveMigration,
    functions: Instants,
    scheduling: Instants,
    now_ns: u64,
) -> Option<(Method, Instants)> {
    let cpus = |role| live.end(role).map(guest_cpus).unwrap_or_default();
    // Probes that came late may have missed what they do not tell.
    let tells = |role: Role, told: Option<u64>| {
        live.end(role).is_some_and(|end| {
            end.probed() && (told.is_some() || end.probed_since(live.started_ns))
        })
    };
    if fate::manager_stop(live).is_some() {
        // The guest's CPUs stood before anybody followed them.
        return functions.stopped_ns.map(|_| (Method::PhaseFunctions, functions));
    }
    let asked_ns = asked_to_stop(live).or(functions.stopped_ns).unwrap_or_default();
    let stopped = instant(
        tells(Role::Source, functions.stopped_ns),
        functions.stopped_ns,
        |paused_ns| cpus::stopped(&cpus(Role::Source), StopMarks { asked_ns, paused_ns }),
        scheduling.stopped_ns,
    );
    // Run on at the source: then its own function tells.
    let started = instant(
        functions.started_ns.is_some() || tells(Role::Destination, None),
        functions.started_ns,
        |resumed| cpus::started(&cpus(Role::Destination), resumed, was_halted(live), now_ns),
        scheduling.started_ns,
    );
    let known = || [stopped, started].into_iter().flatten();
    known().next()?;
    let by_cpus = known().all(|(_, method)| method == Method::VcpuScheduling);
    let method = if by_cpus { Method::VcpuScheduling } else { Method::PhaseFunctions };
    let ns = |instant: Option<(u64, Method)>| instant.map(|(ns, _)| ns);
    Some((method, Instants { stopped_ns: ns(stopped), started_ns: ns(started) }))
}

/// An instant: where functions are probed they say that and about when, and the guest's CPUs, if they are known, say when to the
/// microsecond; elsewhere the scheduler alone.
fn instant(
    probed: bool,
    function: Option<u64>,
    by_cpus: impl Fn(u64) -> Option<u64>,
    scheduling: Option<u64>,
) -> Option<(u64, Method)> {
    if !probed {
        return scheduling.map(|ns| (ns, Method::VcpuScheduling));
    }
    let function = function?;
    Some(match by_cpus(function) {
        Some(ns) => (ns, Method::VcpuScheduling),
        None => (function, Method::PhaseFunctions),
    })
}

/// Whether the guest was let run at a destination whose guest CPUs are followed, and none of them has run since.
#[must_use]
pub fn start_is_awaited(live: &LiveMigration, now_ns: u64) -> bool {
    let Some(end) = live.end(Role::Destination) else { return false };
    let cpus = guest_cpus(end);
    end.timeline.resumed_ns.is_some_and(|resumed| {
        !cpus.is_empty() && cpus::started(&cpus, resumed, was_halted(live), now_ns).is_none()
    })
}

/// The scheduler alone, as for a migrator whose functions are not known.
fn by_scheduling(
    live: &LiveMigration,
    source: Option<&EndState>,
    destination: Option<&EndState>,
    now_ns: u64,
) -> Instants {
    let over = live.life.is_finished();
    let ran = source.map(guest_cpus).unwrap_or_default();
    let stopped_ns = cpus::stopped_alone(&ran);
    let halted = stopped_ns.map(|_| cpus::some_halted_alone(&ran));
    let arrival = |end: &EndState| Arrival {
        after_ns: stopped_ns.unwrap_or_default(),
        waits_for_manager: waits_for_manager(end),
        halted,
        kvm: [source, destination].into_iter().flatten().any(runs_under_kvm),
        now_ns,
    };
    let started_ns =
        destination.and_then(|end| cpus::started_alone(&guest_cpus(end), arrival(end)));
    // A source whose guest CPUs are off at this very moment has not stopped: the destination runs, or the streams are closed.
    let cannot_tell = halted == Some(true)
        && destination.is_some_and(|end| waits_for_manager(end) && end.exited_ns.is_none());
    if started_ns.is_none() && !(over && (destination.is_none() || cannot_tell)) {
        return Instants::default();
    }
    Instants { stopped_ns, started_ns }
}

/// A guest cannot run before its migrator lets it: what the scheduler took for that was the migrator's own work, no measurement.
fn not_refuted(scheduling: Instants, functions: Instants) -> Instants {
    let before = |(ran, allowed): (u64, u64)| ran.saturating_add(cpus::AT_ONE_GO_NS) < allowed;
    let refuted = scheduling.started_ns.zip(functions.started_ns).is_some_and(before);
    Instants { started_ns: scheduling.started_ns.filter(|_| !refuted), ..scheduling }
}

/// When the source's guest was asked to stop, by its functions.
fn asked_to_stop(live: &LiveMigration) -> Option<u64> {
    Some(live.end(Role::Source)?.timeline.stop?.asked.at_ns)
}

/// Whether a CPU of the guest was halted when the source's functions asked it to stop.
fn was_halted(live: &LiveMigration) -> bool {
    let halted = |end: &EndState| {
        asked_to_stop(live).is_some_and(|asked_ns| cpus::some_halted(&guest_cpus(end), asked_ns))
    };
    live.end(Role::Source).is_some_and(halted)
}

/// QEMU was told to leave its guest standing until its manager lets it run.
fn waits_for_manager(end: &EndState) -> bool {
    end.facts.cmdline.iter().any(|word| matches!(word.as_str(), "-S" | "--S"))
}

/// QEMU names a guest CPU's thread after what runs it (`kvm_start_vcpu_thread`, accel/kvm/kvm-accel-ops.c).
fn runs_under_kvm(end: &EndState) -> bool {
    let mut cpus = end.threads.values().filter(|thread| thread.role == ThreadRole::Vcpu);
    cpus.any(|cpu| cpu.reading.cpu.kvm_exit_ns != 0 || cpu.reading.comm.ends_with("/KVM"))
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
    // The manager's word counts where it was waited for.
    let left = destination.filter(|end| end.timeline.left_standing_ns.is_some());
    let resumed = left.and_then(|end| let_run(&end.timeline));
    Edges {
        last_pass: source.and_then(|end| at(end.timeline.last_pass)),
        device: source.and_then(|end| at(end.timeline.device)),
        sent: source.and_then(|end| at(end.timeline.sent)),
        // Postcopy goes on to send: when the last of the device state came is not known then.
        received: destination
            .and_then(last_arrival)
            .filter(|arrived| started_ns.is_none_or(|started| *arrived <= started)),
        loaded,
        resumed,
    }
}

/// When the manager let a guest run that was left standing: by `cont`, or by what needs no command, as a debugger (`gdb_continue`,
/// gdbstub/system.c, QEMU 10.0).
fn let_run(timeline: &Timeline) -> Option<u64> {
    let loaded_ns = timeline.loaded_ns?;
    let last_ns = timeline.resumed_ns.unwrap_or(u64::MAX);
    let asked = timeline.requests.iter().rev();
    let asked = asked.filter(|(_, request)| *request == Request::Cont).map(|(at, _)| *at);
    asked.chain(timeline.vm_start_ns).find(|at| (loaded_ns..=last_ns).contains(at))
}

/// When the last payload arrived.
fn last_arrival(end: &EndState) -> Option<u64> {
    end.flows.values().filter_map(|flow| flow.reading.arrived_ns).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_guest_runs_before_its_migrator_lets_it() {
        let of = |stopped, started| Instants { stopped_ns: Some(stopped), started_ns: started };
        let functions = of(10, Some(3_500_000_000));
        // The loading of its registers, 73 ms after the stop.
        assert_eq!(not_refuted(of(10, Some(73_000_000)), functions), of(10, None));
        // The wake-up that lets a halted guest run comes a little before the function.
        let near = of(10, Some(3_499_000_000));
        assert_eq!(not_refuted(near, functions), near);
        assert_eq!(not_refuted(near, of(10, None)), near);
    }

    #[test]
    fn who_lets_a_guest_run_needs_no_command() {
        let mut timeline = Timeline::new(std::sync::Arc::default());
        (timeline.loaded_ns, timeline.vm_start_ns) = (Some(10), Some(49));
        timeline.requests = vec![(5, Request::Cont)];
        assert_eq!(let_run(&timeline), Some(49), "it was not loaded when it was asked");
        timeline.resumed_ns = Some(50);
        timeline.requests.extend([(40, Request::Cont), (70, Request::Cont)]);
        assert_eq!(let_run(&timeline), Some(40));
    }

    #[test]
    fn an_instant_comes_from_the_best_that_is_known_of_its_end() {
        let cpus = |ns| move |_| Some(ns);
        let none = |_| None;
        let found = instant(true, Some(10), cpus(9), Some(8));
        assert_eq!(found, Some((9, Method::VcpuScheduling)));
        assert_eq!(instant(true, Some(10), none, Some(8)), Some((10, Method::PhaseFunctions)));
        // Probed, and the function was not called: the guest was not stopped.
        assert_eq!(instant(true, None, cpus(9), Some(8)), None);
        assert_eq!(instant(false, None, none, Some(8)), Some((8, Method::VcpuScheduling)));
        assert_eq!(instant(false, None, cpus(9), None), None);
    }
}
