//! Calls to a Redis server, each with a deadline, over the server's connections and behind its breaker.

mod breaker;
mod lane;
mod primary_search;
mod watchdog;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::future::select_all;
use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::config::Settings;
use crate::connection::Connection;
use crate::connection::dial::Dialer;
use crate::connection::process::{Met, Processes};
use crate::endpoint::Endpoint;
use crate::error::{self, LinkError, Trouble};
use crate::health::eviction::MemoryPolicy;
use crate::health::{Condition, Report};
use crate::node::breaker::Breaker;
use crate::node::lane::{BULK_MAX, Lane, Lease};
pub(crate) use crate::node::primary_search::Moves;
use crate::node::primary_search::Search;
use crate::script::{Request, Script, Scripts};

/// The time without a refused write after which a Redis that refused one counts as well.
const WRITABLE_AFTER: Duration = Duration::from_millis(500);

/// The time for which [`Node::serving`] waits.
const SERVING_WAIT: Duration = Duration::from_millis(500);

/// A server and the task that keeps its connections.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) shared: Arc<Shared>,
    _watchdog: AbortOnDropHandle<()>,
    _resolver: Option<AbortOnDropHandle<()>>,
}

/// The kind of a server, as the link sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The server has not said yet whether it is a node of a Cluster.
    Unknown,
    /// The only Redis of the link.
    Single,
    /// A node of a Cluster.
    OfCluster,
}

/// The state that calls and the watchdog share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) endpoint: Endpoint,
    pub(crate) dialer: Dialer,
    kind: AtomicU8,
    pub(crate) settings: Arc<Settings>,
    pub(crate) scripts: Arc<Scripts>,
    pub(crate) breaker: Breaker,
    /// The breaker for writes alone.
    pub(crate) write_breaker: Breaker,
    /// Set while reads are answered and writes are not: the breaker for writes stays open until a write is answered.
    pub(crate) doubtful: AtomicBool,
    /// Wakes the watchdog after a call that was not answered.
    pub(crate) suspicion: Notify,
    /// Set from a refused write until writes are taken again; the watchdog asks more often meanwhile.
    pub(crate) refusing: AtomicBool,
    /// The time at which a write was last refused.
    refused_at: Mutex<Option<Instant>>,
    /// The eviction policy that the server last told.
    memory_policy: Mutex<Option<MemoryPolicy>>,
    pub(crate) report: Report,
    pub(crate) processes: Processes,
    pub(crate) bulk: Arc<Semaphore>,
    /// Set by the first call with a big value.
    pub(crate) bulk_wanted: AtomicBool,
    pub(crate) search: watch::Sender<Search>,
    /// Counts the times that all connections went to another server; calls read it.
    pub(crate) moved: AtomicU64,
    /// Set while a connection leads to an address that the name no longer has.
    pub(crate) stray: AtomicBool,
    /// Counts the events that may end a wait for a connection: one was made, or the breaker opened or closed.
    pub(crate) changes: watch::Sender<u64>,
    /// The connections. The last slot, after the link's `connections`, is for big values. Only the watchdog fills and empties
    /// slots.
    pub(crate) slots: Vec<RwLock<Option<Arc<Connection>>>>,
}

