//! The program on a provider's post function, on the running kernel: what it counts of calls that this test makes with queue pairs and
//! work requests of its own, and what a call costs. Needs root and no RDMA: run by `cargo xtask test`.

#![expect(
    clippy::unwrap_used,
    clippy::multiple_unsafe_ops_per_block,
    reason = "a failing test stops where it fails"
)]

use std::{
    hint::black_box,
    ptr::null,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
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

const OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("DWCP_EBPF_OBJECTS"), "/rdma.bpf.o"));
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

/// What stands for a provider's post function.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn dwcp_test_post_send(qp: *const IbvQp, wr: *const IbvSendWr, bad: *const u8) -> i32 {
    black_box((qp, wr, bad));
    0
}

fn post(qp: *const IbvQp, wr: *const IbvSendWr) {
    assert_eq!(dwcp_test_post_send(black_box(qp), black_box(wr), null()), 0);
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
    let mut loader = EbpfLoader::new();
    let mut ebpf =
        loader.map_max_entries("QPS", 2).map_max_entries("QP_OWNERS", 2).load(OBJECT).unwrap();
    let mut owners: HashMap<_, u64, u32> = ebpf.map_mut("QP_OWNERS").unwrap().try_into().unwrap();
    let owner = u64::from(std::process::id()) << 32 | u64::from(QPN);
    owners.insert(owner, SLOT, 0).unwrap();
    program(&mut ebpf).load().unwrap();
    ebpf
}

fn program(ebpf: &mut Ebpf) -> &mut UProbe {
    ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap()
}

fn attach(ebpf: &mut Ebpf, scope: UProbeScope) {
    let location = UProbeAttachLocation::Symbol("dwcp_test_post_send");
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
    attach(&mut ebpf, UProbeScope::CallingProcess);
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
    attach(&mut ebpf, UProbeScope::CallingProcess);
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

    // A list of 128 is read, of 129 the last is missing.
    let list = |length: usize| {
        let mut all: Vec<Box<IbvSendWr>> = Vec::new();
        for _ in 0..length {
            let next = all.last().map_or(null(), |next| &raw const **next);
            all.push(Box::new(request(0, &eight[..1], next)));
        }
        all
    };
    for (length, count) in [(128, 130), (129, 258)] {
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
    assert_eq!(writes(&ebpf).operations, 259);
}

/// Calls per measurement, and measurements with and without the probe in turns.
const CALLS: u32 = 200_000;
const ROUNDS: usize = 9;

/// Seconds of so many calls.
fn seconds(qp: &IbvQp, wr: &IbvSendWr) -> f64 {
    let begun = Instant::now();
    for _ in 0..CALLS {
        post(qp, wr);
    }
    begun.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints, and asserts nothing of times.
#[test]
#[ignore = "a benchmark: cargo test --release -p dwcp-observer --test post_send -- --ignored --nocapture"]
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
    for (name, wr, requests) in
        [("one request", &single, 1), ("a list of 16", &**list.last().unwrap(), 16)]
    {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        let per_call = 1e9 / f64::from(CALLS);
        for _ in 0..ROUNDS {
            off.push(seconds(&qp, wr) * per_call);
            let mut ebpf = load();
            attach(&mut ebpf, UProbeScope::AllProcesses);
            seconds(&qp, wr);
            on.push(seconds(&qp, wr) * per_call);
            let seen = record(&ebpf);
            assert_eq!(seen.provider_calls, u64::from(2 * CALLS));
            assert_eq!(
                seen.provider_posted[Operation::Write as usize].operations,
                u64::from(2 * CALLS) * requests
            );
        }
        let mut ebpf = load();
        attach(&mut ebpf, UProbeScope::AllProcesses);
        let timed = stats::enable().unwrap();
        seconds(&qp, wr);
        drop(timed);
        let info = program(&mut ebpf).info().unwrap();
        let (off, with) = (median(&mut off), median(&mut on));
        println!(
            "cost: {name}: {off:.0} ns a call without the probe, {with:.0} ns with it (medians of {ROUNDS}, {:.0} to {:.0}): \
             {:.3} us a message; the program itself {:.0} ns a call by the kernel's statistics",
            on[0],
            on[ROUNDS - 1],
            (with - off) / 1e3 / requests as f64,
            info.run_time().as_nanos() as f64 / info.run_count() as f64,
        );
    }
}
