//! The gRPC service: decode, call, encode.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use shoal_kit::ApiError;
use shoal_kit::Invalid;
use shoal_kit::reason;
use shoal_proto::cache::v1 as pb;
use shoal_proto::cache::v1::cache_service_server::CacheService;
use tonic::{Request, Response, Status};

use crate::cache::{Cache, Condition, Covered, Lookup, Outcome, Set, SetOutcome, ttl_of};
use crate::error::Error;
use crate::key::{Key, NamespaceName, Tags};
use crate::limit::{BATCH_BYTES_MAX, KEYS_MAX, WAIT_MAX};
use crate::namespace::{Event, Namespace};
use crate::object::{Object, Objects};
use crate::store::{MissReason, Token};

/// The gRPC service of one clone.
pub(crate) struct Service {
    pub(crate) cache: Cache,
    pub(crate) objects: Arc<Objects>,
}

#[tonic::async_trait]
impl CacheService for Service {
    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let pb::GetRequest { namespace, key, want_lease, max_stale, wait } = request.into_inner();
        let key = key_of(&namespace, &key).map_err(refusal)?;
        let lookup = lookup_of(want_lease, max_stale, wait).map_err(refusal)?;
        let outcome = self.cache.get(&key, lookup).await.map_err(refusal)?;
        Ok(shoal_kit::answer(outcome_of(outcome)))
    }

    async fn batch_get(
        &self,
        request: Request<pb::BatchGetRequest>,
    ) -> Result<Response<pb::BatchGetResponse>, Status> {
        let pb::BatchGetRequest { namespace, keys, max_stale } = request.into_inner();
        let (keys, max_stale) = parsed(|| {
            let namespace = NamespaceName::parse(&namespace)?;
            check_count("keys", keys.len(), 1)?;
            Ok((keys_of(&namespace, &keys)?, duration_of("max_stale", max_stale)?))
        })?;
        let outcomes = self.cache.get_many(&keys, max_stale).await.map_err(refusal)?;
        let mut bytes = 0;
        let fits = |outcome: &Outcome| {
            let first = bytes == 0;
            bytes += if let Outcome::Value(value, _) = outcome { value.value.len() } else { 0 };
            first || bytes <= BATCH_BYTES_MAX
        };
        let results = outcomes.into_iter().take_while(fits).map(outcome_of).collect();
        Ok(shoal_kit::answer(pb::BatchGetResponse { results }))
    }

    async fn set(&self, request: Request<pb::SetRequest>) -> Result<Response<pb::SetResponse>, Status> {
        let set = set_of(request.into_inner()).map_err(refusal)?;
        Ok(Response::new(set_response(self.cache.set(set).await.map_err(refusal)?)))
    }

    async fn batch_set(
        &self,
        request: Request<pb::BatchSetRequest>,
    ) -> Result<Response<pb::BatchSetResponse>, Status> {
        let pb::BatchSetRequest { namespace, entries } = request.into_inner();
        let sets = parsed(|| {
            check_count("entries", entries.len(), 1)?;
            let set = |(at, entry): (usize, pb::BatchSetEntry)| {
                let pb::BatchSetEntry { key, value, ttl, tags, only_if_absent } = entry;
                let namespace = namespace.clone();
                let set =
                    pb::SetRequest { namespace, key, value, ttl, tags, only_if_absent, lease: Bytes::new() };
                set_of(set).map_err(|invalid| invalid.within(&format!("entries[{at}]")))
            };
            entries.into_iter().enumerate().map(set).collect::<Result<Vec<_>, _>>()
        })?;
        let outcomes = self.cache.set_many(sets).await.map_err(refusal)?;
        let results = outcomes.into_iter().map(set_response).collect();
        Ok(Response::new(pb::BatchSetResponse { results }))
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

    async fn touch(&self, request: Request<pb::TouchRequest>) -> Result<Response<pb::TouchResponse>, Status> {
        let pb::TouchRequest { namespace, key, ttl } = request.into_inner();
        let (key, ttl) = parsed(|| Ok((key_of(&namespace, &key)?, optional_ttl(ttl)?)))?;
        let touched = self.cache.touch(&key, ttl).await.map_err(refusal)?;
        Ok(Response::new(pb::TouchResponse { touched }))
    }

    async fn increment(
        &self,
        request: Request<pb::IncrementRequest>,
    ) -> Result<Response<pb::IncrementResponse>, Status> {
        let pb::IncrementRequest { namespace, key, delta, initial, ttl } = request.into_inner();
        let (key, ttl) = parsed(|| Ok((key_of(&namespace, &key)?, optional_ttl(ttl)?)))?;
        let value = self.cache.increment(&key, delta, initial, ttl).await.map_err(refusal)?;
        Ok(Response::new(pb::IncrementResponse { value }))
    }

    async fn invalidate(
        &self,
        request: Request<pb::InvalidateRequest>,
    ) -> Result<Response<pb::InvalidateResponse>, Status> {
        let pb::InvalidateRequest { namespace, keys, tags } = request.into_inner();
        let covered = covered(&namespace, &keys, tags).map_err(refusal)?;
        self.cache.invalidate(&covered).await.map_err(refusal)?;
        Ok(Response::new(pb::InvalidateResponse {}))
    }

    async fn expire(
        &self,
        request: Request<pb::ExpireRequest>,
    ) -> Result<Response<pb::ExpireResponse>, Status> {
        let pb::ExpireRequest { namespace, keys, tags } = request.into_inner();
        let covered = covered(&namespace, &keys, tags).map_err(refusal)?;
        self.cache.expire(&covered).await.map_err(refusal)?;
        Ok(Response::new(pb::ExpireResponse {}))
    }

    async fn clear_namespace(
        &self,
        request: Request<pb::ClearNamespaceRequest>,
    ) -> Result<Response<pb::ClearNamespaceResponse>, Status> {
        let namespace = NamespaceName::parse(&request.into_inner().namespace).map_err(refusal)?;
        self.cache.clear(&namespace).await.map_err(refusal)?;
        Ok(Response::new(pb::ClearNamespaceResponse {}))
    }

    async fn get_stats(
        &self,
        request: Request<pb::GetStatsRequest>,
    ) -> Result<Response<pb::GetStatsResponse>, Status> {
        let wanted = request.into_inner().namespace;
        if !wanted.is_empty() {
            NamespaceName::parse(&wanted).map_err(refusal)?;
        }
        let all = self.cache.namespaces().all();
        let wanted = |name: &String| wanted.is_empty() || *name == wanted;
        let namespaces =
            all.iter().filter(|(name, _)| wanted(name)).map(|(name, known)| stats(name, known)).collect();
        Ok(shoal_kit::answer(pb::GetStatsResponse { namespaces }))
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

/// Parses several fields of a request.
fn parsed<T>(parse: impl FnOnce() -> Result<T, Invalid>) -> Result<T, Status> {
    parse().map_err(refusal)
}

fn keys_of(namespace: &NamespaceName, keys: &[String]) -> Result<Vec<Key>, Invalid> {
    let key = |(at, key): (usize, &String)| {
        Key::parse(namespace.clone(), key).map_err(|invalid| invalid.at(format!("keys[{at}]")))
    };
    keys.iter().enumerate().map(key).collect()
}

fn check_count(field: &'static str, count: usize, least: usize) -> Result<(), Invalid> {
    if (least..=KEYS_MAX).contains(&count) {
        return Ok(());
    }
    let problem = format!("must have {least} to {KEYS_MAX} entries, has {count}");
    Err(Invalid::new(reason::INVALID_KEYS, field, problem))
}

fn covered(namespace: &str, keys: &[String], tags: Vec<String>) -> Result<Covered, Invalid> {
    let namespace = NamespaceName::parse(namespace)?;
    check_count("keys", keys.len(), usize::from(tags.is_empty()))?;
    Tags::parse_many(&tags)?;
    Ok(Covered { keys: keys_of(&namespace, keys)?, namespace, tags })
}

fn lookup_of(
    want_lease: bool,
    max_stale: Option<prost_types::Duration>,
    wait: Option<prost_types::Duration>,
) -> Result<Lookup, Invalid> {
    let lookup = Lookup {
        want_lease,
        max_stale: duration_of("max_stale", max_stale)?,
        wait: duration_of("wait", wait)?,
    };
    if lookup.wait > WAIT_MAX {
        let problem = format!("must be at most {WAIT_MAX:?}, not {:?}", lookup.wait);
        return Err(Invalid::new(reason::INVALID_WAIT, "wait", problem));
    }
    if !lookup.wait.is_zero() && !want_lease {
        let problem = "is the time to wait for another's lease: set want_lease too";
        return Err(Invalid::new(reason::INVALID_WAIT, "wait", problem));
    }
    Ok(lookup)
}

fn duration_of(field: &'static str, given: Option<prost_types::Duration>) -> Result<Duration, Invalid> {
    let negative = |_| Invalid::new(reason::INVALID_DURATION, field, "must not be negative");
    given.map_or(Ok(Duration::ZERO), |given| Duration::try_from(given).map_err(negative))
}

fn optional_ttl(ttl: Option<prost_types::Duration>) -> Result<Option<Duration>, Invalid> {
    match ttl.map(Duration::try_from) {
        None => Ok(None),
        Some(Ok(ttl)) => ttl_of(ttl).map(Some),
        Some(Err(_)) => {
            Err(Invalid::new(reason::INVALID_TTL, "ttl", "must be 1 ms to 30 days, not negative"))
        }
    }
}

fn set_of(request: pb::SetRequest) -> Result<Set, Invalid> {
    let pb::SetRequest { namespace, key, value, ttl, tags, only_if_absent, lease } = request;
    let condition = match (lease.is_empty(), only_if_absent) {
        (true, false) => Condition::None,
        (true, true) => Condition::Absent,
        (false, true) => {
            let problem = "cannot be given with only_if_absent: a lease is refused where the key was changed";
            return Err(Invalid::new(reason::INVALID_LEASE, "lease", problem));
        }
        (false, false) => Condition::Lease(lease_of(&lease)?),
    };
    let (key, ttl) = (key_of(&namespace, &key)?, optional_ttl(ttl)?);
    Ok(Set { key, value, ttl, tags: Tags::parse(tags)?, condition })
}

fn lease_of(lease: &[u8]) -> Result<Token, Invalid> {
    let token = lease.try_into().map(Token::from_bytes);
    token.map_err(|_| Invalid::new(reason::INVALID_LEASE, "lease", "is not one that Get gave"))
}

fn set_response(outcome: SetOutcome) -> pb::SetResponse {
    let refusal = match outcome {
        SetOutcome::Stored => pb::RefusalReason::Unspecified,
        SetOutcome::Exists => pb::RefusalReason::Exists,
        SetOutcome::LeaseEnded => pb::RefusalReason::LeaseEnded,
        SetOutcome::Invalidated => pb::RefusalReason::Invalidated,
    };
    pb::SetResponse { stored: outcome == SetOutcome::Stored, refusal: refusal.into() }
}

fn outcome_of(outcome: Outcome) -> pb::GetResponse {
    let lease =
        |lease: Option<Token>| lease.map(|token| token.to_bytes().to_vec().into()).unwrap_or_default();
    let outcome = match outcome {
        Outcome::Value(value, token) => pb::get_response::Outcome::Entry(pb::Entry {
            value: value.value,
            tags: value.tags.as_slice().to_vec(),
            age: Some(duration(value.age)),
            expire_time: Some(timestamp(value.expires_at)),
            stale: value.stale,
            lease: lease(token),
        }),
        Outcome::Miss(missed) => {
            let (reason, tag) = miss_reason(missed.why);
            pb::get_response::Outcome::Miss(pb::Miss {
                reason: reason.into(),
                tag,
                lease: lease(missed.lease),
                retry_after: missed.retry_after.map(duration),
            })
        }
    };
    pb::GetResponse { outcome: Some(outcome) }
}

fn stats(name: &str, namespace: &Namespace) -> pb::NamespaceStats {
    let counters = &namespace.counters;
    let reasons = [
        MissReason::Absent,
        MissReason::Expired,
        MissReason::Invalidated { tag: None },
        MissReason::Epoch,
        MissReason::TooOldForCaller,
        MissReason::StoreAway,
    ];
    let counts = reasons.map(|why| (counters.misses(&why), miss_reason(why).0));
    let miss = |(count, reason): (u64, pb::MissReason)| pb::MissCount { reason: reason.into(), count };
    let hot = |(key, reads): (Key, u64)| pb::HotKey { key: key.name().to_owned(), reads };
    pb::NamespaceStats {
        namespace: name.to_owned(),
        hits: counters.get(Event::Hit),
        misses: counts.iter().map(|(count, _)| count).sum(),
        stale: counters.get(Event::Stale),
        loads: counters.get(Event::Load),
        coalesced_waiters: counters.get(Event::Coalesced),
        refused_fills: counters.get(Event::RefusedFill),
        bytes: counters.stored_bytes(),
        miss_reasons: counts.into_iter().filter(|(count, _)| *count > 0).map(miss).collect(),
        hot_keys: namespace.hot_keys.top().into_iter().map(hot).collect(),
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
