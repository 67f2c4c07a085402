//! The gRPC service: decode, call, encode.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shoal_kit::ApiError;
use shoal_kit::Invalid;
use shoal_kit::reason;
use shoal_proto::cache::v1 as pb;
use shoal_proto::cache::v1::cache_service_server::CacheService;
use tonic::{Request, Response, Status};

use crate::cache::{Cache, Set, Value};
use crate::error::Error;
use crate::key::{Key, NamespaceName, Tags};
use crate::limit::BATCH_BYTES_MAX;
use crate::object::{Object, Objects};
use crate::store::MissReason;

/// The gRPC service of one clone.
pub(crate) struct Service {
    pub(crate) cache: Cache,
    pub(crate) objects: Arc<Objects>,
}

#[tonic::async_trait]
impl CacheService for Service {
    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let pb::GetRequest { namespace, key } = request.into_inner();
        let key = key_of(&namespace, &key).map_err(refusal)?;
        let outcome = match self.cache.get(&key).await.map_err(refusal)? {
            Some(value) => pb::get_response::Outcome::Entry(entry(value)),
            None => pb::get_response::Outcome::Miss(pb::Miss {}),
        };
        Ok(shoal_kit::answer(pb::GetResponse { outcome: Some(outcome) }))
    }

    async fn set(&self, request: Request<pb::SetRequest>) -> Result<Response<pb::SetResponse>, Status> {
        let set = set_of(request.into_inner()).map_err(refusal)?;
        let stored = self.cache.set(set).await.map_err(refusal)?;
        let refusal = if stored { pb::RefusalReason::Unspecified } else { pb::RefusalReason::Exists };
        Ok(Response::new(pb::SetResponse { stored, refusal: refusal.into() }))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let pb::DeleteRequest { namespace, key } = request.into_inner();
        let key = key_of(&namespace, &key).map_err(refusal)?;
        self.cache.delete(&key).await.map_err(refusal)?;
        Ok(Response::new(pb::DeleteResponse {}))
    }

    async fn get_object(
        &self,
        request: Request<pb::GetObjectRequest>,
    ) -> Result<Response<pb::GetObjectResponse>, Status> {
        let pb::GetObjectRequest { kind, id, max_stale, explain } = request.into_inner();
        let max_stale = max_stale_of(max_stale).map_err(refusal)?;
        let object = self.objects.get(&kind, &id, max_stale).await.map_err(refusal)?;
        Ok(shoal_kit::answer(found_object(object, explain)))
    }

    async fn batch_get_objects(
        &self,
        request: Request<pb::BatchGetObjectsRequest>,
    ) -> Result<Response<pb::BatchGetObjectsResponse>, Status> {
        let pb::BatchGetObjectsRequest { kind, ids, max_stale, explain } = request.into_inner();
        let max_stale = max_stale_of(max_stale).map_err(refusal)?;
        let objects = self.objects.get_many(&kind, &ids, max_stale).await.map_err(refusal)?;
        Ok(shoal_kit::answer(pb::BatchGetObjectsResponse { results: results_of(objects, explain) }))
    }
}

fn max_stale_of(max_stale: Option<prost_types::Duration>) -> Result<Option<Duration>, Invalid> {
    let problem = || Invalid::new(reason::INVALID_TTL, "max_stale", "must not be negative; zero: never");
    max_stale.map(|max| Duration::try_from(max).map_err(|_| problem())).transpose()
}

/// Returns a reason as the contract has it, and the tag of an invalidation.
fn miss_reason(why: MissReason) -> (pb::MissReason, String) {
    let reason = match why {
        MissReason::Absent => pb::MissReason::Absent,
        MissReason::Expired => pb::MissReason::Expired,
        MissReason::Invalidated { tag } => return (pb::MissReason::Invalidated, tag.unwrap_or_default()),
        MissReason::Epoch => pb::MissReason::Epoch,
        MissReason::TooOldForCaller => pb::MissReason::TooOldForCaller,
        MissReason::StoreAway => pb::MissReason::StoreAway,
    };
    (reason, String::new())
}

fn found_object(object: Object, explain: bool) -> pb::GetObjectResponse {
    let (miss_reason, miss_tag) = object.why.filter(|_| explain).map(miss_reason).unwrap_or_default();
    pb::GetObjectResponse {
        stale: object.stale,
        miss_reason: miss_reason.into(),
        miss_tag,
        value: object.value,
        age: Some(duration(object.age)),
        from_cache: object.from_cache,
        version: String::from_utf8_lossy(&object.version).into_owned(),
    }
}

/// Encodes as many results as the answer may hold, at least one.
fn results_of(objects: Vec<Result<Object, Error>>, explain: bool) -> Vec<pb::BatchGetObjectsResult> {
    let mut bytes = 0;
    let fits = |object: &Result<Object, Error>| {
        let size = object.as_ref().map_or(0, |object| object.value.len());
        let first = bytes == 0;
        bytes += size;
        first || bytes <= BATCH_BYTES_MAX
    };
    let outcome = |object| match object {
        Ok(object) => pb::batch_get_objects_result::Outcome::Object(found_object(object, explain)),
        Err(error) => pb::batch_get_objects_result::Outcome::Error(object_error(error)),
    };
    let result = |object| pb::BatchGetObjectsResult { outcome: Some(outcome(object)) };
    objects.into_iter().take_while(fits).map(result).collect()
}

fn object_error(error: Error) -> pb::ObjectError {
    let error = ApiError::from(error);
    pb::ObjectError {
        code: error.code().into(),
        reason: error.reason().as_str().to_owned(),
        message: error.message().to_owned(),
        metadata: error.metadata().clone(),
    }
}

fn refusal(error: impl Into<Error>) -> Status {
    ApiError::from(error.into()).into()
}

fn key_of(namespace: &str, key: &str) -> Result<Key, Invalid> {
    Key::parse(NamespaceName::parse(namespace)?, key)
}

fn set_of(request: pb::SetRequest) -> Result<Set, Invalid> {
    let pb::SetRequest { namespace, key, value, ttl, tags, only_if_absent } = request;
    let ttl = match ttl.map(Duration::try_from) {
        None => None,
        Some(Ok(ttl)) => Some(ttl),
        Some(Err(_)) => {
            return Err(Invalid::new(reason::INVALID_TTL, "ttl", "must be 1 ms to 30 days, not negative"));
        }
    };
    Ok(Set { key: key_of(&namespace, &key)?, value, ttl, tags: Tags::parse(tags)?, only_if_absent })
}

fn entry(value: Value) -> pb::Entry {
    pb::Entry {
        value: value.value,
        tags: value.tags.as_slice().to_vec(),
        age: Some(duration(value.age)),
        expire_time: Some(timestamp(value.expires_at)),
    }
}

/// Encodes whole microseconds: more is not known.
fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        // Ages of at most 30 days.
        seconds: duration.as_secs() as i64,
        nanos: (duration.subsec_micros() * 1000) as i32,
    }
}

fn timestamp(at: SystemTime) -> prost_types::Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let prost_types::Duration { seconds, nanos } = duration(since);
    prost_types::Timestamp { seconds, nanos }
}
