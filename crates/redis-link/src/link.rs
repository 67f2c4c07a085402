//! The handle that services hold: runs commands, pipelines and scripts, each with one deadline and one span.

mod store_name;
mod subscription;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, InfoDict, Pipeline, RedisFuture, Value};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument;

use crate::call::Call;
use crate::config::{LinkConfig, Settings};
use crate::error::LinkError;
pub use crate::link::store_name::StoreName;
pub use crate::link::subscription::{Subscription, SubscriptionEvent};
pub use crate::link::tail::{Entry, Tail, TailEvent};
use crate::script::{Request, Script, Scripts};
use crate::slot;
use crate::topology::{Route, Topology};

/// The interval at which [`Link::ready`] asks again while Redis does not answer.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// A Redis or a Redis Cluster. Clones share connections; the last one to go closes them.
#[derive(Debug, Clone)]
pub struct Link {
    pub(crate) inner: Arc<Inner>,
    bulk: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) topology: Topology,
    pub(crate) settings: Arc<Settings>,
}

impl Link {
    /// Validates the configuration and starts connecting in the background of the current tokio runtime. It does
    /// not wait: a Redis that is down now is used when it comes up.
    pub fn open(config: LinkConfig) -> Result<Link, LinkError> {
        let (seeds, settings, scripts) = config.validate()?;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return Err(LinkError::Config("a link needs a tokio runtime to live in".to_owned()));
        };
        let (settings, scripts) = (Arc::new(settings), Arc::new(Scripts::new(&scripts)));
        let topology = Topology::start(seeds, Arc::clone(&settings), scripts, runtime);
        Ok(Link { inner: Arc::new(Inner { topology, settings }), bulk: false })
    }

    /// Returns the same link for calls with big values. They use a separate connection to each node, which the first of them
    /// opens, have ten times the usual deadline, and take turns, so that no small call waits behind them.
    #[must_use]
    pub fn bulk(&self) -> Link {
        Link { inner: Arc::clone(&self.inner), bulk: true }
    }

    /// Waits until Redis answers a PING, for `within` at most. In a Cluster this waits for all primaries during the time that
    /// connecting may take; from then on one that answers is enough.
    pub async fn ready(&self, within: Duration) -> Result<(), LinkError> {
        let begin = Instant::now();
        let deadline = begin + within;
        loop {
            match timeout_at(deadline, self.ping()).await {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) if begin.elapsed() >= self.inner.settings.connect_deadline => return Ok(()),
                Ok(Err(error)) if Instant::now() + READY_INTERVAL >= deadline => return Err(error),
                Ok(Ok(false) | Err(_)) => sleep(READY_INTERVAL).await,
                Err(_) => {
                    return Err(LinkError::Unavailable(format!("redis did not answer within {within:?}")));
                }
            }
        }
    }

    /// Returns whether calls can succeed: the link is connected, and its breaker (in a Cluster each primary's) is closed.
    #[must_use]
    pub fn healthy(&self) -> bool {
        match self.inner.topology.now() {
            Route::Single(node) => node.healthy(),
            Route::Cluster(cluster) => cluster.healthy(),
        }
    }

    /// Checks that Redis serves all calls. The error names the node and the reason, and is meant for operators; a caller gets the
    /// error of its own call.
    pub fn ready_now(&self) -> Result<(), String> {
        let (loses, why) = match self.inner.topology.now() {
            Route::Single(node) => (node.loses(), node.why()),
            Route::Cluster(cluster) => (cluster.loses(), cluster.why()),
        };
        let evicts = loses.map(|policy| {
            format!("redis is configured to evict ({policy}); set its maxmemory-policy to noeviction")
        });
        match why.or(evicts) {
            Some(why) => Err(why),
            None if self.healthy() => Ok(()),
            None => Err("redis does not answer yet".to_owned()),
        }
    }

    /// Returns the `maxmemory-policy` of Redis if it makes the role lose data. It is known from the first connection on.
    #[must_use]
    pub fn loses(&self) -> Option<String> {
        match self.inner.topology.now() {
            Route::Single(node) => node.loses(),
            Route::Cluster(cluster) => cluster.loses(),
        }
    }

    /// Returns whether the link leads to a Cluster. A single URL does not tell before the first connection: then this waits as
    /// a call does.
    ///
    /// # Errors
    /// Fails when Redis does not answer.
    pub async fn is_cluster(&self) -> Result<bool, LinkError> {
        Ok(matches!(self.inner.topology.known(self.deadline()).await?, Route::Cluster(_)))
    }

    /// Returns the time at which a server process (see [`process_of`](crate::process_of)) last came back after another one had
    /// taken its place, in microseconds since 1970 by the clock of the process. Its older data may lack the writes to the other
    /// process. Returns `None` if this link has not seen the process come back, and for the nodes of a Cluster, where a returning
    /// server first becomes a copy.
    #[must_use]
    pub fn returned_at(&self, process: u64) -> Option<u64> {
        match self.inner.topology.now() {
            Route::Single(node) => node.shared.processes.returned_at(process),
            Route::Cluster(_) => None,
        }
    }

    /// Sends one command. In a Cluster it goes to the node of its first key, and to any primary if it has none.
    pub async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, LinkError> {
        let call = Call::command(&self.inner.settings, cmd);
        let span = call.span.clone();
        let result =
            async { decode(self.request(Request { bulk: self.bulk, ..cmd.into() }, self.deadline()).await?) }
                .instrument(span)
                .await;
        call.end(result)
    }

    /// Sends commands in one round trip, `MULTI`/`EXEC` around them if the pipeline is atomic. In a Cluster all
    /// keys must have one slot (a hash tag). If one command fails, the others may have been done: the
    /// error is the first one's.
    pub async fn pipeline<T: FromRedisValue>(&self, pipe: &Pipeline) -> Result<T, LinkError> {
        Ok(self.pipeline_by(pipe).await?.0)
    }

    /// Sends commands as [`Link::pipeline`] does, and returns the process that answered too (see
    /// [`process_of`](crate::process_of)): a connection leads to the same process as long as it lives. The process is `None`
    /// for a Cluster, where several nodes may answer, and for a Redis that does not tell.
    pub async fn pipeline_by<T: FromRedisValue>(
        &self,
        pipe: &Pipeline,
    ) -> Result<(T, Option<u64>), LinkError> {
        let call = Call::pipeline(&self.inner.settings, pipe);
        let span = call.span.clone();
        let result = async {
            let deadline = self.deadline();
            let (replies, process) = match self.inner.topology.known(deadline).await? {
                Route::Single(node) => {
                    Call::goes_to(node.endpoint());
                    node.pipeline_by(pipe, self.bulk, deadline).await?
                }
                Route::Cluster(cluster) => {
                    (cluster.pipeline(slot::of_pipeline(pipe), pipe, self.bulk, deadline).await?, None)
                }
            };
            // The driver knows which replies the pipeline ignores, and how to read those of a transaction.
            let read = pipe.query_async(&mut Replies(replies)).await;
            read.map(|read| (read, process)).map_err(|error| from_pipeline(error, pipe.len()))
        }
        .instrument(span)
        .await;
        call.end(result)
    }

    /// Runs a script by its hash. In a Cluster it goes to the node of the first key, and all keys must have one slot; while
    /// that slot moves, the call waits as [`Script::new`] explains. If Redis does not know the script, the call loads it and
    /// runs it once more in one round trip; from then on every new connection loads it.
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<T, LinkError> {
        self.script_until(self.deadline(), script, keys, args).await
    }

    /// Runs a script as [`Link::script`] does, with a deadline of the caller's, for one step of several.
    pub async fn script_until<T: FromRedisValue>(
        &self,
        deadline: Instant,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<T, LinkError> {
        let call = Call::start(&self.inner.settings, script.command(), script.name());
        let span = call.span.clone();
        let result = async {
            let evalsha = script.evalsha(keys, args);
            let reply = self
                .request(Request { command: &evalsha, script: Some(script), bulk: self.bulk }, deadline)
                .await?;
            decode(reply)
        }
        .instrument(span)
        .await;
        call.end(result)
    }

    /// Runs a script as [`Link::script`] does, and returns the process that ran it, as [`Link::pipeline_by`] does. The process is
    /// `None` too if Redis did not know the script.
    pub async fn script_by<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<(T, Option<u64>), LinkError> {
        if let Route::Cluster(_) = self.inner.topology.known(self.deadline()).await? {
            return Ok((self.script(script, keys, args).await?, None));
        }
        let mut alone = Pipeline::with_capacity(1);
        alone.add_command(script.evalsha(keys, args));
        match self.pipeline_by::<(T,)>(&alone).await {
            Err(LinkError::Server { code, .. }) if code == "NOSCRIPT" => {
                Ok((self.script(script, keys, args).await?, None))
            }
            ran => ran.map(|((reply,), process)| (reply, process)),
        }
    }

    /// Sends one command to every primary; the answers are in no order.
    pub async fn query_each_primary<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<Vec<T>, LinkError> {
        let call = Call::command(&self.inner.settings, cmd);
        let span = call.span.clone();
        let result = async {
            let deadline = self.deadline();
            let nodes = match self.inner.topology.known(deadline).await? {
                Route::Single(node) => vec![Arc::clone(node)],
                Route::Cluster(cluster) => cluster.primaries(deadline).await?,
            };
            let replies = nodes.iter().map(|node| async move { decode(node.command(cmd, deadline).await?) });
            try_join_all(replies).await
        }
        .instrument(span)
        .await;
        call.end(result)
    }

    /// Returns the `run_id` of Redis, which changes with a restart or a fail-over. For a Cluster it returns those of all
    /// primaries, sorted and separated by commas.
    pub async fn run_id(&self) -> Result<String, LinkError> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let mut ids = Vec::new();
        for info in self.query_each_primary::<InfoDict>(&info).await? {
            let id: Option<String> = info.get("run_id");
            ids.push(id.ok_or_else(|| LinkError::unexpected("INFO server names no run_id"))?);
        }
        ids.sort_unstable();
        Ok(ids.join(","))
    }

    /// Returns whether all primaries answer; fails if none does.
    async fn ping(&self) -> Result<bool, LinkError> {
        let deadline = self.deadline();
        let nodes = match self.inner.topology.known(deadline).await? {
            Route::Single(node) => vec![Arc::clone(node)],
            Route::Cluster(cluster) => cluster.primaries(deadline).await?,
        };
        let ping = redis::cmd("PING");
        let pings = nodes.iter().map(|node| async {
            match decode::<Value>(node.command(&ping, deadline).await?) {
                // One that cannot save refuses even a PING, and is there.
                Ok(_) | Err(LinkError::ReadOnly(_)) => Ok(()),
                Err(error) => Err(error),
            }
        });
        let answers = join_all(pings).await;
        let all = answers.iter().all(Result::is_ok);
        match answers.into_iter().reduce(Result::or) {
            Some(Err(error)) => Err(error),
            _ => Ok(all),
        }
    }

    /// Listens to a channel on a connection of its own.
    #[must_use]
    pub fn subscribe(&self, channel: &str) -> Subscription {
        Subscription::start(self.clone(), channel)
    }

    /// Reads streams as they grow, on connections of its own, from after the given ids; the id `$` means
    /// from now on. Each cursor is a key and an id.
    #[must_use]
    pub fn tail(&self, cursors: Vec<(Vec<u8>, String)>) -> Tail {
        Tail::start(self.clone(), cursors)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.inner.settings.deadline(self.bulk)
    }

    async fn request(&self, request: Request<'_>, deadline: Instant) -> Result<Value, LinkError> {
        match self.inner.topology.known(deadline).await? {
            Route::Single(node) => {
                Call::goes_to(node.endpoint());
                node.follow(request, deadline).await
            }
            Route::Cluster(cluster) => {
                cluster.request(slot::of_command(request.command), request, deadline).await
            }
        }
    }
}

