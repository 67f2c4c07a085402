//! The handle that services hold: commands, pipelines and scripts, each with one deadline and one span.

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

/// How often [`Link::ready`] looks again while Redis does not answer.
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

    /// The same link for calls with big values: they have a connection of their own to each node, which is made when the first
    /// of them comes, ten times the usual deadline, and turns, so that no small call waits behind them.
    #[must_use]
    pub fn bulk(&self) -> Link {
        Link { inner: Arc::clone(&self.inner), bulk: true }
    }

    /// Waits until Redis answers a PING, at most `within`. In a Cluster each primary is waited for as long as connecting may take;
    /// then one that answers is enough.
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

    /// Whether calls have a chance: connected, and the breaker (each primary's in a Cluster) is closed.
    #[must_use]
    pub fn healthy(&self) -> bool {
        match self.inner.topology.now() {
            Route::Single(node) => node.healthy(),
            Route::Cluster(cluster) => cluster.healthy(),
        }
    }

    /// Whether all is well, and if not why, in words for those who run it: they name the node. What a caller may be told is in
    /// the error of its call.
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

    /// The `maxmemory-policy` by which Redis loses what the role stores, if it has one that does; known from the first
    /// connection on.
    #[must_use]
    pub fn loses(&self) -> Option<String> {
        match self.inner.topology.now() {
            Route::Single(node) => node.loses(),
            Route::Cluster(cluster) => cluster.loses(),
        }
    }

    /// Returns whether it is a Cluster's. Of one URL that is not known before the server was connected to: it waits as a call does.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn is_cluster(&self) -> Result<bool, LinkError> {
        Ok(matches!(self.inner.topology.known(self.deadline()).await?, Route::Cluster(_)))
    }

    /// When a server process (see [`process_of`](crate::process_of)) last came back after another one had been in its place, in
    /// microseconds since 1970 by its clock. What it holds from before then may lack what the other was told. Nothing if it
    /// did not, as far as this link has seen; nothing of the nodes of a Cluster, where one that comes back is a copy first.
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

    /// The same, and which process answered (see [`process_of`](crate::process_of)): a connection leads to one for as long as it
    /// lives. Not known of a Cluster's nodes, of which several may answer, and of a Redis that does not say.
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

    /// Runs a script by its hash. In a Cluster it goes to the node of the first key, and all keys must have one
    /// slot; while that slot moves, it waits as [`Script::new`] says. If Redis does not know the script it is loaded, and run once
    /// more, in one round trip; from then on every new connection loads it.
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<T, LinkError> {
        self.script_until(self.deadline(), script, keys, args).await
    }

    /// The same with a deadline of the caller's, for one step of several.
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

    /// The same, and which process ran it, as [`Link::pipeline_by`] says. Not known if Redis did not know the script.
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

    /// What changes when Redis restarts or fails over: its `run_id`; of a Cluster, all primaries' in order,
    /// separated by commas.
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

    /// Checks that all primaries answer; an error if none does.
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

/// The reply as the caller's type.
fn decode<T: FromRedisValue>(reply: Value) -> Result<T, LinkError> {
    match reply.extract_error() {
        Ok(value) => T::from_redis_value(value).map_err(LinkError::unexpected),
        Err(error) => Err(from_pipeline(error, 1)),
    }
}

/// The error of a pipeline of `sent` commands.
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

/// Replies that are here already, in the shape from which the driver composes a pipeline's result.
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
