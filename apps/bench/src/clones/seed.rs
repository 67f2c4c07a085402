//! Objects that the load on a service's clones reads, stored beforehand, and the calls of which the load consists.

use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::HeaderMap;
use shoal_proto::cache::v1 as cache;
use shoal_proto::data::v1 as data;
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use tonic::transport::Channel;

use super::Service;
use crate::load::call::framed;
use crate::load::target::{Content, Draw, Method, Workload};

/// Objects that are read.
const OBJECTS: usize = 64;
/// Queues that jobs are added to.
const QUEUES: usize = 8;
/// Bytes of a value.
const VALUE_BYTES: usize = 100;
/// Names of everything that is stored begin with it.
const NAME: &str = "bench-scale";

/// A method with its weight and the maker of its requests.
struct Call {
    path: &'static str,
    weight: u32,
    make: Arc<dyn Fn(&mut Draw) -> Bytes + Send + Sync>,
}

/// The calls of a service.
pub(super) struct Seeded {
    calls: Vec<Call>,
}

impl Seeded {
    /// Returns the paths of its methods.
    pub(super) fn paths(&self) -> Vec<String> {
        self.calls.iter().map(|call| call.path.to_owned()).collect()
    }

    pub(super) fn workload(&self) -> Arc<Workload> {
        let method = |call: &Call| {
            let make = Arc::clone(&call.make);
            Method {
                path: call.path.to_owned(),
                weight: call.weight,
                metadata: HeaderMap::new(),
                content: Content::Made(Box::new(move |draw| make(draw))),
            }
        };
        Arc::new(Workload::new(self.calls.iter().map(method).collect()))
    }
}

/// Returns a call that draws one of the requests.
fn any_of(path: &'static str, weight: u32, requests: Vec<Bytes>) -> Call {
    Call { path, weight, make: Arc::new(move |draw| requests[draw.rng.usize(..requests.len())].clone()) }
}

/// Stores what a service's load reads, at one of its clones.
///
/// # Errors
/// When the clone refuses.
pub(super) async fn seed(service: Service, channel: Channel) -> anyhow::Result<Seeded> {
    let calls = match service {
        Service::Session => sessions(channel).await,
        Service::Cache => entries(channel).await,
        Service::Data => rows(channel).await,
        Service::Jobs => queued(channel).await,
    };
    Ok(Seeded { calls: calls.with_context(|| format!("preparing {}", service.role()))? })
}

async fn sessions(channel: Channel) -> anyhow::Result<Vec<Call>> {
    use shoal_proto::r#type::v1::{Value, value::Kind};
    let create = |user: u64| session::CreateSessionRequest {
        user_id: format!("{NAME}-{user}"),
        attributes: ["plan", "locale", "theme"]
            .map(|name| (name.to_owned(), Value { kind: Some(Kind::StringValue("some value".to_owned())) }))
            .into(),
        ..Default::default()
    };
    let mut client = session::session_service_client::SessionServiceClient::new(channel);
    let mut gets = Vec::new();
    for _ in 0..OBJECTS {
        let created = client.create_session(create(fastrand::u64(..))).await?.into_inner();
        gets.push(framed(&session::GetSessionRequest { token: created.token, no_touch: false }));
    }
    let create = Arc::new(move |draw: &mut Draw| framed(&create(draw.rng.u64(..))));
    Ok(vec![
        any_of("/shoal.session.v1.SessionService/GetSession", 9, gets),
        Call { path: "/shoal.session.v1.SessionService/CreateSession", weight: 1, make: create },
    ])
}

async fn entries(channel: Channel) -> anyhow::Result<Vec<Call>> {
    let mut client = cache::cache_service_client::CacheServiceClient::new(channel);
    let (mut gets, mut sets) = (Vec::new(), Vec::new());
    for n in 0..OBJECTS {
        let (namespace, key) = (NAME.to_owned(), format!("key-{n}"));
        let value = vec![7; VALUE_BYTES].into();
        let set =
            cache::SetRequest { namespace: namespace.clone(), key: key.clone(), value, ..Default::default() };
        sets.push(framed(&set));
        client.set(set).await?;
        gets.push(framed(&cache::GetRequest { namespace, key, ..Default::default() }));
    }
    Ok(vec![
        any_of("/shoal.cache.v1.CacheService/Get", 9, gets),
        any_of("/shoal.cache.v1.CacheService/Set", 1, sets),
    ])
}

async fn rows(channel: Channel) -> anyhow::Result<Vec<Call>> {
    let mut client = data::data_service_client::DataServiceClient::new(channel);
    let name = NAME.replace('-', "_");
    let table = data::Table {
        name: name.clone(),
        sort_key_type: data::SortKeyType::None.into(),
        ..Default::default()
    };
    match client.create_table(data::CreateTableRequest { table: Some(table) }).await {
        // An earlier level of the same experiment made it.
        Err(status) if status.code() == tonic::Code::AlreadyExists => {}
        created => drop(created?),
    }
    let (mut gets, mut puts) = (Vec::new(), Vec::new());
    for n in 0..OBJECTS {
        let partition_key = format!("partition-{n}");
        let put = data::Mutation { kind: Some(data::mutation::Kind::Put(data::mutation::Put::default())) };
        let mutate = data::MutateRequest {
            table: name.clone(),
            partition_key: partition_key.clone(),
            mutations: vec![put],
            ..Default::default()
        };
        puts.push(framed(&mutate));
        client.mutate(mutate).await?;
        gets.push(framed(&data::GetRequest { table: name.clone(), partition_key, ..Default::default() }));
    }
    Ok(vec![
        any_of("/shoal.data.v1.DataService/Get", 9, gets),
        any_of("/shoal.data.v1.DataService/Mutate", 1, puts),
    ])
}

async fn queued(channel: Channel) -> anyhow::Result<Vec<Call>> {
    let mut client = jobs::jobs_service_client::JobsServiceClient::new(channel);
    let (mut gets, mut enqueues) = (Vec::new(), Vec::new());
    for n in 0..OBJECTS {
        let enqueue = jobs::EnqueueRequest {
            queue: format!("{NAME}-{}", n % QUEUES),
            kind: "k".to_owned(),
            payload: vec![7; VALUE_BYTES].into(),
            ..Default::default()
        };
        enqueues.push(framed(&enqueue));
        let job = client.enqueue(enqueue).await?.into_inner().job.context("a job")?;
        gets.push(framed(&jobs::GetJobRequest { id: job.id }));
    }
    Ok(vec![
        any_of("/shoal.jobs.v1.JobsService/GetJob", 1, gets),
        any_of("/shoal.jobs.v1.JobsService/Enqueue", 1, enqueues),
    ])
}
