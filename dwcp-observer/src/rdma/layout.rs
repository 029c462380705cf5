//! Offsets of the fields that the programs read, from the BTF of the kernel and of the RDMA modules, and from tracefs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use dwcp_observer_ebpf::{FIELD_ABSENT, rdma::Offsets};

use super::format;
use crate::kernel::btf::{BtfError, Layout};

/// Modules whose BTF is looked at, where they are loaded.
pub(super) const MODULES: [&str; 4] = ["ib_core", "ib_uverbs", "rdma_cm", "rdma_rxe"];

/// Offsets, and the fields that were not found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) offsets: Offsets,
    pub(super) missing: Vec<String>,
}

/// The kernel's BTF and that of its modules: a module's type hides the kernel's of the same name.
struct Types {
    kernel: Arc<Layout>,
    modules: Vec<Layout>,
}

impl Types {
    fn field(&self, strukt: &str, path: &str) -> Option<u32> {
        let modules = self.modules.iter().find_map(|module| module.field(strukt, path));
        modules.or_else(|| self.kernel.field(strukt, path)).map(|field| field.offset)
    }

    fn enumerator(&self, name: &str, enumerator: &str) -> Option<u32> {
        let modules = self.modules.iter().find_map(|module| module.enumerator(name, enumerator));
        modules.or_else(|| self.kernel.enumerator(name, enumerator))
    }
}

/// Looks everything up. `kernel` is BTF of the running kernel; the modules' lie beside it.
///
/// # Errors
/// The kernel's BTF cannot be read. A module without BTF is as good as one that is not loaded.
pub(super) fn find(kernel: &Path) -> Result<Found, BtfError> {
    let base = Arc::new(Layout::from_file(kernel)?);
    let directory = kernel.parent().map(PathBuf::from).unwrap_or_default();
    let modules = MODULES
        .iter()
        .filter_map(|module| {
            Layout::from_split_file(&directory.join(module), Some(Arc::clone(&base))).ok()
        })
        .collect();
    Ok(resolve(&Types { kernel: base, modules }, |category, event| {
        let path = format::event(category, event)?;
        std::fs::read_to_string(path.join("format")).ok()
    }))
}

macro_rules! fields {
    ($types:ident, $offsets:ident, $missing:ident; $($name:ident: $strukt:literal, $path:literal;)*) => {
        $(match $types.field($strukt, $path) {
            Some(offset) => $offsets.$name = offset,
            None => $missing.push(concat!($strukt, ".", $path).to_owned()),
        })*
    };
}

macro_rules! events {
    ($formats:ident, $offsets:ident, $missing:ident; $($name:ident: $event:literal, $field:literal;)*) => {
        $(match $formats("rdma_cma", $event).and_then(|text| format::offset(&text, $field)) {
            Some(offset) => $offsets.$name = offset,
            None => $missing.push(concat!($event, ".", $field).to_owned()),
        })*
    };
}

