//! The tables, and how an older file becomes a current one.

use std::path::Path;

use rusqlite::Connection;

use super::HistoryError;

/// Marks the file as ours (`PRAGMA application_id`): "dwcp".
const APPLICATION: i64 = 0x6477_6370;

/// One step per schema version (`PRAGMA user_version`), the first from an empty file.
const STEPS: &[&str] = &[
    // 1: times are ms since 1970; bodies are JSON.
    "CREATE TABLE migrations (
         id TEXT PRIMARY KEY,
         ended_ms INTEGER NOT NULL,
         record TEXT NOT NULL
     );
     CREATE INDEX migrations_by_end ON migrations (ended_ms);
     -- One row per minute and run of the observer.
     CREATE TABLE minutes (
         at_ms INTEGER NOT NULL,
         run_ms INTEGER NOT NULL,
         body TEXT NOT NULL,
         PRIMARY KEY (at_ms, run_ms)
     ) WITHOUT ROWID;",
    // 2: what happened between the migrations.
    "CREATE TABLE events (
         at_ms INTEGER NOT NULL,
         body TEXT NOT NULL
     );
     CREATE INDEX events_by_time ON events (at_ms);",
];

/// The newest schema.
pub(super) const KNOWN: i64 = STEPS.len() as i64;

/// Whose file it is and which schema it has; 0 for an empty one.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<i64, HistoryError> {
    let wrap = HistoryError::of(path);
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
    let application: i64 = pragma("application_id").map_err(&wrap)?;
    let found: i64 = pragma("user_version").map_err(&wrap)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))
        .map_err(&wrap)?;
    let ours = application == APPLICATION || (application == 0 && found == 0 && tables == 0);
    if !ours {
        let what = format!("application_id {application:#x}");
        return Err(HistoryError::Foreign { path: path.to_owned(), what });
    }
    if found > KNOWN {
        return Err(HistoryError::Newer { path: path.to_owned(), found, known: KNOWN });
    }
    Ok(found)
}

/// Makes the schema current, all steps or none.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), HistoryError> {
    let wrap = HistoryError::of(path);
    let found = version(connection, path)?;
    if found == KNOWN {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(&wrap)?;
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step).map_err(&wrap)?;
    }
    let marks = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {KNOWN};");
    transaction.execute_batch(&marks).map_err(&wrap)?;
    transaction.commit().map_err(&wrap)?;
    if found > 0 {
        log::info!("{}: schema upgraded from {found} to {KNOWN}", path.display());
    }
    Ok(())
}

/// The first steps only, as an older version wrote them.
#[cfg(test)]
pub(super) fn older(connection: &Connection, version: usize) {
    for step in STEPS.iter().take(version) {
        connection.execute_batch(step).unwrap();
    }
    let marks = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {version};");
    connection.execute_batch(&marks).unwrap();
}
