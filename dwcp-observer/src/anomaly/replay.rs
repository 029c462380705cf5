//! Recorded seconds: what the observer writes with `anomaly.record`, and what the same signals say of it afterwards.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Event, Phase, Sample, Signals};

/// One second of a recording; one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Second<'a> {
    /// Its end.
    pub at: Timestamp,
    /// What was measured in it.
    #[serde(borrow)]
    pub samples: Vec<Sample<'a>>,
}

/// The events of a recorded course, each as it was when it began, oldest first. `seconds` are in the order of time; the
/// detectors begin without a past, so what is to be judged should follow some minutes of ordinary migrations.
pub fn replay<'a>(seconds: impl IntoIterator<Item = (Timestamp, Vec<Sample<'a>>)>) -> Vec<Event> {
    let mut signals = Signals::new();
    let mut began = Vec::new();
    for (now, samples) in seconds {
        let events = signals.observe(now, &samples);
        began.extend(events.into_iter().filter(|event| event.phase == Phase::Began));
    }
    began
}

/// Appends each second to a file.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: File,
}

impl Recorder {
    /// Appends to `path`, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be opened for writing.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes a second as one line.
    ///
    /// # Errors
    /// It could not be written.
    pub fn write(&mut self, second: &Second<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(second)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }

    /// Where it writes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{anomaly::Kind, migration::record::Mode};

    #[test]
    fn a_second_comes_back_as_it_was_written() {
        let sample = Sample {
            migration: Some("1795371310933-1489"),
            mode: Some(Mode::Hybrid),
            kind: Kind::StreamImbalance,
            value: 0.25,
        };
        let host = Sample { migration: None, mode: None, kind: Kind::ErrorBurst, value: 0.0 };
        let second = Second { at: Timestamp::UNIX_EPOCH, samples: vec![sample, host] };
        let text = serde_json::to_string(&second).unwrap();
        assert_eq!(serde_json::from_str::<Second<'_>>(&text).unwrap(), second);
    }
}
