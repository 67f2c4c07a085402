//! `shoal bench engine`: what each operation costs Redis, and how much memory what is stored takes there.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use shoal_proto::cache::v1 as cache;
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::process::{Server, free_address};
use crate::report;

/// The time for which Redis is watched without load, and that it is left alone after a start.
const IDLE: Duration = Duration::from_secs(3);
/// Jobs of a large claim.
const CLAIM: usize = 32;
/// Tries of a call: Redis may be slower than its deadline on a busy machine.
const TRIES_MAX: usize = 5;
/// The value of a bare SET, as large as a session.
const FLOOR_BYTES: usize = 150;
/// Commands that this program itself sends to Redis.
const OWN: [&str; 1] = ["info"];

/// Settings of a measurement.
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// Calls of each operation
    #[arg(long, default_value_t = 20_000)]
    calls: usize,
    /// Calls in flight: what is in flight together shares Redis' system calls
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Objects of each kind whose memory is measured
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// The redis-server to start
    #[arg(long, default_value = "redis-server", env = "SHOAL_TEST_REDIS_SERVER")]
    redis_server: String,
}

/// The clients of the three services.
#[derive(Clone)]
struct Clients {
    sessions: session::session_service_client::SessionServiceClient<Channel>,
    jobs: jobs::jobs_service_client::JobsServiceClient<Channel>,
    workers: jobs::worker_service_client::WorkerServiceClient<Channel>,
    cache: cache::cache_service_client::CacheServiceClient<Channel>,
}

pub(crate) async fn run(args: &EngineArgs) -> anyhow::Result<()> {
    let address = free_address()?;
    let dir = tempfile::tempdir()?;
    let mut command = tokio::process::Command::new(&args.redis_server);
    command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no"]).arg("--dir").arg(dir.path());
    let _redis = Server::spawn(command, address).await?;
    let url = format!("redis://{address}");
    let redis = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
    let mut meter = Meter {
        redis,
        calls: args.calls,
        in_flight: args.in_flight,
        idle: Usage::default(),
        rows: Vec::new(),
    };
    // Before clones are there, which would miss what is removed after it.
    floor(&mut meter).await?;
    let file = tempfile::NamedTempFile::with_suffix(".toml")?;
    let loader = free_address()?;
    std::fs::write(file.path(), format!("[cache.object.thing]\nloader = 'http://{loader}'\nttl = '5m'\n"))?;
    let config = file.path().to_string_lossy().into_owned();
    let service = cache::object_loader_service_server::ObjectLoaderServiceServer::new(Loader);
    let loading = tokio::spawn(tonic::transport::Server::builder().add_service(service).serve(loader));
    let clone = async |role: &'static str| {
        let options = ["--redis", &url, "--admin", "127.0.0.1:0", "--config", &config];
        Server::start(&[&["serve", role], &options[..]].concat()).await
    };
    let (sessions, jobs, cache) = (clone("session").await?, clone("jobs").await?, clone("cache").await?);
    let to = async |server: &Server| {
        anyhow::Ok(Endpoint::from_shared(format!("http://{}", server.address))?.connect().await?)
    };
    let clients = Clients {
        sessions: session::session_service_client::SessionServiceClient::new(to(&sessions).await?),
        jobs: jobs::jobs_service_client::JobsServiceClient::new(to(&jobs).await?),
        workers: jobs::worker_service_client::WorkerServiceClient::new(to(&jobs).await?),
        cache: cache::cache_service_client::CacheServiceClient::new(to(&cache).await?),
    };
    tokio::time::sleep(IDLE).await;
    meter.watch_idle().await?;
    operations(&mut meter, &clients).await?;
    report::line(&format!("\nWhat an operation costs Redis, {} in flight\n", args.in_flight));
    let header = ["operation", "commands", "µs", "calls/s"];
    report::line(&report::markdown(header, &meter.rows));
    let rows = memory(&mut meter, &clients, args.objects).await?;
    report::line(&format!("\nWhat an object takes of Redis' memory, of {}\n", args.objects));
    report::line(&report::markdown(["object", "bytes"], &rows));
    report::line(&format!(
        "One clone each of session, jobs and cache at rest: {:.0} commands/s, {:.0} µs/s",
        meter.idle.commands, meter.idle.cpu_us
    ));
    loading.abort();
    Ok(())
}

/// Answers any object.
struct Loader;

