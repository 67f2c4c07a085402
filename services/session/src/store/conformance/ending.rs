//! Idle time, absolute time, the sweep of what ran out, lists, and ending a user's sessions.

use std::collections::HashSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};

use super::world::{Make, Peek, World};
use crate::config::Config;
use crate::error::Error;
use crate::event::Kind;
use crate::id::SessionId;
use crate::session::Session;
use crate::sessions::Create;
use crate::store::Store as _;

fn short(user: &str, idle_ms: u64, absolute_ms: u64) -> Create {
    Create {
        user: user.into(),
        idle_ttl: Some(Duration::from_millis(idle_ms)),
        absolute_ttl: Some(Duration::from_millis(absolute_ms)),
        ..Create::default()
    }
}

/// Asserts that a session ended about `millis` after its creation: by the store's clock, of which another one tells.
async fn lived<S: Peek>(world: &World<S>, session: &Session, millis: u64) {
    let clock = world.create("clock").await;
    world.revoke(&clock.token).await;
    let now = clock.session.created;
    // The store tells the ends of sessions and the creations of others by the same clock, to a millisecond.
    assert!(now >= session.created.plus(Duration::from_millis(millis - 50)), "it ended early");
}

async fn unused_session_ends<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.sessions.create(short("u", 1000, 60_000)).await.unwrap();
    world.until_gone(&made.token).await;
    assert_eq!(
        world.sessions.get(&made.token, true).await,
        Err(Error::NotFound),
        "a use does not bring it back"
    );
    assert!(world.list("u").await.is_empty());
}

async fn use_extends_until_absolute_end<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.sessions.create(short("u", 2000, 5050)).await.unwrap();
    world
        .until("the absolute end", || async {
            match world.sessions.get(&made.token, true).await {
                Ok(session) => {
                    assert!(session.expire <= session.absolute_expire);
                    assert_eq!(session.absolute_expire, made.session.absolute_expire);
                    None
                }
                Err(Error::NotFound) => Some(()),
                Err(error) => panic!("{error}"),
            }
        })
        .await;
    lived(&world, &made.session, 5050).await;
}

async fn use_recorded_once_per_idle_tenth<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.sessions.create(short("u", 20_000, 60_000)).await.unwrap();
    let touched = world
        .until("a recorded use", || async {
            let session = world.sessions.get(&made.token, true).await.unwrap();
            (session.expire != made.session.expire).then_some(session)
        })
        .await;
    assert!(touched.accessed() >= made.session.created.plus(Duration::from_secs(2)));
    assert_eq!(world.get(&made.token).await.unwrap(), touched, "every clone sees it");
    assert_eq!(world.sessions.get(&made.token, true).await.unwrap(), touched, "no write so soon after");
}

async fn untouched_read_is_no_use<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.sessions.create(short("u", 1000, 60_000)).await.unwrap();
    world
        .until("the end of the session", || async {
            match world.sessions.get(&made.token, false).await {
                Ok(session) => {
                    assert_eq!(session, made.session);
                    None
                }
                Err(Error::NotFound) => Some(()),
                Err(error) => panic!("{error}"),
            }
        })
        .await;
}

async fn expired_session_leaves_indexes_with_event<M: Make>(make: M) {
    const SESSIONS: usize = 300;
    let world = make.world(Config { sessions_per_user_max: 1000, ..Config::default() }).await;
    let mut watching = world.watch("u", None).await;
    let mut expected = HashSet::new();
    for _ in 0..SESSIONS {
        let made = world.sessions.create(short("u", 1000, 60_000)).await.unwrap();
        expected.insert(made.session.id.to_string());
    }
    let kept = world.create("u").await;
    for _ in 0..=SESSIONS {
        assert_eq!(watching.event().await.0, Kind::Created);
    }
    assert_eq!(world.index_entries("u").await, 2 * (SESSIONS + 1));
    world
        .until("empty indexes", || async {
            let (a, b) = futures::join!(world.sessions.store.sweep(), world.other.store.sweep());
            a.and(b).unwrap();
            (world.index_entries("u").await == 2).then_some(())
        })
        .await;
    for _ in 0..SESSIONS {
        let (kind, id) = watching.event().await;
        assert_eq!(kind, Kind::Expired);
        assert!(expected.remove(&id), "told twice: {id}");
    }
    world.revoke(&kept.token).await;
    assert_eq!(watching.event().await, (Kind::Revoked, kept.session.id.to_string()), "nothing between");
}

async fn short_sessions_wake_resting_bucket<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    // From here on nothing is due for long.
    assert_eq!(world.sessions.store.sweep().await, Ok(0));
    assert_eq!(world.sessions.store.sweep().await, Ok(0));
    let clones = [&world.sessions, &world.other];
    for round in 0..4 {
        let made = clones[round % 2].create(short("u", 1000, 60_000)).await.unwrap();
        world.until_gone(&made.token).await;
        world
            .until("empty indexes", || async {
                world.sessions.store.sweep().await.unwrap();
                (world.index_entries("u").await == 0).then_some(())
            })
            .await;
    }
}

