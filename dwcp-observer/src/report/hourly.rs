//! A report per hour, as files.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;

use super::{
    data::{Data, LiveData},
    document::Document,
    report,
};
use crate::{
    cycle::published::{Board, Published},
    history::{HistoryError, Store},
    model::record::State,
};

const HOUR: i64 = 3600;
/// A late minute may still be on its way, seconds.
const GRACE: i64 = 5;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A file cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Writes each hour's report once.
#[derive(Debug)]
pub struct Hourly {
    directory: PathBuf,
    retention: Duration,
    node: String,
    board: Board,
    /// Begin of the last hour that was looked at, seconds since 1970.
    done: Option<i64>,
    failing: bool,
}

impl Hourly {
    /// Nothing is written before the first [`Hourly::look`].
    #[must_use]
    pub fn new(directory: PathBuf, retention_days: u32, node: String, board: Board) -> Self {
        let retention = Duration::from_secs(u64::from(retention_days) * 86_400);
        Self { directory, retention, node, board, done: None, failing: false }
    }

    /// Writes the report of the last full hour, unless it is there. A failure is said once. True when one was written.
    pub fn look(&mut self, store: &Store, now: Timestamp) -> bool {
        let hour = (now.as_second() - GRACE).div_euclid(HOUR) * HOUR - HOUR;
        if self.done.is_some_and(|done| hour <= done) {
            return false;
        }
        match self.write(store, hour) {
            Ok(written) => {
                self.done = Some(hour);
                self.failing = false;
                self.forget();
                if let Some(path) = &written {
                    log::info!("report of the hour: {}", path.display());
                }
                written.is_some()
            }
            // Tried again with the next minute.
            Err(error) => {
                if !self.failing {
                    log::error!("no report of the hour: {error}");
                }
                self.failing = true;
                false
            }
        }
    }

    /// The file; `None` when it is there already, or the observer did not look in that hour.
    fn write(&self, store: &Store, hour: i64) -> Result<Option<PathBuf>, ReportError> {
        let at = |second| Timestamp::from_second(second).unwrap_or_default();
        let name = at(hour).strftime("hourly_report_%Y%m%d_%H.md").to_string();
        let path = self.directory.join(name);
        if path.exists() {
            return Ok(None);
        }
        let live = self
            .board
            .latest()
            .map(|published| live(&published, Timestamp::now()))
            .unwrap_or_default();
        let data = Data::read(store, at(hour), at(hour + HOUR), self.node.clone(), live)?;
        if data.minutes.is_empty() && data.finished.is_empty() {
            return Ok(None);
        }
        fs::create_dir_all(&self.directory)
            .map_err(|source| ReportError::Write { path: self.directory.clone(), source })?;
        write_markdown(&report(&data), &path)?;
        Ok(Some(path))
    }

    /// Removes reports that are too old, and nothing else.
    fn forget(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let now = SystemTime::now();
        for entry in entries.flatten() {
            let ours = entry.file_name().to_string_lossy().starts_with("hourly_report_");
            let modified = entry.metadata().and_then(|meta| meta.modified());
            let old = modified
                .is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > self.retention));
            if ours
                && old
                && let Err(error) = fs::remove_file(entry.path())
            {
                log::warn!("{}: cannot be removed: {error}", entry.path().display());
            }
        }
    }
}

/// What the running observer says, from inside it.
#[must_use]
pub fn live(published: &Published, now: Timestamp) -> LiveData {
    let active = published
        .entries
        .iter()
        .map(|entry| &entry.record)
        .filter(|record| record.state == State::Active)
        .cloned()
        .collect();
    LiveData {
        sla: Some(published.sla.as_ref().clone()),
        health: Some(crate::http::health_body(published, now)),
        active: Some(active),
        components: Some(Arc::clone(&published.components)),
    }
}

/// Writes a report and its plots beside it. The report itself comes last and at once: where it is, it is whole.
///
/// # Errors
/// A file cannot be written.
pub fn write_markdown(document: &Document, path: &Path) -> Result<(), ReportError> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let file = |name: &str| format!("{stem}-{name}.svg");
    for figure in document.figures() {
        put(&path.with_file_name(file(figure.name)), &figure.svg)?;
    }
    put(path, &document.markdown(|figure| Some(file(figure.name))))
}

/// Writes a file under another name first.
///
/// # Errors
/// The file cannot be written.
pub fn put(path: &Path, text: &str) -> Result<(), ReportError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    let wrap = |source| ReportError::Write { path: path.to_owned(), source };
    fs::write(&part, text).and_then(|()| fs::rename(&part, path)).map_err(|source| {
        let _ = fs::remove_file(&part);
        wrap(source)
    })
}
