//! `lab-flows` as a child process of a test, under the name that the test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

use crate::process::ChildGuard;
use crate::temp::TempDir;

/// A running `lab-flows`; killed on drop, and its own child ends with it.
#[derive(Debug)]
pub struct FlowHelper {
    process: ChildGuard,
    output: BufReader<ChildStdout>,
    /// Holds the copy of the program.
    _directory: TempDir,
}

impl FlowHelper {
    /// Starts a copy of `binary` that is called `name`: its executable and all its threads bear
    /// that name, and so do those of the processes that it starts.
    ///
    /// # Errors
    /// When it cannot be copied or started.
    pub fn start(binary: &Path, name: &str, args: &[&str]) -> Result<Self> {
        let directory = TempDir::new()?;
        let copy = directory.join(name);
        std::fs::copy(binary, &copy).with_context(|| format!("copy of {}", binary.display()))?;
        let mut command = Command::new(&copy);
        command.arg0(name).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = ChildGuard::spawn(&mut command)?;
        let output = process.child().stdout.take().context("no stdout")?;
        Ok(Self { process, output: BufReader::new(output), _directory: directory })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// When there is no more, or it is not what was expected.
    pub fn line<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the flow helper has ended");
        serde_json::from_str(&line).with_context(|| format!("the flow helper prints {line:?}"))
    }

    /// Tells it to stop: the commands that wait for a line on stdin get one.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn tell_stop(&mut self) -> Result<()> {
        let mut stdin = self.process.child().stdin.take().context("it is told already")?;
        stdin.write_all(b"stop\n").context("the flow helper is gone")
    }

    /// All lines that it still prints, until it ends by itself.
    ///
    /// # Errors
    /// When it fails, or a line is not what was expected.
    pub fn finish<T: DeserializeOwned>(mut self) -> Result<Vec<T>> {
        drop(self.process.child().stdin.take());
        let mut lines = Vec::new();
        for line in self.output.by_ref().lines() {
            let line = line?;
            let line = serde_json::from_str(&line)
                .with_context(|| format!("the flow helper prints {line:?}"))?;
            lines.push(line);
        }
        match self.process.wait_for(Duration::from_secs(60))? {
            Some(status) if status.success() => Ok(lines),
            Some(status) => bail!("the flow helper ended with {status}"),
            None => bail!("the flow helper does not end"),
        }
    }
}
