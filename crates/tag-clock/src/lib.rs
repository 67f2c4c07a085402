//! The clock that decides which cached entries are current. It stamps tags; whoever keeps entries compares the stamps with the
//! time at which an entry was built, both of this clock, and never of a machine that reads.
//!
//! A namespace has shards (1 on one Redis and in memory, 16 on a Cluster), each with a clock of its own that never goes back. Every
//! entry of a shard carries `built_at`, the clock's value when its load or write began. An entry is current while no stamp that
//! covers it is later than that:
//!
//! * a HARD stamp of one of its tags ([`TagClock::invalidate`], or a write between [`TagClock::begin`] and [`TagClock::end`]);
//! * the *floor* of its shard ([`TagClock::clear`], or stamps that were dropped because there were too many);
//!
//! and *expired*, not invalidated, while only a SOFT stamp is later ([`TagClock::expire`]).
//!
//! A write announces itself before it is made, by a stamp in the future: what is loaded meanwhile cannot be kept, whether it was
//! read before or after the write took effect. The intent ends after the write; one that never ends runs out by itself.
//!
//! This crate knows no entries and no services: the cache builds its store on it, and the data service announces its writes.

mod clock;
mod intent;
mod memory;
mod process;
mod redis;
mod shard;
mod stamp;

pub use self::clock::TagClock;
pub use self::intent::Intent;
pub use self::memory::MemoryClock;
pub use self::process::Process;
pub use self::redis::{RedisClock, RedisClockConfig};
pub use self::shard::Shard;
pub use self::stamp::{Judge, STAMPS_MAX, Strength, Verdict};
