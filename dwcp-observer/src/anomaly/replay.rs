//! Writes the signals' input to a file (`anomaly.record`), and replays such files.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Event, Sample, Signals, Transition};

/// One second of a recording; one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedSecond<'a> {
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
        began.extend(events.into_iter().filter(|event| event.phase == Transition::Began));
    }
    began
}

/// Seconds that wait to be written before further ones are dropped.
const QUEUE: usize = 64;

/// Appends each second to a file, in a thread of its own: a disk that stands still holds nobody up.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    /// `None` only while it is dropped.
    lines: Option<SyncSender<Vec<u8>>>,
    /// Disconnected once the writer has ended.
    ended: Receiver<()>,
    dropped: u64,
}

/// How long what still waits is written at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.lines.take());
        let _ = self.ended.recv_timeout(LAST_WORDS);
    }
}

impl Recorder {
    /// Appends to `path`, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be opened for writing, or there is no thread to write.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Self::to(path, file)
    }

    fn to(path: &Path, mut to: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel::<Vec<u8>>(QUEUE);
        let writer = thread::Builder::new().name("anomaly-record".to_owned());
        let shown = path.display().to_string();
        let (alive, ended) = sync_channel::<()>(0);
        writer.spawn(move || {
            let _alive = alive;
            for line in waiting {
                if let Err(error) = to.write_all(&line) {
                    log::error!("cannot record further samples in {shown}: {error}");
                    return;
                }
            }
        })?;
        Ok(Self { path: path.to_owned(), lines: Some(lines), ended, dropped: 0 })
    }

    /// Hands a second on to be written as one line; dropped and counted while too many wait.
    ///
    /// # Errors
    /// Nothing is written any more.
    pub fn write(&mut self, second: &RecordedSecond<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(second)?;
        line.push(b'\n');
        match self.lines.as_ref().map(|lines| lines.try_send(line)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => {
                self.dropped += 1;
                if self.dropped.is_power_of_two() {
                    let (path, dropped) = (self.path.display(), self.dropped);
                    log::warn!("writing {path} is too slow: {dropped} seconds were not recorded");
                }
                Ok(())
            }
            Some(Err(TrySendError::Disconnected(_))) | None => {
                Err(io::Error::other("its writer has ended"))
            }
        }
    }

    /// Seconds that were dropped.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
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
    use crate::{anomaly::Kind, model::record::Mode};

    #[test]
    fn a_second_comes_back_as_it_was_written() {
        let sample = Sample {
            migration: Some("1795371310933-1489"),
            mode: Some(Mode::Hybrid),
            kind: Kind::StreamImbalance,
            value: 0.25,
        };
        let host = Sample { migration: None, mode: None, kind: Kind::ErrorBurst, value: 0.0 };
        let second = RecordedSecond { at: Timestamp::UNIX_EPOCH, samples: vec![sample, host] };
        let text = serde_json::to_string(&second).unwrap();
        assert_eq!(serde_json::from_str::<RecordedSecond<'_>>(&text).unwrap(), second);
    }

    /// A disk that stands still until it is told to go on.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_stands_still_costs_seconds_of_the_record_and_nothing_else() {
        let (go_on, told) = std::sync::mpsc::channel();
        let mut recorder = Recorder::to(Path::new("stuck"), Stuck(told)).unwrap();
        let second = RecordedSecond { at: Timestamp::UNIX_EPOCH, samples: Vec::new() };
        for _ in 0..QUEUE + 10 {
            recorder.write(&second).unwrap();
        }
        // One more is in the writer's hands, or not yet.
        assert!((9..=10).contains(&recorder.dropped()), "{}", recorder.dropped());
        drop(go_on);
    }
}
