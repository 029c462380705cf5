//! Records with every field filled or with none, and all names of each enum: what the golden files hold.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::{
    qemu::{MigratorState, Request},
    queue_pair::{DataPath, QpState},
    verdict::{Balance, Eta, Standing},
};

fn at(second: u8) -> Timestamp {
    format!("2026-11-22T12:30:{second:02}.000250001Z").parse().unwrap()
}

/// The records that are golden, each with the name of its file.
pub(super) fn records() -> [(&'static str, Migration); 4] {
    [
        ("whole.json", whole()),
        ("bare.json", bare()),
        ("rdma.json", over_rdma()),
        ("dump.json", dump()),
    ]
}

/// Every field is there, whether the parts go together or not.
pub(super) fn whole() -> Migration {
    Migration {
        id: "1795350596500-4711-3f9a0c1".to_owned(),
        state: State::Active,
        outcome: Some(Outcome::Failed),
        reason: Some(Reason {
            class: ReasonClass::ConnectionLost,
            text: "Unable to write to socket: \"Broken pipe\"".to_owned(),
        }),
        split_brain: true,
        vm: Vm {
            name: Some("web-01 é".to_owned()),
            uuid: Some("5e9b0a4c-0000-4000-8000-000000000001".to_owned()),
            memory_bytes: Some(256 << 20),
        },
        dumped_process: None,
        migrator: "qemu".to_owned(),
        transport: Some(Transport::Tcp),
        mode: Some(Mode::Datacenter),
        version: Some(Version::V3),
        confidence: 0.95,
        ends: vec![end(Role::Source, 4711), end(Role::Destination, 5000)],
        started_at: at(0),
        found_under_way: true,
        observed_from: at(1),
        ended_at: Some(at(59)),
        duration_seconds: 59.000000001,
        connection_key: Some("tcp:10.0.0.1:40000>10.0.0.2:49152".to_owned()),
        blackout: Some(blackout()),
        standstill: Some(Standstill { since: at(40), standing: standing() }),
        network_blackout: Some(network_blackout()),
        phases: PhaseName::ALL
            .map(|phase| Phase { phase, started_at: at(1), seconds: 0.5 })
            .to_vec(),
        verdict: Some(verdict()),
        rounds: vec![round()],
        remaining_bytes: Some(u64::MAX),
        migrator_states: vec![
            MigratorStateChange { state: MigratorState::Setup, at: at(0) },
            MigratorStateChange { state: MigratorState::PostcopyActive, at: at(41) },
        ],
        requests: vec![ManagerRequest {
            at: at(2),
            end: Role::Source,
            request: Request::MigrateStartPostcopy,
        }],
        cpu_throttle_percent: Some(20),
        announced_at: Some(at(42)),
        postcopy: Some(postcopy()),
        bytes: Some(bytes()),
        throughput_bytes_per_second: Some(950_000.25),
        mean_throughput_bytes_per_second: Some(900_000.0),
        streams: vec![stream(StreamRole::Main), stream(StreamRole::Multifd)],
        storage: Some(storage()),
        registered_memory: vec![registered_memory()],
        streams_without_detail: 3,
        threads: vec![thread(ThreadRole::Main), thread(ThreadRole::Vcpu)],
        evidence: vec![evidence(Some(0.3)), evidence(None)],
        history: Some(vec![sample()]),
    }
}

/// What can be missing is missing, except for `null`s.
fn bare() -> Migration {
    Migration {
        id: "1-1-1".to_owned(),
        state: State::Finished,
        outcome: None,
        reason: None,
        split_brain: false,
        vm: Vm::default(),
        dumped_process: None,
        migrator: "cloud-hypervisor".to_owned(),
        transport: None,
        mode: None,
        version: None,
        confidence: 1.0,
        ends: Vec::new(),
        started_at: at(0),
        found_under_way: false,
        observed_from: at(0),
        ended_at: None,
        duration_seconds: 0.0,
        connection_key: None,
        blackout: None,
        standstill: None,
        network_blackout: None,
        phases: Vec::new(),
        verdict: None,
        rounds: Vec::new(),
        remaining_bytes: None,
        migrator_states: Vec::new(),
        requests: Vec::new(),
        cpu_throttle_percent: None,
        announced_at: None,
        postcopy: None,
        bytes: None,
        throughput_bytes_per_second: None,
        mean_throughput_bytes_per_second: None,
        streams: Vec::new(),
        storage: None,
        registered_memory: Vec::new(),
        streams_without_detail: 0,
        threads: Vec::new(),
        evidence: Vec::new(),
        history: None,
    }
}

/// Queue pairs instead of sockets, and parts of which nothing is known but that they were there.
fn over_rdma() -> Migration {
    let mut unseen = stream(StreamRole::Preempt);
    (unseen.bytes, unseen.tcp, unseen.ended_at) = (None, None, None);
    unseen.queue_pair = Some(QueuePair {
        end: None,
        remote_qpn: None,
        connect_seconds: None,
        operations: BTreeMap::new(),
        completion_latency: None,
        completion_errors: BTreeMap::new(),
        rnr_waits: None,
        outstanding: None,
        ..queue_pair()
    });
    let mut seen = stream(StreamRole::Main);
    seen.tcp = None;
    seen.queue_pair = Some(queue_pair());
    Migration {
        transport: Some(Transport::Rdma),
        ends: vec![End { exe: None, cgroup: None, ..end(Role::Source, 4711) }],
        streams: vec![seen, unseen],
        blackout: Some(Blackout {
            seconds: None,
            method: Method::VcpuScheduling,
            complete: false,
            half: Some(Role::Source),
            incomplete: Some("the destination is on another host".to_owned()),
            started_at: None,
            ran_on_at_source: false,
            by_method: ByMethod::default(),
            breakdown: None,
            clock_error_seconds: None,
            ..blackout()
        }),
        network_blackout: Some(NetworkBlackout {
            seconds: None,
            source_interface: None,
            last_packet_at: None,
            ..network_blackout()
        }),
        verdict: Some(Verdict {
            cause: None,
            fractions: None,
            eta: None,
            balance: None,
            guest_cpu_stolen_seconds: None,
            standing: Some(Standing { pid: None, ..standing() }),
            guest_throttle_percent: None,
            ..verdict()
        }),
        rounds: vec![Round {
            bytes: None,
            remaining_bytes: None,
            dirty_bytes_per_second: None,
            ..round()
        }],
        postcopy: Some(Postcopy::default()),
        threads: vec![Thread { runqueue_wait: None, ..thread(ThreadRole::Stream) }],
        history: Some(vec![Sample {
            bytes: None,
            srtt_seconds: None,
            cpu_throttle_percent: None,
            verdict: None,
            cause: None,
            fractions: None,
            ..sample()
        }]),
        registered_memory: vec![registered_memory()],
        ..bare()
    }
}

/// A process that is dumped, no guest.
fn dump() -> Migration {
    Migration {
        dumped_process: Some(DumpedProcess {
            pid: 77,
            name: "postgres".to_owned(),
            frozen: Frozen {
                seconds: Some(0.0421),
                incomplete: Some("never both".to_owned()),
                method: Some(FreezeMethod::PtraceStop),
                started_at: Some(at(3)),
                ended_at: Some(at(4)),
                ended_by: Some(FreezeEnd::TracerExit),
                tasks: Some(3),
            },
        }),
        migrator: "criu".to_owned(),
        outcome: Some(Outcome::Cancelled),
        ..bare()
    }
}

fn end(role: Role, pid: u32) -> End {
    End {
        role,
        pid,
        comm: "qemu-system-x86".to_owned(),
        exe: Some("/usr/bin/qemu-system-x86_64".to_owned()),
        cgroup: Some("/machine.slice/web-01".to_owned()),
    }
}

fn bytes() -> Bytes {
    Bytes { queued: 4_000_000, delivered: 3_800_000, received: 600, retransmitted: 5792 }
}

fn quantiles() -> Quantiles {
    Quantiles {
        count: 12,
        mean_seconds: 0.00025,
        p50_seconds: 0.0002,
        p99_seconds: 0.001,
        max_seconds: 1e-9,
    }
}

fn stream(role: StreamRole) -> Stream {
    Stream {
        role,
        local: "10.0.0.1:40000".to_owned(),
        peer: "[2001:db8::2]:49152".to_owned(),
        bytes: Some(StreamBytes {
            bytes_queued: 2_000_000,
            bytes_delivered: 1_900_000,
            bytes_received: 1_800_000,
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
            rtt: Some(quantiles()),
            cwnd_segments: 10,
            mss_bytes: 1448,
            busy_seconds: 1.5,
            rwnd_limited_seconds: 0.25,
            sndbuf_limited_seconds: 0.0,
            congestion_state_seconds: Some(CongestionTimes {
                open: 1.0,
                disorder: 0.5,
                cwr: 0.25,
                recovery: 0.125,
                loss: 0.0625,
            }),
            resets: 1,
            last_error: Some("ECONNRESET".to_owned()),
            tcp_state: "ESTABLISHED".into(),
            socket: SocketCounters { bytes_acked: 1_900_001, bytes_received: 1_800_000 },
            states: vec![StateChange { state: "SYN_SENT".into(), at: at(0) }],
        }),
        queue_pair: None,
        started_at: at(0),
        ended_at: Some(at(59)),
    }
}

fn queue_pair() -> QueuePair {
    let operations = Operations {
        posted: Some(4),
        provider_posted: Some(5),
        provider_posted_bytes: Some(5000),
        completed: 3,
        bytes: 3000,
    };
    QueuePair {
        end: Some(Role::Source),
        device: "rxe0".to_owned(),
        qpn: 17,
        remote_qpn: Some(18),
        kind: "RC".into(),
        qp_state: QpState::ReadyToSend,
        data_path: DataPath::Completions,
        connect_seconds: Some(0.002),
        operations: BTreeMap::from([
            ("send".into(), operations),
            (
                "rdma_write".into(),
                Operations {
                    posted: None,
                    provider_posted: None,
                    provider_posted_bytes: None,
                    ..operations
                },
            ),
        ]),
        completion_latency: Some(quantiles()),
        completion_errors: BTreeMap::from([
            ("REM_ACCESS_ERR".into(), 2),
            ("WR_FLUSH_ERR".into(), 40),
        ]),
        rnr_waits: Some(6),
        outstanding: Some(1),
    }
}

fn registered_memory() -> RegisteredMemory {
    RegisteredMemory {
        end: Role::Destination,
        registrations: 2,
        bytes: 1 << 30,
        seconds: 0.75,
        pinned_peak_bytes: 1 << 30,
    }
}

fn thread(role: ThreadRole) -> Thread {
    Thread {
        end: Role::Source,
        tid: 4712,
        comm: "live_migration".to_owned(),
        role,
        on_cpu_seconds: 0.5,
        off_cpu_seconds: 1.0,
        runqueue_wait_seconds: 0.125,
        runqueue_wait: Some(quantiles()),
        wakeups: 10,
        context_switches: 20,
        cpu_moves: 1,
    }
}

fn storage() -> Storage {
    Storage {
        started_at: at(0),
        ended_at: Some(at(50)),
        seconds: 50.0,
        bytes: bytes(),
        throughput_bytes_per_second: Some(80_000.0),
        mean_throughput_bytes_per_second: Some(76_000.0),
        lag_bytes: Some(0),
        streams: vec![StorageStream {
            local: "10.0.0.1:41000".to_owned(),
            peer: "10.0.0.2:49153".to_owned(),
            bytes_delivered: 3_800_000,
            started_at: at(0),
            ended_at: Some(at(50)),
        }],
    }
}

fn evidence(weight: Option<f64>) -> Evidence {
    Evidence {
        kind: "port".to_owned(),
        detail: "peer port 49152 is a libvirt migration port".to_owned(),
        weight,
    }
}

fn blackout() -> Blackout {
    Blackout {
        seconds: Some(0.0078125),
        method: Method::PhaseFunctions,
        complete: true,
        half: Some(Role::Destination),
        incomplete: Some("never both".to_owned()),
        stopped_at: Some(at(40)),
        started_at: Some(at(41)),
        ran_on_at_source: true,
        by_method: ByMethod { phase_functions: Some(0.007), vcpu_scheduling: Some(0.0078125) },
        breakdown: Some(BlackoutParts {
            stop: Some(0.001),
            ram: Some(0.002),
            device: Some(0.003),
            network: Some(0.004),
            load: Some(0.005),
            resume: Some(0.006),
            start: Some(0.007),
        }),
        clock_error_seconds: Some(0.0005),
    }
}

fn network_blackout() -> NetworkBlackout {
    NetworkBlackout {
        seconds: Some(0.02),
        first_packet_at: at(42),
        first_packet: FirstPacket::Rarp,
        destination_interface: "vnet1".to_owned(),
        source_interface: Some("vnet0".to_owned()),
        last_packet_at: Some(at(40)),
    }
}

fn standing() -> Standing {
    Standing { at: Role::Destination, pid: Some(5000), seconds: 1.5, awaits: Awaited::Resume }
}

fn verdict() -> Verdict {
    Verdict {
        state: Health::NotConverging,
        cause: Some(Cause::SourceCpu),
        sentence: "network: 5.0 % of the segments are sent again".to_owned(),
        fractions: Some(fractions()),
        eta: Some(Eta { eta_seconds: 4.0, eta_low_seconds: 3.0, eta_high_seconds: 6.0 }),
        balance: Some(Balance {
            stream_max_over_mean: 1.25,
            stream_jain_index: 0.875,
            stream_marginal_gain: vec![1.0, 0.5],
            stream_scaling_efficiency: 0.75,
        }),
        guest_cpu_stolen_seconds: Some(0.015625),
        standing: Some(standing()),
        guest_throttle_percent: Some(20),
    }
}

fn fractions() -> Fractions {
    let mut fractions = Fractions::default();
    for (cause, share) in Cause::ALL.into_iter().zip([0.5, 0.25, 0.125, 0.0625, 0.03125]) {
        fractions[cause] = share;
    }
    fractions
}

fn round() -> Round {
    Round {
        round: 1,
        started_at: at(1),
        seconds: 3.0,
        bytes: Some(3_000_000),
        remaining_bytes: Some(2_500_000),
        dirty_bytes_per_second: Some(750_000.0),
    }
}

fn postcopy() -> Postcopy {
    Postcopy {
        page_requests: Some(100),
        page_waits: Some(90),
        page_wait_seconds: Some(0.9),
        page_wait_mean_seconds: Some(0.01),
        interruptions: vec![
            Interruption { broken_at: at(43), recovered_at: Some(at(44)), seconds: 1.0 },
            Interruption { broken_at: at(45), recovered_at: None, seconds: 14.0 },
        ],
    }
}

fn sample() -> Sample {
    Sample {
        at: at(2),
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
        cpu_throttle_percent: Some(20),
        verdict: Some(Health::Stalled),
        cause: Some(Cause::GuestDirtying),
        fractions: Some(fractions()),
    }
}

/// All words of each enum, by its name.
pub(super) fn words() -> BTreeMap<&'static str, Vec<String>> {
    fn of<T: Serialize>(all: &[T]) -> Vec<String> {
        all.iter().map(|word| serde_json::to_string(word).unwrap()).collect()
    }
    BTreeMap::from([
        ("state", of(&[State::Active, State::Finished])),
        ("outcome", of(&Outcome::ALL)),
        ("reason", of(&ReasonClass::ALL)),
        ("transport", of(&[Transport::Tcp, Transport::Rdma])),
        ("mode", of(&[Mode::Datacenter, Mode::Internet, Mode::Hybrid])),
        ("version", of(&[Version::V1, Version::V3])),
        ("role", of(&[Role::Source, Role::Destination])),
        ("stream", of(&[StreamRole::Main, StreamRole::Multifd, StreamRole::Preempt])),
        ("thread", of(&ThreadRole::ALL)),
        ("phase", of(&PhaseName::ALL)),
        ("method", of(&Method::ALL)),
        ("awaited", of(&Awaited::ALL)),
        ("first_packet", of(&[FirstPacket::Rarp, FirstPacket::Arp, FirstPacket::Other])),
        ("freeze", of(&[FreezeMethod::CgroupFreezer, FreezeMethod::PtraceStop])),
        ("freeze_end", of(&[FreezeEnd::Exit, FreezeEnd::Resume, FreezeEnd::TracerExit])),
        ("health", of(&Health::ALL)),
        ("cause", of(&Cause::ALL)),
        ("migrator_state", of(&MIGRATOR_STATES)),
        ("request", of(&REQUESTS)),
        ("qp_state", of(&[0, 1, 2, 3, 4, 5, 6, 7].map(QpState::from_number))),
        ("data_path", of(&DATA_PATHS)),
    ])
}

const MIGRATOR_STATES: [MigratorState; 17] = [
    MigratorState::None,
    MigratorState::Setup,
    MigratorState::Cancelling,
    MigratorState::Cancelled,
    MigratorState::Active,
    MigratorState::PostcopyDevice,
    MigratorState::PostcopyActive,
    MigratorState::PostcopyPaused,
    MigratorState::PostcopyRecoverSetup,
    MigratorState::PostcopyRecover,
    MigratorState::Completed,
    MigratorState::Failing,
    MigratorState::Failed,
    MigratorState::Colo,
    MigratorState::PreSwitchover,
    MigratorState::Device,
    MigratorState::WaitUnplug,
];

const DATA_PATHS: [DataPath; 4] =
    [DataPath::Completions, DataPath::Posts, DataPath::Counters, DataPath::None];

const REQUESTS: [Request; 7] = [
    Request::Migrate,
    Request::MigrateContinue,
    Request::MigrateCancel,
    Request::MigrateStartPostcopy,
    Request::MigrateRecover,
    Request::Cont,
    Request::Stop,
];