impl Node {
    /// Starts connecting in the background.
    pub(crate) fn start(
        endpoint: Endpoint,
        kind: Kind,
        settings: Arc<Settings>,
        scripts: Arc<Scripts>,
    ) -> Node {
        let dialer = Dialer::new(endpoint.clone(), &settings);
        let shared = Arc::new(Shared {
            report: settings.health.join(&endpoint),
            refusing: AtomicBool::new(false),
            refused_at: Mutex::default(),
            memory_policy: Mutex::default(),
            processes: Processes::default(),
            search: watch::channel(Search::default()).0,
            moved: AtomicU64::new(0),
            stray: AtomicBool::new(false),
            dialer,
            kind: AtomicU8::new(kind as u8),
            endpoint,
            breaker: Breaker::new(settings.breaker_threshold),
            write_breaker: Breaker::new(settings.breaker_threshold),
            doubtful: AtomicBool::new(false),
            bulk: Arc::new(Semaphore::new(BULK_MAX)),
            bulk_wanted: AtomicBool::new(false),
            slots: (0..=settings.connections).map(|_| RwLock::new(None)).collect(),
            settings,
            scripts,
            suspicion: Notify::new(),
            changes: watch::channel(0).0,
        });
        let watchdog = tokio::spawn(watchdog::run(Arc::clone(&shared)));
        // The nodes of a Cluster tell of each other.
        let resolver = (kind != Kind::OfCluster && shared.dialer.has_name())
            .then(|| AbortOnDropHandle::new(tokio::spawn(primary_search::follow_name(Arc::clone(&shared)))));
        Node { shared, _watchdog: AbortOnDropHandle::new(watchdog), _resolver: resolver }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.shared.kind()
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.shared.dialer
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Returns the name of the node in errors.
    pub(crate) fn place(&self) -> String {
        self.shared.settings.place(&self.shared.endpoint)
    }

    /// Returns why calls fail; `None` if none does.
    pub(crate) fn why(&self) -> Option<String> {
        self.shared.report.why()
    }

    /// Returns the eviction policy if it makes the role lose data.
    pub(crate) fn loses(&self) -> Option<String> {
        self.shared.loses()
    }

    /// Returns the error of a node that does not accept this client.
    pub(crate) fn denial(&self) -> Option<LinkError> {
        self.shared.breaker.refusal().filter(|error| matches!(error, LinkError::Denied(_)))
    }

    pub(crate) fn healthy(&self) -> bool {
        !self.shared.breaker.is_open() && self.shared.pick(Lane::Read).is_some()
    }

    /// Waits until the breaker is closed, so that connections beside those of the watchdog make no storm. The wait is bounded,
    /// because in a Cluster another node may take over.
    pub(crate) async fn serving(&self) -> Result<(), LinkError> {
        let mut changes = self.shared.changes.subscribe();
        let deadline = Instant::now() + SERVING_WAIT;
        while let Some(reason) = self.shared.breaker.refusal() {
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Sends one command, after ASKING for a key that has moved ahead of its slot. The reply may be
    /// [`Value::ServerError`]. A script that this node does not know is loaded, and run once more.
    pub(crate) async fn request(
        &self,
        request: Request<'_>,
        asking: bool,
        deadline: Instant,
    ) -> Result<Value, LinkError> {
        let reply = if asking {
            self.last_of(request, None, asking, deadline).await?
        } else {
            self.send(request.command, request.bulk, deadline).await?
        };
        match request.script {
            Some(script) if matches!(&reply, Value::ServerError(error) if error.code() == "NOSCRIPT") => {
                self.shared.scripts.add(script);
                self.last_of(request, Some(script), asking, deadline).await
            }
            _ => Ok(reply),
        }
    }

    /// Sends one command. The reply may be [`Value::ServerError`].
    pub(crate) async fn command(&self, command: &Cmd, deadline: Instant) -> Result<Value, LinkError> {
        self.send(command, false, deadline).await
    }

    async fn lease(&self, lane: Lane, bulk: bool, deadline: Instant) -> Result<Lease, LinkError> {
        if bulk {
            return self.shared.lease_bulk(lane, deadline).await;
        }
        self.shared.lease(lane, deadline).await
    }

    async fn send(&self, command: &Cmd, bulk: bool, deadline: Instant) -> Result<Value, LinkError> {
        let lane = Lane::of_command(command);
        let mut lease = self.lease(lane, bulk, deadline).await?;
        let reply = timeout_at(deadline, lease.requests.send_packed_command(command)).await;
        let reply = self.shared.settle(&lease, reply)?;
        self.shared.refused(&lease, std::slice::from_ref(&reply));
        Ok(reply)
    }

    /// Sends the command after those that must come before it, on one connection, and returns the command's reply.
    async fn last_of(
        &self,
        request: Request<'_>,
        load: Option<&Script>,
        asking: bool,
        deadline: Instant,
    ) -> Result<Value, LinkError> {
        let mut pipeline = Pipeline::with_capacity(3);
        if let Some(script) = load {
            pipeline.add_command(script.load());
        }
        if asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(request.command.clone());
        let replies = self.pipeline(&pipeline, request.bulk, deadline).await?;
        replies.into_iter().next_back().ok_or_else(|| LinkError::unexpected("no reply"))
    }

    /// Sends commands together. Each reply may be [`Value::ServerError`]; a transaction has one reply.
    pub(crate) async fn pipeline(
        &self,
        pipeline: &Pipeline,
        bulk: bool,
        deadline: Instant,
    ) -> Result<Vec<Value>, LinkError> {
        Ok(self.pipeline_by(pipeline, bulk, deadline).await?.0)
    }

    /// Sends commands together as [`Node::pipeline`] does, and returns the process that answered too, if it is known.
    pub(crate) async fn pipeline_by(
        &self,
        pipeline: &Pipeline,
        bulk: bool,
        deadline: Instant,
    ) -> Result<(Vec<Value>, Option<u64>), LinkError> {
        let (skip, count) =
            if pipeline.is_transaction() { (pipeline.len() + 1, 1) } else { (0, pipeline.len()) };
        let mut lease = self.lease(Lane::of_pipeline(pipeline), bulk, deadline).await?;
        let replies = timeout_at(deadline, lease.requests.send_packed_commands(pipeline, skip, count)).await;
        let replies = self.shared.settle(&lease, replies)?;
        self.shared.refused(&lease, &replies);
        Ok((replies, lease.connection.process.map(Met::process)))
    }
}

impl Shared {
    /// Ends a call: tells breaker and watchdog what its outcome says of the node, and returns the caller's result.
    fn settle<T>(
        &self,
        lease: &Lease,
        outcome: Result<RedisResult<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, LinkError> {
        match outcome {
            Ok(Ok(reply)) => {
                if lease.bulk.is_none() {
                    self.breaker_of(lease.lane).success();
                }
                Ok(reply)
            }
            Ok(Err(error)) => {
                // Whether the node is down is for the watchdog to find by connecting again.
                if error::is_lost(&error) {
                    self.suspicion.notify_one();
                }
                Err(error::after_send(&self.settings.place(&self.endpoint), error))
            }
            Err(_) => {
                let place = self.settings.place(&self.endpoint);
                let text = format!(
                    "{place} did not answer within {:?}",
                    self.settings.deadline(lease.bulk.is_some())
                );
                // A connection that was replaced meanwhile says nothing of the node as it is now.
                if lease.connection.is_live() && lease.bulk.is_none() {
                    self.breaker_of(lease.lane).failure(&text);
                }
                self.suspicion.notify_one();
                Err(LinkError::Unknown(text))
            }
        }
    }

    /// Returns the breaker of a lane: answered reads do not make up for unanswered writes, nor the other way round.
    fn breaker_of(&self, lane: Lane) -> &Breaker {
        match lane {
            Lane::Read => &self.breaker,
            Lane::Write => &self.write_breaker,
        }
    }

    /// Looks for replies by which Redis is out of service or refuses calls, and wakes the watchdog, which asks until Redis
    /// serves again.
    fn refused(&self, lease: &Lease, replies: &[Value]) {
        for reply in replies {
            let Value::ServerError(error) = reply else { continue };
            // A server that was left meanwhile says nothing of the one in use.
            if !lease.connection.is_live() {
                return;
            }
            if error::is_out_of_service(error.code()) {
                self.suspicion.notify_one();
                return;
            }
            let Some(trouble) = Trouble::of_code(error.code()) else { continue };
            if trouble == Trouble::Replica {
                self.is_demoted();
                return;
            }
            if let Some(condition) = Condition::of_trouble(trouble) {
                self.refuses(condition);
                return;
            }
        }
    }

    /// Records the eviction policy that Redis told.
    pub(crate) fn has_policy(&self, policy: Option<MemoryPolicy>) {
        let Some(policy) = policy else { return };
        self.report.policy(&policy, self.settings.eviction);
        *self.memory_policy.lock().unwrap_or_else(PoisonError::into_inner) = Some(policy);
    }

    pub(crate) fn loses(&self) -> Option<String> {
        let policy = self.memory_policy.lock().unwrap_or_else(PoisonError::into_inner);
        policy.as_ref().and_then(|policy| policy.loses(self.settings.eviction)).map(str::to_owned)
    }

    /// Records that Redis refused a write.
    pub(crate) fn refuses(&self, condition: Condition) {
        *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.report.is(condition);
        if !self.refusing.swap(true, Ordering::AcqRel) {
            self.suspicion.notify_one();
        }
    }

    /// Records that Redis would take a write now. A Redis at its limit takes some writes and refuses others, so it counts as
    /// well only after [`WRITABLE_AFTER`] without a refusal.
    pub(crate) fn takes_writes(&self) {
        let refused_at = *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner);
        if refused_at.is_none_or(|at| at.elapsed() >= WRITABLE_AFTER) {
            self.refusing.store(false, Ordering::Release);
            self.report.is(Condition::Up);
        }
    }

    /// Records that writes are taken again, or that another server is in use, which has refused none yet.
    pub(crate) fn writes_again(&self) {
        self.doubtful.store(false, Ordering::Release);
        self.write_breaker.close();
        *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.refusing.store(false, Ordering::Release);
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.kind.load(Ordering::Acquire) {
            kind if kind == Kind::OfCluster as u8 => Kind::OfCluster,
            kind if kind == Kind::Single as u8 => Kind::Single,
            _ => Kind::Unknown,
        }
    }

    /// Records the kind that the server told.
    pub(crate) fn is_a(&self, kind: Kind) {
        self.kind.store(kind as u8, Ordering::Release);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Returns the addresses of live connections.
    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.live().into_iter().map(|(_, connection)| connection.peer).collect()
    }

    /// Returns the first slot whose connection is missing or has ended.
    pub(crate) fn first_down(&self) -> Option<usize> {
        let wanted = self.settings.connections + usize::from(self.bulk_wanted.load(Ordering::Acquire));
        self.slots[..wanted].iter().position(|slot| {
            let slot = slot.read().unwrap_or_else(PoisonError::into_inner);
            slot.as_ref().is_none_or(|connection| !connection.is_live())
        })
    }

    /// Returns the live connections by their slots.
    pub(crate) fn live(&self) -> Vec<(usize, Arc<Connection>)> {
        let slots = 0..self.slots.len();
        slots.filter_map(|index| Some((index, self.connection(index)?))).collect()
    }

    /// Returns the live connection in a slot.
    pub(crate) fn connection(&self, index: usize) -> Option<Arc<Connection>> {
        let slot = self.slots[index].read().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().filter(|connection| connection.is_live()).cloned()
    }

    /// Resolves when any of the live connections ends; never if there is none.
    pub(crate) async fn one_ended(&self) {
        let mut tokens = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let slot = slot.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(connection) = slot.as_ref().filter(|connection| connection.is_live()) {
                tokens.push(connection.closed.clone());
            }
        }
        if tokens.is_empty() {
            return std::future::pending().await;
        }
        select_all(tokens.into_iter().map(|token| Box::pin(token.cancelled_owned()))).await;
    }

    /// Puts a connection into its slot, or ends the one there.
    pub(crate) fn replace(&self, index: usize, connection: Option<Connection>) {
        // Before calls can go there.
        let came_back = connection
            .as_ref()
            .and_then(|connection| connection.process)
            .is_some_and(|met| self.processes.met(met));
        if came_back {
            let (endpoint, role) = (&self.endpoint, self.settings.role);
            tracing::warn!(%endpoint, role, "redis is again the process that another one had replaced");
            metrics::counter!("shoal_redis_returned_processes_total", "role" => role).increment(1);
        }
        let old = {
            let mut slot = self.slots[index].write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *slot, connection.map(Arc::new))
        };
        if let Some(old) = old {
            old.retired.store(true, Ordering::Release);
        }
    }

    /// Closes the breaker, because the node answers.
    pub(crate) fn up(&self) {
        self.breaker.close();
        if !self.doubtful.load(Ordering::Acquire) {
            self.write_breaker.close();
        }
        if !self.refusing.load(Ordering::Acquire) {
            self.report.is(Condition::Up);
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// Opens the breaker, because the node does not answer: calls fail at once with `error`.
    pub(crate) fn down(&self, error: LinkError) {
        self.refusing.store(false, Ordering::Release);
        self.doubtful.store(false, Ordering::Release);
        self.report.is(Condition::of_error(&error));
        self.breaker.open(error);
        self.changes.send_modify(|count| *count += 1);
    }
}
