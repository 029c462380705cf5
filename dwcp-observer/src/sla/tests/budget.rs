use proptest::prelude::*;

use super::{
    super::{
        SlaType, Window,
        counts::{Counts, FinishedBlackout},
        judge::{Budget, judge, nearest_rank},
        windows::Content,
    },
    blackout,
};
use crate::config::Targets;
use crate::model::record::{Mode, Outcome};

fn content(counts: Counts, blackouts: Vec<FinishedBlackout>) -> Content {
    Content { counts, blackouts }
}

#[test]
fn nothing_to_judge_gives_no_verdict() {
    let levels = judge(Window::Hour, &content(Counts::default(), vec![]), &Targets::default());
    for sla in SlaType::ALL {
        let level = levels.level(sla);
        assert_eq!((level.compliant, level.value, level.budget), (None, None, None), "{sla:?}");
    }
    let json = serde_json::to_value(levels.latency).unwrap();
    assert!(json.get("compliant").is_none() && json.get("burn_rate").is_none(), "{json}");
}

#[test]
fn each_mode_has_its_own_limit() {
    let judged = |blackouts| {
        judge(Window::Hour, &content(Counts::default(), blackouts), &Targets::default()).latency
    };
    // 30 s are fine over the internet, and would be a disaster within a data centre.
    let fine = judged(vec![blackout(Mode::Internet, 30.0), blackout(Mode::Datacenter, 0.499)]);
    assert_eq!(fine.compliant, Some(true));
    let bad = judged(vec![blackout(Mode::Internet, 30.0), blackout(Mode::Datacenter, 0.5)]);
    assert_eq!((bad.compliant, bad.value, bad.target), (Some(false), Some(0.5), 0.5));
    assert_eq!((bad.events, bad.bad_events), (2, 1));
    // A mode that is not known is judged by the strictest limit.
    assert_eq!(judged(vec![FinishedBlackout { mode: None, seconds: 0.6 }]).compliant, Some(false));
}

#[test]
fn a_p99_is_a_p99() {
    let of = |bad: usize, good: usize| {
        let mut blackouts = vec![blackout(Mode::Datacenter, 0.1); good];
        blackouts.extend(vec![blackout(Mode::Datacenter, 9.0); bad]);
        judge(Window::Hour, &content(Counts::default(), blackouts), &Targets::default()).latency
    };
    assert_eq!(of(1, 99).compliant, Some(true), "the mean would say no");
    assert_eq!(of(2, 99).compliant, Some(false));
    assert_eq!(of(1, 98).compliant, Some(false));
}

#[test]
fn limits_are_where_the_contract_has_them() {
    let judged = |counts| judge(Window::Hour, &content(counts, vec![]), &Targets::default());
    let errors = |failed, completed| {
        judged(Counts { failed, completed, ..Counts::default() }).error_rate.compliant
    };
    // "< 1 %".
    assert_eq!((errors(1, 99), errors(1, 100)), (Some(false), Some(true)));
    let rate = |transferred_bytes| {
        let counts = Counts { transfer_seconds: 1, transferred_bytes, ..Counts::default() };
        judged(counts).throughput.compliant
    };
    // ">= 2.4e9".
    assert_eq!((rate(2_400_000_000), rate(2_399_999_999)), (Some(true), Some(false)));
    let up = |down_seconds| {
        let counts = Counts { judged_seconds: 1000, down_seconds, ..Counts::default() };
        judged(counts).availability.compliant
    };
    // "> 99.9 %".
    assert_eq!((up(0), up(1)), (Some(true), Some(false)));
}

#[test]
fn cancelled_and_unknown_ends_count_as_finished_not_as_failed() {
    let mut counts = Counts::default();
    for outcome in Outcome::ALL {
        counts.finish(outcome);
    }
    let level = judge(Window::Day, &content(counts, vec![]), &Targets::default()).error_rate;
    assert_eq!((level.events, level.bad_events, level.value), (4, 1, Some(0.25)));
}

proptest! {
    /// Spent exactly when as many were bad as may be; more bad never leaves more.
    #[test]
    fn budgets_are_consistent(events in 1u64..1_000_000, bad in 0u64..1_000_000, allowed in 0.0001f64..0.5) {
        let bad = bad.min(events);
        let budget = Budget::new(events, bad, allowed).unwrap();
        prop_assert!((budget.remaining_ratio + budget.burn_rate - 1.0).abs() < 1e-9);
        prop_assert!((budget.burn_rate * allowed * events as f64 - bad as f64).abs() < 1e-6 * events as f64);
        prop_assert_eq!(budget.burn_rate == 0.0, bad == 0);
        if bad < events {
            prop_assert!(Budget::new(events, bad + 1, allowed).unwrap().remaining_ratio < budget.remaining_ratio);
        }
        // Good events give back budget.
        prop_assert!(Budget::new(events + 1, bad, allowed).unwrap().burn_rate <= budget.burn_rate);
    }

    /// The p99 is below its limit exactly when at most a hundredth, rounded down, is not.
    #[test]
    fn the_p99_and_its_budget_agree(seconds in proptest::collection::vec(0.0f64..1.0, 1..400)) {
        let bad = seconds.iter().filter(|seconds| **seconds >= 0.5).count();
        let blackouts = seconds.iter().map(|seconds| blackout(Mode::Datacenter, *seconds)).collect();
        let level = judge(Window::Hour, &content(Counts::default(), blackouts), &Targets::default()).latency;
        prop_assert_eq!(level.compliant, Some(bad <= seconds.len() / 100));
        prop_assert_eq!(level.bad_events as usize, bad);
        if level.compliant == Some(true) {
            prop_assert!(level.budget.unwrap().remaining_ratio >= -1e-9);
        }
    }

    #[test]
    fn nearest_rank_is_a_value_with_enough_below(mut values in proptest::collection::vec(0.0f64..10.0, 1..200), percent in 1usize..=100) {
        values.sort_unstable_by(f64::total_cmp);
        let found = nearest_rank(&values, percent).unwrap();
        let at_most = values.iter().filter(|value| **value <= found).count();
        let less = values.iter().filter(|value| **value < found).count();
        prop_assert!(at_most * 100 >= values.len() * percent);
        prop_assert!(less * 100 < values.len() * percent);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_blackouts(seconds in proptest::collection::vec(0.0f64..1.0, 1..400)) {
        let blackouts = seconds.iter().map(|&seconds| FinishedBlackout { mode: Some(Mode::Datacenter), seconds }).collect();
        let content = Content { counts: Counts::default(), blackouts };
        let levels = judge(Window::Hour, &content, &Targets::default());
        let mut sorted = seconds;
        sorted.sort_unstable_by(f64::total_cmp);
        let found = levels.latency_by_mode[0];
        let rank = |percent| nearest_rank(&sorted, percent).unwrap();
        prop_assert_eq!(
            [found.p50_seconds, found.p95_seconds, found.p99_seconds, found.max_seconds],
            [rank(50), rank(95), rank(99), sorted[sorted.len() - 1]]
        );
        let above = sorted.iter().filter(|seconds| **seconds >= 0.5).count() as u64;
        prop_assert_eq!((found.migrations, found.above), (sorted.len() as u64, above));
    }
}
