//! What every store of jobs must do, run on each of them. A check gets two clones on one store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::embedded::Embedded;
use super::redis::Redis;
use super::{Ask, CLAIM_BYTES_MAX, Claim, QUEUES_MAX, Store, TEND_MAX};
use crate::backoff;
use crate::config::Config;
use crate::error::Error;
use crate::hub::Hub;
use crate::id::{JobId, QueueName};
use crate::job::{Failure, Job, LOST_MAX, Spec, State};
use crate::keeper;
use crate::lease::{Counter, Order};
use crate::new_job::{NewJob, Run};
use crate::watch::{Seen, Watch};

/// Longer than anything here takes; a check that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// A lease that does not run out during a check.
const LONG: Duration = Duration::from_secs(600);

/// Two clones of the service on one store, without the gRPC face.
pub(crate) struct Mesh {
    pub(crate) a: Clone,
    pub(crate) b: Clone,
}

/// One of them.
pub(crate) struct Clone {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) counter: Counter,
    pub(crate) draining: CancellationToken,
    due: std::sync::Mutex<Option<crate::hub::DueTimes>>,
    tasks: std::sync::Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl Clone {
    /// A clone that hears announcements but does not keep the queues yet.
    pub(crate) fn start(store: Arc<dyn Store>) -> Self {
        let (hub, due) = Hub::new();
        let draining = CancellationToken::new();
        let (counter, giving_back) =
            Counter::open(store.clone(), hub.clone(), draining.clone(), CancellationToken::new());
        let tasks = vec![spawn(store.announce(hub.clone())), spawn(giving_back)];
        Self { store, hub, counter, draining, due: Some(due).into(), tasks: tasks.into() }
    }

    /// Keeps the queues from now on.
    pub(crate) fn keep(&self) {
        let due = self.due.lock().unwrap().take().unwrap();
        let interval = Config::default().tend_interval;
        let keeping = spawn(keeper::run(self.store.clone(), self.hub.clone(), due, interval));
        self.tasks.lock().unwrap().push(keeping);
    }

    pub(crate) async fn enqueue(&self, queue: &QueueName, kind: &str) -> Job {
        self.store.enqueue(new_job(queue, kind)).await.unwrap()
    }

    pub(crate) async fn lease(&self, queue: &QueueName, max_jobs: usize, duration: Duration) -> Claim {
        self.store.lease(ask(queue, max_jobs, duration)).await.unwrap()
    }

    pub(crate) async fn get(&self, id: &JobId) -> Option<Job> {
        self.store.get(id).await.unwrap()
    }

    pub(crate) async fn watch(&self, id: &JobId, seen: Option<Seen>) -> Result<Watch, Error> {
        Watch::open(self.store.clone(), &self.hub, id.clone(), seen, self.draining.clone()).await
    }
}

pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

pub(crate) fn new_job(queue: &QueueName, kind: &str) -> NewJob {
    let spec = Spec {
        kind: kind.to_owned(),
        payload: Bytes::copy_from_slice(kind.as_bytes()),
        traceparent: String::new(),
        max_attempts: 5,
        backoff: Duration::from_millis(1),
        retention: Duration::from_secs(600),
    };
    NewJob { queue: queue.clone(), spec, run: Run::Now, request_id: None }
}

pub(crate) fn ask(queue: &QueueName, max_jobs: usize, duration: Duration) -> Ask {
    let ticket = uuid::Uuid::new_v4().simple().to_string();
    Ask { queue: queue.clone(), max_jobs, worker: "w".to_owned(), duration, ticket }
}

pub(crate) fn order(queue: &QueueName, max_jobs: usize) -> Order {
    Order { queue: queue.clone(), max_jobs, worker: "w".to_owned(), duration: LONG }
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::parse(name).unwrap()
}

fn failure(permanent: bool) -> Failure {
    Failure { message: "broken".to_owned(), permanent }
}

fn kinds(claim: &Claim) -> Vec<&str> {
    claim.jobs.iter().map(|job| job.spec.kind.as_str()).collect()
}

/// Asks again until something is there.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let asking = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            if let Some(found) = ask().await {
                return found;
            }
        }
    };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A generator for the interleavings of a check, and its seed, which is printed.
fn seeded(check: &str) -> (u64, impl FnMut(u64) -> u64) {
    let seed = match std::env::var("SHOAL_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => uuid::Uuid::new_v4().as_u128() as u64,
    };
    eprintln!("{check}: SHOAL_TEST_SEED={seed}");
    let mut state = seed | 1;
    let next = move |below: u64| {
        // xorshift64*, Vigna 2016.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) % below
    };
    (seed, next)
}

async fn jobs_are_leased_in_the_order_they_became_ready(mesh: Mesh) {
    let q = queue("fifo");
    for n in 0..10 {
        let clone = if n % 2 == 0 { &mesh.a } else { &mesh.b };
        clone.enqueue(&q, &n.to_string()).await;
    }
    assert_eq!(kinds(&mesh.a.lease(&q, 3, LONG).await), ["0", "1", "2"]);
    let rest = mesh.b.lease(&q, 100, LONG).await;
    assert_eq!(kinds(&rest), ["3", "4", "5", "6", "7", "8", "9"]);
    assert!(!rest.more);
    assert!(mesh.a.lease(&q, 1, LONG).await.jobs.is_empty());
}

