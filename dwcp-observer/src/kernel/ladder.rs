//! The attach ladder: for each hook its attach fallbacks (rungs), and the choice between them.

crate::model::named! {
    /// A way to attach to a hook, best first.
    pub enum Rung {
        /// BTF-typed raw tracepoint: direct loads, local storage.
        TpBtf = "tp_btf",
        /// Raw tracepoint: probe reads, tags in a hash.
        RawTp = "raw_tp",
        /// Function entry by BTF.
        Fentry = "fentry",
        /// Function entry by breakpoint.
        Kprobe = "kprobe",
        /// BPF iterator.
        Iter = "iter",
    }
}

crate::model::named! {
    /// An eBPF object: the same bodies with typed pointers, or with probe reads.
    pub enum Object {
        /// Direct loads of kernel memory, tags in local storage (Linux 5.11).
        Typed = "typed",
        /// `bpf_probe_read_kernel`, tags in hashes.
        Probed = "probed",
    }
}

/// A way to attach to a hook.
#[derive(Debug)]
pub struct Way {
    /// What kind.
    pub rung: Rung,
    /// The object that has its programs.
    pub object: Object,
    /// Its programs and what each is attached to: tracepoint, function or iterator target.
    pub programs: &'static [(&'static str, &'static str)],
    /// Programs for functions that not every kernel has.
    pub where_present: &'static [(&'static str, &'static str)],
}

/// A hook and the ways to attach to it.
#[derive(Debug)]
pub struct Hook {
    /// Tracepoint or iterator target.
    pub name: &'static str,
    /// What it is for: what is missing without it.
    pub purpose: &'static str,
    /// Whether migrations cannot be measured without it.
    pub required: bool,
    /// Attached only while threads are measured: even an empty program on a tracepoint of the scheduler or of every receive costs the
    /// whole host.
    pub on_demand: bool,
    /// The module that has it, where it is one: it may be loaded later.
    pub module: Option<&'static str>,
    /// Best first within an object.
    pub ways: &'static [Way],
}

const fn way(rung: Rung, object: Object, programs: &'static [(&'static str, &'static str)]) -> Way {
    Way { rung, object, programs, where_present: &[] }
}

macro_rules! tracepoints {
    ($($name:literal, $btf:literal, $raw:literal, $required:literal, $on_demand:literal, $purpose:literal $(, or $($other:expr),+)?;)*) => {
        &[
            $(Hook {
                name: $name,
                purpose: $purpose,
                required: $required,
                on_demand: $on_demand,
                module: None,
                ways: &[
                    way(Rung::TpBtf, Object::Typed, &[($btf, $name)]),
                    way(Rung::RawTp, Object::Probed, &[($raw, $name)]),
                    $($($other),+)?
                ],
            },)*
            Hook {
                name: "kvm_userspace_exit",
                purpose: "recognises KVM vCPU threads that have no names",
                required: false,
                on_demand: true,
                module: Some("kvm"),
                ways: &[
                    way(Rung::RawTp, Object::Typed, &[("kvm_exit_raw", "kvm_userspace_exit")]),
                    way(Rung::RawTp, Object::Probed, &[("kvm_exit_raw", "kvm_userspace_exit")]),
                ],
            },
            Hook {
                name: "task",
                purpose: "finds processes and threads that started before the observer; thread totals each second",
                required: true,
                on_demand: false,
                module: None,
                ways: &[
                    way(Rung::Iter, Object::Typed, &[("sweep_tasks", "task")]),
                    way(Rung::Iter, Object::Probed, &[("sweep_tasks", "task")]),
                ],
            },
            Hook {
                name: "task_file",
                purpose: "finds connections opened before the observer started; socket totals each second during a stall",
                required: true,
                on_demand: false,
                module: None,
                ways: &[
                    way(Rung::Iter, Object::Typed, &[("sweep_sockets", "task_file")]),
                    way(Rung::Iter, Object::Probed, &[("sweep_sockets", "task_file")]),
                ],
            },
        ]
    };
}

/// `tcp_sendmsg`, and `tcp_sendpage` where splice(2) still goes that way (until 6.4).
const fn sends(rung: Rung, object: Object) -> Way {
    match rung {
        Rung::Kprobe => Way {
            rung,
            object,
            programs: &[("send_kprobe", "tcp_sendmsg")],
            where_present: &[("send_kprobe", "tcp_sendpage")],
        },
        _ => Way {
            rung,
            object,
            programs: &[("send_fexit", "tcp_sendmsg")],
            where_present: &[("page_fexit", "tcp_sendpage")],
        },
    }
}

const RECEIVES: &[(&str, &str)] = &[("recv_fentry", "tcp_cleanup_rbuf")];
const ERRORS: &[(&str, &str)] = &[("error_fentry", "sock_def_error_report")];

