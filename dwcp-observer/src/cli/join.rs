//! `dwcp-observer join`: combines the records of the observers of two hosts into the blackout of one migration.

use std::{io::Write as _, process::ExitCode};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::client::{Url, get};
use crate::model::record::{List, Migration, Role};

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
    let [first, second] = [&args.first, &args.second]
        .map(|url| get(url, "/api/v1/migrations").and_then(|body| body.read::<List>()));
    let joined = join(&first?.migrations, &second?.migrations);
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
    record: &'a Migration,
    key: &'a str,
    at: Timestamp,
    clock_error: Option<f64>,
}

/// Joins the records of two observers. Either may be the source's.
#[must_use]
pub fn join(first: &[Migration], second: &[Migration]) -> Vec<Joined> {
    let mut joined = Vec::new();
    for (sources, destinations) in [(first, second), (second, first)] {
        let destinations: Vec<Half<'_>> =
            destinations.iter().filter_map(|record| half(record, Role::Destination)).collect();
        for source in sources.iter().filter_map(|record| half(record, Role::Source)) {
            let other = destinations
                .iter()
                .filter(|other| other.key == source.key)
                .min_by_key(|other| apart(&source, other));
            joined.extend(other.and_then(|destination| pair(&source, destination)));
        }
    }
    joined
}

/// Between the begins.
fn apart(left: &Half<'_>, right: &Half<'_>) -> SignedDuration {
    left.record.started_at.duration_since(right.record.started_at).abs()
}

fn pair(source: &Half<'_>, destination: &Half<'_>) -> Option<Joined> {
    let bound_seconds = source.clock_error.zip(destination.clock_error).map(|(a, b)| a + b);
    let slack = SignedDuration::try_from_secs_f64(bound_seconds.unwrap_or_default()).ok()?;
    if apart(source, destination) > SAME_START.checked_add(slack)? {
        return None;
    }
    Some(Joined {
        connection_key: source.key.to_owned(),
        source_id: source.record.id.clone(),
        destination_id: destination.record.id.clone(),
        stopped_at: source.at,
        started_at: destination.at,
        seconds: destination.at.duration_since(source.at).as_secs_f64(),
        bound_seconds,
    })
}

/// The half that the record holds, if it is this one.
fn half(record: &Migration, wanted: Role) -> Option<Half<'_>> {
    let blackout = record.blackout.as_ref().filter(|blackout| blackout.half == Some(wanted))?;
    let at = match wanted {
        Role::Source => blackout.stopped_at,
        Role::Destination => blackout.started_at,
    };
    Some(Half {
        record,
        key: record.connection_key.as_deref()?,
        at: at?,
        clock_error: blackout.clock_error_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::sample,
        model::record::{Blackout, Method, Outcome},
    };

    fn record(half: Role, began: &str, at: &str, error: Option<f64>) -> Migration {
        let mut record = sample::active(&format!("{}-1", half.as_str()));
        record.started_at = began.parse().unwrap();
        let instant = |end: Role| (end == half).then(|| at.parse().unwrap());
        record.blackout = Some(Blackout {
            seconds: None,
            method: Method::PhaseFunctions,
            complete: false,
            half: Some(half),
            incomplete: None,
            stopped_at: instant(Role::Source),
            started_at: instant(Role::Destination),
            ran_on_at_source: false,
            by_method: Default::default(),
            breakdown: None,
            clock_error_seconds: error,
        });
        record
    }

    #[test]
    fn two_halves_are_one_blackout_with_a_bound() {
        let source = record(
            Role::Source,
            "2026-11-22T12:00:00Z",
            "2026-11-22T12:00:05.000000Z",
            Some(0.001),
        );
        let destination = record(
            Role::Destination,
            "2026-11-22T12:00:00.5Z",
            "2026-11-22T12:00:05.004250Z",
            Some(0.0005),
        );
        for lists in [[&source, &destination], [&destination, &source]] {
            let [first, second] = lists.map(std::slice::from_ref);
            let joined = join(first, second);
            assert_eq!(joined.len(), 1);
            assert!((joined[0].seconds - 0.00425).abs() < 1e-9, "{:?}", joined[0]);
            assert_eq!(joined[0].bound_seconds, Some(0.0015));
            assert_eq!(joined[0].source_id, "source-1");
            assert!(line(&joined[0]).contains("blackout 4.250 ms (+- 1.500 ms)"));
        }
    }

    #[test]
    fn without_synchronised_clocks_the_bound_is_unknown() {
        let source = record(Role::Source, "2026-11-22T12:00:00Z", "2026-11-22T12:00:05Z", None);
        let destination =
            record(Role::Destination, "2026-11-22T12:00:00Z", "2026-11-22T12:00:06Z", Some(0.1));
        let joined = join(&[source], &[destination]);
        assert_eq!(joined[0].bound_seconds, None);
        assert!(line(&joined[0]).contains("bound unknown"));
    }

    #[test]
    fn a_port_that_was_used_again_is_not_joined() {
        let source = record(Role::Source, "2026-11-22T12:00:00Z", "2026-11-22T12:00:05Z", None);
        let later =
            record(Role::Destination, "2026-11-22T12:10:00Z", "2026-11-22T12:10:05Z", Some(0.1));
        assert_eq!(join(std::slice::from_ref(&source), &[later]), []);
        // A complete blackout needs no join.
        let complete = sample::finished("1-1", Outcome::Completed, 5);
        assert_eq!(join(&[source.clone(), complete], &[source]), []);
    }
}
