//! Creating, repeating a create, and the limit of a user's sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Make, ints};
use crate::config::Config;
use crate::error::Error;
use crate::keys::token::Token;
use crate::session::AtLimit;
use crate::session::attribute::{Change, Value};
use crate::sessions::{Create, Target};
use crate::store::Store as _;

async fn another_clone_finds_what_was_created<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let create = Create {
        user: "ü ser{x}".into(),
        attributes: BTreeMap::from([
            ("text".into(), Value::Text("ü".into())),
            ("int".into(), Value::Int(i64::MIN)),
            ("double".into(), Value::Double(0.1)),
            ("bool".into(), Value::Bool(false)),
            ("bytes".into(), Value::Bytes(vec![0, 255, 13, 10].into())),
            ("time".into(), Value::Time(1, 2)),
        ]),
        metadata: BTreeMap::from([("ip".into(), "::1".into()), ("user_agent".into(), String::new())]),
        idle_ttl: Some(Duration::from_secs(60)),
        absolute_ttl: Some(Duration::from_secs(3600)),
        request_id: String::new(),
    };
    let made = world.sessions.create(create.clone()).await.unwrap();
    let session = world.get(&made.token).await.unwrap();
    assert_eq!(session, made.session);
    assert_eq!((session.user, session.version), (create.user, 1));
    assert_eq!((session.attributes, session.metadata), (create.attributes, create.metadata));
    assert_eq!(session.expire, session.created.plus(Duration::from_secs(60)));
    assert_eq!(session.absolute_expire, session.created.plus(Duration::from_secs(3600)));
}

async fn unissued_tokens_are_not_found<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.create("u").await;
    let mut forged = made.token.clone();
    forged.replace_range(20..21, if &made.token[20..21] == "A" { "B" } else { "A" });
    for token in [forged.as_str(), "shoal_", "x"] {
        assert_eq!(world.get(token).await, Err(Error::NotFound), "{token}");
    }
    assert!(matches!(world.get("").await, Err(Error::Invalid(_))));
    world.get(&made.token).await.unwrap();
}

async fn another_sessions_secret_opens_nothing<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let (a, b) = (world.create("u").await, world.create("u").await);
    let keyring = world.sessions.keys.keyring().await.unwrap();
    let secret = Token::parse(&b.token, &keyring).unwrap().secret;
    // Well-formed and with a good check: only the store can tell.
    let token = Token { id: a.session.id, secret }.issue(&keyring);
    assert_eq!(world.get(&token).await, Err(Error::NotFound));
    assert_eq!(world.sessions.get(&token, true).await, Err(Error::NotFound));
    assert_eq!(world.set(&token, "a", 1).await, Err(Error::NotFound));
    assert_eq!(world.sessions.rotate(&token, Change::default()).await.err(), Some(Error::NotFound));
    world.revoke(&token).await;
    assert_eq!(world.get(&a.token).await, Ok(a.session));
}

async fn repeated_create_returns_same_session<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let create = |user: &str, request_id: &str, n| Create {
        user: user.into(),
        request_id: request_id.into(),
        attributes: ints(&[("n", n)]),
        ..Create::default()
    };
    let first = world.sessions.create(create("u", "r", 1)).await.unwrap();
    let again = world.other.create(create("u", "r", 1)).await.unwrap();
    assert_eq!((&again.token, &again.session), (&first.token, &first.session));
    assert_eq!(world.sessions.create(create("u", "r", 2)).await.err(), Some(Error::RequestDiffers));
    let others = [create("u", "s", 1), create("v", "r", 1)];
    for other in others {
        assert_ne!(world.sessions.create(other).await.unwrap().token, first.token);
    }
    assert_eq!(world.list("u").await.len(), 2);
}

async fn repeated_create_never_revives_session<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let create = || Create { user: "u".into(), request_id: "r".into(), ..Create::default() };
    let made = world.sessions.create(create()).await.unwrap();
    world.revoke(&made.token).await;
    assert_eq!(world.sessions.create(create()).await.err(), Some(Error::RequestSpent));
    assert_eq!(world.get(&made.token).await, Err(Error::NotFound));
}

async fn repeated_create_hides_replaced_token<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let create = || Create { user: "u".into(), request_id: "r".into(), ..Create::default() };
    let made = world.sessions.create(create()).await.unwrap();
    let successor = world.rotate(&made.token).await;
    assert_eq!(world.sessions.create(create()).await.unwrap().token, made.token, "still good");
    world.get(&successor).await.unwrap();
    assert_eq!(world.sessions.create(create()).await.err(), Some(Error::RequestSpent));
}

