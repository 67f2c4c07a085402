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

async fn the_old_token_is_good_until_the_new_one_is_used<M: Make>(make: M) {
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

async fn a_rotation_whose_answer_was_lost_may_be_repeated_minutes_later<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.create("u").await;
    let lost = world.rotate(&made.token).await;
    world.pass(Duration::from_secs(300)).await;
    world.sessions.get(&made.token, true).await.unwrap();
    assert_eq!(world.other.rotate(&made.token, Change::default()).await.unwrap().token, lost);
    world.pass(Duration::from_secs(300)).await;
    assert_eq!(world.get(&lost).await.unwrap().id, made.session.id);
}

async fn twenty_rotations_of_one_token_at_once_have_one_successor<M: Make>(make: M) {
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

async fn an_old_token_after_its_grace_ends_the_session_with_one_event<M: Make>(make: M) {
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

async fn every_call_with_a_stolen_token_finds_it_out<M: Make>(make: M) {
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

async fn three_rotations_in_a_moment_and_the_first_replayed_ends_the_session<M: Make>(make: M) {
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

async fn within_its_grace_an_old_token_leads_to_the_token_in_use<M: Make>(make: M) {
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

async fn a_token_replaced_more_than_eight_times_ago_is_unknown<M: Make>(make: M) {
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

async fn a_new_token_may_end_the_session_and_so_may_an_old_one_in_its_grace<M: Make>(make: M) {
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
    the_old_token_is_good_until_the_new_one_is_used,
    a_rotation_whose_answer_was_lost_may_be_repeated_minutes_later,
    twenty_rotations_of_one_token_at_once_have_one_successor,
    an_old_token_after_its_grace_ends_the_session_with_one_event,
    every_call_with_a_stolen_token_finds_it_out,
    three_rotations_in_a_moment_and_the_first_replayed_ends_the_session,
    within_its_grace_an_old_token_leads_to_the_token_in_use,
    a_token_replaced_more_than_eight_times_ago_is_unknown,
    a_new_token_may_end_the_session_and_so_may_an_old_one_in_its_grace,
);
