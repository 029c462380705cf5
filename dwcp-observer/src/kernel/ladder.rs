//! The attach ladder: each hook, the rungs it has, and the choice between them.

/// A way to attach to a hook, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rung {
    /// BTF-typed raw tracepoint: direct loads, local storage.
    TpBtf,
    /// Raw tracepoint: probe reads, tags in a hash.
    RawTp,
    /// Classic tracepoint.
    Tracepoint,
    /// Function entry by BTF.
    Fentry,
    /// Function entry by breakpoint.
    Kprobe,
    /// BPF iterator.
    Iter,
}

impl Rung {
    /// The ladder of a tracepoint hook, best first.
    pub const LADDER: [Self; 5] =
        [Self::TpBtf, Self::RawTp, Self::Tracepoint, Self::Fentry, Self::Kprobe];

    /// The name in metrics and in `check`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTp => "raw_tp",
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Iter => "iter",
        }
    }
}

/// A hook and its programs, one per rung that is implemented.
#[derive(Debug)]
pub struct Hook {
    /// Tracepoint or iterator target.
    pub name: &'static str,
    /// What it is for: what is missing without it.
    pub purpose: &'static str,
    /// Whether migrations cannot be measured without it.
    pub required: bool,
    /// Attached only while threads are measured: even an empty program on a scheduler tracepoint costs every task of the host.
    pub on_demand: bool,
    /// Works on the current task alone, which is a typed pointer on every rung: it finds tags in local storage, too.
    pub current_task_only: bool,
    /// Rung and program name, best first.
    pub programs: &'static [(Rung, &'static str)],
}

macro_rules! tracepoints {
    ($($name:literal, $btf:literal, $raw:literal, $required:literal, $on_demand:literal, $purpose:literal;)*) => {
        &[
            $(Hook {
                name: $name,
                purpose: $purpose,
                required: $required,
                on_demand: $on_demand,
                current_task_only: false,
                programs: &[(Rung::TpBtf, $btf), (Rung::RawTp, $raw)],
            },)*
            Hook {
                name: "kvm_userspace_exit",
                purpose: "recognises guest CPUs of KVM whose threads have no names",
                required: false,
                on_demand: true,
                current_task_only: true,
                programs: &[(Rung::RawTp, "kvm_exit_raw")],
            },
            Hook {
                name: "task",
                purpose: "finds processes and threads that were there before; thread totals each second",
                required: true,
                on_demand: false,
                current_task_only: true,
                programs: &[(Rung::Iter, "sweep_tasks")],
            },
            Hook {
                name: "task_file",
                purpose: "finds connections that were there before; socket totals each second during a stall",
                required: true,
                on_demand: false,
                current_task_only: true,
                programs: &[(Rung::Iter, "sweep_sockets")],
            },
        ]
    };
}

/// Every hook of the observer.
pub const HOOKS: &[Hook] = tracepoints! {
    "sock_send_length", "sock_send_btf", "sock_send_raw", true, false, "tags the socket that a migrator sends on, and the sending thread";
    "sock_recv_length", "sock_recv_btf", "sock_recv_raw", true, false, "tags the socket that a migrator receives on, and the receiving thread";
    "inet_sock_set_state", "set_state_btf", "set_state_raw", true, false, "opens, closes, exact totals at close";
    "tcp_destroy_sock", "destroy_btf", "destroy_raw", false, false, "closes whose state change was missed";
    "tcp_probe", "tcp_probe_btf", "tcp_probe_raw", false, false, "RTT histogram, totals between two cycles";
    "tcp_retransmit_skb", "retransmit_btf", "retransmit_raw", false, false, "retransmit events";
    "tcp_cong_state_set", "ca_state_btf", "ca_state_raw", false, false, "time in each congestion state";
    "tcp_send_reset", "send_reset_btf", "send_reset_raw", false, false, "resets sent";
    "tcp_receive_reset", "recv_reset_btf", "recv_reset_raw", false, false, "resets received";
    "inet_sk_error_report", "sk_error_btf", "sk_error_raw", false, false, "socket errors";
    "sched_switch", "switch_btf", "switch_raw", false, true, "run-queue wait histogram of migrator threads";
    "sched_wakeup", "wakeup_btf", "wakeup_raw", false, true, "wake-ups of migrator threads";
    "sched_wakeup_new", "wakeup_new_btf", "wakeup_new_raw", false, true, "first wake-up of new migrator threads";
    "netif_receive_skb_entry", "guest_pkt_btf", "guest_pkt_raw", false, true, "first packet of a guest at its destination";
    "task_newtask", "newtask_btf", "newtask_raw", false, false, "new threads of a migrator at once instead of at the next cycle";
    "task_rename", "rename_btf", "rename_raw", true, false, "recognises a migrator when it starts, follows thread names";
    "sched_process_exit", "exit_btf", "exit_raw", false, false, "last totals of a thread, death of a migrator";
};

/// Which rungs the configuration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The best that works.
    Auto,
    /// This one or none; iterators are always allowed.
    Only(Rung),
}

impl Allowed {
    /// Whether `rung` may be used.
    #[must_use]
    pub fn permits(self, rung: Rung) -> bool {
        match self {
            Self::Auto => true,
            Self::Only(only) => only == rung || rung == Rung::Iter,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn program_names_are_distinct_within_the_kernels_fifteen_characters() {
        let names: Vec<&str> =
            HOOKS.iter().flat_map(|hook| hook.programs.iter().map(|(_, name)| *name)).collect();
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    }

    #[test]
    fn rungs_are_listed_best_first() {
        for hook in HOOKS {
            assert!(hook.programs.is_sorted_by_key(|(rung, _)| *rung), "{}", hook.name);
        }
    }

    #[test]
    fn a_pinned_rung_excludes_the_others_but_not_the_iterators() {
        let only = Allowed::Only(Rung::RawTp);
        assert!(
            only.permits(Rung::RawTp) && only.permits(Rung::Iter) && !only.permits(Rung::TpBtf)
        );
    }
}
