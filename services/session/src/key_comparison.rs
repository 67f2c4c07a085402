//! The task of each clone that compares its keys with those of other clones. A clone that was given other keys says so,
//! instead of silently refusing tokens that others issued. It is a hint for people; nothing is refused.
//!
//! Each clone notes the first key of each purpose, the one that makes what is new, when it starts and every minute. A key
//! that another clone noted must be among the clone's own, first or not, as long as what it made may live: so a rotation
//! in the order the documentation gives is silent at each of its steps.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::keys::fingerprint::{KeyFingerprint, KeyRetention, unknown_keys};
use crate::keys::keyring::Keyring;
use crate::store::keys::KeySource;

/// The interval between two notes.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// The pause after a store that could not be asked, when nothing was noted.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Notes this clone's keys and logs each key that it lacks, once. Never ends.
pub(crate) async fn run(keys: KeySource, retention: KeyRetention) {
    let (mut told, mut failing) = (HashSet::new(), Failing::default());
    loop {
        let pause = match look(&keys, retention).await {
            Ok((ours, unknown)) => {
                failing = Failing::default();
                for fingerprint in unknown {
                    if told.insert(fingerprint.clone()) {
                        warn(&ours, &fingerprint);
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

/// Remembers that a failure to note keys was logged: one line until they are noted, not one for each attempt.
#[derive(Debug, Default)]
struct Failing {
    told: bool,
}

impl Failing {
    /// Returns whether to log the error. An engine that is away is logged by its link, and at the start it only connects.
    fn is_news(&mut self, error: &Error) -> bool {
        !is_away(error) && !std::mem::replace(&mut self.told, true)
    }
}

/// Returns the pause before the next attempt: long for a refusal, which will be repeated, and for a lost answer, as the
/// note may have been made.
fn pause_after(error: &Error) -> Duration {
    if is_away(error) { AGAIN_AFTER } else { NOTE_EVERY }
}

fn is_away(error: &Error) -> bool {
    matches!(error, Error::Engine(error) if error.is_certain())
}

async fn look(
    keys: &KeySource,
    retention: KeyRetention,
) -> Result<(Arc<Keyring>, Vec<KeyFingerprint>), Error> {
    let ours = keys.keyring().await?;
    let used = ours.fingerprints().filter(|(_, used)| *used).map(|(fingerprint, _)| fingerprint).collect();
    let all = ours.fingerprints().map(|(fingerprint, _)| fingerprint).collect();
    let (noted, now) = keys.note(used).await?;
    let unknown = unknown_keys(&all, noted, now, retention);
    Ok((ours, unknown))
}

fn warn(ours: &Keyring, fingerprint: &KeyFingerprint) {
    let (purpose, key) = (fingerprint.purpose.name(), fingerprint.id.escape_debug());
    let namesake =
        ours.fingerprints().any(|(ours, _)| ours.purpose == fingerprint.purpose && ours.id == fingerprint.id);
    let other = if namesake { ", which is another than this clone's of that name" } else { "" };
    let loss = fingerprint.purpose.loss();
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

    #[test]
    fn refusals_are_logged_once_retried_later() {
        let away = Error::Engine(EngineError::Unavailable { engine: "redis", detail: String::new() });
        let unanswered = Error::Engine(EngineError::Unknown { engine: "redis", detail: String::new() });
        let refused = Error::Internal("WRONGTYPE".to_owned());
        let mut failing = Failing::default();
        let news = [&away, &refused, &away, &refused, &unanswered].map(|error| failing.is_news(error));
        assert_eq!(news, [false, true, false, false, false]);
        assert_eq!([&away, &refused, &unanswered].map(pause_after), [AGAIN_AFTER, NOTE_EVERY, NOTE_EVERY]);
    }
}
