//! The kernel fields that the programs read, and the global variable for each offset.

use dwcp_observer_ebpf::FIELD_ABSENT;

use super::{btf::Layout, ladder::Object};

/// A field, and the global that carries its offset.
struct Wanted {
    global: &'static str,
    strukt: &'static str,
    path: &'static str,
}

macro_rules! wanted {
    ($($global:ident: $strukt:ident, $path:literal;)*) => {
        &[$(Wanted { global: stringify!($global), strukt: stringify!($strukt), path: $path },)*]
    };
}

const FIELDS: &[Wanted] = wanted! {
    SK_FAMILY: sock, "__sk_common.skc_family";
    SK_STATE: sock, "__sk_common.skc_state";
    SK_LPORT: sock, "__sk_common.skc_num";
    SK_DPORT: sock, "__sk_common.skc_dport";
    SK_DADDR: sock, "__sk_common.skc_daddr";
    SK_SADDR: sock, "__sk_common.skc_rcv_saddr";
    SK_V6_DADDR: sock, "__sk_common.skc_v6_daddr";
    SK_V6_SADDR: sock, "__sk_common.skc_v6_rcv_saddr";
    SK_FLAGS: sock, "__sk_common.skc_flags";
    SK_NET: sock, "__sk_common.skc_net.net";
    NET_INUM: net, "ns.inum";
    SK_PROTOCOL: sock, "sk_protocol";
    SK_STORAGE: sock, "sk_bpf_storage";
    SK_ERR: sock, "sk_err";
    TP_BYTES_ACKED: tcp_sock, "bytes_acked";
    TP_BYTES_RECEIVED: tcp_sock, "bytes_received";
    TP_BYTES_SENT: tcp_sock, "bytes_sent";
    TP_BYTES_RETRANS: tcp_sock, "bytes_retrans";
    TP_WRITE_SEQ: tcp_sock, "write_seq";
    TP_SND_UNA: tcp_sock, "snd_una";
    TP_SND_NXT: tcp_sock, "snd_nxt";
    TP_RCV_NXT: tcp_sock, "rcv_nxt";
    TP_COPIED_SEQ: tcp_sock, "copied_seq";
    TP_SEGS_OUT: tcp_sock, "segs_out";
    TP_SEGS_IN: tcp_sock, "segs_in";
    TP_DATA_OUT: tcp_sock, "data_segs_out";
    TP_DATA_IN: tcp_sock, "data_segs_in";
    TP_TOTAL_RETRANS: tcp_sock, "total_retrans";
    TP_DELIVERED: tcp_sock, "delivered";
    TP_LOST: tcp_sock, "lost";
    TP_SRTT: tcp_sock, "srtt_us";
    TP_MDEV: tcp_sock, "mdev_us";
    TP_MIN_RTT: tcp_sock, "rtt_min.s.0.v";
    TP_CWND: tcp_sock, "snd_cwnd";
    TP_SSTHRESH: tcp_sock, "snd_ssthresh";
    TP_MSS: tcp_sock, "mss_cache";
    TP_SND_WND: tcp_sock, "snd_wnd";
    TP_RCV_WND: tcp_sock, "rcv_wnd";
    TP_MSTAMP: tcp_sock, "tcp_mstamp";
    TP_CHRONO_TYPE: tcp_sock, "chrono_type";
    TP_CHRONO_START: tcp_sock, "chrono_start";
    TP_CHRONO_STAT: tcp_sock, "chrono_stat";
    TP_RACK_RTT: tcp_sock, "rack.rtt_us";
    TASK_PID: task_struct, "pid";
    TASK_TGID: task_struct, "tgid";
    TASK_COMM: task_struct, "comm";
    TASK_LEADER: task_struct, "group_leader";
    TASK_STORAGE: task_struct, "bpf_storage";
    TASK_START: task_struct, "start_boottime";
    TASK_EXEC: task_struct, "se.sum_exec_runtime";
    TASK_RUN_DELAY: task_struct, "sched_info.run_delay";
    TASK_PCOUNT: task_struct, "sched_info.pcount";
    TASK_NVCSW: task_struct, "nvcsw";
    TASK_NIVCSW: task_struct, "nivcsw";
    TASK_MOVES: task_struct, "se.nr_migrations";
    TASK_EXIT_CODE: task_struct, "exit_code";
    TASK_ON_CPU: task_struct, "on_cpu";
    TASK_STACK: task_struct, "stack";
    TASK_PTRACE: task_struct, "ptrace";
    TASK_PTRACED: task_struct, "ptraced";
    TASK_REAL_PARENT: task_struct, "real_parent";
    TASK_SIGNAL: task_struct, "signal";
    SIGNAL_LIVE: signal_struct, "live";
    SIGNAL_FLAGS: signal_struct, "flags";
    SIGNAL_EXIT_CODE: signal_struct, "group_exit_code";
    SOCKET_SK: socket, "sk";
    FILE_INODE: file, "f_inode";
    FILE_DATA: file, "private_data";
    INODE_MODE: inode, "i_mode";
    SKB_DEV: sk_buff, "dev";
    SKB_PROTOCOL: sk_buff, "protocol";
    DEV_NAME: net_device, "name";
    DEV_NET: net_device, "nd_net.net";
};

