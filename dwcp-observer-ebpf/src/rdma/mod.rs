//! One program per function or tracepoint. Names are at most 15 characters: the kernel cuts them there.
//!
//! The modules' functions are reached by kprobe: aya 0.14 cannot attach fentry to a module. Only functions that other modules
//! call, or that are called by pointer, are probed: a compiler cannot inline them away.

mod cm;
mod data;
mod kernel;
mod memory;
mod provider;
mod qp;

use aya_ebpf::{
    macros::{kprobe, kretprobe, tracepoint, uprobe},
    programs::{ProbeContext, RetProbeContext, TracePointContext},
};
use dwcp_observer_ebpf::rdma::CmKind;

#[inline(always)]
fn pointer(ctx: &ProbeContext, index: usize) -> *const u8 {
    ctx.arg::<*const u8>(index).unwrap_or(core::ptr::null())
}

macro_rules! kprobes {
    ($($name:ident: |$o:ident, $ctx:ident| $body:expr;)*) => {
        $(
            #[kprobe]
            pub fn $name($ctx: ProbeContext) -> u32 {
                if let Some($o) = kernel::offsets() {
                    unsafe { $body };
                }
                0
            }
        )*
    };
}

macro_rules! kretprobes {
    ($($name:ident: |$o:ident, $result:ident| $body:expr;)*) => {
        $(
            #[kretprobe]
            pub fn $name(ctx: RetProbeContext) -> u32 {
                let $result: i32 = ctx.ret::<i32>();
                if let Some($o) = kernel::offsets() {
                    unsafe { $body };
                }
                0
            }
        )*
    };
}

macro_rules! tracepoints {
    ($($name:ident: |$o:ident, $ctx:ident| $body:expr;)*) => {
        $(
            #[tracepoint]
            pub fn $name($ctx: TracePointContext) -> u32 {
                if let Some($o) = kernel::offsets() {
                    unsafe { $body };
                }
                0
            }
        )*
    };
}

kprobes! {
    rdma_tracked: |o, ctx| qp::on_tracked(o, pointer(&ctx, 0));
    rdma_modify: |o, ctx| qp::on_modify(o, pointer(&ctx, 0), pointer(&ctx, 1), ctx.arg::<u32>(2).unwrap_or(0));
    rdma_destroy: |o, ctx| qp::on_destroy(o, pointer(&ctx, 0));
    rdma_register: |o, _ctx| memory::on_register(o);
    rdma_deregister: |_o, ctx| memory::on_deregister(pointer(&ctx, 0));
    rdma_comp_event: |o, _ctx| memory::on_completion_event(o);
    rdma_post: |o, ctx| data::on_doorbell(o, pointer(&ctx, 0));
    rdma_rxe_cqe: |o, ctx| data::on_completion(o, pointer(&ctx, 0), pointer(&ctx, 1));
    rdma_rxe_rnr: |o, ctx| data::on_rnr_timer(o, pointer(&ctx, 0));
    rdma_connect: |o, ctx| cm::on_parameters(o, pointer(&ctx, 1));
}

kretprobes! {
    rdma_modified: |_o, result| qp::on_modified(result);
    rdma_destroyed: |o, result| qp::on_destroyed(o, result);
}

tracepoints! {
    cm_send_req: |o, ctx| cm::on_queue_pair(o, &ctx, CmKind::SendRequest);
    cm_send_rep: |o, ctx| cm::on_queue_pair(o, &ctx, CmKind::SendReply);
    cm_send_rtu: |o, ctx| cm::on_step(o, &ctx, CmKind::SendReady);
    cm_send_rej: |o, ctx| cm::on_step(o, &ctx, CmKind::SendReject);
    cm_disconnect: |o, ctx| cm::on_step(o, &ctx, CmKind::Disconnect);
    cm_sent_dreq: |o, ctx| cm::on_step(o, &ctx, CmKind::SentDisconnect);
    cm_id_destroy: |o, ctx| cm::on_step(o, &ctx, CmKind::Destroy);
    cm_event: |o, ctx| cm::on_event(o, &ctx);
}

/// `post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad_wr)` of a provider's library, where it is asked for.
#[uprobe]
pub fn rdma_post_send(ctx: ProbeContext) -> u32 {
    unsafe { provider::on_post(pointer(&ctx, 0), pointer(&ctx, 1)) };
    0
}
