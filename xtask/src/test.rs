//! `test`: every test of the project, and one closing line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use dwcp_observer_lab::vm::report::Counts;

use crate::shell::{as_root, ask, cargo, find, is_root, search_path, workspace};
use crate::{build, setup, vm_test};

/// Arguments of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Check what can be checked in a minute: no root, kernel or QEMU, nothing is installed, no release build
    #[arg(long)]
    quick: bool,
    /// Run a test that failed once more; one that passes then is named in the end, and fails nothing
    #[arg(long, conflicts_with = "quick")]
    retry: bool,
}

/// More failed tests than this are no chance: they are not tried again.
pub(crate) const MAX_RETRIED: usize = 3;

/// What one phase did.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Tests that failed, by name.
    failures: Vec<String>,
    /// Tests that failed and then passed.
    unsteady: Vec<String>,
    /// The phase failed otherwise than by a counted test.
    broken: bool,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.broken |= other.broken;
        self.failures.extend_from_slice(&other.failures);
        self.unsteady.extend_from_slice(&other.unsteady);
    }

    /// With what came of the failed tests when they ran again. What failed otherwise stays failed.
    fn after(mut self, again: &Self) -> Self {
        self.unsteady
            .extend(self.failures.iter().filter(|name| !again.failures.contains(name)).cloned());
        self.passed += again.passed;
        self.failed = again.failed;
        self.failures.clone_from(&again.failures);
        self.broken = again.broken;
        self
    }

    fn is_good(&self) -> bool {
        self.failed == 0 && !self.broken
    }

    fn closing_line(&self) -> String {
        let mut line = format!("{} passed, {} failed", self.passed, self.failed);
        if self.ignored > 0 {
            line.push_str(&format!(", {} ignored", self.ignored));
        }
        if !self.unsteady.is_empty() {
            line.push_str(&format!(", {} of them at the second attempt", self.unsteady.len()));
        }
        line
    }
}

/// The phases so far.
#[derive(Default)]
struct Run {
    total: Outcome,
    broken: Vec<&'static str>,
}

impl Run {
    /// Runs a phase; those after a failed one still run, except where they need what it makes.
    fn phase(&mut self, name: &'static str, body: impl FnOnce() -> Result<Outcome>) -> Result<()> {
        let outcome = timed(name, body)?;
        if !outcome.is_good() {
            self.broken.push(name);
        }
        self.total.add(&outcome);
        Ok(())
    }

