//! Names of verbs: operations, completion status, queue pair states and kinds, drivers (`include/rdma/ib_verbs.h`,
//! `include/uapi/rdma/ib_user_ioctl_verbs.h`).

pub use dwcp_observer_ebpf::rdma::{OPERATIONS, Operation, STATUSES};

/// The name of a completion status, as `ibv_wc_status_str(3)` and the specification have it.
///
/// ```
/// assert_eq!(dwcp_observer::rdma::verbs::status_name(10), "REM_ACCESS_ERR");
/// ```
#[must_use]
pub const fn status_name(status: usize) -> &'static str {
    match status {
        0 => "SUCCESS",
        1 => "LOC_LEN_ERR",
        2 => "LOC_QP_OP_ERR",
        3 => "LOC_EEC_OP_ERR",
        4 => "LOC_PROT_ERR",
        5 => "WR_FLUSH_ERR",
        6 => "MW_BIND_ERR",
        7 => "BAD_RESP_ERR",
        8 => "LOC_ACCESS_ERR",
        9 => "REM_INV_REQ_ERR",
        10 => "REM_ACCESS_ERR",
        11 => "REM_OP_ERR",
        12 => "RETRY_EXC_ERR",
        13 => "RNR_RETRY_EXC_ERR",
        14 => "LOC_RDD_VIOL_ERR",
        15 => "REM_INV_RD_REQ_ERR",
        16 => "REM_ABORT_ERR",
        17 => "INV_EECN_ERR",
        18 => "INV_EEC_STATE_ERR",
        19 => "FATAL_ERR",
        20 => "RESP_TIMEOUT_ERR",
        21 => "GENERAL_ERR",
        _ => "OTHER",
    }
}

/// The name of a queue pair type (`enum ib_qp_type`).
#[must_use]
pub const fn kind_name(kind: u32) -> &'static str {
    match kind {
        0 => "SMI",
        1 => "GSI",
        2 => "RC",
        3 => "UC",
        4 => "UD",
        5 => "RAW_IPV6",
        6 => "RAW_ETHERTYPE",
        8 => "RAW_PACKET",
        9 => "XRC_INI",
        10 => "XRC_TGT",
        0xff => "DRIVER",
        _ => "OTHER",
    }
}

/// `RDMA_DRIVER_RXE`: Soft-RoCE.
pub const DRIVER_RXE: u32 = 14;
/// `RDMA_DRIVER_SIW`: software iWARP.
pub const DRIVER_SIW: u32 = 18;

/// The name of a driver (`enum rdma_driver_id`).
#[must_use]
pub const fn driver_name(driver: u32) -> &'static str {
    match driver {
        1 => "mlx5",
        2 => "mlx4",
        3 => "cxgb3",
        4 => "cxgb4",
        5 => "mthca",
        6 => "bnxt_re",
        7 => "ocrdma",
        8 => "nes",
        9 => "irdma",
        10 => "vmw_pvrdma",
        11 => "qedr",
        12 => "hns",
        13 => "usnic",
        DRIVER_RXE => "rxe",
        15 => "hfi1",
        16 => "qib",
        17 => "efa",
        DRIVER_SIW => "siw",
        19 => "erdma",
        20 => "mana",
        21 => "ionic",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::queue_pair::{QpState, STATUS_FLUSHED};

    #[test]
    fn statuses_and_states_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = (0..STATUSES - 1).map(status_name).collect();
        assert_eq!(names.len(), STATUSES - 1);
        assert_eq!(status_name(STATUSES - 1), "OTHER");
        assert_eq!(status_name(STATUS_FLUSHED), "WR_FLUSH_ERR");
        let states: std::collections::BTreeSet<_> =
            (0..8).map(|number| QpState::from_number(number).as_str()).collect();
        assert_eq!(states.len(), 8);
    }
}
