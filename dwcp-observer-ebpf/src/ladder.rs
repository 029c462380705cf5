//! One program per hook and attach fallback (rung). Names are at most 15 characters: the kernel cuts them there.

use aya_ebpf::{
    EbpfContext as _,
    macros::{raw_tracepoint, uprobe, uretprobe},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use dwcp_observer_ebpf::phase::{
    MarkKind, PLACE_ERROR, PLACE_LIMIT, PLACE_LIMITED, PLACE_PAGE, PLACE_PENDING, PLACE_REMAINING,
    PLACE_UNTHROTTLE,
};

use crate::{freeze, netdev, phase, process, sched, tcp};

/// `tp_btf` in the typed object, `raw_tp` in the other.
macro_rules! hooks {
    ($($tracepoint:literal => $btf:ident, $raw:ident: |$ctx:ident| $body:expr;)*) => {
        $(
            #[cfg(feature = "typed")]
            #[aya_ebpf::macros::btf_tracepoint(function = $tracepoint)]
            pub fn $btf($ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
                unsafe { $body };
                0
            }

            #[cfg(not(feature = "typed"))]
            #[raw_tracepoint(tracepoint = $tracepoint)]
            pub fn $raw($ctx: RawTracePointContext) -> i32 {
                unsafe { $body };
                0
            }
        )*
    };
}

hooks! {
    "sock_send_length" => sock_send_btf, sock_send_raw: |ctx| tcp::on_data(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2), true);
    "sock_recv_length" => sock_recv_btf, sock_recv_raw: |ctx| tcp::on_data(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2), false);
    "tcp_rcv_space_adjust" => read_btf, read_raw: |ctx| tcp::on_read(&ctx, ctx.arg(0));
    "tcp_destroy_sock" => destroy_btf, destroy_raw: |ctx| tcp::on_destroy(&ctx, ctx.arg(0));
    "tcp_probe" => tcp_probe_btf, tcp_probe_raw: |ctx| tcp::on_segment(ctx.arg(0));
    "inet_sock_set_state" => set_state_btf, set_state_raw: |ctx| tcp::on_state(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    "tcp_retransmit_skb" => retransmit_btf, retransmit_raw: |ctx| tcp::on_retransmit(ctx.arg(0));
    "tcp_cong_state_set" => ca_state_btf, ca_state_raw: |ctx| tcp::on_ca_state(ctx.arg(0), u32::from(ctx.arg::<u8>(1)));
    "tcp_send_reset" => send_reset_btf, send_reset_raw: |ctx| tcp::on_reset(ctx.arg(0), true);
    "tcp_receive_reset" => recv_reset_btf, recv_reset_raw: |ctx| tcp::on_reset(ctx.arg(0), false);
    "inet_sk_error_report" => sk_error_btf, sk_error_raw: |ctx| tcp::on_error(ctx.arg(0));
    "sched_switch" => switch_btf, switch_raw: |ctx| sched::on_switch(ctx.arg::<u64>(0) & 0xff != 0, ctx.arg(1), ctx.arg(2));
    "sched_waking" => wakeup_btf, wakeup_raw: |ctx| sched::on_wakeup(ctx.arg(0));
    "sched_wakeup_new" => wakeup_new_btf, wakeup_new_raw: |ctx| sched::on_wakeup(ctx.arg(0));
    "netif_receive_skb_entry" => guest_pkt_btf, guest_pkt_raw: |ctx| netdev::on_receive(ctx.arg(0));
    "task_newtask" => newtask_btf, newtask_raw: |ctx| process::on_newtask(ctx.arg(0), ctx.arg(1));
    "task_rename" => rename_btf, rename_raw: |ctx| process::on_rename(&ctx, ctx.arg(0), ctx.arg(1));
    "signal_generate" => signal_btf, signal_raw: |ctx| freeze::on_signal(ctx.arg(0), ctx.arg(2));
    "cgroup_freeze" => freeze_btf, freeze_raw: |_ctx| freeze::on_cgroup_freeze();
    "sched_process_exit" => exit_btf, exit_raw: |ctx| process::on_exit(&ctx, ctx.arg(0));
}

