//! Limits of every input, in one place. The proto comments state the same figures; what an operator may change is in
//! [`Config`](crate::Config).

use std::time::Duration;

/// Characters of a namespace's name.
pub(crate) const NAMESPACE_LENGTH_MAX: usize = 64;
/// The prefix of the namespace of cached objects; the kind follows.
pub(crate) const OBJECT_PREFIX: &str = "object.";
/// The prefix of the built-in kinds: rows of a table.
pub(crate) const TABLE_PREFIX: &str = "data.";
/// Characters of a kind: `object.KIND` is a namespace.
pub(crate) const KIND_LENGTH_MAX: usize = NAMESPACE_LENGTH_MAX - OBJECT_PREFIX.len();
/// Bytes of a key or an object's id.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Tags of one entry.
pub(crate) const TAGS_MAX: usize = 16;
/// Bytes of one tag.
pub(crate) const TAG_BYTES_MAX: usize = 256;
/// Longest time to live: the cache does not keep data for good.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Shortest time to live, which is the unit of Redis.
pub(crate) const TTL_MIN: Duration = Duration::from_millis(1);
/// The largest `max_value` of a namespace; also bounds what an entry may claim to unpack to.
pub(crate) const VALUE_BYTES_CEILING: usize = 8 << 20;
/// Declared namespaces and kinds, each.
pub(crate) const DECLARED_MAX: usize = 1000;
/// Undeclared namespaces that are counted by their own name; the others are counted together as `other`, because a
/// caller chooses these names and a metric label must be bounded.
pub(crate) const COUNTED_NAMESPACES_MAX: usize = 256;
/// Bytes of a loader's version of an object.
pub(crate) const VERSION_BYTES_MAX: usize = 64;
/// Ids of one BatchGetObjects.
pub(crate) const BATCH_IDS_MAX: usize = 100;
/// Bytes of objects at which the results of BatchGetObjects end, as the rows of a BatchGet of the data service do: under
/// the 4 MiB that gRPC clients take by default.
pub(crate) const BATCH_BYTES_MAX: usize = 2 << 20;
/// Keys of one BatchGet, BatchSet, Invalidate or Expire.
pub(crate) const KEYS_MAX: usize = 100;
/// Tags of one Invalidate or Expire.
pub(crate) const INVALIDATED_TAGS_MAX: usize = 100;
/// Longest wait of a Get for another's load, and the longest lease of a caller.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);
