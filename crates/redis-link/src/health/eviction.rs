//! What a Redis does when its memory is full, and whether that suits the role: one that evicts loses sessions and jobs without
//! a word, and one that does not refuses the cache's entries.

use redis::{InfoDict, Value};

/// What a role needs of `maxmemory-policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Anything will do.
    Indifferent,
    /// What is stored must stay until the role removes it: `noeviction`.
    Forbidden,
    /// What is stored may go to make room: any other policy, once there is a `maxmemory`.
    Wanted,
}

/// How one node is configured, by `INFO memory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    policy: String,
    maxmemory: u64,
}

impl MemoryPolicy {
    /// The command that asks for it.
    pub(crate) fn ask() -> redis::Cmd {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        info
    }

    /// Nothing if Redis does not say, as when its user may not ask.
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

    /// The policy, if it makes the role lose what it stores.
    pub(crate) fn loses(&self, eviction: Eviction) -> Option<&str> {
        (eviction == Eviction::Forbidden && self.evicts()).then_some(self.policy.as_str())
    }

    /// What to tell those who run this Redis, if it does not suit the role.
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
    fn each_role_is_told_of_the_policy_that_harms_it() {
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
