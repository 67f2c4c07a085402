//! A queue whose slot moves to another node of a Cluster: no answer comes from half of its keys, and no step is taken on half of
//! them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use shoal_kit::{ApiError, EngineError};
use shoal_redis_link::LinkConfig;
use shoal_testing::Cluster;
use tokio::time::sleep;

use super::RedisStore;
use crate::config::Config;
use crate::error::Error;
use crate::job::id::{JobId, QueueName};
use crate::job::{Failure, Job, State};
use crate::store::Claim;
use crate::store::conformance::{
    Mesh, TestClone, eventually, lease_request, new_job, queue, redis_mesh_at, ticket,
};

const LONG: Duration = Duration::from_secs(600);

/// Jobs that are ready before a history, and the number of moves of their queue in it.
const JOBS: usize = 300;
const MOVES: usize = 4;

fn config() -> Config {
    Config { key_prefix: "t:".to_owned(), redis_deadline: Duration::from_secs(5), ..Config::default() }
}

async fn mesh(cluster: &Cluster) -> Mesh {
    redis_mesh_at(&cluster.url(), &config()).await
}

/// Clones that carry no keys of a moving slot.
async fn waiting_mesh(cluster: &Cluster) -> Mesh {
    redis_mesh_at(&cluster.url(), &Config { redis_finish_moves: false, ..config() }).await
}

/// Returns the beginning of all keys of a queue.
fn base(queue: &QueueName) -> String {
    format!("t:{{{queue}}}:")
}

/// Asserts that a call was refused because of the slot, with an error that says that nothing was done.
#[track_caller]
fn refused<T>(what: &str, answer: Result<T, Error>) {
    let Err(error) = answer else { panic!("{what} was answered") };
    assert!(is_moving(&error), "{what}: {error:?}");
    let fault = ApiError::from(error);
    assert_eq!(fault.reason(), "ENGINE_MOVING", "{what}");
    assert!(fault.message().contains("nothing was done"), "{what}: {}", fault.message());
}

fn is_moving(error: &Error) -> bool {
    matches!(error, Error::Engine(EngineError::Moving { .. }))
}

