//! Tests of a bucket whose slot moves to another node of a Cluster: no answer comes from half of its keys, and no change
//! is made on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shoal_kit::{ApiError, EngineError};
use shoal_testing::Cluster;
use tokio::time::sleep;

use super::RedisStore;
use crate::config::Config;
use crate::error::Error;
use crate::event::{Kind, Place};
use crate::session::Session;
use crate::session::attribute::{Change, Value};
use crate::sessions::{Create, Issued, Target};
use crate::store::Store as _;
use crate::store::conformance::world::{Make as _, Redis, World};

/// The sessions of a history, and how often their bucket moves in it.
const SESSIONS: usize = 24;
const MOVES: usize = 4;

async fn world(cluster: &Cluster) -> World<RedisStore> {
    Redis::of(cluster.url()).world(Config::default()).await
}

/// Clones that carry no keys of a moving slot.
async fn waiting_world(cluster: &Cluster) -> World<RedisStore> {
    Redis::of(cluster.url()).world(Config { redis_finish_moves: false, ..Config::default() }).await
}

fn base(world: &World<RedisStore>, session: &Session) -> String {
    world.sessions.store.names.base(session.id.bucket)
}

/// A session that ends soon.
fn brief() -> Create {
    let second = Some(Duration::from_secs(1));
    Create { user: "u".to_owned(), idle_ttl: second, absolute_ttl: second, ..Create::default() }
}

fn number(session: &Session) -> i64 {
    match session.attributes.get("n") {
        Some(Value::Int(number)) => *number,
        _ => 0,
    }
}

/// Asserts that a call was refused for the slot, and says that nothing was done.
#[track_caller]
fn refused<T>(what: &str, answer: Result<T, Error>) {
    let Err(error) = answer else { panic!("{what} was answered") };
    assert!(matches!(error, Error::Engine(EngineError::Moving { .. })), "{what}: {error:?}");
    let fault = ApiError::from(error);
    assert_eq!(fault.reason(), "ENGINE_MOVING", "{what}");
    assert!(fault.message().contains("nothing was done"), "{what}: {}", fault.message());
}

