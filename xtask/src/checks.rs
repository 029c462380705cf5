//! Whether a migration's record agrees with QEMU's figures and with the kernel's socket counters.

use dwcp_observer_lab::migration::QemuFigures;
use dwcp_observer_lab::socket_totals::SocketTotals;
use dwcp_observer_model::record::{Migration, PhaseName, Role};

/// Largest difference between the record's duration and QEMU's total time, ms.
const DURATION_LIMIT_MS: f64 = 100.0;
/// Largest relative difference between delivered bytes and QEMU's `transferred`.
const BYTES_LIMIT: f64 = 0.005;

/// QEMU's downtime is the difference of two clock readings in whole ms, each cut off: it may be too long by less than this, ms
/// (`qemu_clock_get_ms` in `migration_calculate_complete`, migration/migration.c, 7.2).
const DOWNTIME_ROUNDING_MS: f64 = 1.0;
/// Largest relative difference between a blackout and the sum of its parts.
const PARTS_LIMIT: f64 = 0.01;

/// One comparison.
#[derive(Debug)]
pub(crate) struct Check {
    /// What is compared.
    pub(crate) name: &'static str,
    /// Whether it holds.
    pub(crate) passed: bool,
    /// The figures.
    pub(crate) detail: String,
}

/// All comparisons that the demo makes. `sockets` are the source's, `same_vm` is the number of
/// records about this VM.
pub(crate) fn compare(
    record: &Migration,
    same_vm: usize,
    qemu: &QemuFigures,
    sockets: &[SocketTotals],
) -> Vec<Check> {
    vec![
        one_record(record, same_vm),
        streams(record, sockets),
        duration(record, qemu),
        socket_bytes(record, sockets),
        transferred(record, qemu),
        blackout(record, qemu),
        rounds(record, qemu),
    ]
}

fn one_record(record: &Migration, same_vm: usize) -> Check {
    let ends = &record.ends;
    let has = |role| ends.iter().filter(|end| end.role == role).count() == 1;
    Check {
        name: "one record with both ends",
        passed: same_vm == 1 && ends.len() == 2 && has(Role::Source) && has(Role::Destination),
        detail: format!("{same_vm} record(s) of this VM, {} end(s)", ends.len()),
    }
}

fn streams(record: &Migration, sockets: &[SocketTotals]) -> Check {
    let seen = record.streams.len();
    Check {
        name: "every stream seen once",
        passed: seen == sockets.len(),
        detail: format!("{seen} streams, {} sockets at the source", sockets.len()),
    }
}

fn duration(record: &Migration, qemu: &QemuFigures) -> Check {
    let name = "duration within 100 ms of QEMU's total-time";
    let Some(total) = qemu.total_time_ms else {
        return Check { name, passed: false, detail: "a figure is missing".to_owned() };
    };
    let (observed, total) = (record.duration_seconds * 1000.0, whole(total));
    let difference = observed - total;
    Check {
        name,
        passed: difference.abs() <= DURATION_LIMIT_MS,
        detail: format!("{observed:.3} ms, QEMU {total:.0} ms: {difference:+.1} ms"),
    }
}

fn socket_bytes(record: &Migration, sockets: &[SocketTotals]) -> Check {
    let name = "delivered bytes equal to the sockets' own counters";
    let carried: u64 = sockets.iter().map(SocketTotals::payload_sent).sum();
    match record.bytes.map(|bytes| bytes.delivered) {
        None => Check { name, passed: false, detail: "the record has no such figure".to_owned() },
        Some(delivered) => Check {
            name,
            passed: delivered == carried,
            detail: format!("{delivered} B, sockets {carried} B"),
        },
    }
}

fn transferred(record: &Migration, qemu: &QemuFigures) -> Check {
    let name = "delivered bytes within 0.5 % of QEMU's transferred";
    match record.bytes.map(|bytes| bytes.delivered) {
        Some(delivered) if qemu.transferred > 0 => {
            let relative = (whole(delivered) - whole(qemu.transferred)) / whole(qemu.transferred);
            Check {
                name,
                passed: relative.abs() <= BYTES_LIMIT,
                detail: format!(
                    "{delivered} B, QEMU {} B: {:+.3} %",
                    qemu.transferred,
                    relative * 100.0
                ),
            }
        }
        _ => Check { name, passed: false, detail: "a figure is missing".to_owned() },
    }
}

/// From the guest's start to the end of the migration, ms. QEMU counts its downtime until the source has completed
/// (`migration_calculate_complete`, migration/migration.c, 7.2), and the guest may run at the destination before that.
fn completion_ms(record: &Migration) -> f64 {
    let completion = record.phases.iter().filter(|phase| phase.phase == PhaseName::Completion);
    completion.map(|phase| phase.seconds).sum::<f64>() * 1000.0
}

/// QEMU counts on the source alone. Its parts are the whole.
fn blackout(record: &Migration, qemu: &QemuFigures) -> Check {
    let name = "blackout complete, with the completion after it not below QEMU's downtime by a whole ms, equal to the sum of its parts";
    let breakdown = record.blackout.as_ref().and_then(|blackout| blackout.breakdown);
    let parts = breakdown.map(|parts| parts.sum());
    let (Some(seconds), Some(parts), Some(downtime)) =
        (record.blackout_seconds(), parts, qemu.downtime_ms)
    else {
        return Check { name, passed: false, detail: "a figure is missing".to_owned() };
    };
    let (observed, downtime) = (seconds * 1000.0, whole(downtime));
    Check {
        name,
        passed: observed + completion_ms(record) > downtime - DOWNTIME_ROUNDING_MS
            && (parts / seconds - 1.0).abs() <= PARTS_LIMIT,
        detail: format!(
            "{observed:.3} ms, QEMU {downtime:.0} ms, sum of the parts {:.3} ms",
            parts * 1000.0
        ),
    }
}

