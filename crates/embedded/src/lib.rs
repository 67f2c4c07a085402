//! The embedded database: an ordered key-value store in a directory of this process, with atomic
//! read-check-write transactions and one fsync for many of them.
//!
//! This crate is plumbing: it knows bytes, keyspaces and transactions, and no service's domain.
//!
//! # What holds
//!
//! * **After `Ok`** from [`Database::write`] of a durable database: everything the closure put or deleted
//!   is on the disk (`fdatasync` returned), and every read that starts from now on sees it.
//! * **Before that** nobody outside the closures sees any of it: a group becomes visible only once it
//!   is durable, so nothing that was ever read can be lost.
//! * **After a crash** (of the process or the machine): each transaction is there whole or not at all, and
//!   they are there in their order: none is missing before one that is there.
//! * **After an error**: [`Error::Closed`], [`Error::Panicked`] and [`Error::Limit`] mean nothing was done.
//!   So do [`Error::Full`] and [`Error::Failed`], with which writes are refused while the disk has no room or has failed:
//!   reads go on, and writes do as soon as they can. Where the files must be opened again for that, both get
//!   [`Error::Reopening`] meanwhile.
//!   [`Error::Engine`] from a write means that the disk failed under it: it may or may not be found later.
//! * **After the caller's future was dropped**: a write that was already queued runs all the same, whole;
//!   one that was still waiting for room in the queue never runs. The caller cannot tell which.
//! * **After damage** to the files at rest: [`Database::open`] refuses ([`OpenError::Damaged`]) a journal that is cut, missing or
//!   holds less than was acknowledged, and a keyspace or a list of tables that is missing or damaged. A damaged table fails
//!   the reads that meet it. The file `ledger` beside the engine's own says what was acknowledged; after a power cut it may lack the
//!   last five seconds of it, of which the journal alone tells then.
//! * An **ephemeral** database keeps all of this except durability, and its files go with the last handle.

mod commits;
mod damage;
mod database;
mod error;
mod journal;
mod keyspace;
mod ledger;
mod meter;
mod range;
mod storage;
mod tx;
mod writer;

pub use database::{Database, Stats};
pub use error::{Error, OpenError};
pub use fjall::Slice;
pub use keyspace::{Keyspace, Snapshot};
pub use range::Range;
pub use tx::Tx;
