//! Why a thread leaves its CPU: the state of its guest or program.

use aya_ebpf::helpers::generated as helpers;
use dwcp_observer_ebpf::{
    FIELD_ABSENT,
    sched::{LEFT_CONDITION, LEFT_GUEST, LEFT_HALTED, LEFT_LOCK, LEFT_RUNNABLE, LEFT_UNKNOWN},
};

use crate::{
    access::{
        CALL_FUTEX, CALL_IOCTL, REGS_CALL, REGS_HELPER, REGS_SECOND, REGS_THIRD, TASK_STATE,
        current,
    },
    memory::read,
};

/// `KVM_RUN`, include/uapi/linux/kvm.h.
const KVM_RUN: u32 = 0xae80;
/// `FUTEX_CMD_MASK` takes away `FUTEX_PRIVATE_FLAG` and `FUTEX_CLOCK_REALTIME`, include/uapi/linux/futex.h.
const FUTEX_CMD_MASK: u32 = !(128 | 256);
const FUTEX_WAIT: u32 = 0;
const FUTEX_LOCK_PI: u32 = 6;
const FUTEX_WAIT_BITSET: u32 = 9;
const FUTEX_LOCK_PI2: u32 = 13;
/// The word on which glibc's mutex waits (`__lll_lock_wait`, nptl/lowlevellock.c, 2.28 to 2.41).
const CONTENDED: u32 = 2;
/// And its condition (`__pthread_cond_wait_common`, nptl/pthread_cond_wait.c, until 2.33; later ones wait by bit set).
const NO_SIGNAL: u32 = 0;
/// `TASK_UNINTERRUPTIBLE`: waits for a device or for memory, not of its own will.
const UNINTERRUPTIBLE: u32 = 2;

/// `LEFT_*` of the running task at `sched_switch`: it is the one that leaves.
#[inline(always)]
pub unsafe fn reason(prev: *const u8, preempted: bool) -> u32 {
    let state: u32 = read(prev, TASK_STATE.load());
    let runnable = preempted || state == 0;
    let regs = registers(prev);
    if regs.is_null() {
        return if runnable { LEFT_RUNNABLE } else { LEFT_UNKNOWN };
    }
    // Of an interrupted program the number is none.
    let call: u32 = read(regs, REGS_CALL.load());
    let second: u32 = read(regs, REGS_SECOND.load());
    let in_guest = call == CALL_IOCTL.load() && second == KVM_RUN;
    if runnable {
        return if in_guest { LEFT_GUEST } else { LEFT_RUNNABLE };
    }
    if in_guest && state & UNINTERRUPTIBLE == 0 {
        return LEFT_HALTED;
    }
    if call != CALL_FUTEX.load() {
        return LEFT_UNKNOWN;
    }
    match (second & FUTEX_CMD_MASK, read(regs, REGS_THIRD.load())) {
        (FUTEX_WAIT, CONTENDED) | (FUTEX_LOCK_PI | FUTEX_LOCK_PI2, _) => LEFT_LOCK,
        (FUTEX_WAIT, NO_SIGNAL) | (FUTEX_WAIT_BITSET, _) => LEFT_CONDITION,
        _ => LEFT_UNKNOWN,
    }
}

/// Whether the running task is in this system call.
#[inline(always)]
pub unsafe fn is_in_call(number: u32) -> bool {
    let regs = registers(current());
    !regs.is_null() && read::<u32>(regs, REGS_CALL.load()) == number
}

/// What the running task's program had in its registers when it entered the kernel.
#[inline(always)]
unsafe fn registers(task: *const u8) -> *const u8 {
    if REGS_CALL.load() == FIELD_ABSENT || REGS_SECOND.load() == FIELD_ABSENT {
        return core::ptr::null();
    }
    if REGS_HELPER.load() == 0 {
        return on_stack(task);
    }
    helpers::bpf_task_pt_regs(helpers::bpf_get_current_task_btf()) as *const u8
}

/// Kernels from 5.11 to 5.14 have typed pointers and no helper: they do not tell.
#[cfg(feature = "typed")]
#[inline(always)]
unsafe fn on_stack(_task: *const u8) -> *const u8 {
    core::ptr::null()
}

/// `task_pt_regs`, arch/x86/include/asm/processor.h and arch/arm64/include/asm/processor.h, 5.10.
#[cfg(not(feature = "typed"))]
#[inline(always)]
unsafe fn on_stack(task: *const u8) -> *const u8 {
    use crate::access::{REGS_ON_STACK, TASK_STACK};

    if REGS_ON_STACK.load() == FIELD_ABSENT || TASK_STACK.load() == FIELD_ABSENT {
        return core::ptr::null();
    }
    let stack: *const u8 = read(task, TASK_STACK.load());
    stack.wrapping_add(REGS_ON_STACK.load() as usize)
}
