//! Decides go, caution or no-go: a pure function of plain values.

use serde::{Deserialize, Serialize};

use super::{SlaType, Window, judge::Level, judge::Levels};
use crate::{
    anomaly::Severity,
    model::verdict::{Cause, Health},
};

/// Burn rate over an hour and over 5 minutes that spends 2 % of a 30-day budget in an hour (Google, Site Reliability Workbook, ch. 5).
const FAST_BURN: f64 = 14.4;
/// Burn rate over a day that spends a tenth of a 30-day budget in that day.
const SLOW_BURN: f64 = 3.0;
/// A single bad event is bad luck as long as it stands alone.
const PATTERN: u64 = 2;
/// Of the three service levels of the contract, this many in violation stop a rollout.
const TOO_MANY: usize = 2;
/// Kinds of critical anomalies at a time that stop a rollout (contract: `DWCPv3MultipleAnomalies`).
const TOO_MANY_KINDS: usize = 3;

crate::model::named! {
    /// The answer, from best to worst.
    #[derive(Default)]
    pub enum GoNoGo {
        /// Go on.
        #[default]
        Go = "go",
        /// Go on only with somebody watching.
        Caution = "caution",
        /// Stop.
        NoGo = "no-go",
    }
}

/// One reason and how far it goes alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Never [`GoNoGo::Go`].
    pub level: GoNoGo,
    /// One line, with figures.
    pub text: String,
}

/// The answer and its reasons, worst first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The worst of the reasons' levels; go without any.
    pub decision: GoNoGo,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// An anomaly that lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    /// The label `anomaly_type`: `latency`, `throughput`, ...
    pub anomaly_type: String,
    /// How bad.
    pub severity: Severity,
    /// Metric, value, expected band, method: one line.
    pub why: String,
}

/// A component that is not healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unhealthy {
    /// `amst`, `hde`, ...
    pub component: String,
    /// What was found.
    pub why: String,
}

/// A running migration and its verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Running<'a> {
    /// Its VM's name, else its id.
    pub name: &'a str,
    /// How it goes.
    pub health: Health,
    /// Why.
    pub cause: Option<Cause>,
}

/// What the decision rests on.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// One per window.
    pub windows: &'a [Levels],
    /// Active anomalies; none when no detector runs.
    pub anomalies: &'a [Anomaly],
    /// Components that are not healthy.
    pub unhealthy: &'a [Unhealthy],
    /// Running migrations.
    pub running: &'a [Running<'a>],
    /// Why the observer cannot measure, when it cannot.
    pub blind: Option<&'a str>,
}

/// Decides.
#[must_use]
pub fn decide(situation: &Situation<'_>) -> Decision {
    let mut reasons = Vec::new();
    let mut say = |level, text: String| reasons.push(Reason { level, text });
    if let Some(why) = situation.blind {
        say(GoNoGo::Caution, format!("the observer cannot measure: {why}"));
    }
    violations(situation, &mut say);
    for sla in SlaType::ALL {
        burning(situation, sla, &mut say);
    }
    for component in situation.unhealthy {
        say(GoNoGo::NoGo, format!("component {}: {}", component.component, component.why));
    }
    anomalies(situation.anomalies, &mut say);
    for running in situation.running {
        let how = match running.health {
            Health::Stalled => "is stalled",
            Health::NotConverging => "does not converge",
            Health::Healthy | Health::Slow => continue,
        };
        let cause = running.cause.map_or("unknown", Cause::as_str);
        say(GoNoGo::Caution, format!("migration {} {how} (cause: {cause})", running.name));
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.level));
    let decision = reasons.first().map_or(GoNoGo::Go, |reason| reason.level);
    Decision { decision, reasons }
}

fn level<'a>(situation: &Situation<'a>, window: Window, sla: SlaType) -> Option<&'a Level> {
    situation.windows.iter().find(|levels| levels.window == window).map(|levels| levels.level(sla))
}

/// What the last hour broke, and whether there was anything to judge in it.
fn violations(situation: &Situation<'_>, say: &mut impl FnMut(GoNoGo, String)) {
    let hour = |sla| level(situation, Window::Hour, sla).filter(|level| level.compliant.is_some());
    if hour(SlaType::Latency).is_none() && hour(SlaType::ErrorRate).is_none() {
        say(
            GoNoGo::Caution,
            "no migration finished in the last hour, so nothing supports a go".into(),
        );
    }
    let broken: Vec<(SlaType, &Level)> = SlaType::ALL
        .into_iter()
        .filter_map(|sla| Some((sla, hour(sla)?)))
        .filter(|(_, level)| level.compliant == Some(false))
        .collect();
    let of_contract = broken.iter().filter(|(sla, _)| *sla != SlaType::Availability).count();
    for (sla, level) in &broken {
        let counts = of_contract >= TOO_MANY && *sla != SlaType::Availability;
        let word = if counts { GoNoGo::NoGo } else { GoNoGo::Caution };
        say(word, format!("{} over the last hour: {}", name(*sla), measured(*sla, level)));
    }
}

