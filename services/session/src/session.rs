//! A session, and the record of it that a store keeps.

pub(crate) mod attribute;
pub(crate) mod rotation;

use std::collections::BTreeMap;
use std::time::Duration;

use self::attribute::{Attributes, Limits};
use self::rotation::Secrets;
use crate::clock::{Time, millis};
use crate::id::SessionId;
use crate::keys::keyring::Hash;

/// A use is recorded when this part of the idle time has passed since the last one that was.
const TOUCH_PART: u32 = 10;

/// A session as callers see it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) user: String,
    pub(crate) version: i64,
    pub(crate) attributes: Attributes,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) created: Time,
    pub(crate) idle_ttl: Duration,
    /// The time at which it ends if it is not used; never later than `absolute_expire`.
    pub(crate) expire: Time,
    /// The time at which it ends whatever happens.
    pub(crate) absolute_expire: Time,
}

impl Session {
    /// Returns the last recorded use. In its last idle time a session records none: they would not make it longer.
    pub(crate) fn accessed(&self) -> Time {
        self.expire.minus(self.idle_ttl)
    }

    /// Returns when it ends if it is used now for the last time.
    pub(crate) fn expire_if_used(&self, now: Time) -> Time {
        now.plus(self.idle_ttl).min(self.absolute_expire).max(self.expire)
    }

    /// Returns whether recording a use at `now` is worth a write. Never in the last idle time.
    pub(crate) fn touch_due(&self, now: Time) -> bool {
        let throttle = self.idle_ttl / TOUCH_PART;
        self.expire < self.absolute_expire && now.millis() - self.accessed().millis() >= millis(throttle)
    }
}

/// A session with the hashes of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) session: Session,
    pub(crate) secrets: Secrets,
}

/// A session to be made; its times begin at the store's clock.
#[derive(Debug, Clone)]
pub(crate) struct NewSession {
    pub(crate) id: SessionId,
    pub(crate) user: String,
    pub(crate) hash: Hash,
    pub(crate) attributes: Attributes,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) idle_ttl: Duration,
    pub(crate) absolute_ttl: Duration,
    pub(crate) request: Option<RequestKey>,
}

impl NewSession {
    /// Returns the session as it is when it is made at `now`. Stores keep whole milliseconds.
    pub(crate) fn begin(self, now: Time) -> Session {
        let absolute_expire = now.plus(self.absolute_ttl);
        Session {
            id: self.id,
            user: self.user,
            version: 1,
            attributes: self.attributes,
            metadata: self.metadata,
            created: now,
            idle_ttl: Duration::from_millis(millis(self.idle_ttl).unsigned_abs()),
            expire: now.plus(self.idle_ttl).min(absolute_expire),
            absolute_expire,
        }
    }
}

/// The identity of a call that may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestKey {
    /// The hash that tells the call from others of any user.
    pub(crate) key: [u8; 16],
    /// The hash that tells a repeat from another call under the same name.
    pub(crate) fingerprint: [u8; 16],
}

/// The answer of a store to a create.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Created {
    /// A new session.
    New(Session),
    /// The session of the same call made before, which still is there.
    Repeat(Record),
}

/// The treatment of a user's surplus session.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AtLimit {
    /// The new one is refused.
    #[default]
    Reject,
    /// The oldest one is revoked.
    RevokeOldest,
}

/// The limits that a store enforces, the same on every clone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) attributes: Limits,
    pub(crate) sessions_per_user_max: usize,
    pub(crate) at_limit: AtLimit,
    pub(crate) rotation_grace: Duration,
    pub(crate) request_kept: Duration,
    pub(crate) events_kept: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(expire: i64) -> Session {
        Session {
            id: SessionId::random(0),
            user: "u".into(),
            version: 1,
            attributes: Attributes::new(),
            metadata: BTreeMap::new(),
            created: Time::from_millis(0),
            idle_ttl: Duration::from_millis(1000),
            expire: Time::from_millis(expire),
            absolute_expire: Time::from_millis(5000),
        }
    }

    #[test]
    fn touch_due_after_idle_tenth() {
        let check = |expire, now| session(expire).touch_due(Time::from_millis(now));
        assert!(!check(1000, 99));
        assert!(check(1000, 100));
        assert!(check(4999, 4200));
        assert!(!check(5000, 4999), "it cannot get longer");
    }

    #[test]
    fn one_percent_of_gets_write() {
        let hour = Duration::from_secs(3600);
        let mut session = Session {
            idle_ttl: hour / 2,
            expire: Time::default().plus(hour / 2),
            absolute_expire: Time::default().plus(12 * hour),
            ..session(0)
        };
        let mut writes = 0;
        for second in 0..4 * 3600 {
            let now = Time::from_millis(second * 1000);
            if session.touch_due(now) {
                session.expire = session.expire_if_used(now);
                writes += 1;
            }
        }
        assert_eq!(writes, 79, "of 14400: one in three minutes");
    }

    #[test]
    fn use_never_passes_absolute_end() {
        let check = |expire, now| session(expire).expire_if_used(Time::from_millis(now)).millis();
        assert_eq!(check(1000, 500), 1500);
        assert_eq!(check(1000, 4500), 5000);
        assert_eq!(check(3000, 500), 3000, "a clock that went back");
    }
}