/// Functions in place of tracepoints that older kernels lack: `sock_send_length` and `sock_recv_length` came with 6.3,
/// `inet_sk_error_report` with 5.14. Loaded by BTF, at their entry or exit.
macro_rules! by_function {
    ($($kind:ident $name:ident: |$ctx:ident: $context:ident| $body:expr;)*) => {
        $(
            #[aya_ebpf::macros::$kind]
            pub fn $name($ctx: aya_ebpf::programs::$context) -> i32 {
                unsafe { $body };
                0
            }
        )*
    };
}

by_function! {
    // tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size), then what it returns.
    fexit send_fexit: |ctx: FExitContext| tcp::on_data(&ctx, ctx.arg(0), ctx.arg(3), 0, true);
    // tcp_sendpage(struct sock *sk, struct page *page, int offset, size_t size, int flags): splice(2), until 6.4.
    fexit page_fexit: |ctx: FExitContext| tcp::on_data(&ctx, ctx.arg(0), ctx.arg(5), 0, true);
    // tcp_cleanup_rbuf(struct sock *sk, int copied): the reader has taken data.
    fentry recv_fentry: |ctx: FEntryContext| tcp::on_data(&ctx, ctx.arg(0), ctx.arg(1), 0, false);
    // sock_def_error_report(struct sock *sk).
    fentry error_fentry: |ctx: FEntryContext| tcp::on_error(ctx.arg(0));
}

/// The same by breakpoint. Entries only: a kretprobe has a bounded number of instances, and senders block inside.
#[cfg(not(feature = "typed"))]
mod by_kprobe {
    use super::{ProbeContext, tcp};

    macro_rules! kprobes {
        ($($name:ident: |$ctx:ident| $body:expr;)*) => {
            $(
                #[aya_ebpf::macros::kprobe]
                pub fn $name($ctx: ProbeContext) -> u32 {
                    unsafe { $body };
                    0
                }
            )*
        };
    }

    kprobes! {
        send_kprobe: |ctx| tcp::on_send_call(&ctx, super::pointer(&ctx));
        recv_kprobe: |ctx| tcp::on_data(&ctx, super::pointer(&ctx), ctx.arg(1).unwrap_or_default(), 0, false);
        error_kprobe: |ctx| tcp::on_error(super::pointer(&ctx));
    }
}

/// The first argument of a probed function.
#[cfg(not(feature = "typed"))]
#[inline(always)]
fn pointer(ctx: &ProbeContext) -> *const u8 {
    ctx.arg(0).unwrap_or(core::ptr::null())
}

/// `struct bpf_iter__task`: `meta`, `task`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn sweep_tasks(ctx: *mut *const u8) -> i32 {
    let task = *ctx.add(1);
    if !task.is_null() {
        process::on_sweep(task);
    }
    0
}

/// `struct bpf_iter__task_file`: `meta`, `task`, `fd`, `file`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub unsafe extern "C" fn sweep_sockets(ctx: *mut *const u8) -> i32 {
    let task = *ctx.add(1);
    let file = *ctx.add(3);
    if !task.is_null() && !file.is_null() {
        let socket = socket_of(file);
        if !socket.is_null() {
            tcp::on_sweep(task, socket);
        }
    }
    0
}

/// The `struct socket` behind a file; null for any other file.
#[cfg(feature = "typed")]
#[inline(always)]
unsafe fn socket_of(file: *const u8) -> *const u8 {
    aya_ebpf::helpers::generated::bpf_sock_from_file(file.cast_mut().cast()).cast()
}

/// The same without `bpf_sock_from_file`, which came with 5.11.
#[cfg(not(feature = "typed"))]
#[inline(always)]
unsafe fn socket_of(file: *const u8) -> *const u8 {
    use crate::{
        access::{FILE_DATA, FILE_INODE, INODE_MODE},
        memory::read,
    };

    /// `S_IFMT` and `S_IFSOCK`, include/uapi/linux/stat.h. A socket's name in a file system can be opened with `O_PATH` only, and
    /// has no private data then.
    const S_IFMT: u16 = 0o170_000;
    const S_IFSOCK: u16 = 0o140_000;
    let inode: *const u8 = read(file, FILE_INODE.load());
    if inode.is_null() || read::<u16>(inode, INODE_MODE.load()) & S_IFMT != S_IFSOCK {
        return core::ptr::null();
    }
    read(file, FILE_DATA.load())
}

