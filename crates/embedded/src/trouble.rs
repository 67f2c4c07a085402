//! The reasons why files are not opened, before they are told to a caller with the directory's name.

use std::io;

/// The reason why the files are not opened.
#[derive(Debug)]
pub(crate) enum Trouble {
    Io(io::Error),
    Engine(fjall::Error),
    /// Something that was written is missing; the text names it.
    Damaged(String),
}

impl Trouble {
    pub(crate) fn damaged(what: impl Into<String>) -> Trouble {
        Trouble::Damaged(what.into())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl From<fjall::Error> for Trouble {
    fn from(error: fjall::Error) -> Trouble {
        Trouble::Engine(error)
    }
}
