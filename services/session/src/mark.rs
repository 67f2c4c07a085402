//! Which keys sessions were made with, as the store remembers it: a clone that was given other keys says so, instead of
//! taking tokens for forged that its siblings issued. A hint for people; nothing is refused.
//!
//! Each clone notes the first key of each purpose, the one that makes what is new, when it starts and every minute. A key
//! that another clone noted must be among the clone's own, first or not, as long as what it made may live: so a rotation
//! in the order the documentation gives is silent at each of its steps.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::error::Error;
use crate::keyring::Keyring;
use crate::store::Store;
use crate::token::hex;

/// Between two notes.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// After a store that could not be asked: nothing was noted.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The most that are remembered: every purpose's keys of many rotations.
pub(crate) const MARKS_MAX: usize = 64;
/// Of a key's keyed hash: enough to tell keys apart, and of no use to whoever reads it.
pub(crate) const PRINT_BYTES: usize = 8;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Bucket,
    Check,
    Derive,
    Pepper,
}

/// A key by its name and a hash of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub(crate) purpose: Purpose,
    pub(crate) print: [u8; PRINT_BYTES],
    pub(crate) id: String,
}

/// A mark, and when a clone last noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) mark: Mark,
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

    /// What becomes of that which was made with a key a clone does not have.
    fn loss(self) -> &'static str {
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

impl Mark {
    /// As stores keep it.
    pub(crate) fn encode(&self) -> String {
        format!("{}:{}:{}", self.purpose.name(), hex(&self.print), self.id)
    }

    /// None, if it was another version that wrote it.
    pub(crate) fn decode(text: &str) -> Option<Mark> {
        let mut parts = text.splitn(3, ':');
        let purpose = parts.next()?;
        let purpose = Purpose::ALL.into_iter().find(|known| known.name() == purpose)?;
        let print = parts.next().filter(|print| print.len() == PRINT_BYTES * 2)?;
        let print = u64::from_str_radix(print, 16).ok()?.to_be_bytes();
        Some(Mark { purpose, print, id: parts.next()?.to_owned() })
    }
}

/// The oldest of too many.
pub(crate) fn surplus(noted: &[Noted]) -> Vec<Mark> {
    let mut oldest: Vec<&Noted> = noted.iter().collect();
    oldest.sort_by_key(|noted| noted.last);
    oldest.truncate(noted.len().saturating_sub(MARKS_MAX));
    oldest.into_iter().map(|noted| noted.mark.clone()).collect()
}

/// How long what was made with a key lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lives {
    pub(crate) sessions: Duration,
    pub(crate) requests: Duration,
}

impl Lives {
    fn of(self, purpose: Purpose) -> Duration {
        match purpose {
            Purpose::Derive => self.requests,
            Purpose::Bucket | Purpose::Check | Purpose::Pepper => self.sessions,
        }
    }
}

/// Those noted keys that are none of ours, while what they made may live.
pub(crate) fn strangers(ours: &Keyring, noted: Vec<Noted>, now: Time, lives: Lives) -> Vec<Mark> {
    let ours: HashSet<Mark> = ours.marks().map(|(mark, _)| mark).collect();
    let strange =
        |noted: &Noted| !ours.contains(&noted.mark) && noted.last.plus(lives.of(noted.mark.purpose)) > now;
    noted.into_iter().filter(strange).map(|noted| noted.mark).collect()
}

