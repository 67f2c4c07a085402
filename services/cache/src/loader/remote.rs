//! A loader in another process: any `ObjectLoaderService`, reached through the balancing client.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_client::Channel;
use shoal_proto::cache::v1::load_result::{DoNotStore, LoadFailure, NotFound, NotModified, Outcome};
use shoal_proto::cache::v1::object_loader_service_client::ObjectLoaderServiceClient;
use shoal_proto::cache::v1::{LoadRequest, LoadResult, LoadedObject, PreviousObject};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{Lifetime, LoadError, Loaded, Loader, Loads, Previous, Wanted};
use crate::key::Tags;
use crate::limit::{TTL_MAX, VERSION_BYTES_MAX};

/// Loads the objects of one batch in one call.
pub(crate) struct RemoteLoader {
    client: ObjectLoaderServiceClient<Channel>,
    timeout: Duration,
}

impl RemoteLoader {
    /// Makes a loader behind `channel`; a call takes at most `timeout`.
    pub(crate) fn new(channel: Channel, timeout: Duration) -> Self {
        Self { client: shoal_client::object_loader(channel), timeout }
    }
}

impl Loader for RemoteLoader {
    fn load(&self, kind: &str, wanted: Vec<Wanted>) -> BoxFuture<'static, Result<Loads, LoadError>> {
        let mut client = self.client.clone();
        let after = self.timeout;
        let mut request = Request::new(request_of(kind, &wanted));
        request.set_timeout(after);
        async move {
            let response = client.load(request).await.map_err(|status| failure(&status, after))?;
            let results = response.into_inner().results;
            if results.len() != wanted.len() {
                return Err(LoadError::Protocol {
                    detail: format!(
                        "the answer must have one result for each id, in their order: {} for {}",
                        results.len(),
                        wanted.len()
                    ),
                });
            }
            Ok(wanted.iter().zip(results).map(|(wanted, result)| loaded(wanted, result)).collect())
        }
        .boxed()
    }
}

fn request_of(kind: &str, wanted: &[Wanted]) -> LoadRequest {
    let previous = wanted.iter().filter_map(|Wanted { id, previous }| {
        let Previous { version, age } = previous.as_ref()?;
        Some(PreviousObject {
            id: id.clone(),
            version: String::from_utf8_lossy(version).into_owned(),
            // At most some weeks.
            age: prost_types::Duration::try_from(*age).ok(),
        })
    });
    LoadRequest {
        kind: kind.to_owned(),
        ids: wanted.iter().map(|wanted| wanted.id.clone()).collect(),
        previous: previous.collect(),
    }
}

fn loaded(wanted: &Wanted, result: LoadResult) -> Result<Loaded, LoadError> {
    let broken = |detail: String| LoadError::Protocol { detail };
    match result.outcome {
        Some(Outcome::Object(object)) => object_of(object),
        Some(Outcome::NotFound(NotFound { tags })) => Ok(Loaded::Missing { tags: tags_of(tags)? }),
        Some(Outcome::NotModified(NotModified { ttl })) if wanted.previous.is_some() => {
            Ok(Loaded::NotModified { lifetime: lifetime_of(ttl) })
        }
        Some(Outcome::NotModified(_)) => {
            Err(broken("not_modified for an id that is not in `previous`".into()))
        }
        Some(Outcome::DoNotStore(DoNotStore { value })) => Ok(Loaded::Unstorable { value }),
        Some(Outcome::Failure(LoadFailure { code, message })) => match Code::from_i32(code) {
            Code::Ok => Err(broken("a failure with code 0".into())),
            code => Err(LoadError::Rejected { code, reason: String::new(), message }),
        },
        None => Err(broken(
            "a result has neither object, not_found, not_modified, do_not_store nor failure".into(),
        )),
    }
}

fn object_of(object: LoadedObject) -> Result<Loaded, LoadError> {
    let LoadedObject { value, tags, ttl, version } = object;
    if version.len() > VERSION_BYTES_MAX {
        let detail = format!("a version of {} bytes; at most {VERSION_BYTES_MAX}", version.len());
        return Err(LoadError::Protocol { detail });
    }
    let (tags, lifetime) = (tags_of(tags)?, lifetime_of(ttl));
    Ok(Loaded::Object { value, tags, lifetime, version: version.into() })
}

fn tags_of(tags: Vec<String>) -> Result<Tags, LoadError> {
    Tags::parse(tags).map_err(|invalid| LoadError::Protocol { detail: invalid.to_string() })
}

fn lifetime_of(ttl: Option<prost_types::Duration>) -> Lifetime {
    match ttl {
        None => Lifetime::OfKind,
        // A negative one has no Duration: what has ended is not cached.
        Some(ttl) => Lifetime::Own(Duration::try_from(ttl).unwrap_or_default().min(TTL_MAX)),
    }
}

/// Translates a status of the other side for those who wait for the object.
pub(super) fn failure(status: &Status, after: Duration) -> LoadError {
    match status.code() {
        Code::Unavailable => LoadError::Unreachable { detail: status.message().to_owned() },
        Code::DeadlineExceeded | Code::Cancelled => LoadError::TimedOut { after },
        code => LoadError::Rejected { code, reason: reason_of(status), message: status.message().to_owned() },
    }
}

/// Returns the reason in the status' `ErrorInfo`, if it has one.
pub(super) fn reason_of(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