#[tonic::async_trait]
impl cache::object_loader_service_server::ObjectLoaderService for Loader {
    async fn load(
        &self,
        request: Request<cache::LoadRequest>,
    ) -> Result<Response<cache::LoadResponse>, Status> {
        let object = cache::LoadedObject { value: vec![7; 100].into(), ..Default::default() };
        let result = cache::LoadResult { outcome: Some(cache::load_result::Outcome::Object(object)) };
        let results = vec![result; request.get_ref().ids.len()];
        Ok(Response::new(cache::LoadResponse { results }))
    }
}

/// Commands and CPU time of Redis: up to a moment, or in a second.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    commands: f64,
    cpu_us: f64,
    memory: f64,
}

struct Meter {
    redis: redis::aio::MultiplexedConnection,
    calls: usize,
    in_flight: usize,
    /// Commands and CPU time used in a second without load.
    idle: Usage,
    rows: Vec<[String; 4]>,
}

impl Meter {
    async fn usage(&mut self) -> anyhow::Result<Usage> {
        let mut ask = redis::pipe();
        for section in ["commandstats", "cpu", "memory"] {
            ask.cmd("INFO").arg(section);
        }
        let sections: Vec<String> = ask.query_async(&mut self.redis).await?;
        let fields: HashMap<&str, &str> = sections
            .iter()
            .flat_map(|section| section.lines())
            .filter_map(|line| line.split_once(':'))
            .collect();
        let number = |name: &str| -> anyhow::Result<f64> {
            fields
                .get(name)
                .and_then(|value| value.parse().ok())
                .with_context(|| format!("INFO says no {name}"))
        };
        let commands = fields.iter().filter_map(|(name, stats)| {
            let name = name.strip_prefix("cmdstat_")?;
            let calls = stats.strip_prefix("calls=")?.split(',').next()?;
            (!OWN.contains(&name)).then(|| calls.parse::<f64>().ok())?
        });
        Ok(Usage {
            commands: commands.sum(),
            cpu_us: (number("used_cpu_user")? + number("used_cpu_sys")?) * 1e6,
            memory: number("used_memory")?,
        })
    }

    async fn watch_idle(&mut self) -> anyhow::Result<()> {
        let (before, begun) = (self.usage().await?, Instant::now());
        tokio::time::sleep(IDLE).await;
        let (after, seconds) = (self.usage().await?, begun.elapsed().as_secs_f64());
        self.idle.commands = (after.commands - before.commands) / seconds;
        self.idle.cpu_us = (after.cpu_us - before.cpu_us) / seconds;
        Ok(())
    }

    /// Makes so many calls, each with its number.
    async fn all<T, F>(
        &self,
        count: usize,
        call: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let (next, call) = (Arc::new(AtomicUsize::new(0)), Arc::new(call));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..self.in_flight {
            let (next, call) = (Arc::clone(&next), Arc::clone(&call));
            callers.spawn(async move {
                let mut answers = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok::<_, Status>(answers);
                    }
                    let mut tries = 1;
                    answers.push(loop {
                        match call(number).await {
                            // This machine may be busy with other things than Redis.
                            Err(status) if status.code() == tonic::Code::Unavailable && tries < TRIES_MAX => {
                                tries += 1;
                            }
                            answer => break answer?,
                        }
                    });
                }
            });
        }
        let mut answers = Vec::with_capacity(count);
        while let Some(of_one) = callers.join_next().await {
            answers.extend(of_one??);
        }
        Ok(answers)
    }

    /// The same, and a row of what one of them cost; an operation may be several calls.
    async fn cost<T, F>(
        &mut self,
        name: impl Display,
        count: usize,
        call: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let (before, begun) = (self.usage().await?, Instant::now());
        let answers = self.all(count, call).await?;
        let (after, seconds) = (self.usage().await?, begun.elapsed().as_secs_f64());
        let of_one =
            |after: f64, before: f64, idle: f64| ((after - before - idle * seconds) / count as f64).max(0.0);
        self.rows.push([
            name.to_string(),
            format!("{:.1}", of_one(after.commands, before.commands, self.idle.commands)),
            format!("{:.1}", of_one(after.cpu_us, before.cpu_us, self.idle.cpu_us)),
            format!("{:.0}", count as f64 / seconds),
        ]);
        Ok(answers)
    }

    /// An empty Redis: how full its tables are is a part of what an object takes.
    async fn empty(&mut self) -> anyhow::Result<()> {
        let () = redis::cmd("FLUSHALL").query_async(&mut self.redis).await?;
        Ok(())
    }

    /// Bytes of each of so many.
    async fn memory_of<T, F>(
        &mut self,
        count: usize,
        call: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> anyhow::Result<f64>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let before = self.usage().await?.memory;
        self.all(count, call).await?;
        Ok((self.usage().await?.memory - before) / count as f64)
    }
}

