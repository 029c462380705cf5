//! Evidence, and the confidence that follows from it.

use crate::model::record::{Evidence, Role};

/// No sum of evidence gets beyond this: an observer is never certain.
pub const MAX_CONFIDENCE: f64 = 0.99;

/// Confidence of independent evidence: `1 - (1 - w1)(1 - w2)...`, at most [`MAX_CONFIDENCE`]. Weights are cut to 0..=1.
#[must_use]
pub fn confidence(evidence: &[Evidence]) -> f64 {
    let doubt: f64 = evidence
        .iter()
        .filter_map(|evidence| evidence.weight)
        .map(|weight| 1.0 - weight.clamp(0.0, 1.0))
        .product();
    (1.0 - doubt).min(MAX_CONFIDENCE)
}

/// The case for one flow. Evidence about the process alone supports, but never decides.
#[derive(Debug, Default)]
pub(super) struct Case {
    pub(super) evidence: Vec<Evidence>,
    pub(super) decided: bool,
    pub(super) role: Option<Role>,
}

impl Case {
    /// What makes a migration more likely, but says nothing of this flow.
    pub(super) fn support(&mut self, kind: &str, detail: String, weight: f64) {
        self.evidence.push(Evidence { kind: kind.to_owned(), detail, weight: Some(weight) });
    }

    /// What tells this flow from others of such a process.
    pub(super) fn decide(&mut self, kind: &str, detail: String, weight: f64, role: Option<Role>) {
        self.support(kind, detail, weight);
        self.decided = true;
        self.role = self.role.or(role);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weighing(weights: &[f64]) -> f64 {
        let mut case = Case::default();
        for &weight in weights {
            case.support("comm", String::new(), weight);
        }
        confidence(&case.evidence)
    }

    #[test]
    fn evidence_adds_up() {
        assert!(weighing(&[]).abs() < 1e-12);
        assert!((weighing(&[0.3, 0.6]) - 0.72).abs() < 1e-12);
        assert!((weighing(&[0.9, 0.95, 0.9]) - MAX_CONFIDENCE).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn stays_a_confidence_and_never_falls(weights in prop::collection::vec(-1.0..2.0f64, 0..9), more in 0.0..1.0f64) {
            let before = weighing(&weights);
            let after = weighing(&[&weights[..], &[more]].concat());
            prop_assert!((0.0..=MAX_CONFIDENCE).contains(&before));
            prop_assert!(after >= before - 1e-12);
        }
    }
}