/// Tells guest CPUs of KVM apart; works on the current task, which is a typed pointer on this rung, too.
#[raw_tracepoint(tracepoint = "kvm_userspace_exit")]
pub fn kvm_exit_raw(ctx: RawTracePointContext) -> i32 {
    unsafe { sched::on_kvm_exit((ctx.arg::<u64>(1) as i32) < 0) };
    0
}

macro_rules! uprobes {
    ($($name:ident: $place:expr;)*) => {
        $(
            #[uprobe]
            pub fn $name(ctx: ProbeContext) -> u32 {
                unsafe { phase::on_place($place, arguments(&ctx)) };
                0
            }
        )*
    };
}

macro_rules! uretprobes {
    ($($name:ident: $place:expr;)*) => {
        $(
            #[uretprobe]
            pub fn $name(ctx: RetProbeContext) -> u32 {
                unsafe { phase::on_place($place, [ctx.ret(), 0, 0, 0, 0]) };
                0
            }
        )*
    };
}

/// All entries, where the kernel has cookies (5.15): by one link of an executable (6.6), or by a perf event for each.
#[uprobe]
pub fn qemu_entry(ctx: ProbeContext) -> u32 {
    unsafe { phase::on_cookie(ctx.as_ptr(), arguments(&ctx)) };
    0
}

/// All returns.
#[uretprobe]
pub fn qemu_return(ctx: RetProbeContext) -> u32 {
    unsafe { phase::on_cookie(ctx.as_ptr(), [ctx.ret(), 0, 0, 0, 0]) };
    0
}

// One program for each place, where the kernel has no cookies.
uprobes! {
    qemu_state: MarkKind::State as u32;
    qemu_runstate: MarkKind::RunState as u32;
    qemu_pause: MarkKind::Pause as u32;
    qemu_resume: MarkKind::Resume as u32;
    qemu_sync: MarkKind::Sync as u32;
    qemu_last_pass: MarkKind::LastPass as u32;
    qemu_device: MarkKind::Device as u32;
    qemu_loaded: MarkKind::Loaded as u32;
    qemu_cont: MarkKind::Continue as u32;
    qemu_vm_start: MarkKind::VmStart as u32;
    qemu_stop: MarkKind::Halt as u32;
    qemu_migrate: MarkKind::Migrate as u32;
    qemu_go_on: MarkKind::MigrateContinue as u32;
    qemu_cancel: MarkKind::Cancel as u32;
    qemu_postcopy: MarkKind::StartPostcopy as u32;
    qemu_recover: MarkKind::Recover as u32;
    qemu_throttle: MarkKind::Throttle as u32;
    qemu_unthrottle: PLACE_UNTHROTTLE;
    qemu_announce: MarkKind::Announce as u32;
    qemu_limit: PLACE_LIMIT;
    qemu_page: PLACE_PAGE;
    qemu_error: PLACE_ERROR;
    qemu_exact: PLACE_PENDING;
    qemu_estimate: PLACE_PENDING;
}

uretprobes! {
    qemu_paused: MarkKind::Paused as u32;
    qemu_sent: MarkKind::Sent as u32;
    qemu_global_state: MarkKind::GlobalState as u32;
    qemu_limited: PLACE_LIMITED;
    qemu_exact_ret: PLACE_REMAINING;
    qemu_est_ret: PLACE_REMAINING;
}

/// One by one: a loop over them would need a pointer into the context, which the verifier refuses.
#[inline(always)]
fn arguments(ctx: &ProbeContext) -> phase::Arguments {
    let argument = |index| ctx.arg::<u64>(index).unwrap_or_default();
    [argument(0), argument(1), argument(2), argument(3), argument(4)]
}