fn text(text: &str) -> shoal_proto::r#type::v1::Value {
    use shoal_proto::r#type::v1::{Value, value::Kind};
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

impl Clients {
    async fn create(mut self, user: String, attributes: &'static [&'static str]) -> Result<String, Status> {
        let attributes = attributes.iter().map(|name| ((*name).to_owned(), text("some value"))).collect();
        let request = session::CreateSessionRequest { user_id: user, attributes, ..Default::default() };
        Ok(self.sessions.create_session(request).await?.into_inner().token)
    }

    async fn enqueue(mut self, queue: &str, request_id: String) -> Result<(), Status> {
        let request = jobs::EnqueueRequest {
            queue: queue.to_owned(),
            kind: "k".to_owned(),
            payload: vec![7; 100].into(),
            request_id,
            ..Default::default()
        };
        self.jobs.enqueue(request).await.map(drop)
    }

    /// Leases so many at most and completes them; how many there were.
    async fn work(mut self, queue: &str, max_jobs: i32) -> Result<usize, Status> {
        let request = jobs::LeaseJobsRequest {
            queue: queue.to_owned(),
            worker: "w".to_owned(),
            max_jobs,
            ..Default::default()
        };
        let leased = self.workers.lease_jobs(request).await?.into_inner().jobs;
        let count = leased.len();
        for leased in leased {
            let request = jobs::CompleteJobRequest {
                id: leased.job.unwrap_or_default().id,
                fencing_token: leased.lease.unwrap_or_default().fencing_token,
                result: vec![7; 20].into(),
            };
            self.workers.complete_job(request).await?;
        }
        Ok(count)
    }

    async fn set(mut self, namespace: &str, key: String) -> Result<(), Status> {
        let request = cache::SetRequest {
            namespace: namespace.to_owned(),
            key,
            value: vec![7; 100].into(),
            ..Default::default()
        };
        self.cache.set(request).await.map(drop)
    }

    async fn get_object(mut self, id: usize) -> Result<(), Status> {
        let request = cache::GetObjectRequest { kind: "thing".to_owned(), id: format!("o{id}") };
        self.cache.get_object(request).await.map(drop)
    }
}

/// Measures a bare SET and GET on one connection under the same load: the part of each figure that is system calls, and cold caches
/// where little is in flight.
async fn floor(meter: &mut Meter) -> anyhow::Result<()> {
    let commands = |name: &'static str| {
        let redis = meter.redis.clone();
        move |n: usize| {
            let mut redis = redis.clone();
            async move {
                let mut command = redis::cmd(name);
                command.arg(format!("floor:{n}"));
                if name == "SET" {
                    command.arg(&[7_u8; FLOOR_BYTES][..]).arg("PX").arg(60_000);
                }
                let sent = command.query_async::<redis::Value>(&mut redis).await;
                sent.map(drop).map_err(|error| Status::internal(error.to_string()))
            }
        }
    };
    let (set, get) = (commands("SET"), commands("GET"));
    meter.cost("a bare SET", meter.calls, set).await?;
    meter.cost("a bare GET", meter.calls, get).await?;
    meter.empty().await
}

