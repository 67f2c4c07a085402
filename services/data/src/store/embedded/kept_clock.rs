//! The latest time that was given to a write, which is kept so that later writes win although the host's clock was set back between two
//! starts.

use shoal_embedded::Tx;

use crate::clock::{Clock, WriteTimestamp};
use crate::error::Error;
use crate::store::embedded::Keyspaces;

/// The key of the time.
const LATEST: &str = "latest";
/// Microseconds that the kept time is ahead of the clock, so that it is not written with each write.
const AHEAD: i64 = 100_000;

/// Returns a clock that goes on after all times that were given to writes which were answered.
pub(super) fn read(keyspaces: &Keyspaces) -> Result<Clock, Error> {
    let kept = keyspaces.clock.get(LATEST)?;
    Ok(kept.map_or_else(Clock::default, |kept| Clock::going_on_after(decode(&kept))))
}

/// Keeps a time that is not before the last one that the clock gave, together with the write of this transaction.
pub(super) fn keep(tx: &mut Tx<'_>, keyspaces: &Keyspaces, clock: &Clock) -> Result<(), Error> {
    let last = clock.last();
    let kept = tx.get(&keyspaces.clock, LATEST)?;
    if kept.is_none_or(|kept| decode(&kept) < last) {
        tx.put(&keyspaces.clock, LATEST, last.0.saturating_add(AHEAD).to_be_bytes());
    }
    Ok(())
}

/// Reads a kept time. One that cannot be read holds nobody up.
fn decode(kept: &[u8]) -> WriteTimestamp {
    WriteTimestamp(kept.try_into().map_or(0, i64::from_be_bytes))
}
