//! `zoo`: real migrations of all kinds between all versions of QEMU, each against the truth.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dwcp_observer_lab::observer::{Observer, binary};
use dwcp_observer_lab::zoo::case::Case;
use dwcp_observer_lab::zoo::cases::{cases, ci_cases, some_cases};
use dwcp_observer_lab::zoo::judge::{Report, Summary};
use dwcp_observer_lab::zoo::rig::Zoo;
use dwcp_observer_lab::zoo::run::run as migrate;
use dwcp_observer_lab::zoo::table::{heading, line, render};
use serde_json::{Value, json};

use crate::shell::{is_root, run_as_root};
use crate::{build, setup};

/// A migration that its ends spoil, as when the host gives them no CPU, is tried again.
const ATTEMPTS: u32 = 2;
/// The ordinary tests' part takes no longer.
const CI_LIMIT: Duration = Duration::from_secs(8 * 60);

/// One in so many may be wrong or spoiled in the ordinary tests: on a host that gives an end no CPU for a while, clocks and time limits
/// of this lab are off as well. `cargo xtask zoo` itself forgives none.
const FORGIVEN: usize = 20;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Some of each kind, at most 8 minutes: what the ordinary tests run
    Ci,
    /// All kinds
    All,
}

/// Arguments of `zoo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print only JSON on stdout; seconds and bytes
    #[arg(long)]
    json: bool,
    /// Write that JSON into a file as well, again after each migration
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only the migrations whose name contains one of these
    #[arg(long, value_name = "PART", value_delimiter = ';')]
    cases: Vec<String>,
    /// How many migrations: fewer are taken evenly out of all, more are all again with other times
    #[arg(long, default_value_t = 300)]
    count: usize,
    /// Which of them
    #[arg(long, value_enum, default_value = "all")]
    part: Part,
    /// Where the times and sizes that vary begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print a last line as `cargo test` does
    #[arg(long, hide = true)]
    count_line: bool,
    /// Only print the names
    #[arg(long)]
    list: bool,
    /// Use the agent that is there (set when this program calls itself as root)
    #[arg(long, hide = true)]
    no_build: bool,
}

/// What came of all.
#[derive(Default)]
struct Tour {
    reports: Vec<Report>,
    /// Migrations that did not take place as they were to: nothing is said of the observer.
    spoiled: Vec<String>,
    not_run: Vec<String>,
}

impl Tour {
    /// As `cargo test` counts: each migration is a test; the few that are forgiven are said to be ignored.
    fn count_line(&self) -> String {
        let right = self.reports.len() - self.wrong();
        let (wrong, forgiven) = match self.passes() {
            true => (0, self.wrong() + self.spoiled.len()),
            false => (self.wrong() + self.spoiled.len(), 0),
        };
        let result = if self.passes() { "ok" } else { "FAILED" };
        let ignored = self.not_run.len() + forgiven;
        format!(
            "test result: {result}. {right} passed; {wrong} failed; {ignored} ignored; 0 measured"
        )
    }

    fn wrong(&self) -> usize {
        self.reports.iter().filter(|report| !report.faults.is_empty()).count()
    }

    /// Whether the ordinary tests pass.
    fn passes(&self) -> bool {
        let all = self.reports.len() + self.spoiled.len();
        (self.wrong() + self.spoiled.len()) * FORGIVEN <= all
    }

    /// Whether all took place and all limits are kept.
    fn is_good(&self) -> bool {
        self.spoiled.is_empty() && Summary::of(&self.reports).good
    }

    fn json(&self) -> Value {
        json!({
            "summary": Summary::of(&self.reports), "migrations": self.reports,
            "spoiled": self.spoiled, "not_run": self.not_run,
        })
    }
}

/// Migrates, judges, prints. Exit 0 only if all limits are kept.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let chosen = choose(args);
    if args.list {
        for case in &chosen {
            println!("{}", case.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if chosen.is_empty() {
        bail!("no migration's name contains one of {:?}", args.cases);
    }
    if !args.no_build && std::env::var_os("DWCP_OBSERVER").is_none() {
        setup::ensure(setup::Use::Test)?;
        build::run()?;
    }
    if !is_root() {
        return run_as_root();
    }
    let limit = (args.part == Part::Ci).then_some(CI_LIMIT);
    let tour = visit(&chosen, limit, |tour| match &args.out {
        Some(path) => Ok(std::fs::write(path, format!("{:#}\n", tour.json()))?),
        None => Ok(()),
    })?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", tour.json())?;
    } else {
        write!(stdout, "{}", render(&tour.reports, &Summary::of(&tour.reports)))?;
        print_rest(&mut stdout, &tour)?;
    }
    let mut good = tour.is_good();
    if args.count_line {
        writeln!(stdout, "{}", tour.count_line())?;
        good = tour.passes();
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_rest(stdout: &mut impl Write, tour: &Tour) -> Result<()> {
    for (what, lines) in [("not run", &tour.not_run), ("spoiled", &tour.spoiled)] {
        for line in lines {
            writeln!(stdout, "{what}: {line}")?;
        }
    }
    Ok(())
}

fn choose(args: &Args) -> Vec<Case> {
    let wanted = |case: &Case| {
        args.cases.is_empty() || args.cases.iter().any(|part| case.name.contains(part))
    };
    match args.part {
        Part::Ci => ci_cases(args.seed).into_iter().filter(wanted).collect(),
        Part::All if args.cases.is_empty() => some_cases(args.count, args.seed),
        Part::All => cases(args.seed).into_iter().filter(wanted).take(args.count).collect(),
    }
}

/// One after the other under the eyes of one observer; those for which there is no more time are
/// not run.
fn visit(
    chosen: &[Case],
    limit: Option<Duration>,
    mut after_each: impl FnMut(&Tour) -> Result<()>,
) -> Result<Tour> {
    let start = Instant::now();
    let zoo = Zoo::new(Observer::start(&binary()?, &[])?)?;
    let mut tour = Tour::default();
    eprint!("{}", heading());
    for case in chosen {
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            tour.not_run.push(format!("{}: no time", case.name));
            continue;
        }
        if let Some(reason) = Zoo::cannot_run(case) {
            tour.not_run.push(format!("{}: {reason}", case.name));
            continue;
        }
        match attempt(&zoo, case) {
            Ok(report) => {
                eprintln!("{}", line(&report));
                tour.reports.push(report);
            }
            Err(error) => {
                eprintln!("{}: {error:#}", case.name);
                tour.spoiled.push(format!("{}: {error:#}", case.name));
            }
        }
        after_each(&tour)?;
    }
    let stopped = zoo.observer.stop()?;
    if !stopped.status.success() {
        bail!("the observer ended with {}:\n{}", stopped.status, stopped.output);
    }
    Ok(tour)
}

fn attempt(zoo: &Zoo, case: &Case) -> Result<Report> {
    let mut attempt = 1;
    loop {
        match migrate(zoo, case) {
            Ok(ran) => return Ok(Report::of(case, &ran)),
            Err(error) if attempt < ATTEMPTS => eprintln!("{}: {error:#}; again", case.name),
            Err(error) => return Err(error),
        }
        attempt += 1;
    }
}
