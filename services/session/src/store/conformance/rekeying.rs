//! Keys are rotated under living sessions.

use super::world::{Make, World};
use crate::clock::Time;
use crate::config::Config;
use crate::error::Error;
use crate::keys::fingerprint::{FINGERPRINTS_MAX, KeyFingerprint, Noted};
use crate::keys::keyring::{Keyring, KeysText};
use crate::session::attribute::Change;
use crate::sessions::Create;

/// Puts a new key in front of each purpose's list.
fn rotated(keys: &KeysText) -> KeysText {
    let new = KeysText::generate();
    let front = |new: &str, old: &str| {
        let new = new.replacen("1:", &format!("{}:", old.matches(':').count() + 1), 1);
        if old.is_empty() { new } else { format!("{new},{old}") }
    };
    KeysText {
        bucket: keys.bucket.clone(),
        check: front(&new.check, &keys.check),
        derive: front(&new.derive, &keys.derive),
        pepper: front(&new.bucket, &keys.pepper),
    }
}

/// Returns the keys without the last one of each list.
fn without_oldest(keys: &KeysText) -> KeysText {
    let cut = |list: &str| list.rsplit_once(',').map_or(String::new(), |(rest, _)| rest.to_owned());
    KeysText {
        bucket: keys.bucket.clone(),
        check: cut(&keys.check),
        derive: cut(&keys.derive),
        pepper: cut(&keys.pepper),
    }
}

async fn world<M: Make>(make: &M, keys: &KeysText) -> World<M::Store> {
    make.world(Config::default()).await.with_keyring(Keyring::parse(keys).unwrap())
}

async fn sessions_survive_key_rotations<M: Make>(make: M) {
    let old = KeysText::generate();
    let new = rotated(&old);
    let before = world(&make, &old).await;
    let create = || Create { user: "u".into(), request_id: "r".into(), ..Create::default() };
    let made = before.sessions.create(create()).await.unwrap();
    let other = before.create("u").await;
    let successor = before.rotate(&other.token).await;

    let after = before.with_keyring(Keyring::parse(&new).unwrap());
    assert_eq!(after.get(&made.token).await.unwrap().id, made.session.id);
    assert_ne!(after.sessions.create(create()).await.unwrap().token, made.token, "another check");
    assert_eq!(after.sessions.create(create()).await.unwrap().session.id, made.session.id);
    assert_eq!(after.list("u").await.len(), 2);
    let again = after.rotate(&other.token).await;
    assert_eq!(after.get(&again).await.unwrap().id, other.session.id);
    assert_eq!(after.get(&successor).await.unwrap().id, other.session.id, "the same secret");
    assert_eq!(after.get(&other.token).await.unwrap().id, other.session.id, "no theft, but a grace");
}

async fn use_rehashes_with_new_pepper<M: Make>(make: M) {
    let first = rotated(&KeysText::generate());
    let second = rotated(&first);
    let before = world(&make, &first).await;
    let (used, unused) = (before.create("u").await, before.create("u").await);
    let between = before.with_keyring(Keyring::parse(&second).unwrap());
    between.get(&used.token).await.unwrap();
    let old_pepper_gone = KeysText { pepper: without_oldest(&second).pepper, ..second.clone() };
    let after = between.with_keyring(Keyring::parse(&old_pepper_gone).unwrap());
    after.get(&used.token).await.expect("hashed anew");
    assert_eq!(after.get(&unused.token).await, Err(Error::NotFound));
}

async fn tokens_of_removed_check_key_fail<M: Make>(make: M) {
    let old = KeysText::generate();
    let both = rotated(&old);
    let before = world(&make, &both).await;
    let made = before.create("u").await;
    let after = before.with_keyring(Keyring::parse(&KeysText { check: old.check, ..both }).unwrap());
    assert_eq!(after.get(&made.token).await, Err(Error::NotFound));
    assert_eq!(after.list("u").await.len(), 1);
}

async fn early_removed_derive_key_is_reported<M: Make>(make: M) {
    let old = KeysText::generate();
    let before = world(&make, &old).await;
    let made = before.create("u").await;
    let successor = before.rotate(&made.token).await;
    before.get(&successor).await.unwrap();
    let only_new = KeysText { derive: KeysText::generate().derive, ..old };
    let after = before.with_keyring(Keyring::parse(&only_new).unwrap());
    let lost = after.sessions.rotate(&made.token, Change::default()).await.err();
    assert_eq!(lost, Some(Error::SuccessorLost));
    after.get(&after.rotate(&successor).await).await.unwrap();
}

async fn keys_in_use_are_remembered<M: Make>(make: M) {
    let (ours, theirs) = (KeysText::generate(), KeysText::generate());
    let world = world(&make, &ours).await;
    let used = |keys: &KeysText| -> Vec<KeyFingerprint> {
        Keyring::parse(keys)
            .unwrap()
            .fingerprints()
            .filter(|(_, used)| *used)
            .map(|(fingerprint, _)| fingerprint)
            .collect()
    };
    let sorted = |noted: Vec<Noted>| {
        let mut fingerprints: Vec<String> = noted.iter().map(|noted| noted.fingerprint.encode()).collect();
        fingerprints.sort();
        fingerprints
    };
    let both: Vec<Noted> = used(&ours)
        .into_iter()
        .chain(used(&theirs))
        .map(|fingerprint| Noted { fingerprint, last: Time::default() })
        .collect();
    let (first, now) = world.sessions.keys.note(used(&ours)).await.unwrap();
    assert!(first.iter().all(|noted| noted.last == now) && first.len() == 3, "{first:?}");
    world.tick().await;
    world.other.keys.note(used(&theirs)).await.unwrap();
    let (noted, _) = world.sessions.keys.note(used(&ours)).await.unwrap();
    assert_eq!(sorted(noted), sorted(both));

    // As many as anybody notes, they stay few.
    for _ in 0..FINGERPRINTS_MAX {
        world.other.keys.note(used(&KeysText::generate())).await.unwrap();
    }
    let (noted, _) = world.sessions.keys.note(used(&ours)).await.unwrap();
    assert!((FINGERPRINTS_MAX..=FINGERPRINTS_MAX + 3).contains(&noted.len()), "{}", noted.len());
}

super::conformance!(
    keys_in_use_are_remembered,
    sessions_survive_key_rotations,
    use_rehashes_with_new_pepper,
    tokens_of_removed_check_key_fail,
    early_removed_derive_key_is_reported,
);
