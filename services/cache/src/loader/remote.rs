//! A loader in another process: any `ObjectLoaderService`, reached through the balancing client.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_client::Channel;
use shoal_proto::cache::v1::object_loader_service_client::ObjectLoaderServiceClient;
use shoal_proto::cache::v1::{LoadRequest, LoadedObject, load_result};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{Lifetime, LoadError, Loaded, Loader};
use crate::key::Tags;
use crate::limit::TTL_MAX;

/// Loads one object a call.
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
    fn load(&self, kind: &str, id: &str) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let mut client = self.client.clone();
        let after = self.timeout;
        let mut request = Request::new(LoadRequest { kind: kind.to_owned(), ids: vec![id.to_owned()] });
        request.set_timeout(after);
        async move {
            let response = client.load(request).await.map_err(|status| failure(&status, after))?;
            let mut results = response.into_inner().results;
            let (Some(result), true) = (results.pop(), results.is_empty()) else {
                return Err(LoadError::Protocol {
                    detail: "the answer must have one result for each id".to_owned(),
                });
            };
            match result.outcome {
                Some(load_result::Outcome::Object(object)) => loaded(object),
                Some(load_result::Outcome::NotFound(_)) => Ok(Loaded::Missing),
                None => Err(LoadError::Protocol {
                    detail: "a result has neither object nor not_found".to_owned(),
                }),
            }
        }
        .boxed()
    }
}

fn loaded(object: LoadedObject) -> Result<Loaded, LoadError> {
    let LoadedObject { value, tags, ttl } = object;
    let tags = Tags::parse(tags).map_err(|invalid| LoadError::Protocol { detail: invalid.to_string() })?;
    let lifetime = match ttl {
        None => Lifetime::OfKind,
        // A negative one has no Duration: what has ended is not cached.
        Some(ttl) => Lifetime::Own(Duration::try_from(ttl).unwrap_or_default().min(TTL_MAX)),
    };
    Ok(Loaded::Object { value, tags, lifetime })
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