/// Every hook of the observer.
pub const HOOKS: &[Hook] = tracepoints! {
    "sock_send_length", "sock_send_btf", "sock_send_raw", true, false, "finds the sockets and threads that a migrator sends with",
        or sends(Rung::Fentry, Object::Typed), sends(Rung::Fentry, Object::Probed), sends(Rung::Kprobe, Object::Probed);
    "sock_recv_length", "sock_recv_btf", "sock_recv_raw", true, false, "finds the sockets and threads that a migrator receives with",
        or way(Rung::Fentry, Object::Typed, RECEIVES), way(Rung::Fentry, Object::Probed, RECEIVES),
        way(Rung::Kprobe, Object::Probed, &[("recv_kprobe", "tcp_cleanup_rbuf")]);
    "tcp_rcv_space_adjust", "read_btf", "read_raw", false, true, "finds the sockets and threads that a migrator receives with by splice(2)";
    "inet_sock_set_state", "set_state_btf", "set_state_raw", true, false, "open and close of connections, exact totals at close";
    "tcp_destroy_sock", "destroy_btf", "destroy_raw", false, false, "closes that inet_sock_set_state did not report";
    "tcp_probe", "tcp_probe_btf", "tcp_probe_raw", false, false, "RTT histogram, totals between collection cycles";
    "tcp_retransmit_skb", "retransmit_btf", "retransmit_raw", false, false, "retransmissions";
    "tcp_cong_state_set", "ca_state_btf", "ca_state_raw", false, false, "time in each congestion state";
    "tcp_send_reset", "send_reset_btf", "send_reset_raw", false, false, "resets sent";
    "tcp_receive_reset", "recv_reset_btf", "recv_reset_raw", false, false, "resets received";
    "inet_sk_error_report", "sk_error_btf", "sk_error_raw", false, false, "socket errors",
        or way(Rung::Fentry, Object::Typed, ERRORS), way(Rung::Fentry, Object::Probed, ERRORS),
        way(Rung::Kprobe, Object::Probed, &[("error_kprobe", "sock_def_error_report")]);
    "sched_switch", "switch_btf", "switch_raw", false, true, "run-queue wait histogram of migrator threads";
    "sched_waking", "wakeup_btf", "wakeup_raw", false, true, "wake-ups of migrator threads";
    "sched_wakeup_new", "wakeup_new_btf", "wakeup_new_raw", false, true, "first wake-up of new migrator threads";
    "netif_receive_skb_entry", "guest_pkt_btf", "guest_pkt_raw", false, true, "first packet that a guest sends at its destination";
    "task_newtask", "newtask_btf", "newtask_raw", false, false, "new threads of a migrator at once, not only at the next cycle";
    "task_rename", "rename_btf", "rename_raw", true, false, "recognises a migrator at its start, follows thread names";
    "signal_generate", "signal_btf", "signal_raw", false, false, "time at which a dumped process is stopped";
    "cgroup_freeze", "freeze_btf", "freeze_raw", false, false, "time at which the cgroup of a dumped process is frozen";
    "sched_process_exit", "exit_btf", "exit_raw", false, false, "final totals of a thread, exit of a migrator";
};

/// Which rungs the configuration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The best that works.
    Auto,
    /// Hooks that this kernel has on this rung use it or none, other hooks the best that works.
    Only(Rung),
}

impl Allowed {
    /// The objects that may be loaded, best first.
    #[must_use]
    pub const fn objects(self) -> &'static [Object] {
        match self {
            Self::Only(Rung::TpBtf) => &[Object::Typed],
            Self::Only(Rung::RawTp | Rung::Kprobe) => &[Object::Probed],
            _ => &Object::ALL,
        }
    }

    /// The ways of a hook that may be tried, best first; `present` tells whether this kernel has what a way attaches to.
    #[must_use]
    pub fn ways(
        self,
        hook: &'static Hook,
        object: Object,
        present: impl Fn(&Way) -> bool,
    ) -> Vec<&'static Way> {
        let ways: Vec<&Way> = hook.ways.iter().filter(|way| way.object == object).collect();
        let pinned = ways.iter().find(|way| self == Self::Only(way.rung) && present(way));
        pinned.map_or_else(|| ways.clone(), |way| vec![*way])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn program_names_are_distinct_within_the_kernels_fifteen_characters() {
        for object in Object::ALL {
            let of_hook = |hook: &Hook| -> HashSet<&str> {
                let ways = hook.ways.iter().filter(|way| way.object == object);
                ways.flat_map(|way| way.programs.iter().chain(way.where_present))
                    .map(|(program, _)| *program)
                    .collect()
            };
            let names: Vec<&str> = HOOKS.iter().flat_map(of_hook).collect();
            assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        }
    }

    #[test]
    fn ways_are_listed_best_first() {
        for (hook, object) in HOOKS.iter().flat_map(|hook| Object::ALL.map(|object| (hook, object)))
        {
            let ways = hook.ways.iter().filter(|way| way.object == object);
            assert!(ways.is_sorted_by_key(|way| way.rung), "{}", hook.name);
        }
    }

    fn rungs(allowed: Allowed, hook: &str, object: Object, absent: &[Rung]) -> Vec<Rung> {
        let hook = HOOKS.iter().find(|known| known.name == hook).unwrap();
        let ways = allowed.ways(hook, object, |way| !absent.contains(&way.rung));
        ways.iter().map(|way| way.rung).collect()
    }

    #[test]
    fn a_pinned_rung_excludes_others_where_the_kernel_has_it() {
        use Rung::{Fentry, Iter, Kprobe, RawTp, TpBtf};
        let send = "sock_send_length";
        assert_eq!(rungs(Allowed::Auto, send, Object::Typed, &[]), [TpBtf, Fentry]);
        assert_eq!(rungs(Allowed::Only(TpBtf), send, Object::Typed, &[]), [TpBtf]);
        assert_eq!(rungs(Allowed::Only(Kprobe), send, Object::Probed, &[]), [Kprobe]);
        assert_eq!(rungs(Allowed::Only(Kprobe), "tcp_probe", Object::Probed, &[]), [RawTp]);
        assert_eq!(rungs(Allowed::Only(RawTp), "task", Object::Probed, &[]), [Iter]);
        let before_6_3 = rungs(Allowed::Only(RawTp), send, Object::Probed, &[RawTp]);
        assert_eq!(before_6_3, [RawTp, Fentry, Kprobe], "raw_tp is tried, and says why not");
    }
}