fn resolve(types: &Types, formats: impl Fn(&str, &str) -> Option<String>) -> Found {
    let mut offsets = Offsets::ABSENT;
    let mut missing = Vec::new();
    fields! { types, offsets, missing;
        res_type: "rdma_restrack_entry", "type";
        res_task: "rdma_restrack_entry", "task";
        qp_device: "ib_qp", "device";
        qp_number: "ib_qp", "qp_num";
        qp_type: "ib_qp", "qp_type";
        qp_res: "ib_qp", "res";
        qp_uobject: "ib_qp", "uobject";
        attr_state: "ib_qp_attr", "qp_state";
        attr_dest: "ib_qp_attr", "dest_qp_num";
        attr_gid: "ib_qp_attr", "ah_attr.grh.dgid";
        qp_send_cq: "ib_qp", "send_cq";
        qp_recv_cq: "ib_qp", "recv_cq";
        cq_device: "ib_cq", "device";
        cq_uobject: "ib_cq", "uobject";
        mr_res: "ib_mr", "res";
        mr_length: "ib_mr", "length";
        dev_index: "ib_device", "index";
        dev_driver: "ib_device", "ops.driver_id";
        private_len: "rdma_conn_param", "private_data_len";
        task_leader: "task_struct", "group_leader";
        task_start: "task_struct", "start_boottime";
        task_comm: "task_struct", "comm";
        task_flags: "task_struct", "flags";
        rxe_ibqp: "rxe_qp", "ibqp";
        rxe_queue: "rxe_qp", "sq.queue";
        rxe_rnr_timer: "rxe_qp", "rnr_nak_timer";
        rxe_cq_queue: "rxe_cq", "queue";
        queue_buf: "rxe_queue", "buf";
        queue_mask: "rxe_queue", "index_mask";
        queue_shift: "rxe_queue", "log2_elem_size";
        queue_index: "rxe_queue", "index";
        buf_producer: "rxe_queue_buf", "producer_index";
        buf_data: "rxe_queue_buf", "data";
        wqe_opcode: "rxe_send_wqe", "wr.opcode";
        wqe_length: "rxe_send_wqe", "dma.length";
    }
    for (to, enumerator) in [
        (&mut offsets.restrack_qp, "RDMA_RESTRACK_QP"),
        (&mut offsets.restrack_mr, "RDMA_RESTRACK_MR"),
    ] {
        match types.enumerator("rdma_restrack_type", enumerator) {
            Some(value) => *to = value,
            None => missing.push(enumerator.to_owned()),
        }
    }
    events! { formats, offsets, missing;
        step_id: "cm_send_rtu", "cm_id";
        step_source: "cm_send_rtu", "srcaddr";
        step_destination: "cm_send_rtu", "dstaddr";
        pair_id: "cm_send_req", "cm_id";
        pair_qpn: "cm_send_req", "qp_num";
        pair_source: "cm_send_req", "srcaddr";
        pair_destination: "cm_send_req", "dstaddr";
        event_id: "cm_event_handler", "cm_id";
        event_type: "cm_event_handler", "event";
        event_status: "cm_event_handler", "status";
        event_source: "cm_event_handler", "srcaddr";
        event_destination: "cm_event_handler", "dstaddr";
    }
    Found { offsets, missing }
}

impl Found {
    /// Whether queue pairs can be followed at all.
    pub(super) const fn queue_pairs(&self) -> bool {
        let Offsets {
            res_type,
            res_task,
            restrack_qp,
            qp_device,
            qp_number,
            qp_res,
            dev_index,
            ..
        } = self.offsets;
        let all = [res_type, res_task, restrack_qp, qp_device, qp_number, qp_res, dev_index];
        let mut index = 0;
        while index < all.len() {
            if all[index] == FIELD_ABSENT {
                return false;
            }
            index += 1;
        }
        true
    }

    /// Whether Soft-RoCE's send queues can be read.
    pub(super) const fn send_queues(&self) -> bool {
        self.offsets.rxe_queue != FIELD_ABSENT
            && self.offsets.queue_index != FIELD_ABSENT
            && self.offsets.wqe_length != FIELD_ABSENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::btf_sample::kernel_with;

    #[test]
    fn a_kernel_without_the_modules_says_what_it_lacks() {
        let kernel =
            kernel_with("task_struct", &["flags", "start_boottime", "comm", "group_leader"]);
        let types = Types { kernel: Arc::new(kernel), modules: Vec::new() };
        let found = resolve(&types, |_, _| None);
        assert!(!found.send_queues(), "Soft-RoCE's structs are its module's");
        assert!(found.missing.contains(&"rxe_qp.sq.queue".to_owned()));
        assert!(found.missing.contains(&"cm_send_req.qp_num".to_owned()));
        assert_eq!(found.offsets.task_leader, 24);
        assert_eq!(found.offsets.event_type, FIELD_ABSENT);
    }
}
