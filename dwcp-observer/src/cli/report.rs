//! `dwcp-observer report`: reports on a period, from the history and the running observer.

use std::{io::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;

use super::client::{Url, get};
use crate::{
    config::Config,
    history::Store,
    model::record::{List, State},
    report::{
        data::{Data, LiveData},
        hourly::{put, write_markdown},
        report,
    },
    sla::windows::minute_of,
};

const EXAMPLES: &str = "\
Examples:
  sudo dwcp-observer report --since 24h                              Markdown on the terminal, without plots
  sudo dwcp-observer report --since 24h --html --output day.html     one file that contains the plots
  sudo dwcp-observer report --since 7d --output week.md              week.md, with its plots in files beside it
  sudo dwcp-observer report --history copy.sqlite --since 30d        from a copy of another host's database

Exit codes: 0 written; 1 the history is missing or unreadable; 2 wrong arguments or configuration.";

/// Write a report of finished migrations, service levels and resources from the history
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReportArgs {
    /// Length of the period that ends now: a number and s, m, h or d
    #[arg(long, default_value = "24h", value_parser = period)]
    since: SignedDuration,
    /// Write HTML instead of Markdown
    #[arg(long)]
    html: bool,
    /// File to write; the plots of a Markdown report go into files beside it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Configuration file that names the history
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// History database [default: from the configuration]
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// URL of the observer; if none answers, the report uses the history only
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = Url::parse)]
    url: Url,
}

fn period(text: &str) -> Result<SignedDuration, String> {
    let wrong = || {
        "must be a number above 0 and s, m, h or d, at most 3650d; for instance 90m, 24h or 30d"
            .to_owned()
    };
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).ok_or_else(wrong)?;
    if (1..=3650 * 86_400).contains(&seconds) {
        Ok(SignedDuration::from_secs(seconds))
    } else {
        Err(wrong())
    }
}

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    let store = Store::open_read_only(args.history.as_ref().unwrap_or(&config.history.path))?;
    let to = Timestamp::now();
    let from = begin(to, args.since);
    let data = Data::read(&store, from, to, config.node_name(), live(&args.url))?;
    let document = report(&data);
    match &args.output {
        Some(path) if args.html => put(path, &document.html())?,
        Some(path) => write_markdown(&document, path)?,
        None => {
            let text = if args.html { document.html() } else { document.markdown(|_| None) };
            match std::io::stdout().write_all(text.as_bytes()) {
                // The reader (`head`, a pager) has seen enough.
                Err(failure) if failure.kind() == std::io::ErrorKind::BrokenPipe => {}
                done => done?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts at a whole minute, so that aggregates by the minute and single records cover the same time.
fn begin(to: Timestamp, since: SignedDuration) -> Timestamp {
    let from = to - since;
    Timestamp::from_second(minute_of(from.as_second())).unwrap_or(from)
}

/// What a running observer adds to the report, if one answers.
fn live(url: &Url) -> LiveData {
    let list: Option<List> = ask(url, "/api/v1/migrations");
    let active = list.map(|list| {
        let running = list.migrations.into_iter().filter(|record| record.state == State::Active);
        running.map(Arc::new).collect()
    });
    LiveData {
        sla: ask(url, "/api/v1/sla"),
        health: ask(url, "/health"),
        active,
        components: ask(url, "/api/v1/components").map(Arc::new),
    }
}

fn ask<T: DeserializeOwned>(url: &Url, path: &str) -> Option<T> {
    get(url, path).and_then(|body| body.read()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_begins_with_a_minute() {
        let to: Timestamp = "2026-11-22T12:30:17.5Z".parse().unwrap();
        let from = begin(to, SignedDuration::from_hours(1));
        assert_eq!(from.to_string(), "2026-11-22T11:30:00Z");
        assert_eq!(
            begin(from + SignedDuration::from_hours(1), SignedDuration::from_hours(1)),
            from
        );
    }

    #[test]
    fn periods() {
        let seconds = |text: &str| period(text).map(|period| period.as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("24h"), Ok(86_400));
        assert_eq!(seconds("30d"), Ok(2_592_000));
        for wrong in ["", "h", "24", "0h", "-1h", "1.5h", "9999999999d", "3651d", "1w", "24 h", "ä"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