/// How fast a budget goes, and whether it is gone.
fn burning(situation: &Situation<'_>, sla: SlaType, say: &mut impl FnMut(GoNoGo, String)) {
    let rate = |window| level(situation, window, sla)?.budget.map(|budget| budget.burn_rate);
    let bad = |window| level(situation, window, sla).map_or(0, |level| level.bad_events);
    // Slow transfers are a matter of speed, not of harm: they alone stop nothing.
    let worst = if sla == SlaType::Throughput { GoNoGo::Caution } else { GoNoGo::NoGo };
    if let (Some(hour), Some(minutes)) = (rate(Window::Hour), rate(Window::FiveMinutes))
        && hour >= FAST_BURN
        && minutes >= FAST_BURN
    {
        let word = if bad(Window::FiveMinutes) >= PATTERN { worst } else { GoNoGo::Caution };
        let text = format!(
            "error budget of {} burns {hour:.1} times too fast over the last hour, {minutes:.1} times over 5 minutes",
            name(sla)
        );
        say(word, text);
    } else if let Some(day) = rate(Window::Day)
        && day >= SLOW_BURN
        && bad(Window::Day) >= PATTERN
    {
        let text =
            format!("error budget of {} burns {day:.1} times too fast over 24 hours", name(sla));
        say(GoNoGo::Caution, text);
    }
    let Some(month) = level(situation, Window::Month, sla) else { return };
    let Some(budget) = month.budget.filter(|budget| budget.remaining_ratio <= 0.0) else { return };
    let broken = level(situation, Window::Hour, sla).and_then(|hour| hour.compliant) == Some(false);
    let word = if broken && month.bad_events >= PATTERN { worst } else { GoNoGo::Caution };
    let text = format!(
        "error budget of {} over 30 days is used up: {} of {} bad, {:.1} times the allowed share",
        name(sla),
        month.bad_events,
        month.events,
        budget.burn_rate
    );
    say(word, text);
}

fn anomalies(anomalies: &[Anomaly], say: &mut impl FnMut(GoNoGo, String)) {
    let mut critical: Vec<&str> = anomalies
        .iter()
        .filter(|anomaly| anomaly.severity == Severity::Critical)
        .map(|anomaly| anomaly.anomaly_type.as_str())
        .collect();
    critical.sort_unstable();
    critical.dedup();
    for anomaly in anomalies {
        let stops = anomaly.severity == Severity::Critical && critical.len() >= TOO_MANY_KINDS;
        let word = if stops { GoNoGo::NoGo } else { GoNoGo::Caution };
        say(word, format!("anomaly {}: {}", anomaly.anomaly_type, anomaly.why));
    }
}

/// What a service level is called in a sentence.
#[must_use]
pub const fn name(sla: SlaType) -> &'static str {
    match sla {
        SlaType::Latency => "latency",
        SlaType::Throughput => "throughput",
        SlaType::ErrorRate => "error rate",
        SlaType::Availability => "availability",
    }
}

/// The figure and its limit, for a reader.
#[must_use]
pub fn measured(sla: SlaType, level: &Level) -> String {
    let value = level.value.unwrap_or(f64::NAN);
    let target = level.target;
    match sla {
        SlaType::Latency => format!(
            "p99 blackout {:.1} ms, limit {:.0} ms ({} of {} migrations at or above the limit)",
            value * 1e3,
            target * 1e3,
            level.bad_events,
            level.events
        ),
        SlaType::Throughput => format!(
            "{:.3} GB/s on average, target {:.3} GB/s ({} of {} transfer seconds slower)",
            value / 1e9,
            target / 1e9,
            level.bad_events,
            level.events
        ),
        SlaType::ErrorRate => format!(
            "{:.2} % of migrations failed, limit {:.2} % ({} of {})",
            value * 1e2,
            target * 1e2,
            level.bad_events,
            level.events
        ),
        SlaType::Availability => format!(
            "{:.3} % of the judged seconds, target {:.3} % ({} of {} down)",
            value * 1e2,
            target * 1e2,
            level.bad_events,
            level.events
        ),
    }
}