/// The number of sessions that end while nobody looks; a million by `SHOAL_TEST_SCALE=1000000`.
fn scale() -> usize {
    std::env::var("SHOAL_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(3000)
}

async fn first_sweep_removes_sessions_expired_meanwhile<M: Make>(make: M) {
    const PER_USER: usize = 10;
    const WRITERS: usize = 50;
    let sessions = scale();
    let config = Config { events_kept: (sessions / 100).max(4096), ..Config::default() };
    let world = make.world(config).await;
    let mut watching = world.watch("", None).await;
    world.revoke(&world.create("first").await.token).await;
    watching.next().await;
    let token = watching.next().await.resume_token;
    drop(watching);
    let mut users: Vec<String> = (0..sessions / PER_USER).map(|n| format!("user {n}")).collect();
    let made: Vec<Vec<SessionId>> = stream::iter(&users)
        .map(|user| {
            let sessions = &world.sessions;
            async move {
                let mut ids = Vec::with_capacity(PER_USER);
                for _ in 0..PER_USER {
                    ids.push(sessions.create(short(user, 1000, 60_000)).await.unwrap().session.id);
                }
                ids
            }
        })
        .buffer_unordered(WRITERS)
        .collect()
        .await;
    let mut made: HashSet<SessionId> = made.into_iter().flatten().collect();
    let last = world.sessions.create(short("last", 1000, 60_000)).await.unwrap();
    made.insert(last.session.id);
    users.push("last".to_owned());
    world.until_gone(&last.token).await;

    let world = make.reopen(world);
    let started = std::time::Instant::now();
    let (a, b) = futures::join!(world.sessions.store.sweep(), world.other.store.sweep());
    eprintln!("swept {sessions} sessions in {:?}", started.elapsed());
    assert_eq!(a.unwrap() + b.unwrap(), made.len() as u64);
    assert_eq!(world.index_entries_of(&users).await, 0);
    let mut watching = world.watch("", Some(&token)).await;
    let mut created = 0;
    while !made.is_empty() {
        match watching.event().await {
            (Kind::Created, _) => created += 1,
            (kind, id) => {
                assert_eq!(kind, Kind::Expired);
                assert!(made.remove(&id.parse().unwrap()), "told twice: {id}");
            }
        }
    }
    assert!(created >= sessions);
}

async fn used_session_stays_indexed<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let made = world.sessions.create(short("u", 2000, 5050)).await.unwrap();
    world
        .until("the end of the session", || async {
            world.sessions.store.sweep().await.unwrap();
            match world.sessions.get(&made.token, true).await {
                Ok(_) => {
                    assert_eq!(world.index_entries("u").await, 2);
                    None
                }
                Err(Error::NotFound) => Some(()),
                Err(error) => panic!("{error}"),
            }
        })
        .await;
    lived(&world, &made.session, 5050).await;
    world
        .until("empty indexes", || async {
            world.sessions.store.sweep().await.unwrap();
            (world.index_entries("u").await == 0).then_some(())
        })
        .await;
}

async fn lists_page_newest_sessions_first<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let mut made = Vec::new();
    for user in ["u", "u", "uu", "u", "u", "u"] {
        let issued = world.create(user).await;
        if user == "u" {
            made.push(issued.session);
        }
    }
    made.sort_by_key(|session| std::cmp::Reverse((session.created, session.id)));
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let (page, next) = world.other.list("u".into(), 2, &token).await.unwrap();
        assert!(page.len() <= 2);
        pages.extend(page);
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(pages, made);
    assert!(world.list("nobody").await.is_empty());
    for bad in ["x", "AAAA"] {
        assert!(matches!(world.other.list("u".into(), 2, bad).await, Err(Error::Invalid(_))));
    }
    assert!(matches!(world.other.list("u".into(), -1, "").await, Err(Error::Invalid(_))));
}

async fn revoke_user_spares_one_session<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let (a, b, kept) = (world.create("u").await, world.create("u").await, world.create("u").await);
    let other = world.create("v").await;
    let except = kept.session.id.to_string();
    assert_eq!(world.sessions.revoke_user("u".into(), &except).await, Ok(2));
    for token in [&a.token, &b.token] {
        assert_eq!(world.get(token).await, Err(Error::NotFound));
    }
    assert_eq!(world.list("u").await, [kept.session]);
    world.get(&other.token).await.unwrap();
    assert_eq!(world.sessions.revoke_user("u".into(), &other.session.id.to_string()).await, Ok(1));
    assert_eq!(world.sessions.revoke_user("u".into(), "").await, Ok(0));
}

super::conformance!(
    unused_session_ends,
    use_extends_until_absolute_end,
    use_recorded_once_per_idle_tenth,
    untouched_read_is_no_use,
    expired_session_leaves_indexes_with_event,
    first_sweep_removes_sessions_expired_meanwhile,
    short_sessions_wake_resting_bucket,
    used_session_stays_indexed,
    lists_page_newest_sessions_first,
    revoke_user_spares_one_session,
);
