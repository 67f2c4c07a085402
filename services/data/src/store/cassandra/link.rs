//! The connection of one clone to Cassandra: makes and keeps it in the background, watches it, and sends every statement.
//!
//! * No call waits for a connection in vain: while Cassandra is out of reach, calls are refused at once. Those in flight when
//!   it falls silent are answered within [`Config::silence_max`] and a probe.
//! * A statement runs to its end, in a task of its own if its caller leaves: otherwise the driver would keep a stream id whose answer
//!   no task takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use scylla::errors::ExecutionError;
use scylla::statement::{Consistency, Statement};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::config::Config;
use crate::error::Error;
use crate::store::cassandra::agreement::table_ids;
use crate::store::cassandra::connect::{Connected, connect};
use crate::store::cassandra::detach::DetachOnDrop;
use crate::store::cassandra::failure::{ENGINE, Intent, Missing, is_answer, missing_of};
use crate::store::cassandra::hedging::Hedging;
use crate::store::cassandra::keyspace::Made;
use crate::store::cassandra::meter::Meter;
use crate::store::cassandra::schema::REGISTRY;

/// Time that a call waits while the first connection is being made.
const FIRST_CONNECTION_WAIT: Duration = Duration::from_millis(800);
/// Pause after the first failed attempt. It doubles each time, and is spread by half.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// Interval at which an idle link is probed.
const PROBE_EVERY: Duration = Duration::from_millis(300);
/// Time after which the driver gives up a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time out of reach after which a session is made anew from the contact points, whose addresses may have changed.
const RENEW_AFTER: Duration = Duration::from_secs(20);
/// Longest time of a statement that changes the schema: it waits until all nodes agree.
pub(super) const SCHEMA_TIMEOUT: Duration = Duration::from_secs(10);

/// State of the connection to Cassandra.
#[derive(Debug, Clone)]
enum Reach {
    /// The first attempt to connect is under way.
    Connecting,
    /// Cassandra answers.
    Up(Arc<Connected>),
    /// Cassandra does not answer, and why.
    Down(Arc<str>),
}

/// The connection. Dropping it ends its tasks.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    end: CancellationToken,
    _end: DropGuard,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    contact_points: Vec<String>,
    reach: watch::Sender<Reach>,
    statements: Arc<Semaphore>,
    tasks: TaskTracker,
    began: Instant,
    /// The milliseconds from `began` to the last answer.
    answered: AtomicU64,
    /// Woken when a node says that it has no keyspace or no registry.
    lost: Notify,
    hedging: Arc<Hedging>,
    meter: Meter,
}

