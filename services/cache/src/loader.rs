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

/// An object to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) id: String,
    /// The entry that the cache still has of it.
    pub(crate) previous: Option<Previous>,
}

/// An entry that the cache still has, and that may be out of date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Previous {
    /// The loader's version of it; may be empty.
    pub(crate) version: Bytes,
    /// The time since its load began.
    pub(crate) age: Duration,
}

/// The result of a loader for one object.
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
        /// The loader's own version of it, at most [`VERSION_BYTES_MAX`](crate::limit::VERSION_BYTES_MAX); may be empty.
        version: Bytes,
    },
    /// The loader has no such object.
    Missing {
        /// Tags of the negative entry.
        tags: Tags,
    },
    /// The object is the one that the cache had. Only for an object whose previous entry the loader was told.
    NotModified {
        /// The time for which it may be cached from now on.
        lifetime: Lifetime,
    },
    /// The object, which is not to be stored.
    Unstorable {
        /// The object, whole.
        value: Bytes,
    },
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

/// The result of a load for each of the wanted objects, in their order.
pub(crate) type Loads = Vec<Result<Loaded, LoadError>>;

/// Loads objects of one kind. Reads only: a load may be repeated and may be thrown away.
pub(crate) trait Loader: Send + Sync + 'static {
    /// Loads objects, each named once. What it returns is at least as new as the moment of the call, with a result for each,
    /// in their order. An error of the whole is an error of each. Bounded by the caller.
    fn load(&self, kind: &str, wanted: Vec<Wanted>) -> BoxFuture<'static, Result<Loads, LoadError>>;
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

impl LoadError {
    /// Returns whether the loader is broken or away, so that others objects of it would fare no better. An answer to this
    /// object alone, such as PERMISSION_DENIED, comes from a loader that works.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            LoadError::Unreachable { .. } | LoadError::TimedOut { .. } | LoadError::Protocol { .. } => true,
            LoadError::Rejected { code, .. } => matches!(
                code,
                Code::Unknown | Code::Internal | Code::DataLoss | Code::ResourceExhausted | Code::Unavailable
            ),
            LoadError::InvalidId { .. } => false,
        }
    }

    /// Returns the name of the failure as a metric's label has it.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            LoadError::Unreachable { .. } => "unreachable",
            LoadError::TimedOut { .. } => "timed_out",
            LoadError::Rejected { .. } | LoadError::InvalidId { .. } => "refused",
            LoadError::Protocol { .. } => "protocol",
        }
    }
}