    fn close(&self) -> ExitCode {
        if !self.broken.is_empty() {
            println!("failed: {}", self.broken.join(", "));
        }
        for name in &self.total.unsteady {
            println!("unsteady: {name} failed, and passed at the second attempt");
        }
        println!("{}", self.total.closing_line());
        if self.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Runs the phases and prints the closing line.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut run = Run::default();
    if args.quick { quick(&mut run) } else { whole(&mut run, args.retry) }?;
    Ok(run.close())
}

fn lints(run: &mut Run) -> Result<()> {
    run.phase("fmt", || lint("fmt", &["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run.phase("clippy", || lint("clippy", &clippy))
}

fn whole(run: &mut Run, retry: bool) -> Result<()> {
    timed("setup", || setup::ensure(setup::Use::Test))?;
    timed("build", || build::run().map(|_| ()))?;
    lints(run)?;
    run.phase("deployment", || deployment(&[]))?;
    let unit = ["test", "--workspace", "--exclude", "dwcp-observer-lab", "--no-fail-fast"];
    run.phase("tests", || tests(&unit, retry))?;
    // Before the next ones, which run as root: the kernels in the cache shall be the user's.
    run.phase("other kernels", || Ok(other_kernels(retry)))?;
    // One at a time: these share ports, the kernel's sockets and two CPUs.
    let real =
        ["test", "--package", "dwcp-observer-lab", "--no-fail-fast", "--", "--test-threads=1"];
    run.phase("end-to-end tests", || tests(&real, retry))?;
    run.phase("zoo", visit_zoo)
}

fn quick(run: &mut Run) -> Result<()> {
    for missing in ["promtool"].into_iter().filter(|name| find(name).is_none()) {
        println!("not run: tests with {missing}, which is not installed");
    }
    lints(run)?;
    run.phase("unit tests", || {
        let mut command = cargo();
        // The library of the eBPF crate is the ABI, and builds for this machine too. Of the binaries those with tests: the agent's has none,
        // and would take its library a second time.
        command.args(["test", "--workspace", "--lib", "--bin", "xtask", "--bin", "lab-init"]);
        command.arg("--no-fail-fast");
        // Some wait for a timeout rather than for a CPU.
        let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        command.args(["--", &format!("--test-threads={threads}")]);
        command.env("PATH", std::env::join_paths(search_path())?);
        run_tests(command, &mut std::io::stdout().lock())
    })?;
    run.phase("deployment", || deployment(&["--installed"]))?;
    println!("not run: integration tests, other kernels, zoo (cargo xtask test)");
    Ok(())
}

fn timed<T>(name: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("=== {name}");
    let start = Instant::now();
    let result = body();
    eprintln!("=== {name}: {:.1} s", start.elapsed().as_secs_f64());
    result.with_context(|| format!("{name} failed"))
}

/// A check that is left out, aloud, where the toolchain has no such component.
fn lint(component: &str, args: &[&str]) -> Result<Outcome> {
    if ask(cargo().args([component, "--version"])).is_none() {
        println!("not run: cargo {component} is not installed");
        return Ok(Outcome::default());
    }
    let status = cargo().args(args).status()?;
    Ok(Outcome { broken: !status.success(), ..Outcome::default() })
}

/// Unit, manifests, installer, scripts and image recipe; what the script found is printed.
fn deployment(args: &[&str]) -> Result<Outcome> {
    let mut script = Command::new(workspace().join("scripts/check.sh"));
    script.args(args);
    let status = script.env("PATH", std::env::join_paths(search_path())?).status()?;
    Ok(Outcome { broken: !status.success(), ..Outcome::default() })
}

/// `retry`: as [`Args::retry`].
fn tests(args: &[&str], retry: bool) -> Result<Outcome> {
    let first = test_command(args, &[])?;
    let outcome = run_tests(first, &mut std::io::stdout().lock())?;
    if !retry || outcome.failures.is_empty() || outcome.failures.len() > MAX_RETRIED {
        return Ok(outcome);
    }
    println!("once more: {}", outcome.failures.join(", "));
    let again = test_command(args, &outcome.failures)?;
    let again = run_tests(again, &mut std::io::stdout().lock())?;
    Ok(outcome.after(&again))
}

/// `only`: the names of tests; none for all.
fn test_command(args: &[&str], only: &[String]) -> Result<Command> {
    let mut command = cargo();
    command.args(args);
    if !only.is_empty() {
        command.args((!args.contains(&"--")).then_some("--")).arg("--exact").args(only);
    }
    command
        .env("DWCP_OBSERVER", build::agent())
        // Setup was run: a test that leaves something out for want of a program fails.
        .env("DWCP_ALL_TOOLS", "1")
        .env("PATH", std::env::join_paths(search_path())?);
    if !is_root() {
        // The tests run as root, the compiler does not.
        let sudo = as_root("env")?;
        let runner = format!("{} --preserve-env", sudo.get_program().to_string_lossy());
        command.env(runner_variable(), runner);
    }
    Ok(command)
}

/// The tests that run in VMs. That they cannot start fails this phase, not what was counted before.
fn other_kernels(retry: bool) -> Outcome {
    match vm_test::run_default(retry) {
        Ok((Counts { passed, failed, ignored }, unsteady)) => {
            Outcome { passed, failed, ignored, unsteady, ..Outcome::default() }
        }
        Err(error) => {
            println!("error: {error:#}");
            Outcome { broken: true, ..Outcome::default() }
        }
    }
}

/// A part of the zoo, by this program as root: each migration counts as a test.
fn visit_zoo() -> Result<Outcome> {
    let mut command = as_root(std::env::current_exe()?)?;
    command
        .args(["zoo", "--part", "ci", "--count-line"])
        .env("DWCP_OBSERVER", build::agent())
        .env("PATH", std::env::join_paths(search_path())?);
    run_tests(command, &mut std::io::stdout().lock())
}

fn runner_variable() -> String {
    let arch = std::env::consts::ARCH.to_uppercase();
    format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER")
}

fn run_tests(mut command: Command, shown: &mut impl Write) -> Result<Outcome> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("no output")?;
    let mut outcome = Outcome::default();
    let mut listed = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        shown.write_all(&line)?;
        shown.write_all(b"\n")?;
        let line = String::from_utf8_lossy(&line);
        // The last list of a program is of names alone.
        if line == "failures:" {
            listed.clear();
        } else if let Some(name) = line.strip_prefix("    ") {
            listed.push(name.to_owned());
        }
        if let Some(one) = parse_result(&line) {
            let failures = if one.failed > 0 { std::mem::take(&mut listed) } else { Vec::new() };
            outcome.add(&Outcome { failures, ..one });
        }
    }
    let status = child.wait()?;
    outcome.broken = !status.success();
    Ok(outcome)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`.
fn parse_result(line: &str) -> Option<Outcome> {
    let Counts { passed, failed, ignored } = Counts::parse(line)?;
    Some(Outcome { passed, failed, ignored, ..Outcome::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; \
                    finished in 0.00s";
        let expected = Outcome { passed: 3, failed: 2, ignored: 1, ..Outcome::default() };
        assert_eq!(parse_result(line), Some(expected));
        assert_eq!(parse_result("test tests::result ... ok"), None);
    }

    #[test]
    fn counts_are_summed_and_failures_kept() {
        let script = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured'; \
                      echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured'; exit 101";
        // Not to stdout: whoever runs this test counts the lines there.
        let mut shown = Vec::new();
        let outcome = run_tests(sh(script), &mut shown).unwrap();
        assert_eq!(String::from_utf8(shown.clone()).unwrap().lines().count(), 2);
        assert_eq!(outcome.closing_line(), "4 passed, 1 failed");
        assert!(!outcome.is_good());
        let crash = run_tests(sh("exit 101"), &mut shown).unwrap();
        assert!(!crash.is_good());
        let fine = "echo 'test result: ok. 3 passed; 0 failed; 2 ignored; 0 measured'";
        let outcome = run_tests(sh(fine), &mut shown).unwrap();
        assert!(outcome.is_good());
        assert_eq!(outcome.closing_line(), "3 passed, 0 failed, 2 ignored");
    }

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_second_attempt_is_told_and_hides_nothing() {
        let failed = |failures: &str, count| {
            let script = format!(
                "echo 'failures:\n\n---- a stdout ----\n    not a name\n\nfailures:\n{failures}\n\n\
                 test result: FAILED. 7 passed; {count} failed; 0 ignored; 0 measured'; exit 101"
            );
            run_tests(sh(&script), &mut Vec::new()).unwrap()
        };
        let first = failed("    a\n    b", 2);
        assert_eq!(first.failures, ["a", "b"]);
        let again = failed("    b", 1);
        let both = first.after(&Outcome { passed: 1, ..again });
        assert_eq!(
            (both.unsteady.as_slice(), both.is_good()),
            (["a".to_owned()].as_slice(), false)
        );
        assert_eq!(both.closing_line(), "8 passed, 1 failed, 1 of them at the second attempt");

        let fine = Outcome { passed: 2, ..Outcome::default() };
        let both = failed("    a\n    b", 2).after(&fine);
        assert!(both.is_good());
        assert_eq!(both.closing_line(), "9 passed, 0 failed, 2 of them at the second attempt");
    }
}
