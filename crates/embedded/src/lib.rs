//! The embedded database: an ordered key-value store in a directory of this process, with atomic
//! read-check-write transactions that share fsyncs.
//!
//! This crate knows bytes, keyspaces and transactions, and nothing of the services' domains.
//!
//! # Guarantees
//!
//! * **After `Ok`** from [`Database::write`] of a durable database: everything the closure put or deleted
//!   is on the disk (`fdatasync` returned), and every read that starts from now on sees it.
//! * **Before that** only closures see any of it: a group becomes visible to reads once it is durable, so data that
//!   a read has returned cannot be lost.
//! * **After a crash** (of the process or the machine): each transaction is found whole or not at all, and
//!   if a transaction is found, so are all earlier ones. What is left of one that was cut short is moved to the folder `cut`.
//! * **After an error**: [`Error::Closed`], [`Error::Panicked`] and [`Error::Limit`] mean that nothing was done.
//!   [`Error::Full`] and [`Error::Failed`] mean so too: they refuse writes while the disk has no room or has failed.
//!   Reads go on, and writes succeed again as soon as the disk allows. While the files are opened again, reads and
//!   writes get [`Error::Reopening`].
//!   [`Error::Engine`] from a write means that the disk failed during the write, which may or may not be found later.
//! * **After the caller's future was dropped**: a write that was already queued still runs, whole;
//!   a write that was waiting for room in the queue never runs. The caller cannot tell which.
//! * **After damage** to the files at rest: [`Database::open`] refuses ([`OpenError::Damaged`]) a journal that is cut, missing or
//!   holds less than was acknowledged, and a keyspace or a list of tables that is missing or damaged. A damaged table fails
//!   the reads that meet it. The file `ledger` beside the engine's own records what was acknowledged. After a power cut it may
//!   lack the last five seconds, for which the journal is then the only record.
//! * An **ephemeral** database keeps all of this except durability, and its files go with the last handle.

mod commit;
mod commits;
mod cut;
mod damage;
mod database;
mod error;
mod journal;
mod keyspace;
mod ledger;
mod meter;
mod range;
mod repair;
mod storage;
mod trouble;
mod tx;
mod writer;

pub use database::Database;
pub use error::{Error, OpenError};
pub use fjall::Slice;
pub use keyspace::{Keyspace, Snapshot};
pub use range::Range;
pub use repair::{Kept, Repair, repair};
pub use tx::Tx;
pub use writer::Stats;
