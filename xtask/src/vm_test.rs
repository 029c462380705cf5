//! `vm-test`: the project's own tests on Debian's kernels, booted in QEMU.

mod suite;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use dwcp_observer_lab::qemu::Role;
use dwcp_observer_lab::vm::cpio::Archive;
use dwcp_observer_lab::vm::kernels::{Kernel, Kernels, Series};
use dwcp_observer_lab::vm::laboratory::{self, Run, Subject};
use dwcp_observer_lab::vm::programs::{self, Golden, Tried};
use dwcp_observer_lab::vm::report::{Counts, TestReport};
use dwcp_observer_lab::vm::rootfs::Rootfs;
use serde_json::Value;

use crate::shell::{cargo, search_path, workspace};
use crate::test::MAX_RETRIED;
use crate::{build, setup};
use suite::{AGENT, Suite, place};

const GOLDEN: &str = "tests/golden/programs.txt";
/// Holds the table of programs between these two lines.
const DOCUMENT: &str = "docs/internals/kernels.md";
const TABLE_BEGIN: &str = "<!-- programs: begin -->\n";
const TABLE_END: &str = "<!-- programs: end -->";
const LAB: &str = "dwcp-observer-lab";

/// Arguments of `vm-test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernels, as 6.12, `newest` or `all`
    #[arg(long, value_name = "KERNEL", value_delimiter = ',', default_values_t = default_kernels())]
    kernel: Vec<String>,
    /// Only these tests
    #[arg(long, value_enum, value_name = "TEST", value_delimiter = ',')]
    test: Vec<Suite>,
    /// How many VMs at a time; each uses one CPU
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// An agent that is built already
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

fn default_kernels() -> Vec<String> {
    Series::DEFAULT.map(|series| series.to_string()).into()
}

/// Builds, boots, prints. Exit 0 only if all is well.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kernels = kernels(&args.kernel)?;
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => {
            setup::ensure(setup::Use::Vm)?;
            build::run()?
        }
    };
    let suites = if args.test.is_empty() { Suite::DEFAULT.to_vec() } else { args.test.clone() };
    let (counts, _) = run_suites(&kernels, &suites, usize::from(args.jobs), &agent, false)?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All tests on the default kernels, with an agent that is built. The comparison of programs counts
/// as one test for each kernel, and so does whatever fails without a test that says so. `retry`: test programs that failed run once more;
/// those that pass then are named.
pub(crate) fn run_default(retry: bool) -> Result<(Counts, Vec<String>)> {
    run_suites(&Series::DEFAULT, &Suite::DEFAULT, 2, &build::agent(), retry)
}

fn kernels(names: &[String]) -> Result<Vec<Series>> {
    let mut kernels = Vec::new();
    for name in names {
        if name == "all" {
            kernels.extend(Series::ALL);
        } else {
            kernels.push(name.parse().map_err(|error| anyhow!("--kernel {name}: {error}"))?);
        }
    }
    kernels.sort_unstable();
    kernels.dedup();
    Ok(kernels)
}

fn run_suites(
    series: &[Series],
    suites: &[Suite],
    jobs: usize,
    agent: &Path,
    retry: bool,
) -> Result<(Counts, Vec<String>)> {
    let start = Instant::now();
    let root = root(agent, suites)?;
    let cache = Kernels::of_workspace();
    let mut found = cache.get(series)?;
    if suites.contains(&Suite::RdmaIwarp) {
        found = found.into_iter().map(|kernel| cache.with_siw(kernel)).collect::<Result<_>>()?;
    }
    let (pairs, single): (Vec<Suite>, Vec<Suite>) =
        suites.iter().partition(|suite| suite.is_pair());
    let subject = |kernel: &(Series, Kernel), suites: &[Suite], half| {
        let (series, kernel) = kernel.clone();
        let tests = suites.iter().map(|suite| suite.order(series, half)).collect();
        Subject { series, kernel, tests }
    };
    let kernels: Vec<(Series, Kernel)> = series.iter().copied().zip(found).collect();
    let root = root.into_archive();
    eprintln!(
        "vm: ready after {:.1} s, root file system of {} MiB",
        start.elapsed().as_secs_f64(),
        root.size() >> 20
    );
    let (mut runs, mut unsteady) = (Vec::new(), Vec::new());
    if !single.is_empty() {
        let subjects: Vec<Subject> =
            kernels.iter().map(|kernel| subject(kernel, &single, None)).collect();
        runs = laboratory::run(&subjects, &root, jobs)?;
        if retry {
            unsteady = run_again(&subjects, &mut runs, &root)?;
        }
    }
    if !pairs.is_empty() {
        for kernel in &kernels {
            let halves =
                [Role::Source, Role::Destination].map(|role| subject(kernel, &pairs, Some(role)));
            runs.extend(laboratory::run_pair(&halves, &root)?);
        }
    }
    let mut counts = Counts::default();
    for run in &runs {
        show(run, &mut counts);
    }
    if suites.contains(&Suite::Programs) {
        compare_programs(&runs, &mut counts)?;
    }
    println!("vm: {} kernels, {:.1} s", kernels.len(), start.elapsed().as_secs_f64());
    Ok((counts, unsteady))
}

