//! An upstream made with tonic, as most services in Rust are: one method of each shape, with reflection and health.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::{Stream, StreamExt as _};
use prost::Message as _;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    MethodOptions, ServiceDescriptorProto,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::{
    ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The one message: `test.echo.v1.Payload`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: bytes::Bytes,
    /// The number of answers that a server stream sends.
    #[prost(uint32, tag = "2")]
    pub(crate) count: u32,
}

pub(crate) type Codec = ProstCodec<Payload, Payload>;

/// Largest message it takes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A running server, on a runtime of its own; killed when dropped.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    held: Arc<AtomicUsize>,
    runtime: Mutex<Option<Runtime>>,
}

impl Echo {
    /// Starts a server with reflection v1, or with v1alpha only.
    pub(crate) async fn start(v1: bool) -> Echo {
        Echo::start_at(([127, 0, 0, 1], 0).into(), v1).await
    }

    /// Starts a server at an address.
    pub(crate) async fn start_at(address: SocketAddr, v1: bool) -> Echo {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let held = Arc::new(AtomicUsize::new(0));
        let service = Service { held: held.clone() };
        let serving = runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.expect("bound");
            let address = listener.local_addr().expect("bound");
            tokio::spawn(serve(listener, service, v1));
            address
        });
        let address = serving.await.expect("serving");
        Echo { address, held, runtime: Mutex::new(Some(runtime)) }
    }

    /// Returns how many calls it holds back.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Ends the server as kill -9 does.
    pub(crate) fn kill(&self) {
        if let Some(runtime) = self.runtime.lock().expect("no panic").take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(listener: TcpListener, service: Service, v1: bool) {
    let builder =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(descriptors());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<Service>().await;
    let router = Server::builder().add_service(service).add_service(health_service);
    let router = match v1 {
        true => router.add_service(builder().build_v1().expect("descriptors")),
        false => router.add_service(builder().build_v1alpha().expect("descriptors")),
    };
    let _ = router.serve_with_incoming(TcpListenerStream::new(listener)).await;
}

fn descriptors() -> &'static [u8] {
    static SET: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SET.get_or_init(|| {
        let field = |name: &str, number, kind| FieldDescriptorProto {
            name: Some(name.into()),
            number: Some(number),
            r#type: Some(kind),
            label: Some(1),
            json_name: Some(name.into()),
            ..Default::default()
        };
        let message = FileDescriptorProto {
            name: Some("test/echo/v1/payload.proto".into()),
            package: Some("test.echo.v1".into()),
            syntax: Some("proto3".into()),
            message_type: vec![DescriptorProto {
                name: Some("Payload".into()),
                field: vec![field("data", 1, 12), field("count", 2, 13)],
                ..Default::default()
            }],
            ..Default::default()
        };
        let method = |name: &str, up, down, level: IdempotencyLevel| MethodDescriptorProto {
            name: Some(name.into()),
            input_type: Some(".test.echo.v1.Payload".into()),
            output_type: Some(".test.echo.v1.Payload".into()),
            client_streaming: Some(up),
            server_streaming: Some(down),
            options: Some(MethodOptions { idempotency_level: Some(level as i32), ..Default::default() }),
        };
        let service = FileDescriptorProto {
            name: Some("test/echo/v1/echo.proto".into()),
            package: Some("test.echo.v1".into()),
            syntax: Some("proto3".into()),
            dependency: vec!["test/echo/v1/payload.proto".into()],
            service: vec![ServiceDescriptorProto {
                name: Some("Echo".into()),
                method: vec![
                    method("Unary", false, false, IdempotencyLevel::NoSideEffects),
                    method("Upload", true, false, IdempotencyLevel::IdempotencyUnknown),
                    method("Download", false, true, IdempotencyLevel::IdempotencyUnknown),
                    method("Chat", true, true, IdempotencyLevel::IdempotencyUnknown),
                ],
                ..Default::default()
            }],
            ..Default::default()
        };
        FileDescriptorSet { file: vec![message, service] }.encode_to_vec()
    })
}

type Answers = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;
type Done<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// `test.echo.v1.Echo`.
#[derive(Clone)]
struct Service {
    held: Arc<AtomicUsize>,
}

impl NamedService for Service {
    const NAME: &'static str = "test.echo.v1.Echo";
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let held = self.held.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Codec::default())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "Unary" => grpc.unary(Unary { held }, request).await,
                "Upload" => grpc.client_streaming(Upload, request).await,
                "Download" => grpc.server_streaming(Download, request).await,
                "Chat" => grpc.streaming(Chat, request).await,
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

/// Gives back what it got, metadata included; a payload that is a number fails with that code; `hold` is answered only
/// when it is sent again.
struct Unary {
    held: Arc<AtomicUsize>,
}

impl UnaryService<Payload> for Unary {
    type Response = Payload;
    type Future = Done<Payload>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        let metadata = request.metadata().clone();
        let payload = request.into_inner();
        let held = self.held.clone();
        Box::pin(async move {
            if payload.data == "hold" && !metadata.contains_key("grpc-previous-rpc-attempts") {
                held.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            if let Some(code) =
                std::str::from_utf8(&payload.data).ok().and_then(|text| text.parse::<i32>().ok())
            {
                let mut status = Status::new(tonic::Code::from(code), "as asked: ü \n");
                status.metadata_mut().insert("x-reason", "asked".parse().expect("ascii"));
                return Err(status);
            }
            let mut response = Response::new(payload);
            for name in ["x-echo", "x-echo-bin"] {
                if name.ends_with("-bin") {
                    for value in metadata.get_all_bin(name) {
                        response.metadata_mut().append_bin(name, value.clone());
                    }
                } else {
                    for value in metadata.get_all(name) {
                        response.metadata_mut().append(name, value.clone());
                    }
                }
            }
            Ok(response)
        })
    }
}

/// Says how many bytes came in how many messages.
struct Upload;

impl ClientStreamingService<Payload> for Upload {
    type Response = Payload;
    type Future = Done<Payload>;

    fn call(&mut self, request: Request<Streaming<Payload>>) -> Self::Future {
        Box::pin(async move {
            let mut messages = request.into_inner();
            let (mut count, mut bytes) = (0, 0);
            while let Some(message) = messages.message().await? {
                count += 1;
                bytes += message.data.len();
            }
            Ok(Response::new(Payload { data: bytes.to_string().into(), count }))
        })
    }
}

/// Sends its payload `count` times.
struct Download;

impl ServerStreamingService<Payload> for Download {
    type Response = Payload;
    type ResponseStream = Answers;
    type Future = Done<Answers>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        let Payload { data, count } = request.into_inner();
        Box::pin(async move {
            let answers = (0..count).map(move |n| Ok(Payload { data: data.clone(), count: n }));
            Ok(Response::new(Box::pin(tokio_stream::iter(answers)) as Answers))
        })
    }
}

/// Gives back each message as it comes.
struct Chat;

impl StreamingService<Payload> for Chat {
    type Response = Payload;
    type ResponseStream = Answers;
    type Future = Done<Answers>;

    fn call(&mut self, request: Request<Streaming<Payload>>) -> Self::Future {
        Box::pin(async move {
            let answers = request.into_inner().map(|message| message.inspect_err(|_| ()));
            Ok(Response::new(Box::pin(answers) as Answers))
        })
    }
}
