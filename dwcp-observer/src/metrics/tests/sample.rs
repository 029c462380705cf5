//! A fixed cycle for tests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use dwcp_observer_ebpf::hist::{Hist, RUNQ_BUCKETS, bucket_of};
use jiff::Timestamp;

use super::{HttpCounts, ProcessUsage};
use crate::{
    anomaly::feed::Feed,
    cycle::published::Published,
    history,
    identify::rejection::Rejection,
    journal::{ClosedSecond, Journal},
    migration::{
        entry::Entry,
        history::History,
        totals::{Blackouts, ByteTotals, ErrorType, Path, Totals},
    },
    model::{
        histogram::Histogram,
        record::{
            Awaited, Blackout, BlackoutParts, ByMethod, Bytes, CongestionTimes, End, Evidence,
            Method, Migration, Mode, Outcome, Phase, PhaseName, ReasonClass, Role, Round, Sample,
            SampleBytes, SocketCounters, State, Storage, StorageStream, Stream, StreamBytes,
            StreamRole, TcpStream, Thread, ThreadRole, Transport, Vm,
        },
        status::{CycleStats, KernelStatus, MapUse, ProbeStatus, ProgramStats},
        verdict::{Balance, Cause, Eta, Fractions, Health, Standing, Verdict},
    },
    process::host::HostUsage,
    rdma::RdmaStatus,
    sla,
};
use crate::{config::Targets, model::histogram::DURATION_BUCKETS};

/// End of the sample's cycle.
pub(crate) fn at() -> Timestamp {
    "2026-11-22T12:30:00.5Z".parse().unwrap()
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count.unsigned_abs())
}

pub(crate) fn end(role: Role, pid: u32) -> End {
    End { role, pid, comm: "qemu-system-x86".to_owned(), exe: None, cgroup: None }
}

pub(crate) fn stream(role: StreamRole, port: u16) -> Stream {
    Stream {
        role,
        local: format!("10.0.0.1:{port}"),
        peer: "10.0.0.2:49152".to_owned(),
        bytes: Some(StreamBytes {
            bytes_queued: 2_000_000,
            bytes_delivered: 1_900_000,
            bytes_received: 0,
            bytes_returned: 300,
        }),
        tcp: Some(TcpStream {
            bytes_retransmitted: 2896,
            retransmitted_segments: 2,
            retransmit_events: 2,
            segments_out: 1400,
            segments_in: 700,
            srtt_seconds: Some(0.00025),
            min_rtt_seconds: Some(0.0001),
            rtt: None,
            cwnd_segments: 10,
            mss_bytes: 1448,
            busy_seconds: 1.5,
            rwnd_limited_seconds: 0.25,
            sndbuf_limited_seconds: 0.0,
            congestion_state_seconds: Some(CongestionTimes::default()),
            resets: 0,
            last_error: None,
            tcp_state: "ESTABLISHED".into(),
            socket: SocketCounters::default(),
            states: Vec::new(),
        }),
        queue_pair: None,
        started_at: at() - seconds(4),
        ended_at: None,
    }
}

/// One queue pair that has written, with a failed completion.
fn rdma_status() -> RdmaStatus {
    let mut qp = crate::rdma::tests::queue_pair();
    qp.errors[10] = 1;
    let mut latency = Hist { sum: 20_000, count: 1, buckets: [0; RUNQ_BUCKETS] };
    latency.buckets[bucket_of(20_000)] = 1;
    qp.latency = Some(Box::new(latency));
    let mut totals = crate::rdma::Totals::default();
    crate::rdma::Tally::default().add(&mut totals, &[Arc::new(qp)]);
    RdmaStatus { snapshot: Some(Arc::default()), totals, ..RdmaStatus::default() }
}

pub(crate) fn thread(end: Role, role: ThreadRole, on_cpu_seconds: f64) -> Thread {
    Thread {
        end,
        tid: 4712,
        comm: "live_migration".to_owned(),
        role,
        on_cpu_seconds,
        off_cpu_seconds: 1.0,
        runqueue_wait_seconds: 0.125,
        runqueue_wait: None,
        wakeups: 10,
        context_switches: 20,
        cpu_moves: 1,
    }
}

