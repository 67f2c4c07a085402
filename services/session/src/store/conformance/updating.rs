//! Changing attributes: each by itself, all or nothing, and never after the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::world::{Make, Peek as _, change, ints};
use crate::config::Config;
use crate::error::Error;
use crate::session::attribute::{Change, Passed, Value};
use crate::store::Store as _;

async fn attribute_changes_raise_the_version<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.create("u").await;
    world.set(&made.token, "a", 1).await.unwrap();
    world.set(&made.token, "b", 2).await.unwrap();
    let session =
        world.sessions.update(&made.token, change(&[("c", 3), ("a", 4)], &["b", "none"]), None).await;
    let session = session.unwrap();
    assert_eq!((session.version, &session.attributes), (4, &ints(&[("a", 4), ("c", 3)])));
    assert_eq!(world.get(&made.token).await.unwrap(), session);
    let same = world.sessions.update(&made.token, Change::default(), None).await.unwrap();
    assert_eq!(same.version, 4, "no change is no version");
}

async fn unexpected_version_is_refused<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.create("u").await;
    let update =
        |value, expected| world.sessions.update(&made.token, change(&[("a", value)], &[]), Some(expected));
    assert_eq!(update(1, 1).await.unwrap().version, 2);
    assert_eq!(update(2, 1).await, Err(Error::VersionMismatch { expected: 1, current: 2 }));
    assert_eq!(world.get(&made.token).await.unwrap().attributes, ints(&[("a", 1)]));
}

async fn oversized_change_is_refused_whole<M: Make>(make: M) {
    let world = make.world(Config { attributes_max: 3, attributes_bytes_max: 50, ..Config::default() }).await;
    let made = world.create("u").await;
    // Ten bytes each.
    let full =
        world.sessions.update(&made.token, change(&[("a", 1), ("b", 2), ("c", 3)], &[]), None).await.unwrap();
    let check = async |set: &[(&str, i64)], remove: &[&str]| {
        world
            .sessions
            .update(&made.token, change(set, remove), None)
            .await
            .map(|session| session.attributes.len())
    };
    assert_eq!(check(&[("d", 4)], &[]).await, Err(Error::AttributesFull { passed: Passed::Count, max: 3 }));
    assert_eq!(world.get(&made.token).await.unwrap(), full);
    assert_eq!(check(&[("d", 4)], &["a"]).await, Ok(3));
    let text = |length: usize| Change {
        set: [("b".to_owned(), Value::Text("x".repeat(length)))].into(),
        remove: Vec::new(),
    };
    let update = |change| world.sessions.update(&made.token, change, None);
    assert_eq!(update(text(29)).await, Err(Error::AttributesFull { passed: Passed::Bytes, max: 50 }));
    update(text(28)).await.unwrap();
    assert!(matches!(
        update(text(49)).await,
        Err(Error::TooMuch { limit: "attributes_bytes_max", max: 50, .. })
    ));
}

async fn concurrent_attribute_writes_are_all_kept<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.create("u").await;
    let writes = (0..64).map(|n| {
        let clone = if n % 2 == 0 { &world.sessions } else { &world.other };
        let name = format!("a{n}");
        let token = &made.token;
        async move { clone.update(token, change(&[(&name, n)], &[]), None).await.unwrap() }
    });
    futures::future::join_all(writes).await;
    let session = world.get(&made.token).await.unwrap();
    assert_eq!(session.version, 65);
    assert_eq!(session.attributes.len(), 64);
    for n in 0..64 {
        assert_eq!(session.attributes[&format!("a{n}")], Value::Int(n));
    }
}

/// Logout undone by a concurrent touch is the classic bug of session stores.
async fn racing_updates_never_undo_a_revoke<M: Make>(make: M) {
    const ROUNDS: usize = 63;
    const RACERS: usize = 16;
    const OPERATIONS: usize = 10;
    let world = make.world(Config::default()).await;
    for _ in 0..ROUNDS {
        let made = world.create("u").await;
        let revoked = Arc::new(AtomicBool::new(false));
        let racers = (0..RACERS).map(|n| {
            let clone = if n % 2 == 0 { world.sessions.clone() } else { world.other.clone() };
            let (id, token, revoked) = (made.session.id, made.token.clone(), Arc::clone(&revoked));
            async move {
                let keyring = clone.keys.keyring().await.unwrap();
                let hashes =
                    keyring.hashes(&crate::keys::token::Token::parse(&token, &keyring).unwrap().secret);
                for _ in 0..OPERATIONS {
                    let before = revoked.load(Ordering::SeqCst);
                    let found = if n % 4 < 2 {
                        clone
                            .store
                            .update(id, hashes.clone(), change(&[("a", 1)], &[]), None)
                            .await
                            .map(|_| ())
                    } else {
                        clone.store.touch_now(id, hashes.clone()).await
                    };
                    match found {
                        Ok(()) => assert!(!before, "it was there after its end"),
                        Err(error) => assert_eq!(error, Error::NotFound),
                    }
                }
            }
        });
        let revoke = async {
            world.revoke(&made.token).await;
            revoked.store(true, Ordering::SeqCst);
        };
        futures::join!(futures::future::join_all(racers), revoke);
        assert_eq!(world.get(&made.token).await, Err(Error::NotFound));
        assert!(!world.sessions.store.holds(made.session.id).await, "not even in parts");
    }
    assert_eq!(world.index_entries("u").await, 0);
}

super::conformance!(
    attribute_changes_raise_the_version,
    unexpected_version_is_refused,
    oversized_change_is_refused_whole,
    concurrent_attribute_writes_are_all_kept,
    racing_updates_never_undo_a_revoke,
);
