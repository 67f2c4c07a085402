//! The peer: a bare tonic server whose one method answers at once, or after one Redis GET.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use clap::Args;
use redis::aio::MultiplexedConnection;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Where the peer's one method is.
pub(crate) const PATH: &str = "/shoal.bench.Echo/Echo";

/// What it is told, and what it answers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

/// The peer's flags.
#[derive(Debug, Args)]
pub struct EchoArgs {
    /// Address to listen on
    #[arg(long)]
    listen: SocketAddr,
    /// With this, every call is one pipelined GET of the key it names
    #[arg(long)]
    redis: Option<String>,
}

/// Serves until killed.
pub(crate) async fn run(args: EchoArgs) -> anyhow::Result<()> {
    let redis = match &args.redis {
        None => None,
        Some(url) => Some(redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?),
    };
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(Echo { redis })
        .serve(args.listen)
        .await?;
    Ok(())
}

#[derive(Clone)]
struct Echo {
    redis: Option<MultiplexedConnection>,
}

impl NamedService for Echo {
    const NAME: &'static str = "shoal.bench.Echo";
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
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(echo, request).await) })
    }
}

impl UnaryService<Text> for Echo {
    type Response = Text;
    type Future = BoxFuture<Response<Text>, Status>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let redis = self.redis.clone();
        Box::pin(async move {
            let mut text = request.into_inner();
            if let Some(mut connection) = redis {
                let value: Option<Vec<u8>> = redis::cmd("GET")
                    .arg(&text.text)
                    .query_async(&mut connection)
                    .await
                    .map_err(|error| Status::unavailable(error.to_string()))?;
                text.value = value.unwrap_or_default();
            }
            Ok(Response::new(text))
        })
    }
}
