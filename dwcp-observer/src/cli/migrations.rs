//! `dwcp-observer migrations`: prints the migrations that the running observer knows.

use std::{
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    client::{ClientError, Url, get},
    table::{render_detail, render_list},
};
use crate::model::record::List;

/// Moves the cursor home and clears what follows.
const REDRAW: &str = "\x1b[H\x1b[J";

const EXAMPLES: &str = "\
Examples:
  dwcp-observer migrations                          all migrations that the observer of this host knows
  dwcp-observer migrations --watch                  refresh the list every second
  dwcp-observer migrations 1795350000123-4711       one migration: streams, threads, evidence, last seconds
  dwcp-observer migrations --json | jq '.migrations[] | {id, outcome, duration_seconds}'
  dwcp-observer migrations --url http://node7:8080  ask the observer of another host

Exit codes: 0 printed; 1 no observer answers, or it does not know the migration; 2 wrong arguments.";

/// Show running and finished migrations
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct MigrationsArgs {
    /// Show only this migration, in detail
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Print the observer's JSON unchanged (with --watch, one document per line)
    #[arg(long)]
    pub json: bool,
    /// Refresh every SECONDS (0.1 to 3600) [default without a value: 1]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    pub watch: Option<Duration>,
    /// URL of the observer
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = Url::parse)]
    pub url: Url,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a number of seconds from 0.1 to 3600".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(wrong())
    }
}

/// Runs the command: prints once, or until interrupted with `--watch`.
///
/// # Errors
/// If no observer answers, another program answers, or the migration is unknown. Each message is one line.
pub fn run(args: &MigrationsArgs) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout();
    let in_place = stdout.is_terminal() && !args.json;
    let mut first = true;
    loop {
        let mut output = String::new();
        if args.watch.is_some() && in_place {
            output.push_str(REDRAW);
        } else if !first && !args.json {
            output.push('\n');
        }
        output.push_str(&page(args, Timestamp::now())?);
        match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            // The reader (`head`, a pager) has seen enough.
            Err(failure) if failure.kind() == ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(failure) => return Err(failure.into()),
        }
        let Some(pause) = args.watch else {
            return Ok(ExitCode::SUCCESS);
        };
        first = false;
        std::thread::sleep(pause);
    }
}

fn page(args: &MigrationsArgs, now: Timestamp) -> Result<String, ClientError> {
    let body = match &args.id {
        // Nothing in an id needs escaping. Other characters could inject a second header.
        Some(id)
            if id.is_empty() || !id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') =>
        {
            let text =
                format!("{id:?} is not a migration id; `dwcp-observer migrations` lists all ids");
            return Err(ClientError::Refused(text));
        }
        Some(id) => get(&args.url, &format!("/api/v1/migrations/{id}"))?,
        None => get(&args.url, "/api/v1/migrations")?,
    };
    if args.json {
        return Ok(format!("{}\n", body.text));
    }
    Ok(match args.id {
        Some(_) => render_detail(&body.read()?),
        None => render_list(&body.read::<List>()?.migrations, now),
    })
}

#[cfg(test)]
#[path = "migrations_tests.rs"]
mod tests;
