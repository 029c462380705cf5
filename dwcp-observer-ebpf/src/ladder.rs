//! One program per hook and rung. Names are at most 15 characters: the kernel cuts them there.

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint, uprobe, uretprobe},
    programs::{BtfTracePointContext, ProbeContext, RawTracePointContext, RetProbeContext},
};
use dwcp_observer_ebpf::phase::MarkKind;

use crate::{
    access::{Probed, Typed},
    netdev, phase, process, sched, tcp,
};

macro_rules! hooks {
    ($($tracepoint:literal => $btf:ident, $raw:ident: |$ctx:ident, $access:ident| $body:expr;)*) => {
        $(
            #[btf_tracepoint(function = $tracepoint)]
            pub fn $btf($ctx: BtfTracePointContext) -> i32 {
                type $access = Typed;
                unsafe { $body };
                0
            }

            #[raw_tracepoint(tracepoint = $tracepoint)]
            pub fn $raw($ctx: RawTracePointContext) -> i32 {
                type $access = Probed;
                unsafe { $body };
                0
            }
        )*
    };
}

hooks! {
    "sock_send_length" => sock_send_btf, sock_send_raw: |ctx, A| tcp::on_data::<A>(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2), true);
    "sock_recv_length" => sock_recv_btf, sock_recv_raw: |ctx, A| tcp::on_data::<A>(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2), false);
    "tcp_destroy_sock" => destroy_btf, destroy_raw: |ctx, A| tcp::on_destroy::<A>(&ctx, ctx.arg(0));
    "tcp_probe" => tcp_probe_btf, tcp_probe_raw: |ctx, A| tcp::on_segment::<A>(ctx.arg(0));
    "inet_sock_set_state" => set_state_btf, set_state_raw: |ctx, A| tcp::on_state::<A>(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    "tcp_retransmit_skb" => retransmit_btf, retransmit_raw: |ctx, A| tcp::on_retransmit::<A>(ctx.arg(0));
    "tcp_cong_state_set" => ca_state_btf, ca_state_raw: |ctx, A| tcp::on_ca_state::<A>(ctx.arg(0), u32::from(ctx.arg::<u8>(1)));
    "tcp_send_reset" => send_reset_btf, send_reset_raw: |ctx, A| tcp::on_reset::<A>(ctx.arg(0), true);
    "tcp_receive_reset" => recv_reset_btf, recv_reset_raw: |ctx, A| tcp::on_reset::<A>(ctx.arg(0), false);
    "inet_sk_error_report" => sk_error_btf, sk_error_raw: |ctx, A| tcp::on_error::<A>(ctx.arg(0));
    "sched_switch" => switch_btf, switch_raw: |ctx, A| sched::on_switch::<A>(ctx.arg(1), ctx.arg(2));
    "sched_wakeup" => wakeup_btf, wakeup_raw: |ctx, A| sched::on_wakeup::<A>(ctx.arg(0));
    "sched_wakeup_new" => wakeup_new_btf, wakeup_new_raw: |ctx, A| sched::on_wakeup::<A>(ctx.arg(0));
    "netif_receive_skb_entry" => guest_pkt_btf, guest_pkt_raw: |ctx, A| netdev::on_receive::<A>(ctx.arg(0));
    "task_newtask" => newtask_btf, newtask_raw: |ctx, A| process::on_newtask::<A>(ctx.arg(0), ctx.arg(1));
    "task_rename" => rename_btf, rename_raw: |ctx, A| process::on_rename::<A>(&ctx, ctx.arg(0), ctx.arg(1));
    "sched_process_exit" => exit_btf, exit_raw: |ctx, A| process::on_exit::<A>(&ctx, ctx.arg(0));
}

/// `struct bpf_iter__task`: `meta`, `task`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub unsafe extern "C" fn sweep_tasks(ctx: *mut *const u8) -> i32 {
    let task = *ctx.add(1);
    if !task.is_null() {
        process::on_sweep::<Typed>(task);
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
        let socket: *const u8 =
            aya_ebpf::helpers::generated::bpf_sock_from_file(file.cast_mut().cast()).cast();
        if !socket.is_null() {
            tcp::on_sweep::<Typed>(task, socket);
        }
    }
    0
}

/// Tells guest CPUs of KVM apart; works on the current task, which is a typed pointer on this rung, too.
#[raw_tracepoint(tracepoint = "kvm_userspace_exit")]
pub fn kvm_exit_raw(_ctx: RawTracePointContext) -> i32 {
    unsafe { sched::on_kvm_exit() };
    0
}

macro_rules! uprobes {
    ($($name:ident: |$ctx:ident| $body:expr;)*) => {
        $(
            #[uprobe]
            pub fn $name($ctx: ProbeContext) -> u32 {
                unsafe { $body };
                0
            }
        )*
    };
}

macro_rules! uretprobes {
    ($($name:ident: $body:expr;)*) => {
        $(
            #[uretprobe]
            pub fn $name(_ctx: RetProbeContext) -> u32 {
                unsafe { $body };
                0
            }
        )*
    };
}

uprobes! {
    qemu_state: |ctx| phase::on_mark(MarkKind::State, [0, 1, 2].map(|index| argument(&ctx, index)));
    qemu_runstate: |ctx| phase::on_mark(MarkKind::RunState, [0, 0, argument(&ctx, 0)]);
    qemu_pause: |_ctx| phase::on_mark(MarkKind::Pause, [0; 3]);
    qemu_resume: |_ctx| phase::on_mark(MarkKind::Resume, [0; 3]);
    qemu_sync: |_ctx| phase::on_mark(MarkKind::Sync, [0; 3]);
    qemu_last_pass: |_ctx| phase::on_mark(MarkKind::LastPass, [0; 3]);
    qemu_device: |_ctx| phase::on_mark(MarkKind::Device, [0; 3]);
    qemu_loaded: |_ctx| phase::on_mark(MarkKind::Loaded, [0; 3]);
    qemu_limit: |_ctx| phase::on_rate_limit(true);
    qemu_page: |_ctx| phase::on_page_request();
}

uretprobes! {
    qemu_paused: phase::on_mark(MarkKind::Paused, [0; 3]);
    qemu_sent: phase::on_mark(MarkKind::Sent, [0; 3]);
    qemu_limited: phase::on_rate_limit(false);
}

#[inline(always)]
fn argument(ctx: &ProbeContext, index: usize) -> u32 {
    ctx.arg::<u64>(index).unwrap_or_default() as u32
}
