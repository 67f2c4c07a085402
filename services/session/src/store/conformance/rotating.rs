//! Rotation: one successor, nothing lost with an answer, and theft found out.

use std::collections::HashSet;
use std::time::Duration;

use super::world::{Make, Peek, World, change, ints};
use crate::config::Config;
use crate::error::Error;
use crate::event::Kind;
use crate::session::attribute::Change;

fn short_grace() -> Config {
    Config { rotation_grace: Duration::from_millis(300), ..Config::default() }
}

/// Uses `token` until it is refused, which it is not before its grace ends.
async fn until_refused<S: Peek>(world: &World<S>, token: &str) {
    world
        .until("the end of the grace", || async {
            match world.sessions.get(token, true).await {
                Ok(_) => None,
                Err(Error::NotFound) => Some(()),
                Err(error) => panic!("{error}"),
            }
        })
        .await;
}

async fn old_token_valid_until_successor_used<M: Make>(make: M) {
    let world = make.world(Config { rotation_grace: Duration::ZERO, ..Config::default() }).await;
    let made = world.create("u").await;
    let rotated = world.sessions.rotate(&made.token, change(&[("role", 1)], &[])).await.unwrap();
    assert_ne!(rotated.token, made.token);
    assert_eq!((rotated.session.id, rotated.session.version), (made.session.id, 2));
    assert_eq!(world.get(&made.token).await.unwrap().attributes, ints(&[("role", 1)]));
    let again = world.other.rotate(&made.token, Change::default()).await.unwrap();
    assert_eq!(again.token, rotated.token, "the answer was lost: the same again");
    assert_eq!(world.get(&rotated.token).await.unwrap().id, made.session.id);
    assert_eq!(world.get(&made.token).await, Err(Error::NotFound), "no grace was configured");
}

async fn lost_rotation_is_repeatable_later<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.create("u").await;
    let lost = world.rotate(&made.token).await;
    world.pass(Duration::from_secs(300)).await;
    world.sessions.get(&made.token, true).await.unwrap();
    assert_eq!(world.other.rotate(&made.token, Change::default()).await.unwrap().token, lost);
    world.pass(Duration::from_secs(300)).await;
    assert_eq!(world.get(&lost).await.unwrap().id, made.session.id);
}

async fn concurrent_rotations_share_one_successor<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.create("u").await;
    let mut watching = world.watch("u", None).await;
    let rotations = (0..20).map(|n| {
        let clone = if n % 2 == 0 { world.sessions.clone() } else { world.other.clone() };
        let (token, id) = (made.token.clone(), made.session.id);
        async move {
            let rotated = clone.rotate(&token, Change::default()).await.unwrap();
            assert_eq!(rotated.session.id, id);
            // The fast ones use theirs while the slow ones still rotate.
            clone.get(&rotated.token, true).await.unwrap();
            rotated.token
        }
    });
    let successors: HashSet<String> = futures::future::join_all(rotations).await.into_iter().collect();
    assert_eq!(successors.len(), 1);
    assert_eq!(watching.event().await, (Kind::Rotated, made.session.id.to_string()));
    for token in &successors {
        world.revoke(token).await;
    }
    assert_eq!(watching.event().await.0, Kind::Revoked, "no false theft, no second rotation");
}

async fn reused_token_ends_session_once<M: Make>(make: M) {
    let world = make.world(short_grace()).await;
    let made = world.create("u").await;
    let mut watching = world.watch("u", None).await;
    let successor = world.rotate(&made.token).await;
    world.get(&successor).await.unwrap();
    until_refused(&world, &made.token).await;
    for token in [&successor, &made.token] {
        assert_eq!(world.get(token).await, Err(Error::NotFound));
    }
    world.revoke(&successor).await;
    let next = world.create("u").await;
    let id = made.session.id.to_string();
    assert_eq!(watching.event().await, (Kind::Rotated, id.clone()));
    assert_eq!(watching.event().await, (Kind::ReuseDetected, id));
    assert_eq!(watching.event().await, (Kind::Created, next.session.id.to_string()), "one event");
}

async fn every_call_detects_stolen_tokens<M: Make>(make: M) {
    let world = make.world(short_grace()).await;
    for call in 0..4 {
        let made = world.create("u").await;
        let successor = world.rotate(&made.token).await;
        world.get(&successor).await.unwrap();
        world
            .until("the theft", || async {
                let refused = match call {
                    0 => world.sessions.update(&made.token, Change::default(), None).await.err(),
                    1 => world.sessions.rotate(&made.token, Change::default()).await.err(),
                    2 => world.sessions.get(&made.token, false).await.err(),
                    _ => world.sessions.get(&made.token, true).await.err(),
                };
                refused.map(|error| assert_eq!(error, Error::NotFound))
            })
            .await;
        assert_eq!(world.get(&successor).await, Err(Error::NotFound), "{call}");
    }
    assert_eq!(world.index_entries("u").await, 0);
}

async fn replay_after_three_rotations_ends_session<M: Make>(make: M) {
    let world = make.world(short_grace()).await;
    let made = world.create("u").await;
    let mut token = made.token.clone();
    for _ in 0..3 {
        token = world.rotate(&token).await;
    }
    world.get(&token).await.unwrap();
    until_refused(&world, &made.token).await;
    assert_eq!(world.get(&token).await, Err(Error::NotFound));
}

async fn grace_token_leads_to_current_one<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.create("u").await;
    let second = world.rotate(&made.token).await;
    let third = world.rotate(&second).await;
    world.get(&third).await.unwrap();
    for old in [&made.token, &second] {
        world.get(old).await.unwrap();
        assert_eq!(world.rotate(old).await, third);
    }
    let fourth = world.rotate(&third).await;
    assert_eq!(world.rotate(&second).await, third, "good until the fourth is used");
    world.get(&fourth).await.unwrap();
    assert_eq!(world.rotate(&second).await, fourth);
}

async fn ninth_last_token_is_unknown<M: Make>(make: M) {
    let world = make.world(Config { rotation_grace: Duration::ZERO, ..Config::default() }).await;
    let made = world.create("u").await;
    let mut tokens = vec![made.token];
    for _ in 0..9 {
        let next = world.rotate(&tokens[tokens.len() - 1]).await;
        tokens.push(next);
    }
    world.get(&tokens[9]).await.unwrap();
    assert_eq!(world.get(&tokens[0]).await, Err(Error::NotFound));
    world.get(&tokens[9]).await.expect("forgotten, not stolen");
    assert_eq!(world.get(&tokens[1]).await, Err(Error::NotFound));
    assert_eq!(world.get(&tokens[9]).await, Err(Error::NotFound), "remembered, so stolen");
}

async fn new_and_grace_tokens_may_revoke<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    for use_first in [false, true] {
        for with_old in [false, true] {
            let made = world.create("u").await;
            let successor = world.rotate(&made.token).await;
            if use_first {
                world.get(&successor).await.unwrap();
            }
            world.revoke(if with_old { &made.token } else { &successor }).await;
            assert_eq!(world.get(&successor).await, Err(Error::NotFound));
            assert_eq!(world.get(&made.token).await, Err(Error::NotFound));
        }
    }
}

super::conformance!(
    old_token_valid_until_successor_used,
    lost_rotation_is_repeatable_later,
    concurrent_rotations_share_one_successor,
    reused_token_ends_session_once,
    every_call_detects_stolen_tokens,
    replay_after_three_rotations_ends_session,
    grace_token_leads_to_current_one,
    ninth_last_token_is_unknown,
    new_and_grace_tokens_may_revoke,
);