/// Runs the test programs that failed once more, each kernel's in a new VM, if they are few. Of those that pass then the first report is
/// shown and the second one counts. Returns their names.
fn run_again(subjects: &[Subject], runs: &mut [Run], root: &Archive) -> Result<Vec<String>> {
    let failed = |run: &Run| -> BTreeSet<String> {
        let bad = run.report.tests.iter().filter(|test| !test.is_good());
        bad.map(|test| test.name.clone()).collect()
    };
    let failed: Vec<BTreeSet<String>> = runs.iter().map(failed).collect();
    if failed.iter().map(BTreeSet::len).sum::<usize>() > MAX_RETRIED {
        return Ok(Vec::new());
    }
    let mut unsteady = Vec::new();
    for ((subject, run), failed) in subjects.iter().zip(runs).zip(failed) {
        // What went wrong beside the tests is no chance.
        if failed.is_empty() || !run.report.problems.is_empty() {
            continue;
        }
        let mut subject = subject.clone();
        subject.tests.retain(|test| failed.contains(&test.name));
        let again = laboratory::run(&[subject], root, 1)?;
        let good = again.into_iter().filter(|again| again.report.problems.is_empty());
        for test in good.flat_map(|again| again.report.tests).filter(TestReport::is_good) {
            let Some(first) = run.report.tests.iter_mut().find(|first| first.name == test.name)
            else {
                continue;
            };
            println!("\nkernel {}, passed at the second attempt:", run.release);
            show_test(first, &mut Counts::default());
            unsteady.push(format!("{} on {}", test.name, run.release));
            *first = test;
        }
    }
    Ok(unsteady)
}

/// The root file system with the agent and the test programs.
fn root(agent: &Path, suites: &[Suite]) -> Result<Rootfs> {
    let built = build_programs(suites)?;
    let path = |name: &str| built.get(name).with_context(|| format!("cargo has not built {name}"));
    let mut root = Rootfs::new(search_path())?;
    root.project(agent, Path::new(AGENT))?;
    root.project(path("lab-init")?, Path::new("/init"))?;
    for name in programs_of(suites) {
        root.project(path(name)?, &place(name))?;
    }
    // The tests know where it was built.
    let flows = path("lab-flows")?;
    root.project(flows, flows)?;
    Ok(root)
}

/// The test programs of suites, once each.
fn programs_of(suites: &[Suite]) -> BTreeSet<&'static str> {
    suites.iter().filter_map(|suite| suite.program()).collect()
}

/// Builds the lab's programs and the test programs; returns where each is.
fn build_programs(suites: &[Suite]) -> Result<BTreeMap<String, PathBuf>> {
    let mut built = cargo_build(&["build", "--bins"])?;
    let tests: Vec<&str> =
        programs_of(suites).into_iter().flat_map(|name| ["--test", name]).collect();
    if !tests.is_empty() {
        built.extend(cargo_build(&[&["test", "--no-run"], &tests[..]].concat())?);
    }
    Ok(built)
}

