//! The program on a provider's post function, on the running kernel: what it counts of calls that this test makes with queue pairs and
//! work requests of its own, and what a call costs. Needs root and no RDMA: run by `cargo xtask test`.

#![expect(clippy::unwrap_used, reason = "a failing test stops where it fails")]

use std::{
    hint::black_box,
    io::Read as _,
    ptr::null,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, PerCpuArray},
    programs::{
        UProbe,
        uprobe::{UProbeAttachLocation, UProbeScope},
    },
};
use dwcp_observer::kernel::stats;
use dwcp_observer_ebpf::rdma::{Count, LOSSES, Loss, Operation, Qp};
use flate2::read::ZlibDecoder;

/// As `build.rs` packs it.
const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rdma.bpf.o"));
const PROGRAM: &str = "rdma_post_send";
const QPN: u32 = 0x1234;
const SLOT: u32 = 1;

/// The beginning of `struct ibv_qp`.
#[repr(C)]
struct IbvQp {
    pointers: [u64; 6],
    handle: u32,
    qp_num: u32,
}

/// `struct ibv_sge`.
#[derive(Clone, Copy)]
#[repr(C)]
struct IbvSge {
    addr: u64,
    length: u32,
    lkey: u32,
}

/// `struct ibv_send_wr`.
#[repr(C)]
struct IbvSendWr {
    wr_id: u64,
    next: *const IbvSendWr,
    sg_list: *const IbvSge,
    num_sge: i32,
    opcode: u32,
    rest: [u64; 12],
}

const _: () = assert!(std::mem::offset_of!(IbvQp, qp_num) == 52 && size_of::<IbvSendWr>() == 128);

type Post = extern "C" fn(*const IbvQp, *const IbvSendWr, *const u8) -> i32;

/// Stands for a provider's post function, and begins like most of them: with an instruction that the kernel emulates at the probe.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn dwcp_test_emulated(_qp: *const IbvQp, _wr: *const IbvSendWr, _bad: *const u8) -> i32 {
    std::arch::naked_asm!("push r15", "pop r15", "xor eax, eax", "ret")
}

/// Begins with one that the kernel runs as a copy, step by step: a second trap.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn dwcp_test_stepped(_qp: *const IbvQp, _wr: *const IbvSendWr, _bad: *const u8) -> i32 {
    std::arch::naked_asm!("xor eax, eax", "ret")
}

const EMULATED: (&str, Post) = ("dwcp_test_emulated", dwcp_test_emulated);
const STEPPED: (&str, Post) = ("dwcp_test_stepped", dwcp_test_stepped);

fn post(qp: *const IbvQp, wr: *const IbvSendWr) {
    assert_eq!(black_box(dwcp_test_emulated)(qp, wr, null()), 0);
}

const fn queue_pair(qp_num: u32) -> IbvQp {
    IbvQp { pointers: [0; 6], handle: 0, qp_num }
}

fn buffers(count: u32, length: u32) -> Vec<IbvSge> {
    (0..count).map(|lkey| IbvSge { addr: 0x1000, length, lkey }).collect()
}