async fn operations(meter: &mut Meter, clients: &Clients) -> anyhow::Result<()> {
    let (count, of) = (meter.calls, clients.clone());
    let tokens =
        meter.cost("CreateSession", count, move |n| of.clone().create(format!("u{n}"), &["plan"])).await?;
    let (tokens, of) = (Arc::new(tokens), clients.clone());
    let on_session = |tokens: &Arc<Vec<String>>| {
        let (tokens, of) = (Arc::clone(tokens), of.clone());
        move |n: usize| (tokens[n].clone(), of.sessions.clone())
    };
    let get = on_session(&tokens);
    meter
        .cost("GetSession", count, move |n| {
            let (token, mut sessions) = get(n);
            async move {
                sessions.get_session(session::GetSessionRequest { token, no_touch: false }).await.map(drop)
            }
        })
        .await?;
    let update = on_session(&tokens);
    meter
        .cost("UpdateSession, one attribute", count, move |n| {
            let (token, mut sessions) = update(n);
            let set = [("n".to_owned(), text("new value"))].into();
            let request = session::UpdateSessionRequest { token, set, ..Default::default() };
            async move { sessions.update_session(request).await.map(drop) }
        })
        .await?;
    let revoke = on_session(&tokens);
    meter
        .cost("RevokeSession", count, move |n| {
            let (token, mut sessions) = revoke(n);
            let request = session::RevokeSessionRequest {
                target: Some(session::revoke_session_request::Target::Token(token)),
            };
            async move { sessions.revoke_session(request).await.map(drop) }
        })
        .await?;
    let of = clients.clone();
    meter
        .cost("Enqueue", count, move |_| {
            let of = of.clone();
            async move { of.enqueue("q", String::new()).await }
        })
        .await?;
    let of = clients.clone();
    let singles = count / 10;
    meter
        .cost("LeaseJobs of 1, CompleteJob", singles, move |_| {
            let of = of.clone();
            async move { of.work("q", 1).await }
        })
        .await?;
    let of = clients.clone();
    let batches = (count - singles) / CLAIM;
    meter
        .cost("LeaseJobs of 32, 32 CompleteJob", batches, move |_| {
            let of = of.clone();
            async move { of.work("q", CLAIM as i32).await }
        })
        .await?;
    let of = clients.clone();
    meter
        .cost("Set", count, move |n| {
            let of = of.clone();
            async move { of.set("n", format!("k{n}")).await }
        })
        .await?;
    let of = clients.clone();
    meter
        .cost("Get, a hit", count, move |n| {
            let mut cache = of.cache.clone();
            let request = cache::GetRequest { namespace: "n".to_owned(), key: format!("k{n}") };
            async move { cache.get(request).await.map(drop) }
        })
        .await?;
    let of = clients.clone();
    meter.cost("GetObject, a load", count, move |n| of.clone().get_object(n)).await?;
    let of = clients.clone();
    meter.cost("GetObject, a hit", count, move |n| of.clone().get_object(n)).await?;
    Ok(())
}

/// Names of attributes.
const THREE: &[&str] = &["plan", "locale", "theme"];

async fn memory(meter: &mut Meter, clients: &Clients, count: usize) -> anyhow::Result<Vec<[String; 2]>> {
    let mut rows = Vec::new();
    let whole = |bytes: f64| format!("{bytes:.0}");
    meter.empty().await?;
    // What the buckets take is not these sessions'.
    let of = clients.clone();
    meter.all(count / 2, move |n| of.clone().create(format!("x{n}"), &[])).await?;
    let of = clients.clone();
    let bytes = meter.memory_of(count, move |n| of.clone().create(format!("a{n}"), &[])).await?;
    rows.push(["session, no attributes, one of its user".to_owned(), whole(bytes)]);
    let of = clients.clone();
    let bytes = meter.memory_of(count, move |n| of.clone().create(format!("b{}", n / 10), THREE)).await?;
    rows.push(["session, three attributes, ten of their user".to_owned(), whole(bytes)]);
    meter.empty().await?;
    let of = clients.clone();
    let bytes = meter
        .memory_of(count, move |_| {
            let of = of.clone();
            async move { of.enqueue("m", String::new()).await }
        })
        .await?;
    rows.push(["ready job, payload of 100 bytes".to_owned(), whole(bytes)]);
    meter.empty().await?;
    let of = clients.clone();
    let bytes = meter
        .memory_of(count, move |n| {
            let of = of.clone();
            async move { of.enqueue("i", format!("request-{n}")).await }
        })
        .await?;
    rows.push(["the same with a request_id, for an hour".to_owned(), whole(bytes)]);
    let of = clients.clone();
    let bytes = meter
        .memory_of(count / CLAIM, move |_| {
            let of = of.clone();
            async move { of.work("i", CLAIM as i32).await }
        })
        .await?;
    rows.push(["finished job, more than a ready one".to_owned(), whole(bytes / CLAIM as f64)]);
    meter.empty().await?;
    let of = clients.clone();
    let bytes = meter
        .memory_of(count, move |n| {
            let of = of.clone();
            async move { of.set("mem", format!("key-{n}")).await }
        })
        .await?;
    rows.push(["cache entry, value of 100 bytes".to_owned(), whole(bytes)]);
    Ok(rows)
}
