//! The upstream and the peer: a bare tonic server whose methods answer at once, or after one Redis GET. It describes itself
//! by reflection, so that a gateway learns which methods are safe to repeat, and takes spans, so that one can send them.

mod descriptors;
mod sink;

pub(crate) use descriptors::set as descriptors;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use clap::Args;
use redis::aio::MultiplexedConnection;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The service.
pub(crate) const SERVICE: &str = "shoal.bench.Echo";
/// The unary method: the request comes back.
pub(crate) const ECHO: &str = "/shoal.bench.Echo/Echo";
/// The method that answers a stream.
pub(crate) const STREAM: &str = "/shoal.bench.Echo/Stream";

/// Windows that hold nothing back, as wide as the gateways' are set.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Request and answer of the echo.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

/// Asks for a stream of so many [`Text`]s, each with a value of so many bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Series {
    #[prost(uint32, tag = "1")]
    pub(crate) messages: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) bytes: u32,
}

/// The longest stream that is made.
const MESSAGES_MAX: u32 = 1_000_000;
/// The longest message of a stream.
const BYTES_MAX: u32 = 4 << 20;

/// The peer's flags.
#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// Redis to ask: every call is then a pipelined GET of the key it names
    #[arg(long)]
    redis: Option<String>,
}

/// Makes the answer of a unary call.
pub(crate) type Answer = Arc<dyn Fn(Text) -> BoxFuture<Text, Status> + Send + Sync>;

/// Serves until killed.
pub(crate) async fn run(args: EchoArgs) -> anyhow::Result<()> {
    let answer: Answer = match &args.redis {
        None => Arc::new(|text| Box::pin(std::future::ready(Ok(text)))),
        Some(url) => {
            let connection = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
            Arc::new(move |text| Box::pin(value_of(text, connection.clone())))
        }
    };
    serve(args.listen, answer).await
}

async fn value_of(mut text: Text, mut redis: MultiplexedConnection) -> Result<Text, Status> {
    let value: Option<Vec<u8>> = redis::cmd("GET")
        .arg(&text.text)
        .query_async(&mut redis)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    text.value = value.unwrap_or_default();
    Ok(text)
}

/// Serves the echo with another answer to its unary method.
pub(crate) async fn serve(listen: SocketAddr, answer: Answer) -> anyhow::Result<()> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_file_descriptor_set(descriptors::set())
        .build_v1()?;
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(Echo { answer })
        .add_service(sink::Sink)
        .add_service(reflection)
        .serve(listen)
        .await?;
    Ok(())
}

#[derive(Clone)]
struct Echo {
    answer: Answer,
}

impl NamedService for Echo {
    const NAME: &'static str = SERVICE;
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        match request.uri().path() {
            ECHO => Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(echo, request).await) }),
            STREAM => Box::pin(async move {
                Ok(Grpc::new(ProstCodec::default()).server_streaming(Streams, request).await)
            }),
            _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
        }
    }
}

impl UnaryService<Text> for Echo {
    type Response = Text;
    type Future = BoxFuture<Response<Text>, Status>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let answer = (self.answer)(request.into_inner());
        Box::pin(async move { answer.await.map(Response::new) })
    }
}

struct Streams;

impl ServerStreamingService<Series> for Streams {
    type Response = Text;
    type ResponseStream = tokio_stream::Iter<Texts>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Series>) -> Self::Future {
        let Series { messages, bytes } = request.into_inner();
        if messages > MESSAGES_MAX || bytes > BYTES_MAX {
            return std::future::ready(Err(Status::invalid_argument("a shorter stream, please")));
        }
        let text = Text { text: String::new(), value: vec![b'x'; bytes as usize] };
        std::future::ready(Ok(Response::new(tokio_stream::iter(Texts { text, left: messages }))))
    }
}

/// The same message so many times.
struct Texts {
    text: Text,
    left: u32,
}

impl Iterator for Texts {
    type Item = Result<Text, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(Ok(self.text.clone()))
    }
}