async fn a_leased_job_is_whole(mesh: Mesh) {
    let q = queue("a.whole-job_1");
    let mut new = new_job(&q, "kind");
    new.spec.payload = Bytes::from((0..=255).collect::<Vec<u8>>());
    new.spec.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
    let made = mesh.a.store.enqueue(new.clone()).await.unwrap();
    assert_eq!(
        (made.spec.clone(), made.standing.state, made.standing.version),
        (new.spec.clone(), State::Ready, 1)
    );
    assert_eq!(mesh.b.get(&made.id).await, Some(made.clone()));

    let claim = mesh.b.lease(&q, 1, LONG).await;
    let leased = &claim.jobs[0];
    assert_eq!((&leased.id, &leased.spec, leased.create), (&made.id, &new.spec, made.create));
    assert_eq!(
        (leased.standing.state, leased.standing.attempt, leased.standing.version),
        (State::Running, 1, 2)
    );
    assert!(leased.standing.start >= Some(made.create));
    assert_eq!(claim.expire, leased.standing.start.unwrap().after(LONG));
    assert_eq!(mesh.a.get(&made.id).await.as_ref(), Some(leased));

    let done = mesh.a.store.complete(&made.id, claim.fence, Bytes::from_static(b"\0result")).await.unwrap();
    assert_eq!((done.standing.state, &done.standing.result[..]), (State::Succeeded, &b"\0result"[..]));
    assert!(done.standing.finish >= leased.standing.start);
    assert_eq!(mesh.b.get(&made.id).await, Some(done));
}

async fn what_is_unknown_is_not_found_at_once(mesh: Mesh) {
    let id = JobId::generate(&queue("unknown"));
    assert_eq!(mesh.a.get(&id).await, None);
    assert_eq!(mesh.a.store.complete(&id, 5, Bytes::new()).await, Err(Error::not_found(&id)));
    assert_eq!(mesh.a.store.fail(&id, 5, failure(false)).await, Err(Error::not_found(&id)));
    assert!(matches!(mesh.a.watch(&id, None).await, Err(Error::NotFound { .. })));
    assert!(mesh.a.lease(id.queue(), 1, LONG).await.jobs.is_empty());
}

async fn a_delayed_job_becomes_ready_at_its_time_and_in_that_order(mesh: Mesh) {
    let q = queue("delay");
    let delay = Duration::from_millis(300);
    let late = mesh.a.store.enqueue(NewJob { run: Run::After(delay), ..new_job(&q, "late") }).await.unwrap();
    let due = late.standing.run_at.unwrap();
    assert_eq!((late.standing.state, due), (State::Scheduled, late.create.after(delay)));
    let past = NewJob { run: Run::At(crate::moment::Moment(1)), ..new_job(&q, "past") };
    assert_eq!(mesh.a.store.enqueue(past).await.unwrap().standing.state, State::Ready);
    assert_eq!(kinds(&mesh.b.lease(&q, 9, LONG).await), ["past"]);

    // Nobody tends the queue: the next script does. A job that is enqueued after the moment comes after.
    eventually("the moment has passed", || async {
        (crate::moment::Moment::of_this_machine() > due.after(Duration::from_millis(50))).then_some(())
    })
    .await;
    mesh.b.enqueue(&q, "after").await;
    let claim = mesh.a.lease(&q, 9, LONG).await;
    assert_eq!(kinds(&claim), ["late", "after"]);
    assert!(claim.jobs[0].standing.start.unwrap() >= due);
    assert_eq!((claim.jobs[0].standing.run_at, claim.jobs[0].standing.version), (None, 3));
}

