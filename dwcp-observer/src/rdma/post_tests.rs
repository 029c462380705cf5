//! The probe on a post function, on this kernel, without any RDMA: a function of the test's own takes the requests.

use std::{hint::black_box, ptr::null, time::Instant};

use aya::EbpfLoader;
use dwcp_observer_ebpf::rdma::{Count, Operation};

use super::*;
use crate::rdma::{
    attach::OBJECT,
    kernel::{Context, Maps, read},
    netlink::QpInfo,
    reading::{DataPath, QpReading},
};

/// `struct ibv_qp`, as far as it is read.
#[repr(C)]
struct FakeQp {
    before: [u8; 52],
    qp_num: u32,
}

/// `struct ibv_send_wr`.
#[repr(C)]
struct FakeRequest {
    wr_id: u64,
    next: *const Self,
    sg_list: *const FakeBuffer,
    num_sge: i32,
    opcode: u32,
    rest: [u64; 12],
}

const _: () = assert!(size_of::<FakeRequest>() == 128);

/// `struct ibv_sge`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FakeBuffer {
    addr: u64,
    length: u32,
    lkey: u32,
}

/// Begins as `librxe-rdmav34.so` does, with a push, which the kernel emulates.
#[unsafe(naked)]
extern "C" fn post_send(_qp: &FakeQp, _first: &FakeRequest) -> i32 {
    std::arch::naked_asm!("push r15", "pop r15", "xor eax, eax", "ret")
}

/// Begins with what the kernel cannot emulate: it runs a copy step by step, with a second trap.
#[unsafe(naked)]
extern "C" fn stepped_post_send(_qp: &FakeQp, _first: &FakeRequest) -> i32 {
    std::arch::naked_asm!("xor eax, eax", "ret")
}

type Post = extern "C" fn(&FakeQp, &FakeRequest) -> i32;

/// Where the function is in the test's own executable.
fn file_offset(function: Post) -> u64 {
    let address = function as usize as u64;
    let process = procfs::process::Process::myself().unwrap();
    let maps = process.maps().unwrap();
    let holds =
        |map: &&procfs::process::MemoryMap| (map.address.0..map.address.1).contains(&address);
    let map = maps.iter().find(holds).unwrap();
    address - map.address.0 + map.offset
}

const QPN: u32 = 17;

/// The object with one queue pair of this process, and the probe on `function`.
struct Probed {
    maps: Maps,
    ebpf: Ebpf,
    link: Option<UProbeLink>,
}

impl Probed {
    fn new() -> Self {
        let mut loader = EbpfLoader::new();
        for (map, entries) in [
            ("QPS", 3),
            ("QP_FREE", 2),
            ("QP_LATENCY", 3),
            ("QP_INDEX", 4),
            ("QP_OWNERS", 4),
            ("RINGS", 2),
            ("RING_FREE", 1),
            ("MEMORY", 2),
            ("REGIONS", 2),
        ] {
            loader.map_max_entries(map, entries);
        }
        let mut ebpf = loader.load(OBJECT).unwrap();
        let mut maps = Maps::prepare(&mut ebpf, 2, 1).unwrap();
        let own = QpInfo { qpn: QPN, pid: std::process::id(), ..QpInfo::default() };
        maps.adopt(0, &own, 1, *b"test\0\0\0\0\0\0\0\0\0\0\0\0", 1);
        let Some(Program::UProbe(program)) = ebpf.program_mut(PROGRAM) else {
            panic!("no {PROGRAM}")
        };
        program.load().unwrap();
        Self { maps, ebpf, link: None }
    }

    fn attach(&mut self, function: Post) {
        let file = File::open("/proc/self/exe").unwrap();
        self.link = Some(attach(&mut self.ebpf, &file, file_offset(function)).unwrap());
    }

    fn reading(&self) -> QpReading {
        let mut found = None;
        self.maps.visit(|slot, record| {
            // SAFETY: the slot lies in a live mapping and all its bit patterns are valid.
            let qp = unsafe { record.as_ptr().read_volatile() };
            let context = Context {
                device: &|_| None,
                counters: &|_| false,
                completions: false,
                rnr: false,
                doorbells: &|_| false,
            };
            found = Some(read(slot, &qp, None, &context));
        });
        found.unwrap()
    }

    fn losses(&self) -> Vec<(&'static str, u64)> {
        let mut losses = self.maps.losses();
        losses.retain(|(name, count)| name.starts_with("rdma_provider_posts") && *count > 0);
        losses
    }
}

fn queue_pair(qp_num: u32) -> FakeQp {
    FakeQp { before: [0xaa; 52], qp_num }
}

fn request(next: *const FakeRequest, buffers: &[FakeBuffer], opcode: u32) -> FakeRequest {
    let num_sge = i32::try_from(buffers.len()).unwrap();
    FakeRequest { wr_id: 1, next, sg_list: buffers.as_ptr(), num_sge, opcode, rest: [0; 12] }
}

const fn buffer(length: u32) -> FakeBuffer {
    FakeBuffer { addr: 1, length, lkey: 1 }
}