fn cargo_build(args: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = cargo();
    command.args(args).args(["--package", LAB, "--message-format=json"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo {} failed ({})", args.join(" "), output.status);
    let mut built = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        let program = (message["target"]["name"].as_str(), message["executable"].as_str());
        if let (Some(name), Some(path)) = program {
            built.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(built)
}

fn show(run: &Run, total: &mut Counts) {
    println!();
    println!(
        "kernel {}{}: {:.1} s, of them {} until init was ready",
        run.release,
        run.end.map_or(String::new(), |end| format!(", {}", end.as_str())),
        run.took.as_secs_f64(),
        run.report.up_seconds.map_or("?".to_owned(), |seconds| format!("{seconds:.1} s")),
    );
    for test in &run.report.tests {
        show_test(test, total);
    }
    for problem in &run.report.problems {
        total.failed += 1;
        println!("  {problem}");
    }
    if !run.report.problems.is_empty() {
        println!("  the end of the console:\n{}", run.tail);
    }
}

fn show_test(test: &TestReport, total: &mut Counts) {
    let is_programs = test.name == Suite::Programs.name();
    let counts = test.counts();
    let time = test.seconds.map_or("?".to_owned(), |seconds| format!("{seconds:.1} s"));
    if is_programs {
        println!("  {}: {time}", test.name);
    } else {
        println!("  {}: {time}, {} passed, {} failed", test.name, counts.passed, counts.failed);
    }
    total.add(counts);
    // A filter that finds no test is no success.
    let found_none = !is_programs && counts.passed + counts.failed == 0;
    if !test.is_good() || found_none {
        total.failed += u64::from(counts.failed == 0);
        println!("    exit {:?}", test.exit);
        for problem in &test.problems {
            println!("    {problem}");
        }
    }
    if !is_programs || !test.is_good() {
        for line in test.output.iter().filter(|line| !line.is_empty()) {
            println!("    {line}");
        }
    }
}

/// Prints the table of programs and compares it with the golden file, or writes that file.
fn compare_programs(runs: &[Run], total: &mut Counts) -> Result<()> {
    let path = workspace().join(GOLDEN);
    let mut golden = match std::fs::read_to_string(&path) {
        Ok(text) => Golden::parse(&text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Golden::default(),
        Err(error) => return Err(error).context(GOLDEN),
    };
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
    let mut tables: Vec<(String, Vec<Tried>)> = Vec::new();
    println!();
    for run in runs {
        let name = run.series.to_string();
        let test = run.report.tests.iter().find(|test| test.name == Suite::Programs.name());
        // What it printed instead has been shown. A warning of the kernel has failed it already.
        let Some(test) = test.filter(|test| test.exit == Some(0)) else {
            // That it failed is counted.
            continue;
        };
        let found = programs::parse(&test.output.join("\n"))
            .with_context(|| format!("programs on {}", run.release))?;
        if update {
            golden.set(&name, &found);
        }
        let differences = golden.compare(&name, &found);
        for note in &differences.notes {
            println!("{name}: {note}");
        }
        for problem in &differences.problems {
            println!("{name}: PROBLEM: {problem}");
        }
        if differences.problems.is_empty() {
            total.passed += 1;
        } else {
            total.failed += 1;
        }
        tables.push((name, found));
    }
    let table = programs::table(&tables);
    println!("{table}");
    if update {
        std::fs::write(&path, golden.text()).context(GOLDEN)?;
        println!("written: {GOLDEN}");
        // The document has a column for each kernel.
        if tables.len() == Series::ALL.len() {
            let document = workspace().join(DOCUMENT);
            let text = std::fs::read_to_string(&document).context(DOCUMENT)?;
            std::fs::write(&document, with_table(&text, &table)?).context(DOCUMENT)?;
            println!("written: {DOCUMENT}");
        }
    }
    Ok(())
}

/// The document with another table.
fn with_table(text: &str, table: &str) -> Result<String> {
    let parts = text.split_once(TABLE_BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(TABLE_END)?;
        Some((before, after))
    });
    let (before, after) =
        parts.with_context(|| format!("{DOCUMENT} has no place for the table"))?;
    Ok(format!("{before}{TABLE_BEGIN}{table}{TABLE_END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_sorted_and_taken_once() {
        let names = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let found = kernels(&names("newest,6.12,5.10,6.12")).unwrap();
        assert_eq!(found, [Series::Number(5, 10), Series::Number(6, 12), Series::Newest]);
        assert_eq!(kernels(&names("all,6.1")).unwrap(), Series::ALL);
        assert!(kernels(&names("6.x")).is_err());
    }

    #[test]
    fn the_table_is_replaced_and_nothing_else() {
        let text = format!("a\n{TABLE_BEGIN}old\n{TABLE_END}\nb\n");
        let expected = format!("a\n{TABLE_BEGIN}| new |\n{TABLE_END}\nb\n");
        assert_eq!(with_table(&text, "| new |\n").unwrap(), expected);
        assert!(with_table("no place", "").is_err());
    }
}
