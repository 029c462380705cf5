//! The file.

use std::{
    fs::DirBuilder,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::PoisonError,
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction};
use serde::Serialize;

use super::{Batch, Event, HistoryError, minute::Minute, schema};
use crate::config::Retention;
use crate::model::record::{Migration, Sample};

/// How long a writer waits for a reader and the other way round.
const BUSY: Duration = Duration::from_secs(2);
/// Above the size limit it is emptied down to this share, so that not each batch prunes.
const ROOM: f64 = 0.9;

/// An open database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
    file: Option<Identity>,
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

impl Store {
    /// Opens the database for writing; makes it, and its directory, where it is missing, and brings an older schema up to date.
    ///
    /// # Errors
    /// What the disk refuses; a file of a newer version or of somebody else.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let wrap = HistoryError::of(path);
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(directory)
                .map_err(|source| HistoryError::Directory { path: directory.to_owned(), source })?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(&wrap)?;
        connection.busy_timeout(BUSY).map_err(&wrap)?;
        // Before anything is changed: somebody else's file stays as it is.
        schema::version(&connection, path)?;
        // A small cache: rows are written once and read by the report. The log is cut back after each checkpoint.
        connection
            .execute_batch(
                "PRAGMA auto_vacuum = INCREMENTAL;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA cache_size = -128;
                 PRAGMA wal_autocheckpoint = 64;
                 PRAGMA journal_size_limit = 0;
                 PRAGMA temp_store = MEMORY;",
            )
            .map_err(&wrap)?;
        schema::migrate(&mut connection, path)?;
        Ok(Self { path: path.to_owned(), connection, file: identity(path) })
    }

    /// Opens the database for reading, while the observer may write it.
    ///
    /// # Errors
    /// There is none, it cannot be read, or it is of a newer version or of somebody else.
    pub fn open_read_only(path: &Path) -> Result<Self, HistoryError> {
        let wrap = HistoryError::of(path);
        if !path.exists() {
            return Err(HistoryError::Missing { path: path.to_owned() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(&wrap)?;
        connection.busy_timeout(BUSY).map_err(&wrap)?;
        let found = schema::version(&connection, path)?;
        // Tables that an older schema lacks would be an error of SQL.
        if found < schema::KNOWN {
            let what = format!("schema {found}: run `dwcp-observer run` to upgrade it");
            return Err(HistoryError::Foreign { path: path.to_owned(), what });
        }
        Ok(Self { path: path.to_owned(), connection, file: identity(path) })
    }

    /// Whether the file at the path is not the one that was opened: moved away, removed, or another one put in its place. What is
    /// written then goes where nobody looks.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        identity(&self.path) != self.file
    }

    /// Writes a batch as one transaction, durable when this returns.
    ///
    /// # Errors
    /// Nothing of it is written.
    pub fn write(&mut self, batch: &Batch) -> Result<(), HistoryError> {
        let wrap = HistoryError::of(&self.path);
        let transaction = self.connection.transaction().map_err(&wrap)?;
        for (record, samples) in &batch.migrations {
            let history = samples.lock().unwrap_or_else(PoisonError::into_inner).samples();
            let body = serde_json::to_string(&Whole { record, history })?;
            let ended = record.ended_at.unwrap_or(record.started_at).as_millisecond();
            insert(&transaction, &record.id, ended, &body).map_err(&wrap)?;
        }
        for minute in &batch.minutes {
            let body = serde_json::to_string(minute)?;
            transaction
                .execute(
                    "INSERT OR REPLACE INTO minutes (at_ms, run_ms, body) VALUES (?, ?, ?)",
                    (minute.at * 1000, minute.run_ms, &body),
                )
                .map_err(&wrap)?;
        }
        for event in &batch.events {
            let body = serde_json::to_string(event)?;
            transaction
                .execute(
                    "INSERT INTO events (at_ms, body) VALUES (?, ?)",
                    (event.at.as_millisecond(), &body),
                )
                .map_err(&wrap)?;
        }
        transaction.commit().map_err(&wrap)
    }

    /// Removes what is older than the retention, and the oldest where the file is too large. Returns the number of rows.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn prune(&mut self, now: Timestamp, retention: Retention) -> Result<u64, HistoryError> {
        let mut removed = self.forget_before(now.as_millisecond() - retention.seconds * 1000)?;
        if self.used_bytes()? > retention.bytes {
            let enough = (retention.bytes as f64 * ROOM) as u64;
            while self.used_bytes()? > enough {
                let gone = self.forget_oldest()?;
                if gone == 0 {
                    break;
                }
                removed += gone;
            }
        }
        if removed > 0 {
            let wrap = HistoryError::of(&self.path);
            // Gives free pages back to the file system. It is a query that must be stepped to its end.
            let mut statement =
                self.connection.prepare("PRAGMA incremental_vacuum").map_err(&wrap)?;
            let mut rows = statement.query([]).map_err(&wrap)?;
            while rows.next().map_err(&wrap)?.is_some() {}
        }
        Ok(removed)
    }

    fn forget_before(&self, ms: i64) -> Result<u64, HistoryError> {
        let delete = |sql: &str| self.connection.execute(sql, [ms]);
        let mut removed = 0;
        for sql in [
            "DELETE FROM migrations WHERE ended_ms < ?",
            "DELETE FROM minutes WHERE at_ms < ?",
            "DELETE FROM events WHERE at_ms < ?",
        ] {
            removed += delete(sql).map_err(HistoryError::of(&self.path))? as u64;
        }
        Ok(removed)
    }

    /// A tenth of the migrations; without any a tenth of the events; without these of the minutes, which the error budgets need.
    fn forget_oldest(&self) -> Result<u64, HistoryError> {
        for (table, time) in [("migrations", "ended_ms"), ("events", "at_ms"), ("minutes", "at_ms")]
        {
            let sql = format!(
                "DELETE FROM {table} WHERE {time} <= (SELECT {time} FROM {table} ORDER BY {time} \
                 LIMIT 1 OFFSET (SELECT count(*) / 10 FROM {table}))"
            );
            let gone = self.connection.execute(&sql, []).map_err(HistoryError::of(&self.path))?;
            if gone > 0 {
                return Ok(gone as u64);
            }
        }
        Ok(0)
    }

    /// Bytes of the database file that hold something.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn used_bytes(&self) -> Result<u64, HistoryError> {
        let pages = self.pragma("page_count")? - self.pragma("freelist_count")?;
        Ok(u64::try_from(pages * self.pragma("page_size")?).unwrap_or(0))
    }

    fn pragma(&self, name: &str) -> Result<i64, HistoryError> {
        self.connection
            .query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
            .map_err(HistoryError::of(&self.path))
    }

    /// Migrations that ended from `from` to before `to`, oldest first, one at a time: a record may be large. Their seconds are left out.
    ///
    /// # Errors
    /// What the disk refuses, or a row that is no record.
    pub fn migrations(
        &self,
        from: Timestamp,
        to: Timestamp,
        mut each: impl FnMut(Migration),
    ) -> Result<(), HistoryError> {
        let sql = "SELECT json_remove(record, '$.history') FROM migrations \
                   WHERE ended_ms >= ? AND ended_ms < ? ORDER BY ended_ms, id";
        self.bodies(sql, from, to, |body| {
            each(serde_json::from_str(body)?);
            Ok(())
        })
    }

    /// Minutes that began from `from` to before `to`, oldest first. Two runs of the observer may share one.
    ///
    /// # Errors
    /// What the disk refuses, or a row that is no minute.
    pub fn minutes(
        &self,
        from: Timestamp,
        to: Timestamp,
        mut each: impl FnMut(Minute),
    ) -> Result<(), HistoryError> {
        let sql = "SELECT body FROM minutes WHERE at_ms >= ? AND at_ms < ? ORDER BY at_ms, run_ms";
        self.bodies(sql, from, to, |body| {
            each(serde_json::from_str(body)?);
            Ok(())
        })
    }

    /// What happened from `from` to before `to`, oldest first.
    ///
    /// # Errors
    /// What the disk refuses, or a row that is no event.
    pub fn events(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Event>, HistoryError> {
        let sql = "SELECT body FROM events WHERE at_ms >= ? AND at_ms < ? ORDER BY at_ms, rowid";
        let mut events = Vec::new();
        self.bodies(sql, from, to, |body| {
            events.push(serde_json::from_str(body)?);
            Ok(())
        })?;
        Ok(events)
    }

    fn bodies(
        &self,
        sql: &str,
        from: Timestamp,
        to: Timestamp,
        mut each: impl FnMut(&str) -> Result<(), HistoryError>,
    ) -> Result<(), HistoryError> {
        let wrap = HistoryError::of(&self.path);
        let mut statement = self.connection.prepare(sql).map_err(&wrap)?;
        let mut rows =
            statement.query((from.as_millisecond(), to.as_millisecond())).map_err(&wrap)?;
        while let Some(row) = rows.next().map_err(&wrap)? {
            let body = row.get_ref(0).map_err(&wrap)?;
            each(body.as_str().map_err(|error| wrap(error.into()))?)?;
        }
        Ok(())
    }

    /// The connection, for tests that look beneath.
    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// A record with its seconds, as the API gives it.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    record: &'a Migration,
    history: Vec<Sample>,
}

fn insert(
    transaction: &Transaction<'_>,
    id: &str,
    ended_ms: i64,
    body: &str,
) -> rusqlite::Result<usize> {
    transaction.execute(
        "INSERT OR REPLACE INTO migrations (id, ended_ms, record) VALUES (?, ?, ?)",
        (id, ended_ms, body),
    )
}