/// Asserts that reads of single jobs are answered, wherever each key is, and that every script is refused.
async fn answers_truly_and_changes_nothing(clone: &TestClone, held: &Claim, ready: &[Job], ticket: &str) {
    for (jobs, state) in [(&held.jobs[..], State::Running), (ready, State::Ready)] {
        for job in jobs {
            let found = clone.get(&job.id).await.expect("it is there");
            assert_eq!((found.progress.state, &found.spec), (state, &job.spec));
        }
    }
    let (store, q, fence) = (&clone.store, ready[0].id.queue(), held.fence);
    let failure = Failure { message: "broken".to_owned(), permanent: true };
    refused("enqueue", store.enqueue(new_job(q, "new")).await);
    refused("lease", store.lease(lease_request(q, 9, LONG), crate::store::conformance::ticket()).await);
    refused("a lease that waits", clone.leaser.lease(&lease_request(q, 9, LONG), LONG).await);
    refused("complete", store.complete(&held.jobs[0].id, fence, Bytes::new()).await);
    refused("fail", store.fail(&held.jobs[0].id, fence, failure).await);
    refused("extend", store.extend(&held.jobs[0].id, fence, LONG).await);
    refused("release", store.release(q, ticket).await);
    refused("cancel", store.cancel(&ready[0].id).await);
    refused("count", store.count(q).await);
    refused("list", store.list(q, State::Ready, 10, None).await);
    refused("promote_due", store.promote_due(q).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_moved_queue_is_refused() {
    let Some(cluster) = Cluster::start().await else { return };
    let mesh = waiting_mesh(&cluster).await;
    let q = queue("moves");
    let mut jobs = Vec::new();
    for kind in ["1", "2", "3", "4", "5"] {
        jobs.push(mesh.a.enqueue(&q, kind).await);
    }
    let ticket = ticket();
    let held = mesh.a.store.lease(lease_request(&q, 2, LONG), ticket.clone()).await.unwrap();
    let (running, ready) = jobs.split_at(2);
    let mut watch = mesh.b.watch(&running[0].id, None).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().progress.state, State::Running);

    let slot = cluster.begin_move(&base(&q)).await;
    answers_truly_and_changes_nothing(&mesh.a, &held, ready, &ticket).await;
    slot.carry_half().await;
    answers_truly_and_changes_nothing(&mesh.b, &held, ready, &ticket).await;

    // Every key is on the other node, but the slot is not handed over yet.
    slot.carry_all().await;
    mesh.a.store.complete(&running[0].id, held.fence, Bytes::from_static(b"r")).await.unwrap();
    mesh.b.enqueue(&q, "6").await;
    slot.finish().await;
    let end = watch.next().await.unwrap().unwrap();
    assert_eq!((end.progress.state, &end.progress.result[..]), (State::Succeeded, &b"r"[..]));
    mesh.b.store.complete(&running[1].id, held.fence, Bytes::new()).await.unwrap();
    let rest = mesh.b.lease(&q, 9, LONG).await;
    let kinds: Vec<_> = rest.jobs.iter().map(|job| job.spec.kind.as_str()).collect();
    assert_eq!(kinds, ["3", "4", "5", "6"], "none is lost, none was added by a call that was refused");
    assert!(rest.jobs.iter().all(|job| job.progress.attempt == 1));
    let counts = mesh.a.store.count(&q).await.unwrap().unwrap();
    assert_eq!((counts.ready, counts.running, counts.succeeded, counts.cancelled), (0, 4, 2, 0));
    assert!(!cluster.has(&base(&q)).await, "by this key scripts are refused while the slot moves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_run_after_the_last_key() {
    let Some(cluster) = Cluster::start().await else { return };
    let mesh = mesh(&cluster).await;
    let (q, store) = (queue("gone"), &mesh.a.store);
    for kind in ["1", "2", "3", "4"] {
        mesh.a.enqueue(&q, kind).await;
    }
    let slot = cluster.begin_move(&base(&q)).await;
    slot.carry_all().await;
    let ticket = ticket();
    assert_eq!(store.lease(lease_request(&q, 1, LONG), ticket.clone()).await.unwrap().jobs.len(), 1);
    store.release(&q, &ticket).await.unwrap();
    let held = mesh.a.lease(&q, 2, LONG).await;
    let [first, second] = &held.jobs[..] else { panic!("{} jobs", held.jobs.len()) };
    store.extend(&first.id, held.fence, LONG).await.unwrap();
    store.complete(&first.id, held.fence, Bytes::new()).await.unwrap();
    let failure = Failure { message: "broken".to_owned(), permanent: false };
    store.fail(&second.id, held.fence, failure).await.unwrap();
    mesh.a.enqueue(&q, "5").await;
    let listed = store.list(&q, State::Ready, 10, None).await.unwrap();
    let third = listed.jobs.iter().find(|job| job.spec.kind == "3").expect("it is ready");
    store.cancel(&third.id).await.unwrap();
    let ready = || async {
        store.promote_due(&q).await.unwrap();
        let counts = store.count(&q).await.unwrap().unwrap();
        ((counts.ready, counts.succeeded, counts.cancelled) == (3, 1, 1)).then_some(())
    };
    eventually("what failed is ready again", ready).await;
    slot.finish().await;
    assert_eq!(mesh.b.lease(&q, 9, LONG).await.jobs.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_finish_their_half_moved_queue() {
    let Some(cluster) = Cluster::start().await else { return };
    let mesh = mesh(&cluster).await;
    let store = &mesh.a.store;
    for half in [false, true] {
        let q = queue(if half { "half" } else { "whole" });
        let ids = [mesh.a.enqueue(&q, "1").await.id, mesh.b.enqueue(&q, "2").await.id];
        let slot = cluster.begin_move(&base(&q)).await;
        if half {
            slot.carry_half().await;
        }
        let held = mesh.b.lease(&q, 2, LONG).await;
        assert_eq!(held.jobs.iter().map(|job| &job.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
        store.complete(&ids[0], held.fence, Bytes::new()).await.unwrap();
        store.extend(&ids[1], held.fence, LONG).await.unwrap();
        let third = mesh.a.enqueue(&q, "3").await;
        store.cancel(&third.id).await.unwrap();
        let counts = store.count(&q).await.unwrap().unwrap();
        assert_eq!((counts.ready, counts.running, counts.succeeded, counts.cancelled), (0, 1, 1, 1));
        assert_eq!(slot.left().await, 0, "every key is on the new node");
        slot.finish().await;
        store.complete(&ids[1], held.fence, Bytes::new()).await.unwrap();
        assert!(!cluster.has(&base(&q)).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_moving_queue_is_dropped() {
    let Some(cluster) = Cluster::start().await else { return };
    let mesh = mesh(&cluster).await;
    let q = queue("empty");
    let mut job = new_job(&q, "k");
    job.spec.retention = Duration::from_millis(1);
    let job = mesh.a.store.enqueue(job).await.unwrap();
    mesh.a.store.cancel(&job.id).await.unwrap();
    let forgotten = || async {
        let counts = mesh.a.store.count(&q).await.unwrap().unwrap();
        (counts.cancelled == 0).then_some(())
    };
    eventually("the job is forgotten", forgotten).await;
    // Finished jobs whose retention has passed are not counted, but are there until they are cleared away.
    mesh.a.store.promote_due(&q).await.unwrap();
    let config = Config { key_prefix: "t:".to_owned(), ..Config::default() };
    let store = RedisStore::open(LinkConfig::new(cluster.url(), "jobs"), &config).unwrap();
    store.connected(Duration::from_secs(20)).await.unwrap();
    let slot = cluster.begin_move(&base(&q)).await;
    slot.carry_all().await;
    assert_eq!(store.drop_empty(&[q.to_string()], Duration::ZERO, 1).await, Ok(1));
    slot.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schedules_slot_may_move() {
    let Some(cluster) = Cluster::start().await else { return };
    let mesh = waiting_mesh(&cluster).await;
    let q = queue("later");
    let base = base(&queue("queues"));
    // The job is far from due, so that the due queues have a key.
    mesh.a.store.note(&queue("other"), LONG);
    assert_eq!(mesh.a.store.take_due(10).await, Ok(Vec::new()));
    mesh.a.store.note(&q, Duration::ZERO);
    let slot = cluster.begin_move(&base).await;
    refused("take_due", mesh.a.store.take_due(10).await);
    slot.finish().await;
    let asked = || async {
        let due = mesh.a.store.take_due(10).await.unwrap();
        due.contains(&q).then_some(())
    };
    eventually("what was said and refused is said again", asked).await;
    assert!(!cluster.has(&base).await, "by this key scripts are refused while the slot moves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_lose_no_acknowledged_job() {
    let Some(cluster) = Cluster::start().await else { return };
    let seed: u64 =
        std::env::var("SHOAL_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("SHOAL_TEST_SEED={seed}");
    let mesh = Arc::new(mesh(&cluster).await);
    let q = queue("history");
    let first = mesh.a.store.enqueue_all(vec![new_job(&q, "first"); JOBS]).await.unwrap();
    let mut acknowledged: BTreeSet<JobId> = first.into_iter().map(|made| made.job.id).collect();
    let done = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> =
        (0..3).map(|_| tokio::spawn(history(Arc::clone(&mesh), q.clone(), Arc::clone(&done)))).collect();
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..MOVES {
        let slot = cluster.begin_move(&base(&q)).await;
        while slot.carry(rng.usize(10..100)).await > 0 {
            sleep(Duration::from_millis(rng.u64(0..20))).await;
        }
        sleep(Duration::from_millis(rng.u64(0..50))).await;
        slot.finish().await;
        sleep(Duration::from_millis(rng.u64(0..100))).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut completed = BTreeSet::new();
    for worker in workers {
        let (enqueued, finished) = worker.await.unwrap();
        acknowledged.extend(enqueued);
        for id in finished {
            assert!(completed.insert(id.clone()), "{id} was completed twice");
        }
    }
    loop {
        let claim = mesh.a.lease(&q, 100, LONG).await;
        if claim.jobs.is_empty() {
            break;
        }
        for job in claim.jobs {
            mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
            assert!(completed.insert(job.id.clone()), "{} was given out again", job.id);
        }
    }
    assert_eq!(completed, acknowledged);
    let counts = mesh.b.store.count(&q).await.unwrap().unwrap();
    assert_eq!((counts.ready, counts.running, counts.succeeded), (0, 0, completed.len() as u64));
}

/// Adds jobs and works some off. Returns which jobs were acknowledged, and which were completed.
async fn history(mesh: Arc<Mesh>, q: QueueName, done: Arc<AtomicBool>) -> (Vec<JobId>, Vec<JobId>) {
    let (mut enqueued, mut completed, mut refusals) = (Vec::new(), Vec::new(), 0);
    while !done.load(Ordering::Relaxed) {
        // Two are added for each one that is taken, so that there is always one.
        let made = mesh.a.store.enqueue_all(vec![new_job(&q, "more"); 2]).await;
        let leased = mesh.b.store.lease(lease_request(&q, 1, LONG), ticket()).await;
        for error in made.as_ref().err().into_iter().chain(leased.as_ref().err()) {
            assert!(is_moving(error), "{error:?}");
            refusals += 1;
        }
        enqueued.extend(made.into_iter().flatten().map(|made| made.job.id));
        let Ok(claim) = leased else { continue };
        assert!(!claim.jobs.is_empty(), "there are ready jobs");
        for job in &claim.jobs {
            // A refused call was not carried out, so the lease still holds.
            loop {
                match mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await {
                    Ok(job) => break completed.push(job.id),
                    Err(error) => assert!(is_moving(&error), "{error:?}"),
                }
            }
        }
    }
    eprintln!("{} added, {} completed, {refusals} refused", enqueued.len(), completed.len());
    (enqueued, completed)
}
