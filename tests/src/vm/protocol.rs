//! What the host tells a VM's init, and what that tells the host: lines on the console.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where init finds its [`Orders`].
pub const ORDERS: &str = "/lab/orders.json";
/// Where it finds the modules.
pub const MODULES: &str = "/lab/modules";
/// What a line of init begins with; all other lines are the tests' and the kernel's.
const MARK: &str = "@lab-init ";

/// What a VM is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Files in [`MODULES`], in load order.
    pub modules: Vec<String>,
    /// Programs to run, one after the other; one that fails does not keep the next from running.
    pub tests: Vec<Test>,
}

/// A program that is to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// How the report calls it.
    pub name: String,
    /// Path in the VM.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// After this time it is killed and has failed.
    pub limit_seconds: u64,
}

/// What init says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The kernel runs, file systems are mounted, modules are loaded.
    Up {
        /// `uname -r`.
        release: String,
        /// Since the kernel's start.
        uptime_seconds: f64,
        /// How many modules were loaded.
        modules: usize,
    },
    /// A test starts.
    Begin {
        /// Its name.
        name: String,
    },
    /// A test has ended, and so has all that it started.
    End {
        /// Its name.
        name: String,
        /// Its exit code; `None` if a signal ended it or it was never started.
        exit: Option<i32>,
        /// What else there is to say of its end.
        problem: Option<String>,
        /// How long it ran.
        seconds: f64,
        /// Warnings and worse that the kernel logged meanwhile.
        kernel: Vec<String>,
    },
    /// Init itself has failed; nothing more follows.
    Failed {
        /// Why.
        error: String,
    },
    /// All is done; the VM is switched off.
    Done,
}

impl Event {
    /// As a line of the console, with what separates it from a line that a test left unfinished.
    #[must_use]
    pub fn line(&self) -> String {
        // Plain data: there is nothing that could fail.
        format!("\n{MARK}{}\n", serde_json::to_string(self).unwrap_or_default())
    }

    /// From a line of the console; `None` if it is not init's.
    ///
    /// # Errors
    /// When it is, but cannot be read: the kernel has written into it.
    pub fn parse(line: &str) -> Option<serde_json::Result<Self>> {
        line.strip_prefix(MARK).map(serde_json::from_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let event = Event::End {
            name: "exactness".to_owned(),
            exit: Some(101),
            problem: None,
            seconds: 1.5,
            kernel: vec!["WARNING: \"quoted\"".to_owned()],
        };
        let line = event.line();
        let lines: Vec<&str> = line.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(Event::parse(lines[1]).unwrap().unwrap(), event);
        assert!(Event::parse("test result: ok").is_none());
        assert!(Event::parse("@lab-init {\"event\":\"e[ 1.0] oops").unwrap().is_err());
    }
}
