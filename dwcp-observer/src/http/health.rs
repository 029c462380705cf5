//! `/health` and `/ready`: whether the observer can measure.

use std::time::Duration;

use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cycle::published::Published;

/// A cycle older than this is no sign of life.
const STALE: Duration = Duration::from_secs(5);

/// The answer of `/health`: 503 with a reason when nothing can be measured.
pub(super) fn health(published: Option<&Published>, now: Timestamp) -> (StatusCode, Value) {
    let (status, word, reason) = match judge(published, now) {
        Judgement::Healthy => (StatusCode::OK, "healthy", None),
        Judgement::Degraded(reason) => (StatusCode::OK, "degraded", Some(reason)),
        Judgement::Unhealthy(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, "unhealthy", Some(reason))
        }
    };
    let mut body = json!({
        "status": word,
        "timestamp": now.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    if let Some(published) = published {
        let uptime = elapsed(published.started_at, now);
        // The contract's `uptime` is an integer of nanoseconds.
        body["uptime"] = u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX).into();
        body["uptime_seconds"] = uptime.as_secs_f64().into();
        body["probes"] = json!(published.kernel.probes);
    }
    (status, body)
}

/// The body alone, for the report.
#[must_use]
pub fn health_body(published: &Published, now: Timestamp) -> Value {
    health(Some(published), now).1
}

enum Judgement {
    Healthy,
    Degraded(String),
    Unhealthy(String),
}

fn judge(published: Option<&Published>, now: Timestamp) -> Judgement {
    let Some(published) = published else {
        return Judgement::Unhealthy("no cycle has been completed yet".to_owned());
    };
    let age = elapsed(published.at, now);
    if is_stale(published, now) {
        return Judgement::Unhealthy(format!(
            "the last cycle ended {:.1} s ago: the collector hangs, or the host is overloaded",
            age.as_secs_f64()
        ));
    }
    if let Some(text) = published.kernel.blind() {
        return Judgement::Unhealthy(text);
    }
    let kernel = &published.kernel;
    let faults = [kernel.full(), kernel.partly_blind(), published.history.state.fault()];
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    if faults.is_empty() { Judgement::Healthy } else { Judgement::Degraded(faults.join("; ")) }
}

/// Whether the last cycle is too long ago to be a sign of life.
pub(super) fn is_stale(published: &Published, now: Timestamp) -> bool {
    // With a longer period three missed cycles are the sign.
    elapsed(published.at, now) > STALE.max(published.cycle.period * 3)
}

/// Time since `from`; zero when the clock was set back.
fn elapsed(from: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(from)).unwrap_or_default()
}