/// A migration away from this host, 4 s old, with two streams.
pub(crate) fn active(id: &str) -> Migration {
    let bytes =
        Bytes { queued: 4_000_000, delivered: 3_800_000, received: 600, retransmitted: 5792 };
    Migration {
        id: id.to_owned(),
        state: State::Active,
        outcome: None,
        reason: None,
        split_brain: false,
        vm: Vm {
            name: Some("web-01".to_owned()),
            uuid: Some("5e9b0a4c-0000-4000-8000-000000000001".to_owned()),
            memory_bytes: Some(256 << 20),
        },
        migrator: "qemu".to_owned(),
        version: None,
        transport: Some(Transport::Tcp),
        mode: Some(Mode::Datacenter),
        confidence: 0.95,
        ends: vec![end(Role::Source, 4711)],
        started_at: at() - seconds(4),
        found_under_way: false,
        observed_from: at() - seconds(4),
        ended_at: None,
        duration_seconds: 4.0,
        connection_key: Some("tcp:10.0.0.1:40000>10.0.0.2:49152".to_owned()),
        blackout: None,
        standstill: None,
        network_blackout: None,
        phases: vec![Phase {
            phase: PhaseName::Precopy,
            started_at: at() - seconds(4),
            seconds: 4.0,
        }],
        verdict: Some(verdict()),
        rounds: vec![
            Round {
                round: 1,
                started_at: at() - seconds(4),
                seconds: 3.0,
                bytes: Some(3_000_000),
                remaining_bytes: Some(2_500_000),
                dirty_bytes_per_second: Some(750_000.0),
            },
            Round {
                round: 2,
                started_at: at() - seconds(1),
                seconds: 1.0,
                bytes: None,
                remaining_bytes: None,
                dirty_bytes_per_second: None,
            },
        ],
        remaining_bytes: Some(1_500_000),
        migrator_states: Vec::new(),
        requests: Vec::new(),
        cpu_throttle_percent: None,
        announced_at: None,
        postcopy: None,
        bytes: Some(bytes),
        throughput_bytes_per_second: Some(950_000.0),
        mean_throughput_bytes_per_second: None,
        streams: vec![stream(StreamRole::Main, 40000), stream(StreamRole::Multifd, 40001)],
        dumped_process: None,
        storage: Some(storage(bytes)),
        registered_memory: Vec::new(),
        streams_without_detail: 0,
        threads: vec![
            thread(Role::Source, ThreadRole::Main, 0.5),
            thread(Role::Source, ThreadRole::Stream, 0.25),
            thread(Role::Source, ThreadRole::Stream, 0.5),
        ],
        evidence: vec![Evidence {
            kind: "port".to_owned(),
            detail: "peer port 49152 is a libvirt migration port".to_owned(),
            weight: Some(0.3),
        }],
        history: None,
    }
}

fn verdict() -> Verdict {
    let mut fractions = Fractions::default();
    fractions[Cause::Sending] = 0.25;
    fractions[Cause::Network] = 0.75;
    Verdict {
        state: Health::Slow,
        cause: Some(Cause::Network),
        sentence: "network: 5.0 % of the segments are sent again".to_owned(),
        fractions: Some(fractions),
        eta: Some(Eta { eta_seconds: 4.0, eta_low_seconds: 3.0, eta_high_seconds: 6.0 }),
        balance: Some(Balance {
            stream_max_over_mean: 1.25,
            stream_jain_index: 0.875,
            stream_marginal_gain: vec![1.0, 0.5],
            stream_scaling_efficiency: 0.75,
        }),
        guest_cpu_stolen_seconds: Some(0.015625),
        standing: Some(Standing {
            at: Role::Destination,
            pid: Some(4243),
            seconds: 1.5,
            awaits: Awaited::Resume,
        }),
        guest_throttle_percent: Some(20),
    }
}

fn blackout() -> Blackout {
    Blackout {
        seconds: Some(0.0078125),
        method: Method::VcpuScheduling,
        complete: true,
        half: None,
        incomplete: None,
        stopped_at: None,
        started_at: None,
        ran_on_at_source: false,
        by_method: ByMethod { phase_functions: Some(0.007), vcpu_scheduling: Some(0.0078125) },
        breakdown: Some(BlackoutParts {
            stop: Some(0.0009765625),
            ram: Some(0.0029296875),
            device: Some(0.0009765625),
            network: Some(0.0009765625),
            load: Some(0.0009765625),
            resume: None,
            start: Some(0.0009765625),
        }),
        clock_error_seconds: None,
    }
}

