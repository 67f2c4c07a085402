//! Fingerprints of keys, as the store remembers them: which keys sessions were made with, and which of them a clone lacks.

use std::collections::HashSet;
use std::time::Duration;

use crate::clock::Time;
use crate::id::hex;

/// The number of fingerprints that are remembered: enough for every purpose's keys of many rotations.
pub(crate) const FINGERPRINTS_MAX: usize = 64;
/// The bytes of a key's keyed hash in its fingerprint: enough to tell keys apart, and of no use to a reader.
pub(crate) const FINGERPRINT_BYTES: usize = 8;

/// The purpose of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Bucket,
    Check,
    Derive,
    Pepper,
}

/// The fingerprint of a key: its purpose, its name and a keyed hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct KeyFingerprint {
    pub(crate) purpose: Purpose,
    pub(crate) digest: [u8; FINGERPRINT_BYTES],
    pub(crate) id: String,
}

/// A fingerprint, and when a clone last noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) fingerprint: KeyFingerprint,
    pub(crate) last: Time,
}

impl Purpose {
    const ALL: [Purpose; 4] = [Purpose::Bucket, Purpose::Check, Purpose::Derive, Purpose::Pepper];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Purpose::Bucket => "bucket",
            Purpose::Check => "check",
            Purpose::Derive => "derive",
            Purpose::Pepper => "pepper",
        }
    }

    /// Returns what is lost of that which was made with a key, at a clone that lacks the key.
    pub(crate) fn loss(self) -> &'static str {
        match self {
            Purpose::Bucket => {
                "users' sessions are looked for elsewhere: not listed, not counted, not revoked with them"
            }
            Purpose::Check => "tokens made with it are refused",
            Purpose::Derive => "rotations and creates that were made with it cannot be repeated",
            Purpose::Pepper => "sessions not used since are not found",
        }
    }
}

impl KeyFingerprint {
    /// Returns the text that stores keep.
    pub(crate) fn encode(&self) -> String {
        format!("{}:{}:{}", self.purpose.name(), hex(&self.digest), self.id)
    }

    /// Reads what [`KeyFingerprint::encode`] wrote; `None` for that of another version.
    pub(crate) fn decode(text: &str) -> Option<KeyFingerprint> {
        let mut parts = text.splitn(3, ':');
        let purpose = parts.next()?;
        let purpose = Purpose::ALL.into_iter().find(|known| known.name() == purpose)?;
        let digest = parts.next().filter(|digest| digest.len() == FINGERPRINT_BYTES * 2)?;
        let digest = u64::from_str_radix(digest, 16).ok()?.to_be_bytes();
        Some(KeyFingerprint { purpose, digest, id: parts.next()?.to_owned() })
    }
}

/// Returns the oldest fingerprints beyond [`FINGERPRINTS_MAX`].
pub(crate) fn surplus(noted: &[Noted]) -> Vec<KeyFingerprint> {
    let mut oldest: Vec<&Noted> = noted.iter().collect();
    oldest.sort_by_key(|noted| noted.last);
    oldest.truncate(noted.len().saturating_sub(FINGERPRINTS_MAX));
    oldest.into_iter().map(|noted| noted.fingerprint.clone()).collect()
}

/// The time for which what was made with a key may live.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyRetention {
    pub(crate) sessions: Duration,
    pub(crate) requests: Duration,
}

impl KeyRetention {
    fn of(self, purpose: Purpose) -> Duration {
        match purpose {
            Purpose::Derive => self.requests,
            Purpose::Bucket | Purpose::Check | Purpose::Pepper => self.sessions,
        }
    }
}