fn request(opcode: u32, buffers: &[IbvSge], next: *const IbvSendWr) -> IbvSendWr {
    let (sg_list, num_sge) = (buffers.as_ptr(), buffers.len().try_into().unwrap());
    IbvSendWr { wr_id: 7, next, sg_list, num_sge, opcode, rest: [0; 12] }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodQp(Qp);
// SAFETY: the ABI type is repr(C), Copy, without padding, and valid for any bit pattern.
unsafe impl Pod for PodQp {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodLosses([u64; LOSSES]);
// SAFETY: numbers only.
unsafe impl Pod for PodLosses {}

/// The object with one queue pair of this process, and the program loaded.
fn load() -> Ebpf {
    let mut object = Vec::new();
    ZlibDecoder::new(PACKED).read_to_end(&mut object).unwrap();
    let mut loader = EbpfLoader::new();
    let mut ebpf =
        loader.map_max_entries("QPS", 2).map_max_entries("QP_OWNERS", 2).load(&object).unwrap();
    let mut owners: HashMap<_, u64, u32> = ebpf.map_mut("QP_OWNERS").unwrap().try_into().unwrap();
    let owner = u64::from(std::process::id()) << 32 | u64::from(QPN);
    owners.insert(owner, SLOT, 0).unwrap();
    program(&mut ebpf).load().unwrap();
    ebpf
}

fn program(ebpf: &mut Ebpf) -> &mut UProbe {
    ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap()
}

fn attach(ebpf: &mut Ebpf, symbol: &str, scope: UProbeScope) {
    let location = UProbeAttachLocation::Symbol(symbol);
    program(ebpf).attach(location, "/proc/self/exe", scope).unwrap();
}

fn record(ebpf: &Ebpf) -> Qp {
    let qps: Array<_, PodQp> = ebpf.map("QPS").unwrap().try_into().unwrap();
    qps.get(&SLOT, 0).unwrap().0
}

fn losses(ebpf: &Ebpf) -> Vec<(&'static str, u64)> {
    let banks: PerCpuArray<_, PodLosses> = ebpf.map("RDMA_LOSSES").unwrap().try_into().unwrap();
    let banks = banks.get(&0, 0).unwrap();
    let sum = |loss: &Loss| banks.iter().map(|bank| bank.0[*loss as usize]).sum::<u64>();
    let all = Loss::ALL.iter().map(|loss| (loss.label(), sum(loss)));
    all.filter(|(_, count)| *count > 0).collect()
}

/// One test at a time probes the function.
fn alone() -> MutexGuard<'static, ()> {
    static PROBED: Mutex<()> = Mutex::new(());
    PROBED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn requests_handed_to_a_probed_post_function_are_counted_exactly() {
    let _alone = alone();
    let mut ebpf = load();
    attach(&mut ebpf, EMULATED.0, UProbeScope::CallingProcess);
    let qp = queue_pair(QPN);

    // One write; a list of a send of three buffers, a read, and an atomic; one without any buffer.
    let (one, three) = (buffers(1, 65_536), buffers(3, 100));
    post(&raw const qp, &raw const *Box::new(request(0, &one, null())));
    let atomic = request(6, &buffers(1, 8), null());
    let eight = buffers(1, 8);
    let atomic = IbvSendWr { sg_list: eight.as_ptr(), ..atomic };
    let read = request(4, &one, &raw const atomic);
    let send = request(2, &three, &raw const read);
    post(&raw const qp, &raw const send);
    let empty = request(3, &[], null());
    post(&raw const qp, &raw const empty);
    // Numbers that mean other things there than in the kernel, and none at all.
    for opcode in [7, 11, 16, u32::MAX] {
        let other = request(opcode, &[], null());
        post(&raw const qp, &raw const other);
    }
    // A call without requests is a call.
    post(&raw const qp, null());

    let seen = record(&ebpf);
    let count = |operation: Operation| seen.provider_posted[operation as usize];
    assert_eq!(seen.provider_calls, 8);
    assert_eq!(count(Operation::Write), Count { operations: 1, bytes: 65_536 });
    assert_eq!(count(Operation::Send), Count { operations: 2, bytes: 300 });
    assert_eq!(count(Operation::Read), Count { operations: 1, bytes: 65_536 });
    assert_eq!(count(Operation::Atomic), Count { operations: 1, bytes: 8 });
    assert_eq!(count(Operation::Other), Count { operations: 4, bytes: 0 });
    assert_eq!(losses(&ebpf), []);
}

#[test]
fn what_a_probed_post_function_does_not_tell_is_counted_as_lost() {
    let _alone = alone();
    let mut ebpf = load();
    attach(&mut ebpf, EMULATED.0, UProbeScope::CallingProcess);
    let qp = queue_pair(QPN);
    let writes = |ebpf: &Ebpf| record(ebpf).provider_posted[Operation::Write as usize];

    // Eight buffers are read, of nine the last is missing.
    let (eight, nine) = (buffers(8, 10), buffers(9, 10));
    let (whole, cut) = (request(0, &eight, null()), request(0, &nine, null()));
    post(&raw const qp, &raw const whole);
    assert_eq!((writes(&ebpf), losses(&ebpf)), (Count { operations: 1, bytes: 80 }, vec![]));
    post(&raw const qp, &raw const cut);
    let mut lost = vec![(Loss::ProviderBuffersCut.label(), 1)];
    assert_eq!((writes(&ebpf), losses(&ebpf)), (Count { operations: 2, bytes: 160 }, lost.clone()));

    // A list of 32 is read, of 33 the last is missing.
    let list = |length: usize| {
        let mut all: Vec<Box<IbvSendWr>> = Vec::new();
        for _ in 0..length {
            let next = all.last().map_or(null(), |next| &raw const **next);
            all.push(Box::new(request(0, &eight[..1], next)));
        }
        all
    };
    for (length, count) in [(32, 34), (33, 66)] {
        let all = list(length);
        post(&raw const qp, &raw const **all.last().unwrap());
        assert_eq!(writes(&ebpf).operations, count);
    }
    lost.insert(0, (Loss::ProviderPostCut.label(), 1));
    assert_eq!(losses(&ebpf), lost);

    // A queue pair that nobody saw being made, one that is not there, and a request that is not there.
    let unknown = queue_pair(QPN + 1);
    post(&raw const unknown, &raw const whole);
    post(null(), &raw const whole);
    let nowhere = request(0, &eight[..1], std::ptr::without_provenance(8));
    post(&raw const qp, &raw const nowhere);
    lost.insert(0, (Loss::ProviderPostUnknown.label(), 1));
    lost.push((Loss::ProviderPostUnreadable.label(), 2));
    assert_eq!(losses(&ebpf), lost);
    assert_eq!(writes(&ebpf).operations, 67);
}

/// Calls per measurement, and measurements with and without the probe in turns.
const CALLS: u32 = 20_000;
const ROUNDS: usize = 9;

/// Time of this thread on a CPU, ns: what others do meanwhile is no part of it.
fn cpu_ns() -> f64 {
    // SAFETY: all zero is a valid `timespec`.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `timespec`.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) }, 0);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

/// Nanoseconds per call.
fn cost(function: Post, qp: &IbvQp, wr: &IbvSendWr) -> f64 {
    let begun = cpu_ns();
    for _ in 0..CALLS {
        assert_eq!(black_box(function)(qp, wr, null()), 0);
    }
    (cpu_ns() - begun) / f64::from(CALLS)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints, and asserts nothing of times.
#[test]
#[ignore = "a benchmark: cargo test -p dwcp-observer --test post_send -- --ignored --nocapture"]
fn what_a_probed_call_costs() {
    let _alone = alone();
    let qp = queue_pair(QPN);
    let one = buffers(1, 65_536);
    let single = request(0, &one, null());
    let mut list: Vec<Box<IbvSendWr>> = Vec::new();
    for _ in 0..16 {
        let next = list.last().map_or(null(), |next| &raw const **next);
        list.push(Box::new(request(0, &one, next)));
    }
    let list = &**list.last().unwrap();
    for (name, (symbol, function), wr, requests) in [
        ("1 request", EMULATED, &single, 1),
        ("16 requests", EMULATED, list, 16),
        ("1 request, first instruction stepped", STEPPED, &single, 1),
    ] {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            off.push(cost(function, &qp, wr));
            let mut ebpf = load();
            attach(&mut ebpf, symbol, UProbeScope::AllProcesses);
            on.push(cost(function, &qp, wr));
            let seen = record(&ebpf);
            assert_eq!(seen.provider_calls, u64::from(CALLS));
            let writes = seen.provider_posted[Operation::Write as usize].operations;
            assert_eq!(writes, u64::from(CALLS) * requests);
        }
        let mut ebpf = load();
        attach(&mut ebpf, symbol, UProbeScope::AllProcesses);
        let timed = stats::enable().unwrap();
        cost(function, &qp, wr);
        drop(timed);
        let info = program(&mut ebpf).info().unwrap();
        let (off, with) = (median(&mut off), median(&mut on));
        println!(
            "cost: {name} a call: CPU {off:.0} ns without the probe, {with:.0} ns with it (medians of {ROUNDS}, {:.0} to {:.0}): \
             {:.3} us a message; the program itself {:.0} ns a call by the kernel's statistics",
            on[0],
            on[ROUNDS - 1],
            (with - off) / 1e3 / requests as f64,
            info.run_time().as_nanos() as f64 / info.run_count() as f64,
        );
    }
}