/// Reads a reply as the caller's type.
fn decode<T: FromRedisValue>(reply: Value) -> Result<T, LinkError> {
    match reply.extract_error() {
        Ok(value) => T::from_redis_value(value).map_err(LinkError::unexpected),
        Err(error) => Err(from_pipeline(error, 1)),
    }
}

/// Maps the error of a pipeline of `sent` commands.
fn from_pipeline(error: redis::RedisError, sent: usize) -> LinkError {
    let text = error.to_string();
    let Some(errors) = error.into_server_errors() else { return LinkError::unexpected(text) };
    let mapped: Vec<_> = errors.iter().map(|(_, error)| LinkError::from_server(error)).collect();
    let unavailable = mapped.iter().filter(|error| matches!(error, LinkError::Unavailable(_))).count();
    match mapped.into_iter().next() {
        Some(first) if unavailable < sent => first.of_part(),
        Some(first) => first,
        None => LinkError::unexpected(text),
    }
}

/// Replies that have arrived, as a connection from which the driver composes the result of a pipeline.
struct Replies(Vec<Value>);

impl ConnectionLike for Replies {
    fn req_packed_command<'a>(&'a mut self, _: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(std::future::ready(Ok(Value::Nil)))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        _: &'a Pipeline,
        _: usize,
        _: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(std::future::ready(Ok(std::mem::take(&mut self.0))))
    }

    fn get_db(&self) -> i64 {
        0
    }
}
