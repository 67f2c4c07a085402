//! The gRPC service: decode, call, encode. The only file that names tonic and the bindings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use prost_types::Timestamp;
use shoal_kit::reason;
use shoal_kit::service::Background;
use shoal_proto::convert;
use shoal_proto::session::v1::revoke_session_request::Target as PbTarget;
use shoal_proto::session::v1::session_service_server::SessionService;
use shoal_proto::session::v1::{self as pb, SessionEventType};
use shoal_proto::r#type::v1 as pb_type;
use shoal_proto::r#type::v1::value::Kind as PbKind;
use tonic::{Request, Response, Status};

use crate::clock::Time;
use crate::error::Error;
use crate::event::{Cursor, Kind, Notice, Place};
use crate::session::Session;
use crate::session::attribute::{Attributes, Change, Value};
use crate::sessions::{Create, Issued, Sessions, Target};
use crate::store::Store;
use crate::watch::watchers::{Watcher, Watchers};
use crate::watch::{Watch, WatchMessage};

/// The gRPC service of one clone.
pub(crate) struct Service<S> {
    sessions: Sessions<S>,
    watchers: Arc<Watchers>,
    background: Background,
}

impl<S: Store> Service<S> {
    pub(crate) fn new(sessions: Sessions<S>, background: Background) -> Self {
        let watchers = Watchers::new(sessions.config.watchers_max);
        Self { sessions, watchers, background }
    }
}

#[tonic::async_trait]
impl<S: Store> SessionService for Service<S> {
    async fn create_session(
        &self,
        request: Request<pb::CreateSessionRequest>,
    ) -> Result<Response<pb::CreateSessionResponse>, Status> {
        let request = request.into_inner();
        let create = Create {
            user: request.user_id,
            attributes: attributes("attributes", request.attributes)?,
            metadata: request.metadata,
            idle_ttl: duration("idle_ttl", request.idle_ttl)?,
            absolute_ttl: duration("absolute_ttl", request.absolute_ttl)?,
            request_id: request.request_id,
        };
        let Issued { token, session } = self.sessions.create(create).await?;
        Ok(shoal_kit::answer(pb::CreateSessionResponse { token, session: Some(session.into()) }))
    }

    async fn get_session(
        &self,
        request: Request<pb::GetSessionRequest>,
    ) -> Result<Response<pb::GetSessionResponse>, Status> {
        let request = request.into_inner();
        let session = self.sessions.get(&request.token, !request.no_touch).await?;
        Ok(shoal_kit::answer(pb::GetSessionResponse { session: Some(session.into()) }))
    }

    async fn update_session(
        &self,
        request: Request<pb::UpdateSessionRequest>,
    ) -> Result<Response<pb::UpdateSessionResponse>, Status> {
        let request = request.into_inner();
        let change = Change { set: attributes("set", request.set)?, remove: request.remove };
        let session = self.sessions.update(&request.token, change, request.expected_version).await?;
        Ok(shoal_kit::answer(pb::UpdateSessionResponse { session: Some(session.into()) }))
    }

    async fn rotate_session(
        &self,
        request: Request<pb::RotateSessionRequest>,
    ) -> Result<Response<pb::RotateSessionResponse>, Status> {
        let request = request.into_inner();
        let change = Change { set: attributes("set", request.set)?, remove: request.remove };
        let Issued { token, session } = self.sessions.rotate(&request.token, change).await?;
        Ok(shoal_kit::answer(pb::RotateSessionResponse { token, session: Some(session.into()) }))
    }

    async fn revoke_session(
        &self,
        request: Request<pb::RevokeSessionRequest>,
    ) -> Result<Response<pb::RevokeSessionResponse>, Status> {
        let target = match request.into_inner().target {
            Some(PbTarget::Token(token)) => Target::Token(token),
            Some(PbTarget::SessionId(id)) => Target::Id(id),
            None => {
                return Err(
                    Error::invalid(reason::MISSING_TARGET, "target", "give a token or a session_id").into()
                );
            }
        };
        self.sessions.revoke(target).await?;
        Ok(Response::new(pb::RevokeSessionResponse {}))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let (sessions, next_page_token) =
            self.sessions.list(request.user_id, request.page_size, &request.page_token).await?;
        let sessions = sessions.into_iter().map(pb::Session::from).collect();
        Ok(shoal_kit::answer(pb::ListSessionsResponse { sessions, next_page_token }))
    }

    async fn revoke_user_sessions(
        &self,
        request: Request<pb::RevokeUserSessionsRequest>,
    ) -> Result<Response<pb::RevokeUserSessionsResponse>, Status> {
        let request = request.into_inner();
        let revoked = self.sessions.revoke_user(request.user_id, &request.except_session_id).await?;
        let revoked_count = i64::try_from(revoked).unwrap_or(i64::MAX);
        Ok(Response::new(pb::RevokeUserSessionsResponse { revoked_count }))
    }

    type WatchSessionsStream = BoxStream<'static, Result<pb::WatchSessionsResponse, Status>>;

