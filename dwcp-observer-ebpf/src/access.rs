//! Where the fields of kernel structs lie, and the pointers that programs begin with.

use aya_ebpf::{Global, helpers::generated as helpers};
use dwcp_observer_ebpf::{FIELD_ABSENT, process::COMM_LEN};

use crate::memory::read;

/// The `tcp_sock` of a full TCP socket, null for any other.
#[inline(always)]
pub unsafe fn tcp_sock(sk: *const u8) -> *const u8 {
    if cfg!(feature = "typed") {
        helpers::bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast()
    } else {
        sk
    }
}

/// The running task. `bpf_get_current_task_btf` came with 5.11.
#[inline(always)]
pub unsafe fn current() -> *const u8 {
    if cfg!(feature = "typed") {
        helpers::bpf_get_current_task_btf().cast_const().cast()
    } else {
        helpers::bpf_get_current_task() as *const u8
    }
}

/// The name of a task. A rename copies over it in more than one store (`__set_task_comm`, fs/exec.c, 5.10 to 6.18): a name that is read
/// meanwhile may be half the old one, until it is read again.
#[inline(always)]
pub unsafe fn comm(task: *const u8) -> [u64; 2] {
    let offset = TASK_COMM.load();
    [read(task, offset), read(task, offset + 8)]
}

/// The same name as a record holds it.
#[inline(always)]
pub const fn comm_bytes(comm: [u64; 2]) -> [u8; COMM_LEN] {
    // SAFETY: both are sixteen plain bytes.
    unsafe { core::mem::transmute::<[u64; 2], [u8; COMM_LEN]>(comm) }
}

macro_rules! offsets {
    ($($name:ident,)*) => {
        $(
            /// Byte offset from the running kernel's BTF, set by the loader and frozen.
            #[unsafe(no_mangle)]
            pub static $name: Global<u32> = Global::new(FIELD_ABSENT);
        )*
    };
}

offsets! {
    SK_FAMILY, SK_STATE, SK_LPORT, SK_DPORT, SK_DADDR, SK_SADDR, SK_V6_DADDR, SK_V6_SADDR, SK_FLAGS, SK_NET, NET_INUM,
    SK_PROTOCOL, SK_STORAGE, SK_ERR,
    TP_BYTES_ACKED, TP_BYTES_RECEIVED, TP_BYTES_SENT, TP_BYTES_RETRANS, TP_WRITE_SEQ, TP_SND_UNA, TP_SND_NXT, TP_RCV_NXT,
    TP_COPIED_SEQ, TP_SEGS_OUT, TP_SEGS_IN, TP_DATA_OUT, TP_DATA_IN, TP_TOTAL_RETRANS, TP_DELIVERED, TP_LOST, TP_SRTT,
    TP_MDEV, TP_MIN_RTT, TP_CWND, TP_SSTHRESH, TP_MSS, TP_SND_WND, TP_RCV_WND, TP_MSTAMP, TP_CHRONO_TYPE, TP_CHRONO_START,
    TP_CHRONO_STAT, TP_RACK_RTT,
    TASK_PID, TASK_TGID, TASK_COMM, TASK_LEADER, TASK_STORAGE, TASK_START, TASK_EXEC, TASK_RUN_DELAY, TASK_PCOUNT,
    TASK_NVCSW, TASK_NIVCSW, TASK_MOVES, TASK_EXIT_CODE, TASK_STATE, TASK_ON_CPU, TASK_STACK, REGS_CALL, REGS_SECOND, REGS_THIRD,
    TASK_PTRACE, TASK_PTRACED, TASK_REAL_PARENT, TASK_SIGNAL, SIGNAL_LIVE, SIGNAL_FLAGS, SIGNAL_EXIT_CODE,
    SOCKET_SK, FILE_INODE, FILE_DATA, INODE_MODE,
    SKB_DEV, SKB_PROTOCOL, DEV_NAME, DEV_NET,
}

/// Bit of `SOCK_DONE` in `sk_flags`, from the enum in BTF.
#[unsafe(no_mangle)]
pub static SOCK_DONE_BIT: Global<u32> = Global::new(FIELD_ABSENT);
/// Shift of `chrono_type` within its byte: a bit field on some kernels.
#[unsafe(no_mangle)]
pub static CHRONO_SHIFT: Global<u32> = Global::new(0);
/// Mask of `chrono_type` after the shift.
#[unsafe(no_mangle)]
pub static CHRONO_MASK: Global<u32> = Global::new(0xff);

/// Non-zero: this kernel has `bpf_task_pt_regs` (5.15).
#[unsafe(no_mangle)]
pub static REGS_HELPER: Global<u32> = Global::new(0);
/// Where a task's registers lie on its kernel stack, for kernels without that helper.
#[unsafe(no_mangle)]
pub static REGS_ON_STACK: Global<u32> = Global::new(FIELD_ABSENT);
/// Number of the system call `futex`.
#[unsafe(no_mangle)]
pub static CALL_FUTEX: Global<u32> = Global::new(FIELD_ABSENT);
/// Number of the system call `splice`.
#[unsafe(no_mangle)]
pub static CALL_SPLICE: Global<u32> = Global::new(FIELD_ABSENT);
/// Number of the system call `ioctl`.
#[unsafe(no_mangle)]
pub static CALL_IOCTL: Global<u32> = Global::new(FIELD_ABSENT);
