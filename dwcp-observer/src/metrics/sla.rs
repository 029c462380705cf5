//! Metrics of service levels.

use prometheus::proto::MetricFamily;

use super::{exporter::mode_label, family::Family, table};
use crate::sla::{SlaType, View, Window, decide::GoNoGo};

/// What has nothing to judge is missing.
pub(super) fn sla(view: &View, families: &mut Vec<MetricFamily>) {
    let mut compliance = Family::new(&table::SLA_COMPLIANCE);
    let mut value = Family::new(&table::SLA_VALUE);
    let mut remaining = Family::new(&table::BUDGET_REMAINING);
    let mut burn = Family::new(&table::BURN_RATE);
    let mut p95 = Family::new(&table::BLACKOUT_P95);
    let mut p99 = Family::new(&table::BLACKOUT_P99);
    for levels in &view.windows {
        let window = levels.window.as_str();
        for sla in SlaType::ALL {
            let level = levels.level(sla);
            if levels.window == Window::Hour
                && let Some(compliant) = level.compliant
            {
                compliance.add(&[sla.as_str(), sla.metric()], f64::from(u8::from(compliant)));
            }
            value.add_some(&[sla.as_str(), window], level.value);
            remaining.add_some(&[sla.as_str(), window], level.budget.map(|it| it.remaining_ratio));
            burn.add_some(&[sla.as_str(), window], level.budget.map(|budget| budget.burn_rate));
        }
        for mode in &levels.latency_by_mode {
            p95.add(&[mode_label(mode.mode), window], mode.p95_seconds);
            p99.add(&[mode_label(mode.mode), window], mode.p99_seconds);
        }
    }
    let mut violations = Family::new(&table::SLA_VIOLATIONS);
    for (sla, minutes) in SlaType::ALL.into_iter().zip(view.violation_minutes) {
        violations.add(&[sla.as_str()], minutes as f64);
    }
    let mut decision = Family::new(&table::GO_NO_GO);
    for word in GoNoGo::ALL {
        let now = view.decision.decision == word;
        decision.add(&[word.as_str()], f64::from(u8::from(now)));
    }
    for family in [compliance, value, remaining, burn, p95, p99, violations, decision] {
        family.finish(families);
    }
}
