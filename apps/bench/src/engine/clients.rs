//! The clients of the services whose Redis is measured, and the loader of the cache's objects.

use shoal_proto::cache::v1 as cache;
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// The clients of the three services.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) sessions: session::session_service_client::SessionServiceClient<Channel>,
    pub(super) jobs: jobs::jobs_service_client::JobsServiceClient<Channel>,
    pub(super) workers: jobs::worker_service_client::WorkerServiceClient<Channel>,
    pub(super) cache: cache::cache_service_client::CacheServiceClient<Channel>,
}

/// Answers any object.
pub(super) struct Loader;

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

pub(super) fn text(text: &str) -> shoal_proto::r#type::v1::Value {
    use shoal_proto::r#type::v1::{Value, value::Kind};
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

impl Clients {
    /// Returns a call that has a copy of the clients and its number.
    pub(super) fn call<C, F>(&self, call: C) -> impl Fn(usize) -> F + use<C, F>
    where
        C: Fn(Clients, usize) -> F,
    {
        let clients = self.clone();
        move |number| call(clients.clone(), number)
    }

    pub(super) async fn get_session(mut self, token: String) -> Result<(), Status> {
        self.sessions.get_session(session::GetSessionRequest { token, no_touch: false }).await.map(drop)
    }

    pub(super) async fn update_session(mut self, token: String) -> Result<(), Status> {
        let set = [("n".to_owned(), text("new value"))].into();
        let request = session::UpdateSessionRequest { token, set, ..Default::default() };
        self.sessions.update_session(request).await.map(drop)
    }

    pub(super) async fn revoke_session(mut self, token: String) -> Result<(), Status> {
        let target = Some(session::revoke_session_request::Target::Token(token));
        self.sessions.revoke_session(session::RevokeSessionRequest { target }).await.map(drop)
    }

    pub(super) async fn get(mut self, key: String) -> Result<(), Status> {
        let request = cache::GetRequest { namespace: "n".to_owned(), key, ..Default::default() };
        self.cache.get(request).await.map(drop)
    }

    pub(super) async fn create(
        mut self,
        user: String,
        attributes: &'static [&'static str],
    ) -> Result<String, Status> {
        let attributes = attributes.iter().map(|name| ((*name).to_owned(), text("some value"))).collect();
        let request = session::CreateSessionRequest { user_id: user, attributes, ..Default::default() };
        Ok(self.sessions.create_session(request).await?.into_inner().token)
    }

    pub(super) async fn enqueue(mut self, queue: String, request_id: String) -> Result<(), Status> {
        let request = jobs::EnqueueRequest {
            queue,
            kind: "k".to_owned(),
            payload: vec![7; 100].into(),
            request_id,
            ..Default::default()
        };
        self.jobs.enqueue(request).await.map(drop)
    }

    /// Leases at most `max_jobs`, completes them, and returns how many there were.
    pub(super) async fn work(mut self, queue: String, max_jobs: i32) -> Result<usize, Status> {
        let request =
            jobs::LeaseJobsRequest { queue, worker: "w".to_owned(), max_jobs, ..Default::default() };
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

    pub(super) async fn set(mut self, namespace: &str, key: String) -> Result<(), Status> {
        let request = cache::SetRequest {
            namespace: namespace.to_owned(),
            key,
            value: vec![7; 100].into(),
            ..Default::default()
        };
        self.cache.set(request).await.map(drop)
    }

    pub(super) async fn get_object(mut self, id: String) -> Result<(), Status> {
        let request = cache::GetObjectRequest { kind: "thing".to_owned(), id, ..Default::default() };
        self.cache.get_object(request).await.map(drop)
    }
}
