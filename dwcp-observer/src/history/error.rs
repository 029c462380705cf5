//! What can go wrong with the database.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why the history cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Written by a newer version.
    #[error(
        "{}: written by a newer dwcp-observer (schema {found}, this version knows up to {known}): \
         run that version, or move the file away to start a new one", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema known.
        known: i64,
    },
    /// A file of somebody else.
    #[error("{}: not a history of dwcp-observer ({what}): set another file in history.path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// The directory cannot be made.
    #[error("{}: cannot create the directory: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// No room on the disk.
    #[error("{}: the disk is full", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Pages of it hold what cannot be.
    #[error("{}: damaged; move it away, and the observer starts a new one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// There is no such file.
    #[error("{}: no history yet; `dwcp-observer run` writes it unless history.enabled is false", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// What SQLite says.
    #[error("{}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// The message.
        source: rusqlite::Error,
    },
    /// A value that is no JSON.
    #[error("invalid row: {0}")]
    Json(#[from] serde_json::Error),
}

impl HistoryError {
    /// Whether no later attempt can end differently.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Newer { .. } | Self::Foreign { .. })
    }

    /// Whether the fault lies with what is to be written, not with the file or its disk.
    #[must_use]
    pub fn is_of_the_batch(&self) -> bool {
        match self {
            Self::Json(_) => true,
            Self::Database { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
            ),
            _ => false,
        }
    }

    /// Names the file in what SQLite says.
    pub(super) fn of(path: &std::path::Path) -> impl Fn(rusqlite::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path: path.clone() },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path: path.clone() },
            Some(ErrorCode::NotADatabase) => {
                Self::Foreign { path: path.clone(), what: "not an SQLite database".to_owned() }
            }
            _ => Self::Database { path: path.clone(), source },
        }
    }
}