/// A migration of which both ends were here; ended `age_seconds` before the cycle.
pub(crate) fn finished(id: &str, outcome: Outcome, age_seconds: i64) -> Migration {
    let ended_at = at() - seconds(age_seconds);
    let mut record = active(id);
    record.state = State::Finished;
    record.outcome = Some(outcome);
    record.ends.push(end(Role::Destination, 5000));
    record.started_at = ended_at - seconds(10);
    record.observed_from = record.started_at;
    record.ended_at = Some(ended_at);
    record.duration_seconds = 10.0;
    record.bytes = record.bytes.map(|bytes| Bytes { received: bytes.delivered, ..bytes });
    record.throughput_bytes_per_second = None;
    record.mean_throughput_bytes_per_second = Some(380_000.0);
    record.verdict = None;
    record.remaining_bytes = None;
    record.blackout = Some(blackout());
    for stream in &mut record.streams {
        stream.ended_at = Some(ended_at);
        if let Some(tcp) = &mut stream.tcp {
            tcp.tcp_state = "CLOSE".into();
        }
    }
    record
}

pub(crate) fn entry(record: Migration) -> Entry {
    let mut history = History::new(10);
    history.push(Sample {
        at: at(),
        bytes: Some(SampleBytes {
            bytes_delivered: 3_800_000,
            bytes_per_second: 950_000.0,
            bytes_in_flight: 14_480,
        }),
        retransmitted_segments: 1,
        srtt_seconds: Some(0.00025),
        cwnd_bytes: 28_960,
        streams: 2,
        migration_cpu_seconds: 0.3,
        migration_runqueue_wait_seconds: 0.01,
        vcpu_cpu_seconds: 0.9,
        vcpu_runqueue_wait_seconds: 0.02,
        cpu_throttle_percent: None,
        verdict: Some(Health::Healthy),
        cause: Some(Cause::Network),
        fractions: None,
    });
    let settled = record.outcome.is_some();
    Entry { record: Arc::new(record), history: Arc::new(Mutex::new(history)), settled }
}

fn histogram(bounds: &[f64], samples: &[f64]) -> Histogram {
    let mut histogram = Histogram::new(bounds.into());
    for sample in samples {
        histogram.observe(*sample);
    }
    histogram
}

fn totals() -> Totals {
    let datacenter = Some(Mode::Datacenter);
    let sent = ByteTotals {
        queued: 8_000_000,
        transferred: 7_600_000,
        retransmitted: 11_584,
        retransmitted_segments: 8,
    };
    let received = ByteTotals { transferred: 3_800_000, ..ByteTotals::default() };
    let mut blackouts = Blackouts::default();
    let path = Path {
        source: "10.0.0.1".to_owned(),
        destination: "10.0.0.2".to_owned(),
        vm_size: "256MB".to_owned(),
    };
    blackouts.observe(&path, datacenter, Method::VcpuScheduling, 0.0078125);
    blackouts.observe(&path, datacenter, Method::VcpuScheduling, 0.75);
    Totals {
        blackouts,
        verdicts: BTreeMap::from([
            ((Health::Healthy, Some(Cause::Sending)), 12.0),
            ((Health::Stalled, None), 2.5),
        ]),
        guest_cpu_stolen_seconds: 0.5,
        reasons: BTreeMap::from([(ReasonClass::ConnectionLost, 1)]),
        split_brains: 0,
        finished: BTreeMap::from([
            ((Outcome::Completed, datacenter), 3),
            ((Outcome::Failed, None), 1),
        ]),
        durations: BTreeMap::from([(
            datacenter,
            histogram(&DURATION_BUCKETS, &[0.5, 10.0, 5000.0]),
        )]),
        bytes: BTreeMap::from([
            ((Role::Source, datacenter), sent),
            ((Role::Destination, datacenter), received),
        ]),
        errors: BTreeMap::from([(ErrorType::ConnectionReset, 2), (ErrorType::ProcessDied, 1)]),
        rejected_flows: BTreeMap::from([(Rejection::OtherProgram, 7)]),
    }
}

/// One migration of DWCP v1.
fn totals_v1() -> Totals {
    let mut blackouts = Blackouts::default();
    let path = Path {
        source: "10.0.0.3".to_owned(),
        destination: "10.0.0.4".to_owned(),
        vm_size: "1GB".to_owned(),
    };
    blackouts.observe(&path, Some(Mode::Datacenter), Method::VcpuScheduling, 0.25);
    Totals {
        blackouts,
        finished: BTreeMap::from([((Outcome::Completed, Some(Mode::Datacenter)), 1)]),
        ..Totals::default()
    }
}