const WRITE: u32 = 0;
const SEND_WITH_IMMEDIATE: u32 = 3;
const READ: u32 = 4;

#[test]
#[ignore = "needs root"]
fn requests_are_counted_as_they_are_handed_over_and_what_is_left_out_is_a_loss() {
    let mut probed = Probed::new();
    probed.attach(post_send);
    let (two, seven, nine) = ([buffer(1000), buffer(24)], [buffer(7)], [buffer(1); 9]);
    let read_one = request(null(), &seven, READ);
    let send = request(&raw const read_one, &[], SEND_WITH_IMMEDIATE);
    let write = request(&raw const send, &two, WRITE);
    post_send(&queue_pair(QPN), &write);
    let seen = probed.reading();
    assert_eq!(seen.visible, DataPath::Posts);
    for (operation, operations, bytes) in
        [(Operation::Write, 1, 1024), (Operation::Send, 1, 0), (Operation::Read, 1, 7)]
    {
        assert_eq!(seen.provider_posted(operation), Some(Count { operations, bytes }));
    }
    assert_eq!((seen.bytes_sent, seen.bytes_read), (Some(1024), Some(7)));
    assert_eq!(probed.losses(), []);

    // Nine buffers of which eight are read.
    post_send(&queue_pair(QPN), &request(null(), &nine, WRITE));
    assert_eq!(probed.losses(), [("rdma_provider_posts:buffers", 1)]);
    // A list that ends nowhere, one that ends in the wild, and somebody else's queue pair.
    let mut ring = request(null(), &seven, READ);
    ring.next = &raw const ring;
    post_send(&queue_pair(QPN), &ring);
    post_send(&queue_pair(QPN), &request(std::ptr::without_provenance(8), &[], WRITE));
    post_send(&queue_pair(QPN + 1), &write);
    assert_eq!(
        probed.losses(),
        [
            ("rdma_provider_posts:unknown", 1),
            ("rdma_provider_posts:list", 1),
            ("rdma_provider_posts:buffers", 1),
            ("rdma_provider_posts:unreadable", 1),
        ]
    );
    let seen = probed.reading();
    assert_eq!(seen.provider_posted(Operation::Write), Some(Count { operations: 3, bytes: 1032 }));
    assert_eq!(seen.provider_posted(Operation::Read).unwrap().operations, 1 + 128);
}

/// Nanoseconds of one call, of many.
fn call_ns(function: Post, qp: &FakeQp, first: &FakeRequest, calls: u32) -> f64 {
    let begun = Instant::now();
    for _ in 0..calls {
        black_box(function(black_box(qp), black_box(first)));
    }
    begun.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints, and asserts nothing of times.
#[test]
#[ignore = "needs root and a quiet machine; prints the cost of the probe"]
fn what_a_message_costs() {
    const CALLS: u32 = 50_000;
    const TIMES: usize = 11;
    let one = [buffer(65_536)];
    let qp = queue_pair(QPN);
    for (name, function, list) in [
        ("emulated first instruction", post_send as Post, 1),
        ("stepped first instruction", stepped_post_send, 1),
        ("emulated, 16 requests a call", post_send, 16),
    ] {
        let mut requests: Vec<FakeRequest> =
            (0..list).map(|_| request(null(), &one, WRITE)).collect();
        for index in 1..requests.len() {
            requests[index - 1].next = &raw const requests[index];
        }
        let mut probed = Probed::new();
        let (mut off, mut on, mut inside) = (Vec::new(), Vec::new(), Vec::new());
        let mut calls = 0;
        for _ in 0..TIMES {
            off.push(call_ns(function, &qp, &requests[0], CALLS));
            probed.attach(function);
            on.push(call_ns(function, &qp, &requests[0], CALLS));
            // Timed apart: the kernel's own clock reads would add to the above.
            let before = runs(&probed.ebpf);
            let timed = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
            call_ns(function, &qp, &requests[0], CALLS);
            drop(timed);
            let after = runs(&probed.ebpf);
            inside.push((after.0 - before.0) as f64 / (after.1 - before.1) as f64);
            probed.link = None;
            calls += 2 * u64::from(CALLS);
        }
        let counted = probed.reading().provider_posted(Operation::Write).unwrap();
        assert_eq!(counted.operations, calls * list as u64, "each request is counted once");
        assert_eq!(counted.bytes, counted.operations * 65_536);
        let messages = f64::from(list);
        let spread = |values: &[f64]| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            (least / messages, values.iter().copied().fold(0.0, f64::max) / messages)
        };
        println!(
            "cost: {name}: without {:.1} ns, with {:.0} ns a message (median of {TIMES} x {CALLS} calls, {:.0?}); the program {:.0} ns a call",
            median(off.clone()) / messages,
            median(on.clone()) / messages,
            spread(&on),
            median(inside),
        );
    }
}

/// Run time, ns, and runs of the program.
fn runs(ebpf: &Ebpf) -> (u64, u64) {
    let info = ebpf.program(PROGRAM).unwrap().info().unwrap();
    (u64::try_from(info.run_time().as_nanos()).unwrap(), info.run_count())
}
