use proptest::prelude::*;

use super::super::{
    Window,
    counts::{Counts, FinishedBlackout},
    windows::{MAX_BLACKOUTS, Windows, minute_of},
};

const NOW: i64 = 1_795_350_600;

fn counts(failed: u64) -> Counts {
    Counts { observed_seconds: 1, failed, ..Counts::default() }
}

#[test]
fn a_second_leaves_each_window_at_its_end() {
    let mut windows = Windows::default();
    windows.add(NOW, &counts(1));
    for window in Window::ALL {
        let failed = |now| windows.content(window, now).counts.failed;
        assert_eq!(failed(NOW), 1, "{window:?}");
        assert_eq!(failed(NOW + window.seconds() - 1), 1, "{window:?}");
        // One bucket later at the latest it is out.
        let bucket = if window == Window::Month { 3600 } else { 60 };
        assert_eq!(failed(NOW + window.seconds() + bucket), 0, "{window:?}");
    }
}

#[test]
fn what_comes_after_now_is_not_in_a_window() {
    let mut windows = Windows::default();
    windows.add(NOW + 3600, &counts(1));
    windows.add_blackout(NOW + 3600, FinishedBlackout { mode: None, seconds: 1.0 });
    let content = windows.content(Window::Day, NOW);
    assert_eq!((content.counts.failed, content.blackouts.len()), (0, 0));
}

#[test]
fn memory_is_bounded() {
    let mut windows = Windows::default();
    for second in 0..(MAX_BLACKOUTS as i64 + 5) {
        windows.add_blackout(NOW + second, FinishedBlackout { mode: None, seconds: second as f64 });
    }
    let end = NOW + MAX_BLACKOUTS as i64 + 4;
    let content = windows.content(Window::Month, end);
    assert_eq!(content.blackouts.len(), MAX_BLACKOUTS);
    // The oldest went.
    assert!(content.blackouts.iter().all(|blackout| blackout.seconds >= 5.0));
}

#[test]
fn forgetting_changes_no_window() {
    let mut kept = Windows::default();
    for hour in 0..(40 * 24) {
        kept.add(NOW - hour * 3600, &counts(1));
        kept.add_blackout(NOW - hour * 3600, FinishedBlackout { mode: None, seconds: hour as f64 });
    }
    let mut forgot = kept.clone();
    forgot.forget(NOW);
    for window in Window::ALL {
        assert_eq!(kept.content(window, NOW), forgot.content(window, NOW), "{window:?}");
    }
    // 30 days by the hour and a partial one, as the windows reach back to a bucket's begin.
    assert_eq!(forgot.content(Window::Month, NOW).counts.failed, 721);
}

proptest! {
    /// Whatever the order of arrival, a window holds exactly what lies between its first bucket's begin and now.
    #[test]
    fn windows_hold_what_lies_in_them(
        ages in proptest::collection::vec((0i64..40 * 86_400, 0u64..4), 0..80),
        offset in 0i64..7200,
    ) {
        let now = NOW + offset;
        let mut windows = Windows::default();
        for (age, failed) in &ages {
            windows.add(now - age, &counts(*failed));
            windows.add_blackout(now - age, FinishedBlackout { mode: None, seconds: *age as f64 });
        }
        windows.forget(now);
        for window in Window::ALL {
            let begin = now - window.seconds() + 1;
            let from = if window == Window::Month { begin.div_euclid(3600) * 3600 } else { minute_of(begin) };
            let inside = || ages.iter().filter(|(age, _)| now - age >= from);
            let content = windows.content(window, now);
            prop_assert_eq!(content.counts.failed, inside().map(|(_, failed)| failed).sum::<u64>());
            prop_assert_eq!(content.counts.observed_seconds, inside().count() as u64);
            prop_assert_eq!(content.blackouts.len(), inside().count());
        }
    }

    /// A longer window never holds less.
    #[test]
    fn windows_are_nested(ages in proptest::collection::vec(0i64..40 * 86_400, 0..80)) {
        let mut windows = Windows::default();
        for age in &ages {
            windows.add(NOW - age, &counts(1));
        }
        let sums: Vec<u64> = Window::ALL.iter().map(|window| windows.content(*window, NOW).counts.failed).collect();
        prop_assert!(sums.is_sorted(), "{:?}", sums);
    }

    /// Spans add up in any grouping.
    #[test]
    fn counts_add_up(parts in proptest::collection::vec(0u64..1000, 1..50), cut in 0usize..50) {
        let sum = |parts: &[u64]| {
            let mut sum = Counts::default();
            for part in parts {
                sum.add(&Counts { transferred_bytes: *part, completed: 1, ..Counts::default() });
            }
            sum
        };
        let (one, other) = parts.split_at(cut.min(parts.len()));
        let mut halves = sum(one);
        halves.add(&sum(other));
        prop_assert_eq!(halves, sum(&parts));
    }
}