async fn very_many_due_jobs_become_ready_in_bounded_steps(mesh: Mesh) {
    let q = queue("due-at-once");
    let count = 3 * TEND_MAX + 7;
    for n in 0..count {
        let run = Run::After(Duration::from_secs(2).saturating_sub(Duration::from_micros(n as u64)));
        mesh.a.store.enqueue(NewJob { run, ..new_job(&q, &n.to_string()) }).await.unwrap();
    }
    let mut steps = 0;
    let mut seen = 0;
    while seen < count {
        let tended = mesh.b.store.tend(&q).await.unwrap();
        let claimed = mesh.b.lease(&q, 100, LONG).await;
        seen += claimed.jobs.len();
        steps += 1;
        assert!(steps < 100_000, "{seen} of {count}");
        if tended.next != Some(Duration::ZERO) && claimed.jobs.is_empty() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(seen, count);
}

async fn a_lease_that_runs_out_gives_the_job_to_another_worker(mesh: Mesh) {
    let q = queue("expiry");
    mesh.a.keep();
    mesh.b.keep();
    let job = mesh.a.enqueue(&q, "k").await;
    let first = mesh.a.lease(&q, 1, Duration::from_secs(1)).await;
    let second = mesh.b.counter.lease(&order(&q, 1), PATIENCE).await.unwrap().taken();
    let again = &second.jobs[0];
    assert_eq!((&again.id, again.standing.attempt, again.standing.lost_count), (&job.id, 1, 1));
    assert!(second.fence > first.fence);
    let late = first.expire.until(again.standing.start.unwrap());
    assert!(again.standing.start.unwrap() >= first.expire, "given away before its time");
    assert!(late <= Duration::from_secs(1), "given away {late:?} after its time");

    // The first worker is told whatever it says; the second is not disturbed.
    let lost = |fence| Error::LeaseLost { id: job.id.clone(), fence };
    assert_eq!(mesh.a.store.complete(&job.id, first.fence, Bytes::new()).await, Err(lost(first.fence)));
    assert_eq!(mesh.a.store.fail(&job.id, first.fence, failure(true)).await, Err(lost(first.fence)));
    assert_eq!(mesh.a.store.complete(&job.id, 1, Bytes::new()).await, Err(lost(1)));
    let done = mesh.b.store.complete(&job.id, second.fence, Bytes::new()).await.unwrap();
    assert_eq!(done.standing.state, State::Succeeded);
}

async fn a_lease_holds_until_its_job_was_given_back(mesh: Mesh) {
    let q = queue("late-answer");
    let job = mesh.a.enqueue(&q, "k").await;
    let claim = mesh.a.lease(&q, 1, Duration::from_millis(1)).await;
    eventually("it ran out", || async {
        (crate::moment::Moment::of_this_machine() > claim.expire.after(Duration::from_millis(20)))
            .then_some(())
    })
    .await;
    assert!(mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.is_ok());
    // And then it is nobody's to give back.
    mesh.b.store.tend(&q).await.unwrap();
    let job = mesh.b.get(&job.id).await.unwrap();
    assert_eq!((job.standing.state, job.standing.lost_count), (State::Succeeded, 0));
}

async fn a_job_that_is_lost_too_often_is_dead(mesh: Mesh) {
    let q = queue("poison");
    let job = mesh.a.enqueue(&q, "k").await;
    for lost in 1..=LOST_MAX {
        let claim = mesh.a.lease(&q, 1, Duration::from_millis(1)).await;
        assert_eq!(claim.jobs.len(), 1);
        let now = eventually("the sweep finds it", || async {
            mesh.b.store.tend(&q).await.unwrap();
            mesh.a.get(&job.id).await.filter(|job| job.standing.lost_count == lost)
        })
        .await;
        assert_eq!(now.standing.attempt, 0, "a loss is no attempt");
        assert_eq!(now.standing.state, if lost < LOST_MAX { State::Ready } else { State::Dead });
    }
    assert!(mesh.a.lease(&q, 1, LONG).await.jobs.is_empty());
    let dead = mesh.a.get(&job.id).await.unwrap();
    assert!(dead.standing.finish.is_some() && dead.standing.errors.len() == 1);
}

async fn the_sweep_takes_only_what_the_claim_still_holds(mesh: Mesh) {
    let q = queue("sweep");
    for kind in ["done", "failed", "lost"] {
        mesh.a.enqueue(&q, kind).await;
    }
    let claim = mesh.a.lease(&q, 3, Duration::from_millis(50)).await;
    let [done, failed, lost] = [0, 1, 2].map(|n: usize| claim.jobs[n].id.clone());
    mesh.a.store.complete(&done, claim.fence, Bytes::new()).await.unwrap();
    mesh.a.store.fail(&failed, claim.fence, failure(false)).await.unwrap();
    // The failed one is soon another worker's, whose lease is long.
    let other = eventually("its backoff is over", || async {
        Some(mesh.b.lease(&q, 1, LONG).await).filter(|claim| !claim.jobs.is_empty())
    })
    .await;
    assert_eq!(other.jobs[0].id, failed);
    eventually("the sweep", || async {
        mesh.b.store.tend(&q).await.unwrap();
        mesh.a.get(&lost).await.filter(|job| job.standing.lost_count == 1)
    })
    .await;
    assert_eq!(mesh.a.get(&done).await.unwrap().standing.state, State::Succeeded);
    let failed = mesh.a.get(&failed).await.unwrap();
    assert_eq!(
        (failed.standing.state, failed.standing.lost_count, failed.standing.attempt),
        (State::Running, 0, 2)
    );
    mesh.b.store.complete(&failed.id, other.fence, Bytes::new()).await.unwrap();
}

async fn the_last_word_may_be_repeated_and_no_other(mesh: Mesh) {
    let q = queue("repeat");
    let (one, two) = (mesh.a.enqueue(&q, "1").await.id, mesh.a.enqueue(&q, "2").await.id);
    let claim = mesh.a.lease(&q, 2, LONG).await;
    let done = mesh.a.store.complete(&one, claim.fence, Bytes::from_static(b"r")).await.unwrap();
    let again = mesh.b.store.complete(&one, claim.fence, Bytes::from_static(b"other")).await.unwrap();
    assert_eq!(done, again);
    let lost = |id: &JobId| Err(Error::LeaseLost { id: id.clone(), fence: claim.fence });
    assert_eq!(mesh.b.store.fail(&one, claim.fence, failure(false)).await, lost(&one));

    let failed = mesh.a.store.fail(&two, claim.fence, failure(false)).await.unwrap();
    let again = mesh.b.store.fail(&two, claim.fence, failure(false)).await.unwrap();
    assert_eq!(failed.standing.errors.len(), 1);
    assert_eq!((again.standing.errors.len(), again.standing.attempt), (1, 1));
    assert_eq!(mesh.b.store.complete(&two, claim.fence, Bytes::new()).await, lost(&two));
}

async fn failures_back_off_and_end_after_max_attempts(mesh: Mesh) {
    let q = queue("backoff");
    let mut new = new_job(&q, "k");
    new.spec.max_attempts = 3;
    new.spec.backoff = Duration::from_millis(40);
    let job = mesh.a.store.enqueue(new.clone()).await.unwrap();
    for attempt in 1..=3 {
        let claim = eventually("it is ready", || async {
            Some(mesh.b.lease(&q, 1, LONG).await).filter(|claim| !claim.jobs.is_empty())
        })
        .await;
        assert_eq!(claim.jobs[0].standing.attempt, attempt);
        let failed = mesh.a.store.fail(&job.id, claim.fence, failure(false)).await.unwrap();
        let error = failed.standing.errors.last().unwrap();
        assert_eq!(
            (error.attempt, error.message.as_str(), failed.standing.errors.len()),
            (attempt, "broken", attempt as usize)
        );
        if attempt < 3 {
            let wait = backoff::delay(new.spec.backoff, attempt, backoff::seed(job.id.tail()));
            assert_eq!(
                (failed.standing.state, failed.standing.run_at),
                (State::Retrying, Some(error.time.after(wait)))
            );
        } else {
            assert_eq!((failed.standing.state, failed.standing.finish), (State::Dead, Some(error.time)));
        }
        assert_eq!(mesh.b.get(&job.id).await, Some(failed));
    }
    assert!(mesh.a.lease(&q, 1, LONG).await.jobs.is_empty());
}

async fn the_longest_backoff_is_the_same_everywhere(mesh: Mesh) {
    let q = queue("longest");
    let mut new = new_job(&q, "k");
    new.spec.backoff = backoff::BACKOFF_MAX;
    let job = mesh.a.store.enqueue(new.clone()).await.unwrap();
    let claim = mesh.a.lease(&q, 1, LONG).await;
    let failed = mesh.a.store.fail(&job.id, claim.fence, failure(false)).await.unwrap();
    let wait = backoff::delay(new.spec.backoff, 1, backoff::seed(job.id.tail()));
    assert_eq!(failed.standing.run_at, Some(failed.standing.errors[0].time.after(wait)));
}

async fn a_permanent_failure_is_the_end(mesh: Mesh) {
    let q = queue("permanent");
    let job = mesh.a.enqueue(&q, "k").await;
    let claim = mesh.a.lease(&q, 1, LONG).await;
    let dead = mesh.b.store.fail(&job.id, claim.fence, failure(true)).await.unwrap();
    assert_eq!((dead.standing.state, dead.standing.run_at), (State::Dead, None));
    assert_eq!(mesh.b.store.fail(&job.id, claim.fence, failure(true)).await, Ok(dead));
}

async fn only_the_last_ten_errors_are_kept(mesh: Mesh) {
    let q = queue("errors");
    let mut new = new_job(&q, "k");
    new.spec.max_attempts = 100;
    let job = mesh.a.store.enqueue(new).await.unwrap();
    for attempt in 1..=13 {
        let claim = eventually("it is ready", || async {
            // The backoff doubles: what matters here is not when.
            mesh.a.store.tend(&q).await.unwrap();
            Some(mesh.b.lease(&q, 1, LONG).await).filter(|claim| !claim.jobs.is_empty())
        })
        .await;
        let message = format!("error {attempt} with spaces");
        let failure = Failure { message, permanent: false };
        mesh.a.store.fail(&job.id, claim.fence, failure).await.unwrap();
    }
    let errors = mesh.a.get(&job.id).await.unwrap().standing.errors;
    let attempts: Vec<_> = errors.iter().map(|error| error.attempt).collect();
    assert_eq!(attempts, (4..=13).collect::<Vec<_>>());
    assert_eq!(errors[9].message, "error 13 with spaces");
}

async fn a_finished_job_is_readable_for_its_retention(mesh: Mesh) {
    let q = queue("retention");
    let mut new = new_job(&q, "k");
    new.spec.retention = Duration::from_millis(700);
    let job = mesh.a.store.enqueue(new.clone()).await.unwrap();
    let claim = mesh.a.lease(&q, 1, LONG).await;
    let done = mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
    let end = done.standing.finish.unwrap().after(new.spec.retention);
    assert_eq!(mesh.b.get(&job.id).await, Some(done));
    eventually("it is forgotten", || async { mesh.b.get(&job.id).await.is_none().then_some(()) }).await;
    assert!(crate::moment::Moment::of_this_machine() >= end);
    assert_eq!(
        mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await,
        Err(Error::not_found(&job.id))
    );
}

async fn a_request_id_makes_one_job(mesh: Mesh) {
    let q = queue("request");
    let mut new = NewJob { request_id: Some("r\0 ü".to_owned()), ..new_job(&q, "k") };
    new.spec.retention = Duration::from_millis(300);
    let enqueues: FuturesUnordered<_> = (0..40)
        .map(|n| if n % 2 == 0 { &mesh.a } else { &mesh.b })
        .map(|clone| clone.store.enqueue(new.clone()))
        .collect();
    let ids: BTreeSet<JobId> = enqueues.map(|job| job.unwrap().id).collect().await;
    assert_eq!(ids.len(), 1);
    let claim = mesh.a.lease(&q, 9, LONG).await;
    assert_eq!(claim.jobs.len(), 1);
    assert_eq!(mesh.b.store.enqueue(new.clone()).await.as_ref(), Ok(&claim.jobs[0]), "as it is now");
    let other = NewJob { queue: queue("request2"), ..new.clone() };
    assert_ne!(mesh.b.store.enqueue(other).await.unwrap().id, claim.jobs[0].id, "each queue has its own");

    let id = claim.jobs[0].id.clone();
    mesh.a.store.complete(&id, claim.fence, Bytes::new()).await.unwrap();
    eventually("it is forgotten", || async { mesh.b.get(&id).await.is_none().then_some(()) }).await;
    mesh.a.store.tend(&q).await.unwrap();
    assert_eq!(mesh.b.store.enqueue(new).await, Err(Error::Forgotten { id }), "and not made again");
}

async fn fences_of_a_queue_only_grow(mesh: Mesh) {
    let q = queue("fences");
    let mut last = 0;
    for n in 0..50 {
        mesh.a.enqueue(&q, "k").await;
        let clone = if n % 2 == 0 { &mesh.a } else { &mesh.b };
        let fence = clone.lease(&q, 1, LONG).await.fence;
        assert!(fence > last, "{fence} after {last}");
        last = fence;
    }
}

async fn a_claim_fits_one_message(mesh: Mesh) {
    let q = queue("bytes");
    let mut new = new_job(&q, "k");
    new.spec.payload = vec![7; 256 << 10].into();
    for _ in 0..20 {
        mesh.a.store.enqueue(new.clone()).await.unwrap();
    }
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 20 {
        let claim = mesh.b.lease(&q, 100, LONG).await;
        let bytes: usize = claim.jobs.iter().map(|job| job.spec.payload.len()).sum();
        assert!(bytes <= CLAIM_BYTES_MAX && !claim.jobs.is_empty());
        sizes.push(claim.jobs.len());
        assert_eq!(claim.more, sizes.iter().sum::<usize>() < 20);
    }
    assert_eq!(sizes, [11, 9]);
}

async fn what_is_given_back_is_uncharged_and_first_in_line(mesh: Mesh) {
    let q = queue("release");
    for kind in ["1", "2", "3", "4"] {
        mesh.a.enqueue(&q, kind).await;
    }
    let ask = ask(&q, 3, LONG);
    let claim = mesh.a.store.lease(ask.clone()).await.unwrap();
    mesh.a.store.complete(&claim.jobs[1].id, claim.fence, Bytes::new()).await.unwrap();
    mesh.b.store.release(&q, &ask.ticket).await.unwrap();
    mesh.b.store.release(&q, &ask.ticket).await.unwrap();
    let again = mesh.b.lease(&q, 9, LONG).await;
    assert_eq!(kinds(&again), ["1", "3", "4"]);
    assert!(again.jobs.iter().all(|job| (job.standing.attempt, job.standing.lost_count) == (1, 0)));
    assert!(again.fence > claim.fence);
    let id = &claim.jobs[0].id;
    let lost = Error::LeaseLost { id: id.clone(), fence: claim.fence };
    assert_eq!(mesh.a.store.complete(id, claim.fence, Bytes::new()).await, Err(lost));
}

async fn a_claim_that_is_given_back_before_it_is_made_is_empty(mesh: Mesh) {
    let q = queue("early-release");
    mesh.a.enqueue(&q, "k").await;
    let ask = ask(&q, 1, LONG);
    mesh.a.store.release(&q, &ask.ticket).await.unwrap();
    assert!(mesh.b.store.lease(ask).await.unwrap().jobs.is_empty());
    assert_eq!(mesh.b.lease(&q, 1, LONG).await.jobs.len(), 1);
}

async fn a_waiting_worker_is_woken_by_another_clone(mesh: Mesh) {
    // Nobody keeps the queues: only the announcement can wake.
    let q = queue("wake");
    for round in 0..5 {
        let ordered = order(&q, 1);
        let mut waiting = Box::pin(mesh.b.counter.lease(&ordered, PATIENCE));
        assert!(timeout(Duration::from_millis(50), waiting.as_mut()).await.is_err());
        let made = mesh.a.enqueue(&q, &round.to_string()).await;
        let got = timeout(Duration::from_secs(2), waiting).await.expect("woken").unwrap().taken();
        assert_eq!(got.jobs[0].id, made.id);
    }
}

async fn all_waiting_workers_are_woken_for_many_jobs(mesh: Mesh) {
    let q = queue("wake-all");
    let one = order(&q, 1);
    let mut waiting: FuturesUnordered<_> = (0..20)
        .map(|n| if n % 2 == 0 { &mesh.a } else { &mesh.b })
        .map(|clone| clone.counter.lease(&one, PATIENCE))
        .collect();
    assert!(timeout(Duration::from_millis(100), waiting.next()).await.is_err());
    let mut made = BTreeSet::new();
    for n in 0..20 {
        made.insert(mesh.a.enqueue(&q, &n.to_string()).await.id);
    }
    let mut got = BTreeSet::new();
    while let Some(delivery) = timeout(Duration::from_secs(5), waiting.next()).await.expect("woken") {
        got.insert(delivery.unwrap().taken().jobs[0].id.clone());
    }
    assert_eq!(got, made);
}

async fn a_waiting_worker_gets_a_delayed_job_when_it_is_due(mesh: Mesh) {
    let q = queue("wake-due");
    mesh.a.keep();
    mesh.b.keep();
    let ordered = order(&q, 1);
    let mut waiting = Box::pin(mesh.b.counter.lease(&ordered, PATIENCE));
    assert!(timeout(Duration::from_millis(100), waiting.as_mut()).await.is_err());
    let run = Run::After(Duration::from_millis(250));
    let made = mesh.a.store.enqueue(NewJob { run, ..new_job(&q, "k") }).await.unwrap();
    let got = waiting.await.unwrap().taken();
    let late = made.standing.run_at.unwrap().until(got.jobs[0].standing.start.unwrap());
    assert!(got.jobs[0].standing.start >= made.standing.run_at);
    assert!(late < Duration::from_millis(200), "{late:?} late");
}

async fn an_empty_wait_ends_in_time_and_at_the_drain(mesh: Mesh) {
    let q = queue("empty");
    let started = Instant::now();
    let wait = Duration::from_millis(200);
    assert!(mesh.a.counter.lease(&order(&q, 1), wait).await.unwrap().taken().jobs.is_empty());
    assert!(started.elapsed() >= wait && started.elapsed() < wait * 5);
    let ordered = order(&q, 1);
    let waiting = mesh.a.counter.lease(&ordered, PATIENCE);
    let drain = async { mesh.a.draining.cancel() };
    let (got, ()) = tokio::join!(timeout(Duration::from_secs(2), waiting), drain);
    assert!(got.expect("ends at the drain").unwrap().taken().jobs.is_empty());
}

async fn each_job_is_leased_once_while_leases_hold(mesh: Mesh) {
    const JOBS: usize = 600;
    let q = queue("once");
    mesh.a.keep();
    mesh.b.keep();
    let done = Arc::new(std::sync::Mutex::new(BTreeMap::<JobId, u32>::new()));
    let workers: FuturesUnordered<_> = (0..50)
        .map(|n| {
            let clone = if n % 2 == 0 { &mesh.a } else { &mesh.b };
            let (done, q) = (done.clone(), &q);
            async move {
                while done.lock().unwrap().len() < JOBS {
                    let wait = Duration::from_millis(300);
                    let claim = clone.counter.lease(&order(q, 1 + n % 4), wait).await.unwrap().taken();
                    for job in &claim.jobs {
                        *done.lock().unwrap().entry(job.id.clone()).or_default() += 1;
                        clone.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
                    }
                }
            }
        })
        .collect();
    let enqueue = async {
        for n in 0..JOBS {
            let clone = if n % 2 == 0 { &mesh.b } else { &mesh.a };
            clone.enqueue(&q, &n.to_string()).await;
        }
    };
    let all = async { tokio::join!(workers.collect::<Vec<()>>(), enqueue) };
    timeout(PATIENCE * 2, all).await.expect("all jobs are done");
    let done = done.lock().unwrap().clone();
    assert!(done.values().all(|times| *times == 1), "{done:?}");
    for id in done.keys() {
        let job = mesh.a.get(id).await.unwrap();
        assert_eq!((job.standing.state, job.standing.attempt), (State::Succeeded, 1));
    }
}

async fn a_worker_who_leaves_takes_no_job_along(mesh: Mesh) {
    const JOBS: usize = 60;
    let q = queue("leavers");
    let (seed, mut random) = seeded("a_worker_who_leaves_takes_no_job_along");
    mesh.a.keep();
    mesh.b.keep();
    // Workers who wait a moment and leave, at any point: before the answer, in it, or with the answer in their hands.
    let end = CancellationToken::new();
    let mut leavers = Vec::new();
    for n in 0..20 {
        let clone = if n % 2 == 0 { &mesh.a } else { &mesh.b };
        let (counter, q, stays, takes) = (clone.counter.clone(), q.clone(), random(8000), random(3) + 1);
        let end = end.clone();
        leavers.push(tokio::spawn(async move {
            let order = order(&q, takes as usize);
            while !end.is_cancelled() {
                // The answer is dropped where it came.
                let _ = timeout(Duration::from_micros(stays), counter.lease(&order, PATIENCE)).await;
                tokio::task::yield_now().await;
            }
        }));
    }
    let mut made = BTreeSet::new();
    for n in 0..JOBS {
        let clone = if random(2) == 0 { &mesh.a } else { &mesh.b };
        made.insert(clone.enqueue(&q, &n.to_string()).await.id);
    }
    end.cancel();
    for leaver in leavers {
        leaver.await.unwrap();
    }
    let mut got = BTreeSet::new();
    while got.len() < JOBS {
        let claim = mesh.a.counter.lease(&order(&q, 7), PATIENCE / 2).await.unwrap().taken();
        assert!(!claim.jobs.is_empty(), "{} of {JOBS} jobs came, seed {seed}", got.len());
        for job in claim.jobs {
            let charged = (job.standing.attempt, job.standing.lost_count);
            assert_eq!(charged, (1, 0), "seed {seed}");
            assert!(got.insert(job.id), "seed {seed}");
        }
    }
    assert_eq!(got, made, "seed {seed}");
}

async fn a_watcher_sees_each_state_it_waits_for_by_push(mesh: Mesh) {
    let q = queue("watch");
    let job = mesh.a.enqueue(&q, "k").await;
    let mut watch = mesh.b.watch(&job.id, None).await.unwrap();
    let mut next = async || {
        let next = timeout(Duration::from_secs(5), watch.next()).await.expect("pushed");
        next.map(|job| job.unwrap().standing.state)
    };
    assert_eq!(next().await, Some(State::Ready));
    let claim = mesh.a.lease(&q, 1, LONG).await;
    assert_eq!(next().await, Some(State::Running));
    mesh.a.store.fail(&job.id, claim.fence, failure(false)).await.unwrap();
    assert_eq!(next().await, Some(State::Retrying));
    let claim = eventually("its backoff is over", || async {
        Some(mesh.a.lease(&q, 1, LONG).await).filter(|claim| !claim.jobs.is_empty())
    })
    .await;
    // Ready and running may come as one.
    let mut state = next().await;
    if state == Some(State::Ready) {
        state = next().await;
    }
    assert_eq!(state, Some(State::Running));
    mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
    assert_eq!(next().await, Some(State::Succeeded));
    assert_eq!(next().await, None);
}

async fn a_watch_of_a_final_job_sends_it_and_ends(mesh: Mesh) {
    let q = queue("watch-final");
    let job = mesh.a.enqueue(&q, "k").await;
    let claim = mesh.a.lease(&q, 1, LONG).await;
    let done = mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
    let mut watch = mesh.b.watch(&job.id, None).await.unwrap();
    assert_eq!(watch.next().await, Some(Ok(done)));
    assert_eq!(watch.next().await, None);
}

async fn a_watch_resumes_at_another_clone(mesh: Mesh) {
    let q = queue("watch-resume");
    let job = mesh.a.enqueue(&q, "k").await;
    let mut watch = mesh.a.watch(&job.id, None).await.unwrap();
    let first = watch.next().await.unwrap().unwrap();
    mesh.a.draining.cancel();
    assert_eq!(watch.next().await, Some(Err(Error::Draining)));
    assert_eq!(watch.next().await, None);

    let mut resumed = mesh.b.watch(&job.id, Some(Seen::of(&first))).await.unwrap();
    assert!(timeout(Duration::from_millis(100), resumed.next()).await.is_err(), "nothing is new");
    let claim = mesh.b.lease(&q, 1, LONG).await;
    let running = resumed.next().await.unwrap().unwrap();
    assert_eq!(running.standing.state, State::Running);
    drop(resumed);
    let done = mesh.b.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
    let mut resumed = mesh.b.watch(&job.id, Some(Seen::of(&running))).await.unwrap();
    assert_eq!(resumed.next().await, Some(Ok(done.clone())));
    let mut nothing_left = mesh.b.watch(&job.id, Some(Seen::of(&done))).await.unwrap();
    assert_eq!(nothing_left.next().await, None);
}

async fn a_watcher_sees_the_final_state_whatever_the_interleaving(mesh: Mesh) {
    let q = queue("watch-races");
    let (seed, mut random) = seeded("a_watcher_sees_the_final_state_whatever_the_interleaving");
    for round in 0..40 {
        let job = mesh.a.enqueue(&q, "k").await;
        let (opens, acts) = (random(3000), random(3000));
        let watching = async {
            tokio::time::sleep(Duration::from_micros(opens)).await;
            let mut watch = mesh.b.watch(&job.id, None).await.unwrap();
            let mut last = 0;
            let mut state = State::Ready;
            while let Some(job) = watch.next().await {
                let job = job.unwrap();
                assert!(job.standing.version > last, "seed {seed}");
                (last, state) = (job.standing.version, job.standing.state);
            }
            state
        };
        let acting = async {
            tokio::time::sleep(Duration::from_micros(acts)).await;
            let claim = mesh.a.lease(&q, 1, LONG).await;
            if round % 2 == 0 {
                mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap().standing.state
            } else {
                mesh.a.store.fail(&job.id, claim.fence, failure(true)).await.unwrap().standing.state
            }
        };
        let both = async { tokio::join!(watching, acting) };
        let (seen, is) = timeout(Duration::from_secs(5), both)
            .await
            .unwrap_or_else(|_| panic!("round {round}, seed {seed}"));
        assert_eq!(seen, is, "seed {seed}");
    }
}

async fn there_are_at_most_so_many_queues(mesh: Mesh) {
    for n in 0..QUEUES_MAX {
        mesh.a.enqueue(&queue(&format!("q{n}")), "k").await;
    }
    let refused = mesh.b.store.enqueue(new_job(&queue("one-more"), "k")).await;
    assert_eq!(refused, Err(Error::TooManyQueues { max: QUEUES_MAX }));
    mesh.b.enqueue(&queue("q0"), "k").await;
    assert_eq!(mesh.b.store.queues().await.unwrap().len(), QUEUES_MAX);
}

/// Tests of one store, each named as its check. `$mesh` makes the clones, or `None` where the engine is missing.
macro_rules! suite {
    ($store:ident, $mesh:expr, [$($check:ident),* $(,)?]) => {
        mod $store {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    if let Some(mesh) = $mesh.await {
                        super::$check(mesh).await;
                    }
                }
            )*
        }
    };
}