/// Returns the noted keys that are not among `ours`, while what they made may live.
pub(crate) fn unknown_keys(
    ours: &HashSet<KeyFingerprint>,
    noted: Vec<Noted>,
    now: Time,
    retention: KeyRetention,
) -> Vec<KeyFingerprint> {
    let unknown = |noted: &Noted| {
        !ours.contains(&noted.fingerprint) && noted.last.plus(retention.of(noted.fingerprint.purpose)) > now
    };
    noted.into_iter().filter(unknown).map(|noted| noted.fingerprint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::keyring::{Keyring, KeysText};

    const RETENTION: KeyRetention =
        KeyRetention { sessions: Duration::from_secs(1000), requests: Duration::from_secs(10) };

    fn used(keyring: &Keyring, at: Time) -> Vec<Noted> {
        keyring
            .fingerprints()
            .filter(|(_, used)| *used)
            .map(|(fingerprint, _)| Noted { fingerprint, last: at })
            .collect()
    }

    fn all(keyring: &Keyring) -> HashSet<KeyFingerprint> {
        keyring.fingerprints().map(|(fingerprint, _)| fingerprint).collect()
    }

    fn names(fingerprints: &[KeyFingerprint]) -> Vec<&'static str> {
        fingerprints.iter().map(|fingerprint| fingerprint.purpose.name()).collect()
    }

    /// `list` with a key in front, and behind.
    fn both(new: &str, old: &str) -> String {
        format!("{},{old}", new.replacen("1:", "2:", 1))
    }

    #[test]
    fn only_misordered_key_rotations_are_logged() {
        let (old, new) = (KeysText::generate(), KeysText::generate());
        let with = |check: String| Keyring::parse(&KeysText { check, ..old.clone() }).expect("valid");
        let steps = [
            with(old.check.clone()),
            with(format!("{},{}", old.check, new.check.replacen("1:", "2:", 1))),
            with(both(&new.check, &old.check)),
            with(new.check.replacen("1:", "2:", 1)),
        ];
        let now = Time::default();
        let strange = |clone: &Keyring, other: &Keyring, now: Time| {
            unknown_keys(&all(clone), used(other, Time::default()), now, RETENTION)
        };
        for step in [[0, 1], [1, 0], [1, 2], [2, 1]] {
            assert!(strange(&steps[step[0]], &steps[step[1]], now).is_empty(), "{step:?}");
        }
        assert_eq!(names(&strange(&steps[0], &steps[2], now)), ["check"], "never had the new one behind");
        assert_eq!(
            names(&strange(&steps[3], &steps[1], now)),
            ["check"],
            "the old one was removed too early"
        );
        assert!(
            strange(&steps[3], &steps[1], now.plus(RETENTION.sessions)).is_empty(),
            "and this is late enough"
        );
    }

    #[test]
    fn each_purpose_has_its_own_retention() {
        let ours = Keyring::generate();
        let other = KeysText { pepper: KeysText::generate().bucket, ..KeysText::generate() };
        let noted = used(&Keyring::parse(&other).expect("valid"), Time::default());
        let at = |seconds| Time::default().plus(Duration::from_secs(seconds));
        let strange = |now| unknown_keys(&all(&ours), noted.clone(), now, RETENTION);
        assert_eq!(names(&strange(at(0))), ["bucket", "check", "derive", "pepper"]);
        assert_eq!(names(&strange(at(10))), ["bucket", "check", "pepper"]);
        assert!(strange(at(1000)).is_empty());
    }

    #[test]
    fn fingerprint_round_trips_without_key() {
        let text = KeysText::generate();
        let ours = Keyring::parse(&text).expect("valid");
        for (fingerprint, _) in ours.fingerprints() {
            assert_eq!(KeyFingerprint::decode(&fingerprint.encode()), Some(fingerprint));
        }
        for other in ["", "check", "check:00:1", "chekc:0000000000000000:1", "check:zz00000000000000:1"] {
            assert_eq!(KeyFingerprint::decode(other), None, "{other}");
        }
        assert_ne!(
            ours.fingerprints().next().map(|(fingerprint, _)| fingerprint.digest),
            Keyring::generate().fingerprints().next().map(|(fingerprint, _)| fingerprint.digest),
            "another key of the same name"
        );
    }

    #[test]
    fn oldest_fingerprints_are_forgotten() {
        let noted = |n: usize| Noted {
            fingerprint: KeyFingerprint {
                purpose: Purpose::Check,
                digest: n.to_be_bytes(),
                id: n.to_string(),
            },
            last: Time::from_millis(i64::try_from(n).expect("small")),
        };
        let many: Vec<Noted> = (0..FINGERPRINTS_MAX + 2).rev().map(noted).collect();
        let forgotten: Vec<String> = surplus(&many).into_iter().map(|fingerprint| fingerprint.id).collect();
        assert_eq!(forgotten, ["0", "1"]);
        assert!(surplus(&many[..FINGERPRINTS_MAX]).is_empty());
    }
}