/// Reads answer from the keys themselves, wherever each is; every script is refused.
async fn answers_truly_and_changes_nothing(world: &World<RedisStore>, made: &[Issued]) {
    for (at, issued) in made.iter().enumerate() {
        let session = world.get(&issued.token).await.expect("it lives");
        assert_eq!((number(&session), session.version), (at as i64, 2));
        // Its use cannot be recorded now, and that is no reason to refuse it.
        assert!(world.sessions.get(&issued.token, true).await.is_ok());
    }
    assert_eq!(world.list("u").await.len(), made.len());
    let (store, token, id) = (&world.sessions.store, &made[0].token, made[0].session.id);
    refused("update", world.set(token, "n", 9).await);
    refused("rotate", world.sessions.rotate(token, Change::default()).await);
    refused("revoke by token", world.sessions.revoke(Target::Token(token.clone())).await);
    refused("revoke by id", world.sessions.revoke(Target::Id(id.to_string())).await);
    refused("revoke all", world.sessions.revoke_user("u".to_owned(), "").await);
    refused("create", world.sessions.create(Create { user: "u".to_owned(), ..Create::default() }).await);
    refused("history", store.history(id.bucket, Place::default(), 10).await);
    refused("sweep", store.sweep_bucket(id.bucket).await);
    refused("touch", store.touch_now(id, &[[0; 32]]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_moved_bucket_is_refused() {
    let Some(cluster) = Cluster::start().await else { return };
    let world = waiting_world(&cluster).await;
    let over = world.sessions.create(brief()).await.unwrap();
    let mut made = Vec::new();
    for n in 0..4 {
        let issued = world.create("u").await;
        world.set(&issued.token, "n", n).await.unwrap();
        made.push(issued);
    }
    // One has ended, and is to be swept.
    world.until_gone(&over.token).await;
    let mut watch = world.watch("u", None).await;
    let base = base(&world, &made[0].session);

    let slot = cluster.begin_move(&base).await;
    answers_truly_and_changes_nothing(&world, &made).await;
    slot.carry_half().await;
    answers_truly_and_changes_nothing(&world, &made).await;

    // Every key is on the other node, and the slot is not yet.
    slot.carry_all().await;
    world.revoke(&made[0].token).await;
    assert_eq!(world.get(&made[0].token).await, Err(Error::NotFound));
    made.push(world.create("u").await);
    slot.finish().await;
    assert_eq!(world.get(&made[0].token).await, Err(Error::NotFound), "revoked stays revoked");
    let rotated = world.rotate(&made[1].token).await;
    assert_eq!(number(&world.get(&rotated).await.unwrap()), 1);
    assert_eq!(world.sessions.store.sweep_bucket(over.session.id.bucket).await.unwrap().0, 1);
    assert_eq!(world.list("u").await.len(), 4);
    assert_eq!(world.index_entries("u").await, 8, "four sessions in two indexes");
    let revoked = (Kind::Revoked, made[0].session.id.to_string());
    let (created, turned) = (made[4].session.id.to_string(), made[1].session.id.to_string());
    for expected in [revoked, (Kind::Created, created), (Kind::Rotated, turned)] {
        assert_eq!(watch.event().await, expected, "watchers miss nothing");
    }
    assert!(!cluster.has(&base).await, "by this key scripts are refused while the slot moves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_run_after_the_last_key() {
    let Some(cluster) = Cluster::start().await else { return };
    let world = world(&cluster).await;
    let over = world.sessions.create(brief()).await.unwrap();
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(world.create("u").await);
    }
    world.until_gone(&over.token).await;
    let (store, bucket) = (&world.sessions.store, over.session.id.bucket);
    let slot = cluster.begin_move(&base(&world, &over.session)).await;
    slot.carry_all().await;
    assert_eq!(number(&world.set(&made[0].token, "n", 7).await.unwrap()), 7);
    let rotated = world.rotate(&made[0].token).await;
    assert_eq!(number(&world.get(&rotated).await.unwrap()), 7, "the successor takes over");
    world.revoke(&made[1].token).await;
    world.sessions.revoke(Target::Id(made[2].session.id.to_string())).await.unwrap();
    assert_eq!(world.list("u").await.len(), 2);
    assert_eq!(store.sweep_bucket(bucket).await.unwrap().0, 1);
    let made_anew = world.create("u").await;
    assert_eq!(world.sessions.revoke_user("u".to_owned(), "").await, Ok(3));
    let history = store.history(bucket, Place::default(), 100).await.unwrap();
    // Six were made, one rotated, one ran out, and the others were revoked.
    assert_eq!((history.gap, history.events.len()), (false, 6 + 1 + 1 + 5));
    slot.finish().await;
    assert_eq!(world.get(&made_anew.token).await, Err(Error::NotFound));
    assert_eq!(world.index_entries("u").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_finish_their_half_moved_bucket() {
    let Some(cluster) = Cluster::start().await else { return };
    let world = world(&cluster).await;
    for half in [false, true] {
        let issued = world.create("u").await;
        let base = base(&world, &issued.session);
        let slot = cluster.begin_move(&base).await;
        if half {
            slot.carry_half().await;
        }
        assert_eq!(number(&world.set(&issued.token, "n", 7).await.unwrap()), 7);
        let rotated = world.rotate(&issued.token).await;
        assert_eq!(number(&world.get(&rotated).await.unwrap()), 7);
        world.create("u").await;
        assert_eq!(world.list("u").await.len(), 2);
        world.revoke(&rotated).await;
        assert_eq!(world.get(&rotated).await, Err(Error::NotFound));
        assert_eq!(world.sessions.revoke_user("u".to_owned(), "").await, Ok(1));
        assert_eq!(slot.left().await, 0, "every key is on the new node");
        slot.finish().await;
        assert_eq!(world.get(&rotated).await, Err(Error::NotFound), "revoked stays revoked");
        assert_eq!(world.index_entries("u").await, 0);
        assert!(!cluster.has(&base).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweepers_slot_may_move() {
    let Some(cluster) = Cluster::start().await else { return };
    let world = world(&cluster).await;
    let slot = cluster.begin_move(&world.sessions.store.names.lease()).await;
    // Sweeping twice does no harm, and nobody else may be able to.
    assert_eq!(world.sessions.store.sweep().await, Ok(0));
    assert!(world.create("u").await.session.version > 0, "sessions are made meanwhile");
    slot.finish().await;
    assert_eq!(world.sessions.store.sweep().await, Ok(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_undo_no_acknowledged_change() {
    let Some(cluster) = Cluster::start().await else { return };
    let seed =
        std::env::var("SHOAL_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("SHOAL_TEST_SEED={seed}");
    let world = Arc::new(world(&cluster).await);
    let mut made = Vec::new();
    for _ in 0..SESSIONS {
        made.push(world.create("u").await);
    }
    let base = base(&world, &made[0].session);
    let done = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0_u64..3)
        .map(|worker| {
            let (world, done) = (Arc::clone(&world), Arc::clone(&done));
            let mine = made.iter().skip(worker as usize).step_by(3).map(|made| made.token.clone()).collect();
            tokio::spawn(history(world, mine, fastrand::Rng::with_seed(seed.wrapping_add(worker)), done))
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(!seed);
    for _ in 0..MOVES {
        let slot = cluster.begin_move(&base).await;
        while slot.carry(rng.usize(1..6)).await > 0 {
            sleep(Duration::from_millis(rng.u64(0..20))).await;
        }
        sleep(Duration::from_millis(rng.u64(0..50))).await;
        slot.finish().await;
        sleep(Duration::from_millis(rng.u64(0..100))).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut living = 0;
    for worker in workers {
        living += worker.await.unwrap();
    }
    assert_eq!(world.list("u").await.len(), living);
    assert_eq!(world.index_entries("u").await, 2 * living);
}

/// Runs one caller with sessions of its own, so that it knows what each must be. Returns how many it has left.
async fn history(
    world: Arc<World<RedisStore>>,
    tokens: Vec<String>,
    mut rng: fastrand::Rng,
    done: Arc<AtomicBool>,
) -> usize {
    let mut sessions: Vec<(String, Option<i64>)> = tokens.into_iter().map(|token| (token, Some(0))).collect();
    let (mut acknowledged, mut refusals) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let (token, number) = rng.choice(sessions.iter_mut()).unwrap();
        let changed = match (&number, rng.u8(..)) {
            (Some(n), 0..200) => {
                let next = *n + 1;
                world.set(token, "n", next).await.map(|_| *number = Some(next))
            }
            (Some(_), 200..204) => {
                world.sessions.revoke(Target::Token(token.clone())).await.map(|()| *number = None)
            }
            _ => Ok(()),
        };
        match changed {
            Ok(()) => acknowledged += 1,
            // Nothing was done, and it is not: see below.
            Err(Error::Engine(EngineError::Moving { .. })) => refusals += 1,
            Err(error) => panic!("{error:?} of a session that is {number:?}"),
        }
        let found = match world.get(token).await {
            Ok(session) => Some(self::number(&session)),
            Err(Error::NotFound) => None,
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(found, *number, "what was acknowledged, and nothing else");
    }
    eprintln!("{acknowledged} acknowledged, {refusals} refused");
    sessions.iter().filter(|(_, number)| number.is_some()).count()
}