fn kernel() -> KernelStatus {
    let program = |name: &str, run_time_ns| ProgramStats {
        name: name.to_owned(),
        run_time_ns,
        run_count: 1000,
        missed_runs: Some(2),
        verified_instructions: 400,
    };
    KernelStatus {
        probes: vec![
            ProbeStatus {
                probe: "inet_sock_set_state",
                purpose: "opening and closing of flows",
                required: true,
                rung: Some("tp_btf"),
                attached: true,
                reason: None,
            },
            ProbeStatus {
                probe: "tcp_retransmit_skb",
                purpose: "retransmits",
                required: false,
                rung: None,
                attached: false,
                reason: Some("no such tracepoint".to_owned()),
            },
        ],
        programs: vec![program("set_state", 42_000), program("sched_switch", 99_000)],
        program_stats_duty: 0.1,
        losses: vec![("flows:no_slot", 3), ("events:ring_full", 0)],
        maps: vec![MapUse { map: "flows", used: 2, capacity: 1024 }],
        rtt: histogram(&[0.0001, 0.001, 0.01], &[0.00005, 0.0005, 0.5]),
        probe_delay: Some(histogram(&[0.02, 0.1], &[0.012, 0.05])),
        runqueue: vec![(ThreadRole::Vcpu, histogram(&[0.0001, 0.001], &[0.0002]))],
    }
}

/// One active migration, one that finished 5 s ago and one that finished 60 s ago.
pub(crate) fn published() -> Published {
    Published {
        at: at(),
        started_at: at() - seconds(100),
        entries: vec![
            entry(active("1795350596500-4711")),
            entry(finished("1795350585500-4600", Outcome::Completed, 5)),
            entry(finished("1795350530500-4500", Outcome::Failed, 60)),
        ],
        totals: totals(),
        totals_v1: Some(totals_v1()),
        components: Arc::new(crate::component::sample::view()),
        host: Some(HostUsage { cpu_percent: Some(12.5), memory_percent: Some(40.25) }),
        kernel: kernel(),
        rdma: rdma_status(),
        cycle: CycleStats {
            duration: histogram(&[0.001, 0.01], &[0.0005, 0.002]),
            jitter: histogram(&[0.001, 0.01], &[0.0001, 0.0001]),
            missed: 1,
            period: Duration::from_secs(1),
        },
        sla: sla(),
        history: history::Status {
            state: history::State::Writing,
            written: 42,
            dropped: 1,
            failures: 2,
            pruned: 3,
            bytes: Some(8192),
        },
        anomalies: Feed::new(None).view(),
    }
}

/// What the journal says of these migrations.
fn sla() -> Arc<sla::View> {
    let mut journal = Journal::new(at() - seconds(100), Targets::default(), None);
    let entries = [
        entry(active("1795350596500-4711")),
        entry(finished("1795350585500-4600", Outcome::Completed, 5)),
    ];
    let second = ClosedSecond {
        entries: &entries,
        totals: &totals(),
        host: None,
        ended_v1: 0,
        missed_cycles: 0,
        blind: None,
        anomalies: None,
        unhealthy: None,
    };
    journal.second(at(), &second);
    journal.view()
}

pub(crate) fn http_counts() -> HttpCounts {
    HttpCounts {
        requests: BTreeMap::from([(("/metrics", 200), 12), (("other", 404), 1)]),
        open: 2,
        accepted: 14,
        rejected: 0,
        evicted: 1,
        timed_out: 3,
    }
}

pub(crate) fn process_usage() -> ProcessUsage {
    ProcessUsage {
        cpu_seconds: Some(1.25),
        resident_bytes: Some(12 << 20),
        virtual_bytes: Some(40 << 20),
        open_fds: Some(64),
        max_fds: Some(1024),
        start_time_seconds: Some(1_795_350_500.0),
        threads: Some(3),
    }
}

fn storage(bytes: Bytes) -> Storage {
    Storage {
        started_at: at() - seconds(9),
        ended_at: None,
        seconds: 9.0,
        bytes,
        throughput_bytes_per_second: Some(80_000.0),
        mean_throughput_bytes_per_second: None,
        lag_bytes: Some(0),
        streams: vec![StorageStream {
            local: "10.0.0.1:41000".to_owned(),
            peer: "10.0.0.2:49153".to_owned(),
            bytes_delivered: bytes.delivered,
            started_at: at() - seconds(9),
            ended_at: None,
        }],
    }
}
