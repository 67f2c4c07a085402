//! What every store of jobs must do, run on each of them. A check gets two clones on one store.

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
use crate::lease_request::LeaseRequest;
use crate::leaser::Leaser;
use crate::maintainer;
use crate::watch::{Seen, Watch};

/// Longer than anything here takes; a check that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// The queues that the stores of these checks may have.
const QUEUES_MAX: usize = 1000;
/// A lease that does not run out during a check.
const LONG: Duration = Duration::from_secs(600);

/// Two clones of the service on one store, without the gRPC face.
pub(crate) struct Mesh {
    pub(crate) a: TestClone,
    pub(crate) b: TestClone,
}

/// One of them.
pub(crate) struct TestClone {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leaser: Leaser,
    pub(crate) draining: CancellationToken,
    due: std::sync::Mutex<Option<crate::hub::DueTimes>>,
    tasks: std::sync::Mutex<Vec<AbortOnDropHandle<()>>>,
}

impl TestClone {
    /// A clone that hears announcements but does not keep the queues yet.
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

/// A ticket that no other lease call has.
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
        what_is_unknown_is_not_found_at_once,
        a_request_id_makes_one_job,
        a_used_request_id_with_other_fields_is_refused,
        there_are_at_most_so_many_queues,
        a_batch_is_added_whole_and_in_order,
        a_batch_with_a_forgotten_job_adds_none,
    ],
    order: [
        jobs_are_leased_in_the_order_they_became_ready,
        a_delayed_job_becomes_ready_at_its_time_and_in_that_order,
        very_many_due_jobs_become_ready_in_bounded_steps,
    ],
    claim: [
        a_lease_that_runs_out_gives_the_job_to_another_worker,
        a_lease_holds_until_its_job_was_given_back,
        a_job_that_is_lost_too_often_is_dead,
        the_sweep_takes_only_what_the_claim_still_holds,
        fences_of_a_queue_only_grow,
        a_claim_fits_one_message,
        what_is_given_back_is_uncharged_and_first_in_line,
        a_claim_that_is_given_back_before_it_is_made_is_empty,
        each_job_is_leased_once_while_leases_hold,
        a_worker_who_leaves_takes_no_job_along,
        a_lease_can_be_extended_while_it_holds,
    ],
    finish: [
        the_last_word_may_be_repeated_and_no_other,
        failures_back_off_and_end_after_max_attempts,
        the_longest_backoff_is_the_same_everywhere,
        a_permanent_failure_is_the_end,
        only_the_last_ten_errors_are_kept,
        a_finished_job_is_readable_for_its_retention,
    ],
    wait: [
        a_waiting_worker_is_woken_by_another_clone,
        all_waiting_workers_are_woken_for_many_jobs,
        a_waiting_worker_gets_a_delayed_job_when_it_is_due,
        an_empty_wait_ends_in_time_and_at_the_drain,
    ],
    watch: [
        a_watcher_sees_each_state_it_waits_for_by_push,
        a_watch_of_a_final_job_sends_it_and_ends,
        a_watch_resumes_at_another_clone,
        a_watcher_sees_the_final_state_whatever_the_interleaving,
    ],
    cancel: [
        a_job_can_be_cancelled_until_it_ends,
        what_has_ended_cannot_be_cancelled,
        a_worker_comes_past_very_many_cancelled_jobs,
        cancelled_jobs_leave_the_queue_in_order,
        a_watcher_is_told_of_a_cancellation,
    ],
    list: [
        jobs_are_counted_and_listed_by_state,
        what_is_given_back_lost_and_forgotten_is_counted_so,
        a_page_token_of_nothing_is_refused,
    ],
});

async fn embedded_mesh() -> Option<Mesh> {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(None, QUEUES_MAX).unwrap());
    Some(Mesh { a: TestClone::start(store.clone()), b: TestClone::start(store) })
}

/// Two clones with connections of their own, on keys that no other test has.
async fn redis_mesh(variable: &str) -> Option<Mesh> {
    let url = variable_or_skip(variable)?;
    let key_prefix = format!("jobs-{}:", uuid::Uuid::new_v4().simple());
    // A busy machine is not what these checks are about.
    let config = Config { key_prefix, redis_deadline: Duration::from_secs(5), ..Config::default() };
    let config = Config { queues_max: QUEUES_MAX, ..config };
    Some(redis_mesh_at(&url, &config).await)
}

/// As the engine opens it.
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
