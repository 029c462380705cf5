//! `dwcp-observer join`: combines the records of the observers of two hosts into the blackout of one migration.

use std::{io::Write as _, process::ExitCode};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::client::{Url, get};

/// A connection key can repeat. The halves of one migration start within this time, plus the error of the clocks.
const SAME_START: SignedDuration = SignedDuration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  dwcp-observer join http://node1:8080 http://node2:8080          blackouts of migrations between the two hosts
  dwcp-observer join http://node1:8080 http://node2:8080 --json

Each observer measures the half on its host: when the guest stopped, or when it ran again. Both derive the same key from the addresses
of the main connection, so NAT between the hosts prevents the join. The length is the difference between two clocks. Its error bound is
the sum of both kernels' maximum clock errors (adjtimex(2), maxerror); it is unknown if a clock is not synchronised.

Exit codes: 0 joined at least one migration; 1 joined none, or an observer does not answer; 2 wrong arguments.";

/// Combine the records of two hosts into the blackouts of the migrations between them
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct JoinArgs {
    /// URL of the observer on one host
    #[arg(value_parser = Url::parse)]
    first: Url,
    /// URL of the observer on the other host
    #[arg(value_parser = Url::parse)]
    second: Url,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A migration between two hosts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Joined {
    /// Names the main connection.
    pub connection_key: String,
    /// Record of the source's observer.
    pub source_id: String,
    /// Record of the destination's observer.
    pub destination_id: String,
    /// When the guest last ran at the source, by the source's clock.
    pub stopped_at: Timestamp,
    /// When it ran at the destination, by the destination's clock.
    pub started_at: Timestamp,
    /// The difference; negative if the clocks differ by more than the blackout.
    pub seconds: f64,
    /// Largest error of the difference; absent if a clock is not synchronised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_seconds: Option<f64>,
}

/// Runs the command.
///
/// # Errors
/// When an observer does not answer. The message is one line.
pub fn run(args: &JoinArgs) -> anyhow::Result<ExitCode> {
    let lists = [&args.first, &args.second].map(|url| get(url, "/api/v1/migrations"));
    let [first, second] = lists;
    let joined = join(&first?.value, &second?.value);
    let mut output = String::new();
    if args.json {
        output = format!("{}\n", serde_json::to_string(&joined)?);
    } else {
        for found in &joined {
            output.push_str(&line(found));
        }
        if joined.is_empty() {
            output.push_str("no migration is known to both observers\n");
        }
    }
    std::io::stdout().write_all(output.as_bytes())?;
    Ok(if joined.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(joined: &Joined) -> String {
    let bound = joined.bound_seconds.map_or_else(
        || "error bound unknown: a clock is not synchronised".to_owned(),
        |bound| format!("+- {:.3} ms", bound * 1e3),
    );
    format!(
        "{}  blackout {:.3} ms ({bound})  source {}  destination {}\n",
        joined.connection_key,
        joined.seconds * 1e3,
        joined.source_id,
        joined.destination_id,
    )
}

/// The half of a blackout that one record holds.
struct Half<'a> {
    record: &'a Value,
    key: &'a str,
    began: Timestamp,
    at: Timestamp,
    clock_error: Option<f64>,
}

/// Joins the records of two observers. Either may be the source's.
#[must_use]
pub fn join(first: &Value, second: &Value) -> Vec<Joined> {
    let records = |list: &Value| -> Vec<Value> {
        list.get("migrations").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let (first, second) = (records(first), records(second));
    let mut joined = Vec::new();
    for (sources, destinations) in [(&first, &second), (&second, &first)] {
        let destinations: Vec<Half<'_>> =
            destinations.iter().filter_map(|record| half(record, "destination")).collect();
        for source in sources.iter().filter_map(|record| half(record, "source")) {
            let other = destinations
                .iter()
                .filter(|other| other.key == source.key)
                .min_by_key(|other| apart(source.began, other.began));
            joined.extend(other.and_then(|destination| pair(&source, destination)));
        }
    }
    joined
}

fn apart(left: Timestamp, right: Timestamp) -> SignedDuration {
    left.duration_since(right).abs()
}

fn pair(source: &Half<'_>, destination: &Half<'_>) -> Option<Joined> {
    let bound_seconds = source.clock_error.zip(destination.clock_error).map(|(a, b)| a + b);
    let slack = SignedDuration::try_from_secs_f64(bound_seconds.unwrap_or_default()).ok()?;
    if apart(source.began, destination.began) > SAME_START.checked_add(slack)? {
        return None;
    }
    let id = |half: &Half<'_>| {
        half.record.get("id").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    Some(Joined {
        connection_key: source.key.to_owned(),
        source_id: id(source),
        destination_id: id(destination),
        stopped_at: source.at,
        started_at: destination.at,
        seconds: destination.at.duration_since(source.at).as_secs_f64(),
        bound_seconds,
    })
}

/// The half that the record holds, if it is this one.
fn half<'a>(record: &'a Value, wanted: &str) -> Option<Half<'a>> {
    let blackout = record.get("blackout")?;
    if blackout.get("half").and_then(Value::as_str) != Some(wanted) {
        return None;
    }
    let time = |value: Option<&Value>| value.and_then(Value::as_str)?.parse::<Timestamp>().ok();
    let instant = if wanted == "source" { "stopped_at" } else { "started_at" };
    Some(Half {
        record,
        key: record.get("connection_key").and_then(Value::as_str)?,
        began: time(record.get("started_at"))?,
        at: time(blackout.get(instant))?,
        clock_error: blackout.get("clock_error_seconds").and_then(Value::as_f64),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "tcp:10.0.0.1:40000>10.0.0.2:49152";

    fn record(half: &str, began: &str, at: &str, error: Option<f64>) -> Value {
        let instant = if half == "source" { "stopped_at" } else { "started_at" };
        let mut blackout = json!({ "complete": false, "half": half, "method": "phase_functions" });
        blackout[instant] = at.into();
        if let Some(error) = error {
            blackout["clock_error_seconds"] = error.into();
        }
        json!({ "id": format!("{half}-1"), "connection_key": KEY, "started_at": began, "blackout": blackout })
    }

    fn list(records: &[Value]) -> Value {
        json!({ "migrations": records })
    }

    #[test]
    fn two_halves_are_one_blackout_with_a_bound() {
        let source =
            record("source", "2026-11-22T12:00:00Z", "2026-11-22T12:00:05.000000Z", Some(0.001));
        let destination = record(
            "destination",
            "2026-11-22T12:00:00.5Z",
            "2026-11-22T12:00:05.004250Z",
            Some(0.0005),
        );
        for lists in [
            [list(std::slice::from_ref(&source)), list(std::slice::from_ref(&destination))],
            [list(&[destination]), list(&[source])],
        ] {
            let joined = join(&lists[0], &lists[1]);
            assert_eq!(joined.len(), 1);
            assert!((joined[0].seconds - 0.00425).abs() < 1e-9, "{:?}", joined[0]);
            assert_eq!(joined[0].bound_seconds, Some(0.0015));
            assert_eq!(joined[0].source_id, "source-1");
            assert!(line(&joined[0]).contains("blackout 4.250 ms (+- 1.500 ms)"));
        }
    }

    #[test]
    fn without_synchronised_clocks_the_bound_is_unknown() {
        let source = record("source", "2026-11-22T12:00:00Z", "2026-11-22T12:00:05Z", None);
        let destination =
            record("destination", "2026-11-22T12:00:00Z", "2026-11-22T12:00:06Z", Some(0.1));
        let joined = join(&list(&[source]), &list(&[destination]));
        assert_eq!(joined[0].bound_seconds, None);
        assert!(line(&joined[0]).contains("bound unknown"));
    }

    #[test]
    fn a_port_that_was_used_again_is_not_joined() {
        let source = record("source", "2026-11-22T12:00:00Z", "2026-11-22T12:00:05Z", None);
        let later =
            record("destination", "2026-11-22T12:10:00Z", "2026-11-22T12:10:05Z", Some(0.1));
        assert_eq!(join(&list(std::slice::from_ref(&source)), &list(&[later])), []);
        // A complete blackout needs no join, and what is no list has none.
        assert_eq!(join(&list(std::slice::from_ref(&source)), &list(&[source])), []);
        assert_eq!(join(&json!(null), &json!({"migrations": [{}, 7]})), []);
    }
}
