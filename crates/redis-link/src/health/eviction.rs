//! Checks whether the eviction policy of Redis suits the role: a Redis that evicts silently loses sessions and jobs, and one that
//! does not evict refuses entries of the cache once its memory is full.

use redis::{InfoDict, Value};

/// The `maxmemory-policy` that a role needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Any policy.
    Indifferent,
    /// The policy `noeviction`: data must stay until the role removes it.
    Forbidden,
    /// Any policy but `noeviction`, once there is a `maxmemory`: data may be evicted to make room.
    Wanted,
}

/// The memory limit and policy of a node, from `INFO memory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    policy: String,
    maxmemory: u64,
}

impl MemoryPolicy {
    /// Returns the command that asks for the policy.
    pub(crate) fn ask() -> redis::Cmd {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        info
    }

    /// Reads a reply; `None` if Redis does not tell, for example because its user may not ask.
    pub(crate) fn of_reply(reply: Value) -> Option<MemoryPolicy> {
        let info: InfoDict = redis::from_redis_value(reply).ok()?;
        Some(MemoryPolicy {
            policy: info.get("maxmemory_policy")?,
            maxmemory: info.get("maxmemory").unwrap_or(0),
        })
    }

    fn evicts(&self) -> bool {
        self.policy != "noeviction"
    }

    /// Returns the policy if it makes the role lose data.
    pub(crate) fn loses(&self, eviction: Eviction) -> Option<&str> {
        (eviction == Eviction::Forbidden && self.evicts()).then_some(self.policy.as_str())
    }

    /// Returns advice for the operators of this Redis if its policy does not suit the role.
    pub(crate) fn advice(&self, eviction: Eviction) -> Option<String> {
        let policy = &self.policy;
        match eviction {
            Eviction::Forbidden if self.evicts() => Some(format!(
                "redis is configured to evict ({policy}) and would lose what is stored without a word; set its \
                 maxmemory-policy to noeviction"
            )),
            Eviction::Wanted if !self.evicts() && self.maxmemory > 0 => Some(format!(
                "redis has a maxmemory and does not evict ({policy}): once it is full no entry is taken; set its \
                 maxmemory-policy to allkeys-lru, or give the cache a Redis of its own"
            )),
            Eviction::Indifferent | Eviction::Forbidden | Eviction::Wanted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmful_policy_is_advised_by_role() {
        let memory = |policy: &str, maxmemory| MemoryPolicy { policy: policy.to_owned(), maxmemory };
        let advised = |memory: &MemoryPolicy, eviction| memory.advice(eviction).is_some();
        let (keeps, full_at) = (memory("noeviction", 0), memory("noeviction", 1 << 30));
        let evicts = memory("allkeys-lru", 0);
        let by_role = [Eviction::Indifferent, Eviction::Forbidden, Eviction::Wanted];
        assert_eq!(by_role.map(|role| advised(&keeps, role)), [false, false, false]);
        assert_eq!(by_role.map(|role| advised(&full_at, role)), [false, false, true]);
        assert_eq!(by_role.map(|role| advised(&evicts, role)), [false, true, false]);
        assert_eq!(evicts.loses(Eviction::Forbidden), Some("allkeys-lru"));
        assert_eq!(evicts.loses(Eviction::Wanted), None);
    }
}
