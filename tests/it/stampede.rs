//! Many callers of one object that is not in the cache, on several clones: its loader is asked once.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use shoal_client::Channel;
use shoal_proto::cache::v1 as pb;
use shoal_proto::cache::v1::object_loader_service_server::{ObjectLoaderService, ObjectLoaderServiceServer};
use shoal_testing::RedisServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::harness::clone::Clone;
use crate::harness::eventually;
use crate::harness::http::http_get;

const CLONES: usize = 4;
const CALLERS: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(60);

/// A loader that takes its time, and when it was asked.
#[derive(Clone)]
struct Pages {
    takes: Duration,
    asked: Arc<Mutex<Vec<Instant>>>,
}

#[tonic::async_trait]
impl ObjectLoaderService for Pages {
    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<pb::LoadResponse>, Status> {
        self.asked.lock().expect("no panic").push(Instant::now());
        tokio::time::sleep(self.takes).await;
        let result = |id: String| {
            let object = pb::LoadedObject { value: id.into(), ..Default::default() };
            pb::LoadResult { outcome: Some(pb::load_result::Outcome::Object(object)) }
        };
        let results = request.into_inner().ids.into_iter().map(result).collect();
        Ok(Response::new(pb::LoadResponse { results }))
    }
}

impl Pages {
    fn asked(&self) -> Vec<Instant> {
        self.asked.lock().expect("no panic").clone()
    }
}

/// Clones on one Redis, with a loader in this process.
struct Mesh {
    clones: Vec<Clone>,
    /// A connected channel to each clone.
    channels: Vec<Channel>,
    pages: Pages,
    _config: tempfile::NamedTempFile,
    _redis: RedisServer,
}

impl Mesh {
    async fn start(takes: Duration) -> Option<Self> {
        let redis = RedisServer::start().await?;
        let pages = Pages { takes, asked: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server =
            tonic::transport::Server::builder().add_service(ObjectLoaderServiceServer::new(pages.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let mut config = tempfile::NamedTempFile::new().expect("a file");
        write!(config, "[cache.object.page]\nloader = 'http://{address}'\nload_timeout = '30s'\n")
            .expect("written");
        let path = config.path().to_str().expect("utf-8").to_owned();
        let url = redis.url();
        let flags = ["--redis", url.as_str(), "--config", path.as_str()];
        let clones = join_all((0..CLONES).map(|_| Clone::start("cache", &flags))).await;
        let channels: Vec<Channel> = clones.iter().map(Clone::channel).collect();
        for channel in &channels {
            eventually("it serves", PATIENCE, async || {
                let request = pb::GetRequest { namespace: "n".into(), key: "k".into(), ..Default::default() };
                shoal_client::cache(channel.clone()).get(request).await.ok()
            })
            .await;
        }
        Some(Self { clones, channels, pages, _config: config, _redis: redis })
    }
}

/// Asks a clone for the page.
async fn get(clone: Channel) -> Result<pb::GetObjectResponse, Status> {
    let request = pb::GetObjectRequest { kind: "page".into(), id: "a".into(), ..Default::default() };
    let mut request = Request::new(request);
    request.set_timeout(PATIENCE);
    Ok(shoal_client::cache(clone).get_object(request).await?.into_inner())
}

/// Calls a clone many times at once.
fn crowd(channel: &Channel, callers: usize) -> impl Future<Output = ()> + Send + 'static {
    let calls: Vec<_> = (0..callers).map(|_| tokio::spawn(get(channel.clone()))).collect();
    async move {
        for call in calls {
            assert_eq!(call.await.expect("no panic").expect("loaded").value.as_ref(), b"a");
        }
    }
}

/// Returns the calls of these clones that Redis did not answer in time: on a machine that is busy enough there are some, and then
/// each clone loads for its own callers.
async fn unanswered(clones: &[Clone]) -> f64 {
    let mut calls = 0.0;
    for clone in clones {
        let metrics = http_get(&clone.admin, "/metrics").await;
        let failed = metrics
            .lines()
            .filter(|line| line.starts_with("shoal_engine_calls_total{") && !line.contains("outcome=\"ok\""));
        let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
        calls += failed.map(|line| count(line).expect("a number")).sum::<f64>();
    }
    calls
}

/// Trials until Redis answers all calls of one in time; each has half of the callers.
const TRIALS: u32 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn crowd_on_four_clones_is_one_load() {
    for trial in 0..TRIALS {
        let Some(mesh) = Mesh::start(Duration::from_millis(500)).await else { return };
        join_all(mesh.channels.iter().map(|channel| crowd(channel, CALLERS >> trial))).await;
        let (asked, unanswered) = (mesh.pages.asked().len(), unanswered(&mesh.clones).await);
        eprintln!("{} callers on each clone: {asked} loads, {unanswered} unanswered", CALLERS >> trial);
        if unanswered == 0.0 {
            assert_eq!(asked, 1);
            return;
        }
    }
    panic!("the machine is too busy");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_holder_costs_one_lease() {
    for trial in 0..TRIALS {
        let Some(mut mesh) = Mesh::start(Duration::from_secs(3)).await else { return };
        let (mut holder, channel) = (mesh.clones.remove(0), mesh.channels.remove(0));
        let of_holder = tokio::spawn(get(channel));
        eventually("the load begins", PATIENCE, async || (!mesh.pages.asked().is_empty()).then_some(()))
            .await;
        let others = mesh.channels.iter().map(|channel| tokio::spawn(crowd(channel, CALLERS >> trial)));
        let others: Vec<_> = others.collect();
        // The others find the holder's lease.
        tokio::time::sleep(Duration::from_millis(300)).await;
        holder.process.kill().await;
        let killed = Instant::now();
        for other in others {
            other.await.expect("all were answered");
        }
        of_holder.abort();
        let (asked, unanswered) = (mesh.pages.asked(), unanswered(&mesh.clones).await);
        eprintln!(
            "{} callers on each clone: {} loads, {unanswered} unanswered",
            CALLERS >> trial,
            asked.len()
        );
        if unanswered == 0.0 {
            assert_eq!(asked.len(), 2, "one load of the dead clone, and one more");
            let lease = asked[1].saturating_duration_since(killed);
            assert!(lease < Duration::from_secs(10), "a third of what a load may take: {lease:?}");
            eprintln!("the second load began {lease:?} after the kill");
            assert!(get(mesh.channels[0].clone()).await.expect("cached").from_cache);
            return;
        }
    }
    panic!("the machine is too busy");
}
