//! What the tests in a VM did, read from its console.

use super::boot::{Boot, End};
use super::protocol::{Event, Orders};

/// Results as the Rust test harness counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that did not run.
    pub ignored: u64,
}

impl Counts {
    /// From a line `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`; `None` for
    /// any other line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (_, text) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = Self::default();
        for count in text.split("; ") {
            let (number, what) = count.split_once(' ')?;
            match what {
                "passed" => counts.passed = number.parse().ok()?,
                "failed" => counts.failed = number.parse().ok()?,
                "ignored" => counts.ignored = number.parse().ok()?,
                _ => {}
            }
        }
        Some(counts)
    }

    /// Adds the results of another run.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// What one test program did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TestReport {
    /// Its name.
    pub name: String,
    /// Exit code; `None` if it has none.
    pub exit: Option<i32>,
    /// What was wrong beside its exit code.
    pub problems: Vec<String>,
    /// How long it ran; `None` if its end was not seen.
    pub seconds: Option<f64>,
    /// What it printed.
    pub output: Vec<String>,
}

impl TestReport {
    /// The counts that it printed.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for counts in self.output.iter().filter_map(|line| Counts::parse(line)) {
            all.add(counts);
        }
        all
    }

    /// Whether it ended by itself with exit code 0, and nothing else was wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.exit == Some(0) && self.problems.is_empty()
    }
}

/// What a VM did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmReport {
    /// `uname -r`, by itself; empty if it never spoke.
    pub release: String,
    /// From the kernel's start until init was ready, s by its own clock.
    pub up_seconds: Option<f64>,
    /// One for each test that was ordered, in order.
    pub tests: Vec<TestReport>,
    /// What was wrong with the VM itself.
    pub problems: Vec<String>,
}

impl VmReport {
    /// From the console of a VM that had these orders.
    #[must_use]
    pub fn read(boot: &Boot, orders: &Orders) -> Self {
        let mut reader = Reader::default();
        for line in &boot.console {
            reader.line(line);
        }
        reader.finish(boot, orders)
    }

    /// Whether the VM and all that was ordered went well.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty() && self.tests.iter().all(TestReport::is_good)
    }
}

#[derive(Default)]
struct Reader {
    report: VmReport,
    running: Option<TestReport>,
    is_done: bool,
}

impl Reader {
    fn line(&mut self, line: &str) {
        match Event::parse(line) {
            None => {
                if let Some(test) = &mut self.running {
                    test.output.push(line.to_owned());
                }
            }
            Some(Ok(event)) => self.event(event),
            Some(Err(error)) => {
                self.report.problems.push(format!("init cannot be understood: {error}: {line}"));
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Up { release, uptime_seconds, .. } => {
                self.report.release = release;
                self.report.up_seconds = Some(uptime_seconds);
            }
            Event::Begin { name } => {
                self.running = Some(TestReport { name, ..TestReport::default() });
            }
            Event::End { name, exit, problem, seconds, kernel } => {
                let mut test = self.running.take().unwrap_or_default();
                test.name = name;
                test.exit = exit;
                test.seconds = Some(seconds);
                test.problems.extend(problem);
                test.problems.extend(kernel.into_iter().map(|line| format!("kernel: {line}")));
                // Before each event there is an empty line.
                if test.output.last().is_some_and(String::is_empty) {
                    test.output.pop();
                }
                self.report.tests.push(test);
            }
            Event::Failed { error } => self.report.problems.push(format!("init failed: {error}")),
            Event::Done => self.is_done = true,
        }
    }

    fn finish(self, boot: &Boot, orders: &Orders) -> VmReport {
        let mut report = self.report;
        if boot.end != End::PoweredOff {
            report.problems.push(boot.end.to_string());
        } else if !self.is_done && report.problems.is_empty() {
            report.problems.push("it ended before its tests did".to_owned());
        }
        if let Some(mut cut) = self.running {
            cut.problems.push("the VM ended while it ran".to_owned());
            report.tests.push(cut);
        }
        for ordered in &orders.tests {
            if !report.tests.iter().any(|test| test.name == ordered.name) {
                report.tests.push(TestReport {
                    name: ordered.name.clone(),
                    problems: vec!["it did not run".to_owned()],
                    ..TestReport::default()
                });
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::protocol::Test;
    use std::time::Duration;

    fn orders(names: &[&str]) -> Orders {
        let test = |name: &&str| Test { name: (*name).to_owned(), ..Test::default() };
        Orders { tests: names.iter().map(test).collect(), ..Orders::default() }
    }

    fn end(name: &str, exit: Option<i32>, kernel: &[&str]) -> Event {
        Event::End {
            name: name.to_owned(),
            exit,
            problem: None,
            seconds: 2.0,
            kernel: kernel.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    fn begin(name: &str) -> Event {
        Event::Begin { name: name.to_owned() }
    }

    fn boot(text: &str, end: End) -> Boot {
        let console = text.lines().map(str::to_owned).collect();
        Boot { console, end, was_up: true, took: Duration::from_secs(9) }
    }

    #[test]
    fn results_and_output_are_read() {
        let up =
            Event::Up { release: "6.1.0-56-amd64".to_owned(), uptime_seconds: 2.5, modules: 3 };
        let result =
            "running 2 tests\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\n";
        let text = [
            "[    0.4] PCI: Fatal\n",
            &up.line(),
            &begin("a").line(),
            result,
            &end("a", Some(0), &[]).line(),
            &begin("b").line(),
            "no newline",
            &end("b", Some(1), &["WARNING: x"]).line(),
            &Event::Done.line(),
        ]
        .concat();
        let report = VmReport::read(&boot(&text, End::PoweredOff), &orders(&["a", "b"]));
        assert_eq!((report.release.as_str(), report.up_seconds), ("6.1.0-56-amd64", Some(2.5)));
        assert!(report.problems.is_empty() && !report.is_good());
        let [a, b] = &report.tests[..] else { panic!("{report:?}") };
        assert_eq!(a.counts(), Counts { passed: 2, failed: 0, ignored: 1 });
        assert!(a.is_good());
        assert_eq!(b.output, ["no newline"]);
        assert_eq!(
            (b.exit, b.problems.as_slice()),
            (Some(1), &["kernel: WARNING: x".to_owned()][..])
        );
    }

    #[test]
    fn what_did_not_come_to_its_end_is_not_good() {
        let text = [begin("a").line(), "half\n".to_owned()].concat();
        let panic = End::Broken("[ 9.1] Kernel panic".to_owned());
        let report = VmReport::read(&boot(&text, panic), &orders(&["a", "b"]));
        assert!(report.problems.len() == 1 && report.problems[0].contains("[ 9.1] Kernel panic"));
        assert_eq!(report.tests[0].problems.len(), 1, "cut off while it ran");
        assert_eq!(report.tests[0].output, ["half"]);
        assert_eq!(report.tests[1].problems.len(), 1, "it did not run");
        // Switched off, but not by init.
        let report = VmReport::read(&boot("", End::PoweredOff), &orders(&[]));
        assert!(!report.is_good());
        let broken = "@lab-init {\"event\":\"en[ 1.0] x\n".to_owned() + &Event::Done.line();
        assert!(!VmReport::read(&boot(&broken, End::PoweredOff), &orders(&[])).is_good());
    }

    #[test]
    fn counts_are_read_from_the_line_that_has_them() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; finished in 0s";
        assert_eq!(Counts::parse(line), Some(Counts { passed: 3, failed: 2, ignored: 1 }));
        assert_eq!(Counts::parse("test tests::result ... ok"), None);
    }
}
