//! What can go wrong, cut by what a caller does about it.

use std::path::PathBuf;
use std::sync::Arc;

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
        /// Who holds it, as far as it can be told.
        holder: String,
    },
    /// The directory cannot be made, read or written.
    #[error("cannot use {} as a data directory: {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The files in it are not usable: another version's, or damaged.
    #[error("the database in {} cannot be opened: {source}; restore it or start with another --data DIR", dir.display())]
    Engine {
        /// The directory.
        dir: PathBuf,
        /// The engine's reason.
        source: fjall::Error,
    },
}

/// Why a read or a write failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The database was closed before the write's turn came. Nothing was done.
    #[error("the embedded database is closed")]
    Closed,
    /// The closure panicked. Nothing of it is kept; later writes are not affected.
    #[error("a transaction panicked: {0}")]
    Panicked(String),
    /// A key, value, name or transaction is beyond a limit, which the text names. Nothing was done.
    #[error("{0}")]
    Limit(String),
    /// The storage engine failed. From a write: it may or may not be found after a restart, and the database
    /// takes no more writes until then.
    #[error("the embedded database failed: {0}")]
    Engine(Arc<fjall::Error>),
}

impl From<fjall::Error> for Error {
    fn from(error: fjall::Error) -> Self {
        Error::Engine(Arc::new(error))
    }
}
