//! Asks an upstream by reflection what it serves, and for its descriptors.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::uri::PathAndQuery;
use shoal_balance::{Balancer, Channel, ChannelOptions, EndpointState};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::routing::descriptors::{File, Files};

pub(crate) const REFLECTION_V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
pub(crate) const REFLECTION_V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// Services and files one upstream may have. More is a mistake, or an attack.
const SERVICES_MAX: usize = 1_000;
const FILES_MAX: usize = 5_000;
/// Endpoints of an upstream that are asked before it is taken for one that does not describe itself.
const ENDPOINTS_MAX: usize = 5;
/// After this another endpoint is asked beside one that has not answered.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// The longest answer of an upstream.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why an upstream has not described itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The upstream has no reflection.
    #[error("it has no reflection")]
    Unimplemented,
    /// The upstream did not answer.
    #[error("its reflection did not answer within {0:?}")]
    Timeout(Duration),
    /// Reflection failed.
    #[error("its reflection failed: {} ({:?})", .0.message(), .0.code())]
    Status(Status),
    /// The upstream's answer cannot be used.
    #[error("its reflection makes no sense: {0}")]
    Nonsense(String),
}

impl From<Status> for FetchError {
    fn from(status: Status) -> Self {
        if status.code() == Code::Unimplemented {
            FetchError::Unimplemented
        } else {
            FetchError::Status(status)
        }
    }
}

/// Asks the endpoints of an upstream, one after the other until one says it, for its services and all their descriptors. One
/// that fails, or is slow, is not the last word: the next one is asked at once, or after a moment beside it.
///
/// # Errors
/// When none has said it: that it has no reflection only if all asked have none.
pub(crate) async fn fetch(balancer: &Balancer, within: Duration) -> Result<(Vec<String>, Files), FetchError> {
    let ready = balancer.snapshot().into_iter().filter(|endpoint| endpoint.state == EndpointState::Ready);
    let mut ready: Vec<SocketAddr> = ready.map(|endpoint| endpoint.address).collect();
    fastrand::shuffle(&mut ready);
    let mut unasked: VecDeque<SocketAddr> = ready.iter().copied().take(ENDPOINTS_MAX).collect();
    let ask = |endpoint: Option<SocketAddr>| {
        let avoided = ready.iter().copied().filter(|other| Some(*other) != endpoint).collect();
        let options = ChannelOptions {
            avoided: if endpoint.is_some() { avoided } else { Vec::new() },
            ..ChannelOptions::default()
        };
        let channel = Channel::new(balancer.clone(), options);
        async move {
            let fetched = timeout(within, fetch_from(channel)).await;
            fetched.unwrap_or(Err(FetchError::Timeout(within)))
        }
    };
    let mut asked = FuturesUnordered::new();
    // With none ready: whichever is first.
    asked.push(ask(unasked.pop_front()));
    let mut failed: Option<FetchError> = None;
    loop {
        tokio::select! {
            fetched = asked.next() => match fetched {
                Some(Ok(described)) => return Ok(described),
                Some(Err(error)) => {
                    if failed.as_ref().is_none_or(|failed| matches!(failed, FetchError::Unimplemented)) {
                        failed = Some(error);
                    }
                    if let Some(next) = unasked.pop_front() {
                        asked.push(ask(Some(next)));
                    }
                }
                None => return Err(failed.unwrap_or(FetchError::Unimplemented)),
            },
            () = sleep(SLOW_AFTER), if !unasked.is_empty() => asked.push(ask(unasked.pop_front())),
        }
    }
}

/// Asks by v1, or by v1alpha if the endpoint has no v1.
async fn fetch_from(channel: Channel) -> Result<(Vec<String>, Files), FetchError> {
    match fetch_by(&channel, REFLECTION_V1).await {
        Err(FetchError::Unimplemented) => fetch_by(&channel, REFLECTION_V1ALPHA).await,
        fetched => fetched,
    }
}

async fn fetch_by(channel: &Channel, path: &'static str) -> Result<(Vec<String>, Files), FetchError> {
    let mut questions = Questions::open(channel, path, MessageRequest::ListServices(String::new())).await?;
    let MessageResponse::ListServicesResponse(list) = questions.answer().await? else {
        return Err(FetchError::Nonsense("no list of services in the answer".to_owned()));
    };
    if list.service.len() > SERVICES_MAX {
        return Err(FetchError::Nonsense(format!("more than {SERVICES_MAX} services")));
    }
    // Every server has these; they say nothing about what it is for.
    let own = |name: &String| !name.starts_with("grpc.reflection.") && !name.starts_with("grpc.health.");
    let services: Vec<String> = list.service.into_iter().map(|s| s.name).filter(own).collect();
    let mut files = Files::default();
    for service in &services {
        // A service without descriptors is still one to route.
        questions.files(MessageRequest::FileContainingSymbol(service.clone()), &mut files).await?;
    }
    let mut asked = HashSet::new();
    loop {
        let missing: Vec<String> =
            files.missing().into_iter().filter(|name| asked.insert(name.clone())).collect();
        if missing.is_empty() {
            return Ok((services, files));
        }
        for name in missing {
            questions.files(MessageRequest::FileByFilename(name), &mut files).await?;
        }
    }
}

fn question(asked: MessageRequest) -> ServerReflectionRequest {
    ServerReflectionRequest { host: String::new(), message_request: Some(asked) }
}

/// An open reflection stream.
struct Questions {
    ask: mpsc::Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
}

impl Questions {
    /// Opens a stream with its first question already on the way: servers of some languages send their headers only
    /// with the first answer, and waiting for them first would wait for ever.
    async fn open(
        channel: &Channel,
        path: &'static str,
        first: MessageRequest,
    ) -> Result<Questions, FetchError> {
        let mut client =
            tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let (ask, asked) = mpsc::channel(1);
        let _ = ask.try_send(question(first));
        let codec = ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
        let request = Request::new(ReceiverStream::new(asked));
        let opened = client.streaming(request, PathAndQuery::from_static(path), codec).await?;
        Ok(Questions { ask, answers: opened.into_inner() })
    }

    async fn ask(&mut self, asked: MessageRequest) -> Result<MessageResponse, FetchError> {
        // A closed stream is told by its answer.
        let _ = self.ask.send(question(asked)).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<MessageResponse, FetchError> {
        let answer = self.answers.message().await?;
        answer
            .and_then(|answer| answer.message_response)
            .ok_or_else(|| FetchError::Nonsense("an answer is missing".to_owned()))
    }

    async fn files(&mut self, question: MessageRequest, files: &mut Files) -> Result<(), FetchError> {
        let MessageResponse::FileDescriptorResponse(answer) = self.ask(question).await? else {
            return Ok(());
        };
        for bytes in answer.file_descriptor_proto {
            if files.len() == FILES_MAX {
                return Err(FetchError::Nonsense(format!("more than {FILES_MAX} files")));
            }
            let file = File::read(Bytes::from(bytes));
            files.add(file.map_err(|error| FetchError::Nonsense(error.to_string()))?);
        }
        Ok(())
    }
}