    async fn watch_sessions(
        &self,
        request: Request<pb::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let request = request.into_inner();
        let place = self.watchers.enter((!request.user_id.is_empty()).then(|| request.user_id.clone()))?;
        let resume = match request.resume_token.as_str() {
            "" => None,
            token => Some(Cursor::decode(token).ok_or_else(|| {
                Error::invalid(
                    reason::INVALID_RESUME_TOKEN,
                    "resume_token",
                    "is not one that WatchSessions gave",
                )
            })?),
        };
        let watch = self.sessions.watch(request.user_id, resume).await?;
        Ok(Response::new(stream_of(watch, place, &self.background)))
    }
}

/// Streams messages until the store fails, the clone drains, or the caller is gone.
fn stream_of<S: Store>(
    watch: Watch<S>,
    place: Watcher,
    background: &Background,
) -> BoxStream<'static, Result<pb::WatchSessionsResponse, Status>> {
    let draining = background.draining.clone();
    stream::unfold(Some((watch, place)), move |state| {
        let draining = draining.clone();
        async move {
            let (mut watch, place) = state?;
            tokio::select! {
                // First, or a watcher who never catches up would hold up the drain.
                biased;
                () = draining.cancelled() => Some((Err(Error::Draining.into()), None)),
                told = watch.next() => match told {
                    Ok(told) => Some((Ok(told.into()), Some((watch, place)))),
                    Err(error) => Some((Err(error.into()), None)),
                },
            }
        }
        .boxed()
    })
    .boxed()
}

impl From<WatchMessage> for pb::WatchSessionsResponse {
    fn from(WatchMessage { notice, resume_token }: WatchMessage) -> Self {
        match notice {
            Notice::Event(event) => Self {
                r#type: SessionEventType::from(event.kind).into(),
                session_id: event.session.to_string(),
                user_id: event.user,
                event_time: Some(event_time(event.place)),
                resume_token,
            },
            Notice::Gap { place, .. } => Self {
                r#type: SessionEventType::Gap.into(),
                session_id: String::new(),
                user_id: String::new(),
                event_time: Some(event_time(place)),
                resume_token,
            },
        }
    }
}

impl From<Kind> for SessionEventType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Created => Self::Created,
            Kind::Rotated => Self::Rotated,
            Kind::Revoked => Self::Revoked,
            Kind::Expired => Self::Expired,
            Kind::ReuseDetected => Self::ReuseDetected,
        }
    }
}

impl From<Session> for pb::Session {
    fn from(session: Session) -> Self {
        Self {
            id: session.id.hex(),
            version: session.version,
            create_time: Some(timestamp(session.created)),
            access_time: Some(timestamp(session.accessed())),
            idle_expire_time: Some(timestamp(session.expire)),
            absolute_expire_time: Some(timestamp(session.absolute_expire)),
            user_id: session.user,
            attributes: session.attributes.into_iter().map(|(name, value)| (name, value.into())).collect(),
            metadata: session.metadata,
        }
    }
}

impl From<Value> for pb_type::Value {
    fn from(value: Value) -> Self {
        let kind = match value {
            Value::Text(text) => PbKind::StringValue(text),
            Value::Int(int) => PbKind::IntValue(int),
            Value::Double(double) => PbKind::DoubleValue(double),
            Value::Bool(bool) => PbKind::BoolValue(bool),
            Value::Bytes(bytes) => PbKind::BytesValue(bytes),
            Value::Time(seconds, nanos) => PbKind::TimeValue(Timestamp { seconds, nanos }),
        };
        Self { kind: Some(kind) }
    }
}

fn attributes(field: &'static str, values: BTreeMap<String, pb_type::Value>) -> Result<Attributes, Error> {
    let value = |(name, value): (String, pb_type::Value)| {
        let value = match value.kind {
            Some(PbKind::StringValue(text)) => Value::Text(text),
            Some(PbKind::IntValue(int)) => Value::Int(int),
            Some(PbKind::DoubleValue(double)) => Value::Double(double),
            Some(PbKind::BoolValue(bool)) => Value::Bool(bool),
            Some(PbKind::BytesValue(bytes)) => Value::Bytes(bytes),
            Some(PbKind::TimeValue(Timestamp { seconds, nanos })) => Value::Time(seconds, nanos),
            Some(PbKind::ListValue(_)) => {
                let text = "an attribute is a single value, not a list";
                return Err(Error::invalid(reason::LIST_VALUE, field, text));
            }
            None => {
                return Err(Error::invalid(
                    reason::EMPTY_VALUE,
                    field,
                    "every attribute needs a value of some type",
                ));
            }
        };
        Ok((name, value))
    };
    values.into_iter().map(value).collect::<Result<BTreeMap<_, _>, _>>()
}

fn duration(field: &'static str, duration: Option<prost_types::Duration>) -> Result<Option<Duration>, Error> {
    convert::duration(duration)
        .ok_or_else(|| Error::invalid(reason::INVALID_DURATION, field, "must not be negative"))
}

fn timestamp(time: Time) -> Timestamp {
    convert::timestamp_of_millis(time.millis())
}

fn event_time(place: Place) -> Timestamp {
    timestamp(Time::from_millis(i64::try_from(place.millis).unwrap_or(i64::MAX)))
}