impl Link {
    /// Starts to connect in the background of the current runtime.
    pub(super) fn start(config: Config, contact_points: Vec<String>) -> Self {
        let shared = Arc::new(Shared {
            statements: Arc::new(Semaphore::new(config.statements_max)),
            lost: Notify::new(),
            hedging: Arc::new(Hedging::new(config.speculative_delay)),
            config,
            contact_points,
            reach: watch::Sender::new(Reach::Connecting),
            tasks: TaskTracker::new(),
            began: Instant::now(),
            answered: AtomicU64::new(0),
            meter: Meter::new(),
        });
        let end = CancellationToken::new();
        let stop = end.clone();
        let maintainer = shared.clone();
        shared.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = maintainer.maintain() => {}
            }
        });
        Self { shared, end: end.clone(), _end: end.drop_guard() }
    }

    /// Ends the connection once the statements in flight have ended, and waits for them as long as a call would.
    pub(super) async fn close(&self) {
        self.end.cancel();
        self.shared.tasks.close();
        let ended =
            tokio::time::timeout(self.shared.config.statement_timeout, self.shared.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!(
                statements = self.shared.tasks.len(),
                "statements were still in flight at the end"
            );
        }
    }

    /// Returns the settings that this link was made with.
    pub(super) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Returns how many more statements may be sent now.
    #[cfg(test)]
    pub(super) fn free_statements(&self) -> usize {
        self.shared.statements.available_permits()
    }

    /// Returns how many statements the driver asked about whether to send them twice.
    #[cfg(test)]
    pub(super) fn hedging_asked(&self) -> usize {
        self.shared.hedging.asked.load(Ordering::Relaxed)
    }

    /// Returns how many tasks run: those of the link itself, and those of calls.
    #[cfg(test)]
    pub(super) fn tasks(&self) -> usize {
        self.shared.tasks.len()
    }

    /// Returns `Ok` if Cassandra answers, else the reason why not.
    pub(super) fn healthy(&self) -> Result<(), String> {
        match &*self.shared.reach.borrow() {
            Reach::Up(_) => Ok(()),
            Reach::Connecting => Err("cassandra: connecting".to_owned()),
            Reach::Down(detail) => Err(format!("cassandra: {detail}")),
        }
    }

    /// Returns the session, and waits a moment for the first one.
    pub(super) async fn connected(&self) -> Result<Arc<Connected>, Error> {
        if let Reach::Up(connected) = &*self.shared.reach.borrow() {
            return Ok(connected.clone());
        }
        let mut reach = self.shared.reach.subscribe();
        let settled = reach.wait_for(|reach| !matches!(reach, Reach::Connecting));
        let detail = match tokio::time::timeout(FIRST_CONNECTION_WAIT, settled).await {
            Ok(Ok(reach)) => match &*reach {
                Reach::Up(connected) => return Ok(connected.clone()),
                Reach::Down(detail) => detail.to_string(),
                Reach::Connecting => "connecting".to_owned(),
            },
            Ok(Err(_)) => "this clone is shutting down".to_owned(),
            Err(_) => "the first connection is still being made".to_owned(),
        };
        Err(Error::Unavailable { engine: ENGINE, detail })
    }

    /// Counts a change of the registry that is repeated.
    pub(super) fn note_registry_retry(&self) {
        self.shared.meter.registry_retry();
    }

    /// Returns work that its caller does, and that goes on in a task of this link if the caller leaves.
    pub(super) fn detaching<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> DetachOnDrop<T> {
        DetachOnDrop::new(work, &self.shared.tasks)
    }

    /// Spawns a task of this link, for work that outlives its caller.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn(task);
    }

    /// Spawns a task that goes on until the link is closed or dropped.
    pub(super) fn spawn_until_closed(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.end.clone();
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Runs a statement, which goes on if the caller leaves, and waits for it within [`Config::statement_timeout`] (schema changes:
    /// [`SCHEMA_TIMEOUT`]). The span names the operation and the table, never the values.
    pub(super) fn run<'l, T: Send + 'static>(
        &'l self,
        intent: Intent,
        operation: &'static str,
        table: &'l str,
        statement: impl Future<Output = Result<(T, Option<SocketAddr>), ExecutionError>> + Send + 'static,
    ) -> impl Future<Output = Result<T, Error>> + Send + 'l {
        // Boxed before anything else: the driver's futures have kilobytes, which every future around them would hold and move.
        self.run_boxed(intent, operation, table, Box::pin(statement))
    }

    async fn run_boxed<T: Send + 'static>(
        &self,
        intent: Intent,
        operation: &'static str,
        table: &str,
        statement: BoxFuture<'static, Result<(T, Option<SocketAddr>), ExecutionError>>,
    ) -> Result<T, Error> {
        let Ok(permit) = self.shared.statements.clone().try_acquire_owned() else {
            return Err(Error::Overloaded { limit: self.shared.config.statements_max });
        };
        let timeout = match intent {
            Intent::Read | Intent::Write => self.shared.config.statement_timeout,
            Intent::Schema => SCHEMA_TIMEOUT,
        };
        let span = span(operation, table, &self.shared.config.keyspace);
        let shared = self.shared.clone();
        let statement = async move {
            let sent = Instant::now();
            let outcome = statement.await;
            drop(permit);
            let answered = outcome.as_ref().map_or_else(is_answer, |_| true);
            if answered {
                shared.note_answer();
            }
            if !matches!(intent, Intent::Schema) {
                shared.hedging.note(sent.elapsed());
            }
            if let Some(missing) = outcome.as_ref().err().and_then(missing_of) {
                shared.note_missing(&missing);
            }
            let span = tracing::Span::current();
            match &outcome {
                Ok((_, Some(coordinator))) => {
                    span.record("server.address", tracing::field::display(coordinator.ip()));
                    span.record("server.port", coordinator.port());
                }
                Ok((_, None)) => {}
                Err(_) => {
                    span.record("otel.status_code", "ERROR");
                }
            }
            outcome
        };
        let begun = Instant::now();
        let outcome = tokio::select! {
            biased;
            outcome = self.detaching(statement.instrument(span)) => {
                outcome.map(|(value, _)| value).map_err(|error| intent.failed(&error))
            }
            () = tokio::time::sleep(timeout) => {
                Err(intent.unanswered(format!("no answer within {timeout:?}")))
            }
            detail = self.went_down() => Err(intent.unanswered(detail)),
        };
        self.shared.meter.statement(outcome.as_ref().err(), begun.elapsed());
        outcome
    }

    async fn went_down(&self) -> String {
        let mut reach = self.shared.reach.subscribe();
        let down = reach.wait_for(|reach| matches!(reach, Reach::Down(_)));
        match down.await.as_deref() {
            Ok(Reach::Down(detail)) => detail.to_string(),
            Ok(_) | Err(_) => "this clone is shutting down".to_owned(),
        }
    }
}

