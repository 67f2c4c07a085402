//! The gRPC face: decodes a request, calls [`Data`], encodes the answer. No other file knows the bindings. Its calls stand in
//! groups in this folder.

use shoal_proto::data::v1 as pb;
use shoal_proto::data::v1::data_service_server::DataService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::data::Data;
use crate::store::Store;

mod bulk;
mod codec;
mod conditional;
mod feed;
mod read;
mod tables;
mod write;

/// Answers the calls of `shoal.data.v1.DataService`.
#[derive(Debug, Clone)]
pub(crate) struct Service<S> {
    data: Data<S>,
    draining: CancellationToken,
}

impl<S: Store> Service<S> {
    /// Answers with the data of a store, and ends its streams when the clone drains.
    pub(crate) fn new(data: Data<S>, draining: CancellationToken) -> Self {
        Self { data, draining }
    }
}

#[tonic::async_trait]
impl<S: Store> DataService for Service<S> {
    async fn create_table(
        &self,
        request: Request<pb::CreateTableRequest>,
    ) -> Result<Response<pb::CreateTableResponse>, Status> {
        tables::create_table(&self.data, request.into_inner()).await
    }

    async fn get_table(
        &self,
        request: Request<pb::GetTableRequest>,
    ) -> Result<Response<pb::GetTableResponse>, Status> {
        tables::get_table(&self.data, request.into_inner()).await
    }

    async fn update_table(
        &self,
        request: Request<pb::UpdateTableRequest>,
    ) -> Result<Response<pb::UpdateTableResponse>, Status> {
        tables::update_table(&self.data, request.into_inner()).await
    }

    async fn drop_table(
        &self,
        request: Request<pb::DropTableRequest>,
    ) -> Result<Response<pb::DropTableResponse>, Status> {
        tables::drop_table(&self.data, request.into_inner()).await
    }

    async fn list_tables(
        &self,
        request: Request<pb::ListTablesRequest>,
    ) -> Result<Response<pb::ListTablesResponse>, Status> {
        tables::list_tables(&self.data, request.into_inner()).await
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        read::get(&self.data, request.into_inner()).await
    }

    async fn batch_get(
        &self,
        request: Request<pb::BatchGetRequest>,
    ) -> Result<Response<pb::BatchGetResponse>, Status> {
        read::batch_get(&self.data, request.into_inner()).await
    }

    async fn query(&self, request: Request<pb::QueryRequest>) -> Result<Response<pb::QueryResponse>, Status> {
        read::query(&self.data, request).await
    }

    async fn count(&self, request: Request<pb::CountRequest>) -> Result<Response<pb::CountResponse>, Status> {
        read::count(&self.data, request).await
    }

    async fn list_partitions(
        &self,
        request: Request<pb::ListPartitionsRequest>,
    ) -> Result<Response<pb::ListPartitionsResponse>, Status> {
        read::list_partitions(&self.data, request).await
    }

    type ScanStream = read::ScanStream;

    async fn scan(&self, request: Request<pb::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        read::scan(&self.data, request, self.draining.clone()).await
    }

    async fn mutate(
        &self,
        request: Request<pb::MutateRequest>,
    ) -> Result<Response<pb::MutateResponse>, Status> {
        write::mutate(&self.data, request.into_inner()).await
    }

    type BulkMutateStream = bulk::Results;

    async fn bulk_mutate(
        &self,
        request: Request<Streaming<pb::BulkMutateRequest>>,
    ) -> Result<Response<Self::BulkMutateStream>, Status> {
        Ok(bulk::bulk_mutate(&self.data, request.into_inner()))
    }

    async fn check_and_mutate(
        &self,
        request: Request<pb::CheckAndMutateRequest>,
    ) -> Result<Response<pb::CheckAndMutateResponse>, Status> {
        conditional::check_and_mutate(&self.data, request.into_inner()).await
    }

    async fn increment(
        &self,
        request: Request<pb::IncrementRequest>,
    ) -> Result<Response<pb::IncrementResponse>, Status> {
        conditional::increment(&self.data, request.into_inner()).await
    }

    type WatchTableStream = feed::WatchStream;

    async fn watch_table(
        &self,
        request: Request<pb::WatchTableRequest>,
    ) -> Result<Response<Self::WatchTableStream>, Status> {
        feed::watch_table(&self.data, request.into_inner()).await
    }
}