/// Notes our keys and tells of strangers, each once. Never ends.
pub(crate) async fn run<S: Store>(store: S, lives: Lives) {
    let (mut told, mut failing) = (HashSet::new(), Failing::default());
    loop {
        let pause = match look(&store, lives).await {
            Ok((ours, strange)) => {
                failing = Failing::default();
                for mark in strange {
                    if told.insert(mark.clone()) {
                        warn(&ours, &mark);
                    }
                }
                NOTE_EVERY
            }
            Err(error) => {
                if failing.is_news(&error) {
                    tracing::warn!(
                        %error,
                        "session keys cannot be compared with other clones': a clone with other keys does not say so"
                    );
                }
                pause_after(&error)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether it was said that keys cannot be noted: one line until they are, not one for each attempt.
#[derive(Debug, Default)]
struct Failing {
    told: bool,
}

impl Failing {
    /// An engine that is away is no news: its link says so, and at the start it only connects.
    fn is_news(&mut self, error: &Error) -> bool {
        !is_away(error) && !std::mem::replace(&mut self.told, true)
    }
}

/// What was refused once will be again, and what was not answered may have been done: neither is worth another attempt
/// at once.
fn pause_after(error: &Error) -> Duration {
    if is_away(error) { AGAIN_AFTER } else { NOTE_EVERY }
}

fn is_away(error: &Error) -> bool {
    matches!(error, Error::Engine(error) if error.is_certain())
}

async fn look<S: Store>(store: &S, lives: Lives) -> Result<(Arc<Keyring>, Vec<Mark>), Error> {
    let ours = store.keyring().await?;
    let used = ours.marks().filter(|(_, used)| *used).map(|(mark, _)| mark).collect();
    let (noted, now) = store.note_keys(used).await?;
    let strange = strangers(&ours, noted, now, lives);
    Ok((ours, strange))
}

fn warn(ours: &Keyring, mark: &Mark) {
    let (purpose, key) = (mark.purpose.name(), mark.id.escape_debug());
    let namesake = ours.marks().any(|(ours, _)| ours.purpose == mark.purpose && ours.id == mark.id);
    let other = if namesake { ", which is another than this clone's of that name" } else { "" };
    let loss = mark.purpose.loss();
    tracing::warn!(
        purpose,
        %key,
        "session keys differ: sessions in this store were made with a `{purpose}` key `{key}`{other}, which this clone \
         was not given; {loss}. Give every clone the same keys, old ones behind the new (docs/session.md, Keys)"
    );
}

#[cfg(test)]
mod tests {
    use shoal_kit::EngineError;

    use super::*;
    use crate::keyring::KeysText;

    const LIVES: Lives = Lives { sessions: Duration::from_secs(1000), requests: Duration::from_secs(10) };

    fn used(keyring: &Keyring, at: Time) -> Vec<Noted> {
        keyring.marks().filter(|(_, used)| *used).map(|(mark, _)| Noted { mark, last: at }).collect()
    }

    fn names(marks: &[Mark]) -> Vec<&'static str> {
        marks.iter().map(|mark| mark.purpose.name()).collect()
    }

    /// `list` with a key in front, and behind.
    fn both(new: &str, old: &str) -> String {
        format!("{},{old}", new.replacen("1:", "2:", 1))
    }

    #[test]
    fn a_rotation_in_its_order_is_silent_and_one_that_skips_a_step_is_not() {
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
            strangers(clone, used(other, Time::default()), now, LIVES)
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
            strange(&steps[3], &steps[1], now.plus(LIVES.sessions)).is_empty(),
            "and this is late enough"
        );
    }

    #[test]
    fn each_purpose_is_told_apart_and_lives_as_long_as_what_it_makes() {
        let ours = Keyring::generate();
        let other = KeysText { pepper: KeysText::generate().bucket, ..KeysText::generate() };
        let noted = used(&Keyring::parse(&other).expect("valid"), Time::default());
        let at = |seconds| Time::default().plus(Duration::from_secs(seconds));
        let strange = |now| strangers(&ours, noted.clone(), now, LIVES);
        assert_eq!(names(&strange(at(0))), ["bucket", "check", "derive", "pepper"]);
        assert_eq!(names(&strange(at(10))), ["bucket", "check", "pepper"]);
        assert!(strange(at(1000)).is_empty());
    }

    #[test]
    fn a_mark_reads_back_and_holds_no_key() {
        let text = KeysText::generate();
        let ours = Keyring::parse(&text).expect("valid");
        for (mark, _) in ours.marks() {
            assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        }
        for other in ["", "check", "check:00:1", "chekc:0000000000000000:1", "check:zz00000000000000:1"] {
            assert_eq!(Mark::decode(other), None, "{other}");
        }
        assert_ne!(
            ours.marks().next().map(|(mark, _)| mark.print),
            Keyring::generate().marks().next().map(|(mark, _)| mark.print),
            "another key of the same name"
        );
    }

    #[test]
    fn a_refusal_is_told_once_and_tried_again_after_a_minute_and_an_engine_that_is_away_soon() {
        let away = Error::Engine(EngineError::Unavailable { engine: "redis", detail: String::new() });
        let unanswered = Error::Engine(EngineError::Unknown { engine: "redis", detail: String::new() });
        let refused = Error::Internal("WRONGTYPE".to_owned());
        let mut failing = Failing::default();
        let news = [&away, &refused, &away, &refused, &unanswered].map(|error| failing.is_news(error));
        assert_eq!(news, [false, true, false, false, false]);
        assert_eq!([&away, &refused, &unanswered].map(pause_after), [AGAIN_AFTER, NOTE_EVERY, NOTE_EVERY]);
    }

    #[test]
    fn the_oldest_of_too_many_are_forgotten() {
        let noted = |n: usize| Noted {
            mark: Mark { purpose: Purpose::Check, print: n.to_be_bytes(), id: n.to_string() },
            last: Time::from_millis(i64::try_from(n).expect("small")),
        };
        let many: Vec<Noted> = (0..MARKS_MAX + 2).rev().map(noted).collect();
        let forgotten: Vec<String> = surplus(&many).into_iter().map(|mark| mark.id).collect();
        assert_eq!(forgotten, ["0", "1"]);
        assert!(surplus(&many[..MARKS_MAX]).is_empty());
    }
}