impl Shared {
    fn note_answer(&self) {
        let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.answered.fetch_max(at, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        let answered = Duration::from_millis(self.answered.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(answered)
    }

    fn note_missing(&self, missing: &Missing) {
        if matches!(missing, Missing::Keyspace) || *missing == Missing::Table(REGISTRY.to_owned()) {
            self.lost.notify_one();
        }
    }

    /// Connects, watches the session, and connects again, for ever.
    async fn maintain(self: Arc<Self>) {
        let (mut pause, mut had_keyspace) = (BACKOFF_MIN, false);
        loop {
            match connect(&self.config, &self.contact_points, &self.hedging).await {
                Ok(connected) => {
                    pause = BACKOFF_MIN;
                    self.note_answer();
                    if had_keyspace && connected.made != Made::Nothing {
                        let keyspace = &self.config.keyspace;
                        tracing::error!(
                            keyspace,
                            made = ?connected.made,
                            "cassandra had lost the keyspace or its registry: it was made again, empty. Tables have to be created \
                             again, or restored from a backup"
                        );
                    }
                    had_keyspace = true;
                    self.up(&Arc::new(connected)).await;
                }
                Err(error) => self.down(&error),
            }
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// Watches a session until it has been out of reach for long.
    async fn up(self: &Arc<Self>, connected: &Arc<Connected>) {
        tracing::info!(keyspace = self.config.keyspace, "cassandra answers");
        self.reach.send_replace(Reach::Up(connected.clone()));
        self.meter.up(true);
        let mut down_since: Option<Instant> = None;
        loop {
            connected.profiles.follow(&connected.session);
            let told = tokio::time::timeout(PROBE_EVERY, self.lost.notified()).await.is_ok();
            if told && let Some(detail) = self.lost_registry(connected).await {
                self.down(&detail);
                return;
            }
            let silence = self.silence();
            let failure = match down_since {
                None if silence < PROBE_EVERY => None,
                // After a silence the probe gets the rest of the time, but no less than an answer may take.
                None => {
                    let patience = self.config.silence_max.saturating_sub(silence).max(PROBE_EVERY);
                    self.probe(connected, patience).await.err()
                }
                Some(_) => self.probe(connected, self.config.silence_max).await.err(),
            };
            match (failure, down_since) {
                (None, None) => {}
                (None, Some(_)) => {
                    down_since = None;
                    tracing::info!("cassandra answers again");
                    self.reach.send_replace(Reach::Up(connected.clone()));
                    self.meter.up(true);
                }
                (Some(detail), None) => {
                    down_since = Some(Instant::now());
                    self.down(&detail);
                }
                (Some(_), Some(since)) if since.elapsed() >= RENEW_AFTER => return,
                (Some(_), Some(_)) => {}
            }
        }
    }

    /// Sends a probe and waits this long for its answer. An answer to any other statement counts too.
    async fn probe(self: &Arc<Self>, connected: &Arc<Connected>, patience: Duration) -> Result<(), String> {
        // One that does not answer is no sign: others are asked soon after. The answer also says whether the keyspace is there.
        let mut statement = Statement::new(format!(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{}' AND table_name = '{REGISTRY}'",
            self.config.keyspace
        ));
        statement.set_consistency(Consistency::One);
        statement.set_is_idempotent(true);
        statement.set_request_timeout(Some(PROBE_TIMEOUT));
        statement.set_execution_profile_handle(Some(connected.probe.clone()));
        let (session, shared) = (connected.session.clone(), self.clone());
        let began = Instant::now();
        let probe = self.tasks.spawn(async move {
            let outcome = session.query_unpaged(statement, ()).await;
            // Noted also after the probe's time is over: a late answer is a sign of life for the next probe.
            if outcome.as_ref().map_or_else(is_answer, |_| true) {
                shared.note_answer();
                let rows = outcome.ok().and_then(|result| result.into_rows_result().ok());
                if rows.is_some_and(|rows| rows.rows_num() == 0) {
                    shared.lost.notify_one();
                }
                return Ok(());
            }
            outcome.map(|_| ()).map_err(|error| error.to_string())
        });
        match tokio::time::timeout(patience, probe).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Err(format!("a probe's task: {error}")),
            Err(_) if self.silence() < began.elapsed() => Ok(()),
            Err(_) => Err(format!("no answer for {:?}", self.silence())),
        }
    }

    /// Returns what is missing, if no node that answers has the registry of tables.
    async fn lost_registry(&self, connected: &Connected) -> Option<String> {
        let keyspace = &self.config.keyspace;
        let ids = table_ids(&connected.session, keyspace, REGISTRY).await.ids;
        let lost = !ids.is_empty() && ids.iter().all(Option::is_none);
        lost.then(|| format!("the keyspace `{keyspace}` or its registry of tables is not there"))
    }

    fn down(&self, detail: &str) {
        self.meter.up(false);
        let before = self.reach.send_replace(Reach::Down(detail.into()));
        if !matches!(before, Reach::Down(_)) {
            tracing::warn!(detail, contact_points = ?self.contact_points, "cassandra is not reachable; trying on");
        }
    }
}

fn span(operation: &'static str, table: &str, keyspace: &str) -> tracing::Span {
    tracing::info_span!(
        target: "shoal_data",
        "cql",
        otel.name = format_args!("{operation} {table}"),
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        db.system.name = "cassandra",
        db.namespace = keyspace,
        db.operation.name = operation,
        db.collection.name = table,
        server.address = tracing::field::Empty,
        server.port = tracing::field::Empty,
        shoal.role = "data",
    )
}
