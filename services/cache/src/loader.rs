//! Who assembles the objects of a kind.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tonic::Code;

use crate::key::Tags;

mod remote;
mod rows;

pub(crate) use remote::RemoteLoader;
pub(crate) use rows::Tables;

/// What a loader found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// The object.
    Object {
        /// The object, whole.
        value: Bytes,
        /// Tags of the entry.
        tags: Tags,
        /// How long it may be cached.
        lifetime: Lifetime,
    },
    /// There is no such object.
    Missing,
}

/// How long a loaded object may be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// As the kind says.
    OfKind,
    /// As the loader says; zero: not at all.
    Own(Duration),
    /// As the kind says, and no longer than this; zero: not at all.
    AtMost(Duration),
}

/// Loads the objects of one kind, one at a time. Reads only: a load may be repeated and may be thrown away.
pub(crate) trait Loader: Send + Sync + 'static {
    /// Loads one object. What it returns is at least as new as the moment of the call. Bounded by the caller.
    fn load(&self, kind: &str, id: &str) -> BoxFuture<'static, Result<Loaded, LoadError>>;
}

/// Why a load failed. Never cached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    /// No clone of the loader can be reached.
    #[error("not reachable: {detail}")]
    Unreachable {
        /// What is known about it.
        detail: String,
    },
    /// It did not answer in time.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// The kind's timeout.
        after: Duration,
    },
    /// It answered with an error.
    #[error("answered {code:?}: {message}")]
    Rejected {
        /// The loader's own code.
        code: Code,
        /// The loader's own reason, when it gave one.
        reason: String,
        /// The loader's own message.
        message: String,
    },
    /// It answered something that is no answer.
    #[error("broke the contract: {detail}")]
    Protocol {
        /// What was wrong.
        detail: String,
    },
    /// The id cannot name an object of this kind.
    #[error("id: {problem}")]
    InvalidId {
        /// What is wrong and what it should be.
        problem: String,
    },
}
