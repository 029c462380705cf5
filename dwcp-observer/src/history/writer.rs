//! The thread that writes, and what is known of it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{Batch, HistoryError, Store, minute::Minute};
use crate::config::Retention;

/// Batches that wait: what a disk that hangs for two minutes may hold up.
const QUEUE: usize = 128;
/// After a failure the next attempt comes this much later.
const RETRY: Duration = Duration::from_secs(5);
/// How often rows that are too old are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// How long the end of the observer waits for the last batch.
const STOP: Duration = Duration::from_secs(3);

/// Whether the history is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Switched off.
    #[default]
    Off,
    /// It is.
    Writing,
    /// Not at present; it is tried again and again.
    Failing {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// Not any more in this run.
    Refused {
        /// Why.
        reason: String,
    },
}

impl State {
    /// Why it is not written although it should be.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Off | Self::Writing => None,
            Self::Failing { since, reason } => {
                Some(format!("the history has not been written since {since}: {reason}"))
            }
            Self::Refused { reason } => Some(format!("cannot write the history: {reason}")),
        }
    }
}

/// What the thread has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it writes.
    pub state: State,
    /// Rows written.
    pub written: u64,
    /// Rows that found no room in the queue, could not be written, or belong to migrations that came too fast.
    pub dropped: u64,
    /// Attempts to write that failed.
    pub failures: u64,
    /// Rows removed for their age or for want of room.
    pub pruned: u64,
    /// Size of the database; absent before the first write.
    pub bytes: Option<u64>,
}

/// Called after each batch on the writing thread, with the database: writes the hourly report.
pub type AfterWrite = Box<dyn FnMut(&Store) + Send>;

/// The way to the writing thread. Dropping it writes what is queued and ends the thread.
#[derive(Debug)]
pub struct History {
    queue: Option<SyncSender<Batch>>,
    status: Arc<Mutex<Status>>,
    thread: Option<JoinHandle<()>>,
}

impl History {
    /// Starts the thread. `store` is the open database, or why it could not be opened: unless that cannot change, it is tried again.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        path: PathBuf,
        retention: Retention,
        store: Result<Store, HistoryError>,
        after: AfterWrite,
    ) -> std::io::Result<Self> {
        let status = Arc::new(Mutex::new(Status::default()));
        let (queue, batches) = sync_channel(QUEUE);
        let mut writer = Writer {
            path,
            retention,
            store: None,
            status: Arc::clone(&status),
            after,
            pruned: None,
        };
        writer.opened(store);
        if matches!(lock(&status).state, State::Refused { .. }) {
            return Ok(Self { queue: None, status, thread: None });
        }
        let thread = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || writer.run(&batches))?;
        Ok(Self { queue: Some(queue), status, thread: Some(thread) })
    }

    /// Queues a batch; when the queue is full its rows are dropped and counted. Never waits.
    pub fn write(&self, batch: Batch) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) =
            queue.try_send(batch)
        {
            lock(&self.status).dropped += batch.rows();
        }
    }

    /// Counts rows that never came to the queue.
    pub fn lost(&self, rows: u64) {
        lock(&self.status).dropped += rows;
    }

    /// What the thread has done.
    #[must_use]
    pub fn status(&self) -> Status {
        lock(&self.status).clone()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        drop(self.queue.take());
        let Some(thread) = self.thread.take() else { return };
        // A disk that hangs must not keep the observer from ending.
        let begun = Instant::now();
        while !thread.is_finished() && begun.elapsed() < STOP {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !thread.is_finished() {
            log::warn!("cannot write the history's last batch: the disk does not answer");
        } else if thread.join().is_err() {
            log::error!("the history thread panicked");
        }
    }
}

fn lock(status: &Mutex<Status>) -> MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    path: PathBuf,
    retention: Retention,
    store: Option<Store>,
    status: Arc<Mutex<Status>>,
    after: AfterWrite,
    pruned: Option<Instant>,
}

impl Writer {
    fn run(&mut self, batches: &Receiver<Batch>) {
        let mut waiting: Option<Batch> = None;
        loop {
            let batch = match waiting.take() {
                Some(batch) => batch,
                None => match batches.recv() {
                    Ok(batch) => batch,
                    // All senders are gone, and all batches were taken.
                    Err(_) => return,
                },
            };
            match self.write(&batch) {
                Ok(()) => self.after_write(&batch),
                Err(error) if error.is_of_the_batch() => {
                    log::error!("history: lost {} rows: {error}", batch.rows());
                    let mut status = lock(&self.status);
                    status.failures += 1;
                    status.dropped += batch.rows();
                }
                Err(error) => {
                    self.failed(&error);
                    waiting = Some(batch);
                    if self.pause(batches, &mut waiting) {
                        return;
                    }
                }
            }
        }
    }

