//! The suite that every store of jobs must pass. A check gets two clones on one store.

mod cancel;
mod claim;
mod enqueue;
mod finish;
mod list;
mod order;
mod wait;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use shoal_redis_link::{Eviction, LinkConfig};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::embedded::EmbeddedStore;
use super::redis::RedisStore;
use super::{CLAIM_BYTES_MAX, Claim, PROMOTE_MAX, Store};
use crate::config::Config;
use crate::error::Error;
use crate::hub::Hub;
use crate::job::backoff;
use crate::job::id::{JobId, QueueName};
use crate::job::new_job::{NewJob, Run};
use crate::job::{Failure, Job, LOST_MAX, Spec, State};
use crate::leaser::Leaser;
use crate::maintainer;
use crate::request::lease::LeaseRequest;
use crate::watch::{Seen, Watch};

/// Longest time of any wait here. A check that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most queues of the stores of these checks.
const QUEUES_MAX: usize = 1000;
/// A lease that does not run out during a check.
const LONG: Duration = Duration::from_secs(600);

/// Two clones of the service on one store, without the gRPC face.
pub(crate) struct Mesh {
    pub(crate) a: TestClone,
    pub(crate) b: TestClone,
}

/// A clone under test.
pub(crate) struct TestClone {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leaser: Leaser,
    pub(crate) draining: CancellationToken,
    due: std::sync::Mutex<Option<crate::hub::DueTimes>>,
    tasks: std::sync::Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl TestClone {
    /// Starts a clone that hears announcements but does not maintain the queues yet.
    pub(crate) fn start(store: Arc<dyn Store>) -> Self {
        let (hub, due) = Hub::new();
        let draining = CancellationToken::new();
        let (leaser, undoing) =
            Leaser::open(store.clone(), hub.clone(), draining.clone(), CancellationToken::new());
        let tasks = vec![spawn(store.announce(hub.clone())), spawn(undoing)];
        Self { store, hub, leaser, draining, due: Some(due).into(), tasks: tasks.into() }
    }

    /// Maintains the queues from now on.
    pub(crate) fn maintain(&self) {
        let due = self.due.lock().unwrap().take().unwrap();
        let interval = Config::default().tend_interval;
        let maintaining = spawn(maintainer::run(self.store.clone(), self.hub.clone(), due, interval));
        self.tasks.lock().unwrap().push(maintaining);
    }

    pub(crate) async fn enqueue(&self, queue: &QueueName, kind: &str) -> Job {
        self.store.enqueue(new_job(queue, kind)).await.unwrap()
    }

    pub(crate) async fn lease(&self, queue: &QueueName, max_jobs: usize, duration: Duration) -> Claim {
        self.store.lease(lease_request(queue, max_jobs, duration), ticket()).await.unwrap()
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
    NewJob { queue: queue.clone(), spec, run: Run::Now, request: None }
}

/// Makes a ticket that no other lease call has.
pub(crate) fn ticket() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

pub(crate) fn lease_request(queue: &QueueName, max_jobs: usize, duration: Duration) -> LeaseRequest {
    LeaseRequest { queue: queue.clone(), max_jobs, worker: "w".to_owned(), duration }
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

/// Asks again until there is an answer.
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

/// Makes a generator for the interleavings of a check. Its seed is printed.
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

/// Tests of one store, each named as its check. `$mesh` makes the clones, or `None` where the engine is missing.
macro_rules! suite {
    ($store:ident, $mesh:expr, {$($noun:ident: [$($check:ident),* $(,)?],)*}) => {
        mod $store {
            use super::*;

            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $check() {
                    if let Some(mesh) = $mesh.await {
                        super::$noun::$check(mesh).await;
                    }
                }
            )*)*
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

suites!({
    enqueue: [
        a_leased_job_is_whole,
        unknown_jobs_are_not_found,
        a_request_id_makes_one_job,
        reused_request_id_is_refused,
        number_of_queues_is_limited,
        batch_is_added_in_order,
        batch_with_forgotten_job_fails,
    ],
    order: [
        jobs_are_leased_in_order,
        delayed_jobs_run_in_time_order,
        due_jobs_promote_in_bounded_steps,
    ],
    claim: [
        expired_lease_frees_the_job,
        late_report_holds_until_given_back,
        thrice_lost_job_is_dead,
        expiry_takes_only_held_jobs,
        fences_of_a_queue_grow,
        a_claim_fits_one_message,
        released_jobs_are_uncharged_and_first,
        claim_after_its_release_is_empty,
        held_jobs_are_leased_once,
        leaving_worker_takes_no_job,
        held_lease_can_be_extended,
    ],
    finish: [
        only_the_last_report_repeats,
        failures_end_after_max_attempts,
        longest_backoff_is_same_everywhere,
        permanent_failure_is_the_end,
        only_ten_errors_are_kept,
        finished_job_lives_for_retention,
    ],
    wait: [
        enqueue_wakes_other_clones_worker,
        many_jobs_wake_all_workers,
        due_job_wakes_waiting_worker,
        empty_wait_ends_in_time,
    ],
    watch: [
        watcher_sees_states_by_push,
        watch_of_final_job_ends,
        watch_resumes_at_another_clone,
        watcher_always_sees_final_state,
    ],
    cancel: [
        unfinished_job_can_be_cancelled,
        finished_job_cannot_be_cancelled,
        worker_passes_many_cancelled_jobs,
        cancelling_keeps_queue_order,
        watcher_sees_the_cancellation,
    ],
    list: [
        jobs_are_listed_by_state,
        counts_follow_every_change,
        foreign_page_token_is_refused,
    ],
});

async fn embedded_mesh() -> Option<Mesh> {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(None, QUEUES_MAX).unwrap());
    Some(Mesh { a: TestClone::start(store.clone()), b: TestClone::start(store) })
}

/// Starts two clones with connections of their own, on keys that no other test has.
async fn redis_mesh(variable: &str) -> Option<Mesh> {
    let url = shoal_testing::engine_of(variable)?;
    let key_prefix = format!("jobs-{}:", uuid::Uuid::new_v4().simple());
    // A long deadline, because these checks are not about a busy machine.
    let config = Config { key_prefix, redis_deadline: Duration::from_secs(5), ..Config::default() };
    let config = Config { queues_max: QUEUES_MAX, ..config };
    Some(redis_mesh_at(&url, &config).await)
}

/// Makes the link's settings as the engine does.
fn redis_way(url: &str) -> LinkConfig {
    LinkConfig { eviction: Eviction::Forbidden, ..LinkConfig::new(url, "jobs") }
}

pub(crate) async fn redis_mesh_at(url: &str, config: &Config) -> Mesh {
    let mut clones = Vec::new();
    for _ in 0..2 {
        let store = RedisStore::open(redis_way(url), config).unwrap();
        store.connected(PATIENCE).await.unwrap();
        clones.push(TestClone::start(Arc::new(store)));
    }
    let (b, a) = (clones.pop().unwrap(), clones.pop().unwrap());
    Mesh { a, b }
}
