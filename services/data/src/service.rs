//! The gRPC face: decodes a request, calls [`Data`], encodes the answer. Its calls stand in groups in this folder, and no file
//! outside of it knows the bindings.

use shoal_proto::data::v1 as pb;
use shoal_proto::data::v1::data_service_server::DataService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::data::Data;
use crate::store::Store;

mod blob;
mod bulk;
mod codec;
mod conditional;
mod feed;
mod read;
mod stalled;
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

    async fn put_blob(
        &self,
        request: Request<Streaming<pb::PutBlobRequest>>,
    ) -> Result<Response<pb::PutBlobResponse>, Status> {
        blob::put_blob(&self.data, request.into_inner()).await
    }

    type GetBlobStream = blob::BlobStream;

    async fn get_blob(
        &self,
        request: Request<pb::GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        blob::get_blob(&self.data, request.into_inner()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::{StreamExt as _, stream};
    use shoal_proto::r#type::v1::{Value, value};

    use super::*;
    use crate::store::model::Model;
    use crate::tags::Tags;
    use crate::tags::tests::Told;

    fn key(text: &str) -> Option<Value> {
        Some(Value { kind: Some(value::Kind::StringValue(text.to_owned())) })
    }

    fn put(text: &str) -> Vec<pb::Mutation> {
        let put = pb::mutation::Put { sort_key: key(text), ..Default::default() };
        vec![pb::Mutation { kind: Some(pb::mutation::Kind::Put(put)) }]
    }

    #[tokio::test]
    async fn each_write_call_reports_once() {
        let told = Arc::new(Told::default());
        let data = Data::new(Model::default()).reporting(Tags::to(told.clone()));
        for (name, write_mode) in [("w", pb::WriteMode::LastWriteWins), ("c", pb::WriteMode::Conditional)] {
            let table =
                pb::Table { name: name.to_owned(), write_mode: write_mode.into(), ..Default::default() };
            tables::create_table(&data, pb::CreateTableRequest { table: Some(table) }).await.unwrap();
        }
        let mutate = |row: &str| pb::MutateRequest {
            table: "w".to_owned(),
            partition_key: "p".to_owned(),
            mutations: put(row),
            ..Default::default()
        };
        write::mutate(&data, mutate("a")).await.unwrap();
        assert_eq!(told.take(), ["w/p/a", "Done"], "Mutate");

        let requests = ["b", "c"].map(|row| Ok(pb::BulkMutateRequest { mutate: Some(mutate(row)) }));
        let results = bulk::bulk_mutate(&data, stream::iter(requests)).into_inner();
        assert!(results.all(async |result| result.is_ok()).await);
        let mut bulk = told.take();
        bulk.sort();
        assert_eq!(bulk, ["Done", "Done", "w/p/b", "w/p/c"], "BulkMutate");

        let check = pb::CheckAndMutateRequest {
            table: "c".to_owned(),
            partition_key: "p".to_owned(),
            mutations: put("abc"),
            ..Default::default()
        };
        conditional::check_and_mutate(&data, check).await.unwrap();
        assert_eq!(told.take(), ["c/p/ab", "Done"], "CheckAndMutate");

        let add = pb::IncrementRequest {
            table: "c".to_owned(),
            partition_key: "p".to_owned(),
            sort_key: key("b"),
            attribute: "n".to_owned(),
            delta: Some(Value { kind: Some(value::Kind::IntValue(1)) }),
            ..Default::default()
        };
        conditional::increment(&data, add).await.unwrap();
        assert_eq!(told.take(), ["c/p/b", "Done"], "Increment");

        let drop = |name: &str| pb::DropTableRequest { name: name.to_owned(), ..Default::default() };
        tables::drop_table(&data, drop("w")).await.unwrap();
        assert_eq!(told.take(), ["w/*/a,ab,b,c", "Done"], "DropTable");
        assert!(tables::drop_table(&data, drop("w")).await.is_err());
        assert!(told.take().is_empty(), "a table that is not there");
        let other = Some(prost_types::Timestamp { seconds: 5, nanos: 0 });
        let refused = pb::DropTableRequest { create_time: other, ..drop("c") };
        assert!(tables::drop_table(&data, refused).await.is_err());
        assert_eq!(told.take(), ["c/*/a,ab,b,c", "Refused"]);
    }
}