    fn write(&mut self, batch: &Batch) -> Result<(), HistoryError> {
        if self.store.take_if(|store| store.is_moved()).is_some() {
            log::warn!("history: {} was moved or removed; starting a new one", self.path.display());
        }
        if self.store.is_none() {
            self.store = Some(Store::open(&self.path)?);
        }
        match &mut self.store {
            Some(store) => store.write(batch),
            None => Ok(()),
        }
    }

    fn after_write(&mut self, batch: &Batch) {
        {
            let mut status = lock(&self.status);
            status.written += batch.rows();
            if let State::Failing { since, .. } = &status.state {
                log::info!("history: writing works again; it had failed since {since}");
            }
            status.state = State::Writing;
        }
        let Some(store) = &mut self.store else { return };
        let bytes = store.used_bytes().ok();
        let due = self.pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY)
            || bytes.is_some_and(|bytes| bytes > self.retention.bytes);
        let mut removed = 0;
        if due {
            self.pruned = Some(Instant::now());
            removed = store
                .prune(Timestamp::now(), self.retention)
                .inspect_err(|error| log::warn!("history: cannot remove old rows: {error}"))
                .unwrap_or(0);
        }
        {
            let mut status = lock(&self.status);
            status.pruned += removed;
            status.bytes = if due { store.used_bytes().ok() } else { bytes };
        }
        (self.after)(store);
    }

    fn opened(&mut self, store: Result<Store, HistoryError>) {
        match store {
            Ok(store) => {
                self.store = Some(store);
                lock(&self.status).state = State::Writing;
            }
            Err(error) if error.is_permanent() => {
                log::error!("history: cannot write: {error}");
                lock(&self.status).state = State::Refused { reason: error.to_string() };
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Says it once, counts it each time.
    fn failed(&self, error: &HistoryError) {
        let mut status = lock(&self.status);
        status.failures += 1;
        let reason = error.to_string();
        let since = match &status.state {
            State::Failing { since, .. } => *since,
            _ => {
                log::error!(
                    "history: cannot write, retrying every {} s: {reason}",
                    RETRY.as_secs()
                );
                Timestamp::now()
            }
        };
        status.state = State::Failing { since, reason };
    }

    /// Waits before the next attempt, and gathers what comes meanwhile. True when the observer ends: then a last attempt was made.
    fn pause(&mut self, batches: &Receiver<Batch>, waiting: &mut Option<Batch>) -> bool {
        let until = Instant::now() + RETRY;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match batches.recv_timeout(left) {
                Ok(next) => {
                    if let Some(batch) = waiting.as_mut() {
                        join(batch, next, &self.status);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => {
                    let Some(batch) = waiting.take() else { return true };
                    match self.write(&batch) {
                        Ok(()) => self.after_write(&batch),
                        Err(error) => {
                            log::error!("history: lost {} rows: {error}", batch.rows());
                            lock(&self.status).dropped += batch.rows();
                        }
                    }
                    return true;
                }
            }
        }
    }
}

/// Adds a batch to the one that waits, as far as there is room. A newer state of a minute takes the older one's place.
fn join(waiting: &mut Batch, next: Batch, status: &Mutex<Status>) {
    let mut lost = 0;
    let mut room = |length: usize| {
        lost += u64::from(length >= QUEUE);
        length < QUEUE
    };
    for migration in next.migrations {
        if room(waiting.migrations.len()) {
            waiting.migrations.push(migration);
        }
    }
    for event in next.events {
        if room(waiting.events.len()) {
            waiting.events.push(event);
        }
    }
    for minute in next.minutes {
        let same = |held: &&mut Minute| (held.at, held.run_ms) == (minute.at, minute.run_ms);
        if let Some(held) = waiting.minutes.iter_mut().find(same) {
            *held = minute;
        } else if room(waiting.minutes.len()) {
            waiting.minutes.push(minute);
        }
    }
    if lost > 0 {
        lock(status).dropped += lost;
    }
}
