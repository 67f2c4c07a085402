//! The record of a group: the item that each group has in a keyspace of its own, and its form in bytes.

/// The keyspace that holds the count; callers cannot open it.
pub(crate) const KEYSPACE: &str = "shoal.commits";

pub(crate) const KEY: &[u8] = b"last";

/// The record of a group, written with the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Commit {
    /// The number of the group, from one.
    pub(crate) number: u64,
    /// The engine's sequence number of the previous group.
    pub(crate) previous_seqno: u64,
}

impl Commit {
    pub(crate) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&self.previous_seqno.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Commit> {
        let (number, previous_seqno) = bytes.split_at_checked(8)?;
        Some(Commit {
            number: u64::from_be_bytes(number.try_into().ok()?),
            previous_seqno: u64::from_be_bytes(previous_seqno.try_into().ok()?),
        })
    }
}