fn rounds(record: &Migration, qemu: &QemuFigures) -> Check {
    let seen = record.rounds.len();
    Check {
        name: "rounds over RAM equal to QEMU's dirty-sync-count",
        passed: u64::try_from(seen) == Ok(qemu.dirty_sync_count),
        detail: format!("{seen} rounds, QEMU {}", qemu.dirty_sync_count),
    }
}

/// Exact up to 2^53, far more than a migration's bytes or milliseconds.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn whole(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
pub(crate) mod tests {
    use dwcp_observer_model::record::BlackoutParts;
    use serde_json::json;

    use super::*;

    fn qemu() -> QemuFigures {
        QemuFigures {
            total_time_ms: Some(1000),
            transferred: 100_000,
            downtime_ms: Some(3),
            dirty_sync_count: 2,
            ..QemuFigures::default()
        }
    }

    fn sockets() -> Vec<SocketTotals> {
        let address = "127.0.0.1:1".parse().unwrap();
        vec![SocketTotals {
            local: address,
            peer: address,
            bytes_acked: 100_402,
            bytes_received: 0,
            bytes_sent: 100_700,
            bytes_retrans: 300,
            segments_retransmitted: 1,
            min_rtt_us: 9,
            busy_us: 9,
            rwnd_limited_us: 9,
            sndbuf_limited_us: 9,
        }]
    }

    pub(crate) fn record() -> Migration {
        let at = "2026-11-22T12:30:00Z";
        let round = json!({ "round": 1, "started_at": at, "seconds": 0.5 });
        serde_json::from_value(json!({
            "id": "1-1-1",
            "state": "finished",
            "migrator": "qemu",
            "confidence": 1.0,
            "found_under_way": false,
            "started_at": at,
            "observed_from": at,
            "duration_seconds": 1.0999,
            "bytes": { "queued": 0, "delivered": 100_400, "received": 0, "retransmitted": 0 },
            "ends": [
                { "role": "source", "pid": 1, "comm": "qemu" },
                { "role": "destination", "pid": 2, "comm": "qemu" },
            ],
            "streams": [{ "role": "main", "local": "a", "peer": "b", "started_at": at }],
            "blackout": {
                "seconds": 0.004, "method": "phase_functions", "complete": true, "by_method": {},
                "breakdown": { "stop": 0.001, "ram": 0.003 },
            },
            "rounds": [round, round],
        }))
        .unwrap()
    }

    fn shorter(record: &mut Migration, seconds: f64) {
        let blackout = record.blackout.as_mut().unwrap();
        blackout.seconds = Some(seconds);
        blackout.breakdown = Some(BlackoutParts { ram: Some(seconds), ..BlackoutParts::default() });
    }

    /// The first word of what fails: what it is about.
    fn failed(record: &Migration, same_vm: usize) -> Vec<&'static str> {
        let checks = compare(record, same_vm, &qemu(), &sockets());
        let failed = checks.iter().filter(|check| !check.passed);
        failed.filter_map(|check| check.name.split(' ').next()).collect()
    }

    #[test]
    fn a_true_record_passes() {
        assert_eq!(failed(&record(), 1), Vec::<&str>::new());
    }

    #[test]
    fn each_wrong_figure_fails_its_check() {
        let with = |change: fn(&mut Migration)| {
            let mut record = record();
            change(&mut record);
            record
        };
        assert_eq!(failed(&record(), 2), ["one"]);
        let one_end = with(|record| record.ends.truncate(1));
        assert_eq!(failed(&one_end, 1), ["one"]);
        let twice = with(|record| record.streams.extend(record.streams.clone()));
        assert_eq!(failed(&twice, 1), ["every"]);
        let late = with(|record| record.duration_seconds = 1.1001);
        assert_eq!(failed(&late, 1), ["duration"]);
        let off_by_one = with(|record| record.bytes.as_mut().unwrap().delivered = 100_401);
        assert_eq!(failed(&off_by_one, 1), ["delivered"]);
        let far = with(|record| record.bytes.as_mut().unwrap().delivered = 100_501);
        assert_eq!(failed(&far, 1).len(), 2);
        let cut_off = with(|record| shorter(record, 0.0021));
        assert_eq!(failed(&cut_off, 1), Vec::<&str>::new());
        assert_eq!(failed(&with(|record| shorter(record, 0.002)), 1), ["blackout"]);
        let parts = with(|record| {
            let blackout = record.blackout.as_mut().unwrap();
            blackout.breakdown.as_mut().unwrap().ram = Some(0.0029);
        });
        assert_eq!(failed(&parts, 1), ["blackout"]);
        let half = with(|record| record.blackout.as_mut().unwrap().seconds = None);
        assert_eq!(failed(&half, 1), ["blackout"]);
        let fewer = with(|record| record.rounds.truncate(1));
        assert_eq!(failed(&fewer, 1), ["rounds"]);
        let nothing = with(|record| {
            (record.bytes, record.blackout) = (None, None);
            (record.ends, record.streams, record.rounds) = Default::default();
        });
        let about = failed(&nothing, 1);
        assert_eq!(about, ["one", "every", "delivered", "delivered", "blackout", "rounds"]);
    }
}
