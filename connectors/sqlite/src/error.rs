//! Maps SQLite's result codes to consequences.
//!
//! Result codes and their meaning: <https://www.sqlite.org/rescode.html>.

use crossfade_core::Error;
use rusqlite::ErrorCode;

/// Maps a driver's error; `doing` says what was being done.
pub fn classify(doing: &str, error: rusqlite::Error) -> Error {
    let rusqlite::Error::SqliteFailure(code, _) = &error else {
        return Error::corrupt(doing.to_owned()).caused_by(error);
    };
    match code.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::SchemaChanged => {
            Error::transient(doing.to_owned())
                .hint("another program holds the database's lock: a longer busy_timeout waits for it")
        }
        ErrorCode::OperationInterrupted | ErrorCode::OutOfMemory => Error::transient(doing.to_owned()),
        ErrorCode::FileLockingProtocolFailed | ErrorCode::SystemIoFailure => {
            Error::transient(doing.to_owned()).hint("look at the disk; WAL mode does not work on network file systems")
        }
        ErrorCode::NotADatabase => Error::unavailable(doing.to_owned())
            .hint("the file is no SQLite database, or it is encrypted: name the database's own file"),
        ErrorCode::DatabaseCorrupt => Error::corrupt(doing.to_owned())
            .hint("run `PRAGMA integrity_check`, and restore the database from a backup or with `.recover`"),
        ErrorCode::CannotOpen => {
            Error::unavailable(doing.to_owned()).hint("the file must exist, and its folder be readable and writable")
        }
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
            Error::unavailable(doing.to_owned())
                .hint("Crossfade needs to write to the file and to its folder: grant its user both")
        }
        ErrorCode::DiskFull => Error::unavailable(doing.to_owned()).hint("free space on the database's disk"),
        _ => Error::corrupt(doing.to_owned()),
    }
    .caused_by(error)
}

/// Says what was being done when the driver failed.
pub trait Doing<T> {
    /// Classifies the error, with `doing` in front.
    fn doing(self, doing: &str) -> crossfade_core::Result<T>;
}

impl<T> Doing<T> for rusqlite::Result<T> {
    fn doing(self, doing: &str) -> crossfade_core::Result<T> {
        self.map_err(|e| classify(doing, e))
    }
}