async fn request_id_is_forgotten_in_time<M: Make>(make: M) {
    let world = make.world(Config { request_kept: Duration::from_millis(100), ..Config::default() }).await;
    let create = || Create { user: "u".into(), request_id: "r".into(), ..Create::default() };
    let first = world.sessions.create(create()).await.unwrap();
    let other = world
        .until("another session", || async {
            let made = world.sessions.create(create()).await.unwrap();
            (made.token != first.token).then_some(made)
        })
        .await;
    world.sessions.store.sweep().await.unwrap();
    assert_ne!(other.session.id, first.session.id);
    world.get(&first.token).await.unwrap();
    world.get(&other.token).await.unwrap();
}

async fn surplus_session_is_refused<M: Make>(make: M) {
    let world = make.world(Config { sessions_per_user_max: 2, ..Config::default() }).await;
    let create = || Create { user: "u".into(), ..Create::default() };
    let (first, _second) = (world.create("u").await, world.create("u").await);
    assert_eq!(world.sessions.create(create()).await.err(), Some(Error::UserFull { max: 2 }));
    world.create("v").await;
    world.revoke(&first.token).await;
    world.create("u").await;
}

async fn surplus_session_revokes_the_oldest<M: Make>(make: M) {
    let config = Config { sessions_per_user_max: 2, at_limit: AtLimit::RevokeOldest, ..Config::default() };
    let world = make.world(config).await;
    let first = world.create("u").await;
    world.tick().await;
    let second = world.create("u").await;
    world.tick().await;
    let third = world.create("u").await;
    assert_eq!(world.get(&first.token).await, Err(Error::NotFound));
    let ids: Vec<_> = world.list("u").await.into_iter().map(|session| session.id).collect();
    assert_eq!(ids, [third.session.id, second.session.id]);
}

async fn expired_sessions_do_not_count<M: Make>(make: M) {
    let world = make.world(Config { sessions_per_user_max: 1, ..Config::default() }).await;
    let create = Create { user: "u".into(), idle_ttl: Some(Duration::from_secs(1)), ..Create::default() };
    let first = world.sessions.create(create).await.unwrap();
    world.until_gone(&first.token).await;
    world.create("u").await;
}

async fn racing_creates_respect_revoke_all<M: Make>(make: M) {
    const LIMIT: usize = 5;
    let config = Config { sessions_per_user_max: LIMIT, ..Config::default() };
    let world = make.world(config).await;
    let creates = (0..100).map(|n| {
        let sessions = if n % 2 == 0 { world.sessions.clone() } else { world.other.clone() };
        async move {
            match sessions.create(Create { user: "u".into(), ..Create::default() }).await {
                Ok(made) => Some(made),
                Err(Error::UserFull { max: LIMIT }) => None,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let looks = (0..20).map(|_| async {
        assert!(world.list("u").await.len() <= LIMIT);
        world.sessions.revoke_user("u".into(), "").await.unwrap();
    });
    let (made, _) = futures::join!(futures::future::join_all(creates), futures::future::join_all(looks));
    let made: Vec<_> = made.into_iter().flatten().collect();
    assert!(made.len() >= LIMIT, "some got in: {}", made.len());
    assert!(world.list("u").await.len() <= LIMIT);
    world.sessions.revoke_user("u".into(), "").await.unwrap();
    for issued in &made {
        assert_eq!(world.get(&issued.token).await, Err(Error::NotFound));
    }
    assert_eq!(world.index_entries("u").await, 0);
}

async fn next_get_sees_repeatable_revokes<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let (a, b) = (world.create("u").await, world.create("u").await);
    for _ in 0..2 {
        world.sessions.revoke(Target::Token(a.token.clone())).await.unwrap();
        assert_eq!(world.get(&a.token).await, Err(Error::NotFound));
    }
    for _ in 0..2 {
        world.sessions.revoke(Target::Id(b.session.id.to_string())).await.unwrap();
        assert_eq!(world.get(&b.token).await, Err(Error::NotFound));
    }
    assert_eq!(world.sessions.revoke(Target::Token("x".into())).await, Err(Error::NotFound));
    assert!(matches!(world.sessions.revoke(Target::Id("x".into())).await, Err(Error::Invalid(_))));
    assert_eq!(world.index_entries("u").await, 0);
}

super::conformance!(
    another_clone_finds_what_was_created,
    unissued_tokens_are_not_found,
    another_sessions_secret_opens_nothing,
    repeated_create_returns_same_session,
    repeated_create_never_revives_session,
    repeated_create_hides_replaced_token,
    request_id_is_forgotten_in_time,
    surplus_session_is_refused,
    surplus_session_revokes_the_oldest,
    expired_sessions_do_not_count,
    racing_creates_respect_revoke_all,
    next_get_sees_repeatable_revokes,
);