/// Needed by the object with typed pointers alone, and by the other alone.
const TYPED_ONLY: [&str; 2] = ["SK_STORAGE", "TASK_STORAGE"];
const PROBED_ONLY: [&str; 5] =
    ["FILE_INODE", "FILE_DATA", "INODE_MODE", "TASK_STACK", "REGS_ON_STACK"];

/// Whether the programs of an object read a field.
fn needs(object: Object, global: &str) -> bool {
    match object {
        Object::Typed => !PROBED_ONLY.contains(&global),
        Object::Probed => !TYPED_ONLY.contains(&global),
    }
}

/// Values of the globals that the loader injects before the programs are verified.
#[derive(Debug)]
pub struct Globals {
    /// Name and value, in a fixed order.
    values: Vec<(&'static str, u32)>,
    /// Fields that this kernel does not have, by global: what rests on them reads as absent.
    missing: Vec<(&'static str, String)>,
}

impl Globals {
    /// Looks up every field.
    #[must_use]
    pub fn resolve(btf: &Layout) -> Self {
        let mut missing = Vec::new();
        let mut values: Vec<(&'static str, u32)> = FIELDS
            .iter()
            .map(|field| {
                let offset = btf.field(field.strukt, field.path).map_or_else(
                    || {
                        missing.push((field.global, format!("{}.{}", field.strukt, field.path)));
                        FIELD_ABSENT
                    },
                    |found| found.offset,
                );
                (field.global, offset)
            })
            .collect();
        // A bit field of two bits until 6.7 moved it into a byte of its own (commit d5fed5addb2b).
        let chrono = btf.field("tcp_sock", "chrono_type");
        let width = chrono.map_or(0, |field| field.bit_width);
        values.push(("CHRONO_SHIFT", chrono.map_or(0, |field| field.bit_shift)));
        values.push(("CHRONO_MASK", if width == 0 { 0xff } else { (1 << width) - 1 }));
        // `state`, a long, until 5.14 (commit 2f064a59a11f); its low half holds all states.
        let state =
            btf.field("task_struct", "__state").or_else(|| btf.field("task_struct", "state"));
        values.push(("TASK_STATE", state.map_or(FIELD_ABSENT, |field| field.offset)));
        values.push((
            "SOCK_DONE_BIT",
            btf.enumerator("sock_flags", "SOCK_DONE").unwrap_or(FIELD_ABSENT),
        ));
        values.extend(registers(btf));
        Self { values, missing }
    }

    /// Those that an object has.
    pub fn of(&self, object: Object) -> impl Iterator<Item = (&'static str, &u32)> {
        let values = self.values.iter().map(|(name, value)| (*name, value));
        values.filter(move |(name, _)| needs(object, name))
    }

    /// Fields that an object needs and this kernel does not have.
    #[must_use]
    pub fn missing(&self, object: Object) -> Vec<String> {
        let missing = self.missing.iter().filter(|(global, _)| needs(object, global));
        missing.map(|(_, field)| field.clone()).collect()
    }
}

/// Where the system call that a thread is in shows, and the numbers of those that tell why it waits. A kernel that does not tell
/// leaves them absent: then nobody knows why.
fn registers(btf: &Layout) -> [(&'static str, u32); 8] {
    let field = |path| btf.field("pt_regs", path).map_or(FIELD_ABSENT, |field| field.offset);
    let helper = btf.enumerator("bpf_func_id", "BPF_FUNC_task_pt_regs").is_some();
    let on_stack = btf.size_of("thread_union").zip(btf.size_of("pt_regs"));
    let [call, second, third] = match cfg!(target_arch = "aarch64") {
        true => [field("syscallno"), field("regs.1"), field("regs.2")],
        false => [field("orig_ax"), field("si"), field("dx")],
    };
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(FIELD_ABSENT);
    [
        ("REGS_HELPER", u32::from(helper)),
        (
            "REGS_ON_STACK",
            on_stack.and_then(|(stack, regs)| stack.checked_sub(regs)).unwrap_or(FIELD_ABSENT),
        ),
        ("REGS_CALL", call),
        ("REGS_SECOND", second),
        ("REGS_THIRD", third),
        ("CALL_FUTEX", number(libc::SYS_futex)),
        ("CALL_SPLICE", number(libc::SYS_splice)),
        ("CALL_IOCTL", number(libc::SYS_ioctl)),
    ]
}