macro_rules! suites {
    ($checks:tt) => {
        suite!(embedded, embedded_mesh(), $checks);
        suite!(redis, redis_mesh("SHOAL_TEST_REDIS"), $checks);
        suite!(redis_cluster, redis_mesh("SHOAL_TEST_REDIS_CLUSTER"), $checks);
    };
}

suites!([
    jobs_are_leased_in_the_order_they_became_ready,
    a_leased_job_is_whole,
    what_is_unknown_is_not_found_at_once,
    a_delayed_job_becomes_ready_at_its_time_and_in_that_order,
    very_many_due_jobs_become_ready_in_bounded_steps,
    a_lease_that_runs_out_gives_the_job_to_another_worker,
    a_lease_holds_until_its_job_was_given_back,
    a_job_that_is_lost_too_often_is_dead,
    the_sweep_takes_only_what_the_claim_still_holds,
    the_last_word_may_be_repeated_and_no_other,
    failures_back_off_and_end_after_max_attempts,
    the_longest_backoff_is_the_same_everywhere,
    a_permanent_failure_is_the_end,
    only_the_last_ten_errors_are_kept,
    a_finished_job_is_readable_for_its_retention,
    a_request_id_makes_one_job,
    fences_of_a_queue_only_grow,
    a_claim_fits_one_message,
    what_is_given_back_is_uncharged_and_first_in_line,
    a_claim_that_is_given_back_before_it_is_made_is_empty,
    a_waiting_worker_is_woken_by_another_clone,
    all_waiting_workers_are_woken_for_many_jobs,
    a_waiting_worker_gets_a_delayed_job_when_it_is_due,
    an_empty_wait_ends_in_time_and_at_the_drain,
    each_job_is_leased_once_while_leases_hold,
    a_worker_who_leaves_takes_no_job_along,
    a_watcher_sees_each_state_it_waits_for_by_push,
    a_watch_of_a_final_job_sends_it_and_ends,
    a_watch_resumes_at_another_clone,
    a_watcher_sees_the_final_state_whatever_the_interleaving,
    there_are_at_most_so_many_queues,
]);

