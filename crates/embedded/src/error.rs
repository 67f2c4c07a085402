//! The errors, one for each different reaction of a caller.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::trouble::Trouble;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another handle in this one) has the directory open.
    #[error(
        "{} is in use by {holder}; stop it, or keep this mesh's data elsewhere (--data DIR) or on \
         shared engines (--redis URL)", dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that holds the directory, as far as is known.
        holder: String,
    },
    /// The directory cannot be made, read or written.
    #[error("cannot use {} as a data directory: {reason}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The operating system's reason.
        reason: std::io::Error,
    },
    /// Something that was written is missing or damaged. The database is not opened, so that no service runs on partial data.
    #[error(
        "the database in {0} is damaged: {what}; restore a copy of the whole directory, or move it away to begin with an \
         empty database, or let `shoal repair {0}` say what can be kept of it", dir.display()
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// The part that is missing or damaged.
        what: String,
    },
    /// The files in the directory are damaged or have the format of another version.
    #[error(
        "the database in {0} cannot be opened: {1}; restore it, or start with another --data DIR, or let `shoal repair {0}` \
         say what can be kept of it", dir.display(), words(reason)
    )]
    Engine {
        /// The directory.
        dir: PathBuf,
        /// The engine's reason.
        reason: fjall::Error,
    },
}

/// Why a read or a write failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The database was closed before the write's turn came. Nothing was done.
    #[error("the embedded database is closed")]
    Closed,
    /// The closure panicked. None of its writes is kept; later writes are not affected.
    #[error("a transaction panicked: {0}")]
    Panicked(String),
    /// A key, value, name or transaction is beyond a limit, which the text names. Nothing was done.
    #[error("{0}")]
    Limit(String),
    /// The disk has no room. Nothing was done. Reads go on; writes are accepted again when there is room.
    #[error("the embedded database is full: {0}")]
    Full(String),
    /// The disk failed earlier, and the database is not open again yet. Nothing was done.
    #[error("the embedded database takes no writes: {0}")]
    Failed(String),
    /// The files are being opened again after the disk failed. Nothing was done; a retry soon succeeds.
    #[error("the embedded database is being opened again")]
    Reopening,
    /// The storage engine failed during this call. A write that failed may or may not be found later. The database is opened
    /// again before the next write.
    #[error("the embedded database failed: {}", words(.0))]
    Engine(Arc<fjall::Error>),
}

impl From<fjall::Error> for Error {
    fn from(error: fjall::Error) -> Self {
        Error::Engine(Arc::new(error))
    }
}

impl Trouble {
    /// Says that `dir` was not opened, and why.
    pub(crate) fn into_open_error(self, dir: &Path) -> OpenError {
        let dir = dir.to_owned();
        match self {
            Trouble::Io(reason) => OpenError::Directory { dir, reason },
            Trouble::Engine(reason) => OpenError::Engine { dir, reason },
            Trouble::Damaged(what) => OpenError::Damaged { dir, what },
        }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Error {
        match trouble {
            Trouble::Io(error) => fjall::Error::Io(error).into(),
            Trouble::Engine(error) => error.into(),
            Trouble::Damaged(what) => Error::Failed(format!("its files are damaged: {what}")),
        }
    }
}

/// Says what went wrong in the storage engine. Its own text is the debug form of a Rust type.
pub(crate) fn words(error: &fjall::Error) -> String {
    use fjall::Error as Engine;
    match error {
        Engine::Io(error) => error.to_string(),
        Engine::Storage(error) => storage_words(error),
        Engine::JournalRecovery(_)
        | Engine::InvalidTrailer
        | Engine::InvalidTag(_)
        | Engine::Decompress(_) => "its journal is damaged".to_owned(),
        Engine::InvalidVersion(None) => "its version file is damaged".to_owned(),
        Engine::InvalidVersion(Some(version)) => {
            format!("its files have format {version}, which this version of shoal does not read")
        }
        Engine::Poisoned => "an earlier write failed".to_owned(),
        Engine::KeyspaceDeleted => "a keyspace was deleted".to_owned(),
        Engine::Locked => "another process has it open".to_owned(),
        Engine::Unrecoverable => "its files do not fit together".to_owned(),
        other => format!("unknown reason ({other:?})"),
    }
}

/// Describes an error in the files below the journal.
fn storage_words(error: &fjall::LsmError) -> String {
    use fjall::LsmError as Storage;
    match error {
        Storage::Io(error) => error.to_string(),
        Storage::InvalidVersion(_) => {
            "its tables have a format that this version of shoal does not read".to_owned()
        }
        Storage::Unrecoverable => "its tables do not fit together".to_owned(),
        _ => "a table is damaged".to_owned(),
    }
}
