//! The loaders, which assemble the objects of a kind.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tonic::Code;

use crate::key::Tags;

mod remote;
mod rows;

pub(crate) use remote::RemoteLoader;
pub(crate) use rows::Tables;

/// The result of a loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// The object.
    Object {
        /// The object, whole.
        value: Bytes,
        /// Tags of the entry.
        tags: Tags,
        /// The time for which it may be cached.
        lifetime: Lifetime,
    },
    /// The loader has no such object.
    Missing,
}

/// The time for which a loaded object may be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// The kind's ttl.
    OfKind,
    /// The loader's ttl; zero: not at all.
    Own(Duration),
    /// The kind's ttl, and no longer than this; zero: not at all.
    AtMost(Duration),
}

/// Loads the objects of one kind, one at a time. Reads only: a load may be repeated and may be thrown away.
pub(crate) trait Loader: Send + Sync + 'static {
    /// Loads one object. What it returns is at least as new as the moment of the call. Bounded by the caller.
    fn load(&self, kind: &str, id: &str) -> BoxFuture<'static, Result<Loaded, LoadError>>;
}

/// The reason for which a load failed. Never cached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    /// The loader has no clone that can be reached.
    #[error("not reachable: {detail}")]
    Unreachable {
        /// Details for the caller.
        detail: String,
    },
    /// The loader did not answer in time.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// The kind's timeout.
        after: Duration,
    },
    /// The loader answered with an error.
    #[error("answered {code:?}: {message}")]
    Rejected {
        /// The loader's own code.
        code: Code,
        /// The loader's own reason, when it gave one.
        reason: String,
        /// The loader's own message.
        message: String,
    },
    /// The loader's answer breaks its contract.
    #[error("broke the contract: {detail}")]
    Protocol {
        /// The part that was wrong.
        detail: String,
    },
    /// The id cannot name an object of this kind.
    #[error("id: {problem}")]
    InvalidId {
        /// The problem, and what the id should be.
        problem: String,
    },
}