async fn embedded_mesh() -> Option<Mesh> {
    let store: Arc<dyn Store> = Arc::new(Embedded::open(None).unwrap());
    Some(Mesh { a: Clone::start(store.clone()), b: Clone::start(store) })
}

/// Two clones with connections of their own, on keys that no other test has.
async fn redis_mesh(variable: &str) -> Option<Mesh> {
    let url = variable_or_skip(variable)?;
    let key_prefix = format!("jobs-{}:", uuid::Uuid::new_v4().simple());
    // A busy machine is not what these checks are about.
    let config = Config { key_prefix, redis_deadline: Duration::from_secs(5), ..Config::default() };
    Some(redis_mesh_at(&url, &config).await)
}

pub(crate) async fn redis_mesh_at(url: &str, config: &Config) -> Mesh {
    let mut clones = Vec::new();
    for _ in 0..2 {
        let store = Redis::open(url, config).unwrap();
        store.connected(PATIENCE).await.unwrap();
        clones.push(Clone::start(Arc::new(store)));
    }
    let (b, a) = (clones.pop().unwrap(), clones.pop().unwrap());
    Mesh { a, b }
}

/// What a test needs from outside. Without it the test is skipped, loudly; in CI it fails.
pub(crate) fn variable_or_skip(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        assert!(
            std::env::var_os("SHOAL_TEST_REQUIRE").is_none_or(|value| value != "1"),
            "{variable} is not set"
        );
        eprintln!("SKIPPED: {variable} is not set");
    }
    value
}
