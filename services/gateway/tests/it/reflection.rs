//! Reflection at the gateway shows everything behind it, with descriptors only the upstream itself has.

use std::time::Duration;

use futures::StreamExt as _;
use prost::Message as _;
use prost_types::FileDescriptorProto;
use tonic::Code;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ExtensionRequest, ServerReflectionRequest};
use tonic_reflection::pb::{v1, v1alpha};
use tonic_types::StatusExt as _;

use crate::harness::echo::Echo;
use crate::harness::mesh::Mesh;
use crate::harness::upstream::{Upstream, as_session};
use crate::harness::within;

async fn ask(mesh: &Mesh, questions: Vec<MessageRequest>) -> Vec<MessageResponse> {
    let mut client = ServerReflectionClient::new(mesh.channel().await);
    let questions = questions
        .into_iter()
        .map(|question| ServerReflectionRequest { host: String::new(), message_request: Some(question) });
    let answers = client.server_reflection_info(tokio_stream::iter(questions.collect::<Vec<_>>())).await;
    let answers = answers.expect("open").into_inner();
    answers.map(|answer| answer.expect("an answer").message_response.expect("something")).collect().await
}

async fn services(mesh: &Mesh) -> Vec<String> {
    let answers = ask(mesh, vec![MessageRequest::ListServices(String::new())]).await;
    match &answers[..] {
        [MessageResponse::ListServicesResponse(list)] => {
            list.service.iter().map(|s| s.name.clone()).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn files(answer: &MessageResponse) -> Vec<String> {
    match answer {
        MessageResponse::FileDescriptorResponse(files) => files
            .file_descriptor_proto
            .iter()
            .map(|bytes| FileDescriptorProto::decode(&bytes[..]).expect("a descriptor").name().to_owned())
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn symbol(name: &str) -> MessageRequest {
    MessageRequest::FileContainingSymbol(name.to_owned())
}

/// Waits until the gateway lists `service`.
pub(crate) async fn described(mesh: &Mesh, service: &str) {
    within(service, async {
        while !services(mesh).await.iter().any(|name| name == service) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn foreign(echo: &Echo) -> String {
    format!("[gateway.upstream.echo]\nendpoints = ['{}']", echo.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_service_is_found_by_reflection() {
    for v1 in [true, false] {
        let echo = Echo::start(v1).await;
        let mesh = Mesh::start(&foreign(&echo)).await;
        described(&mesh, "test.echo.v1.Echo").await;
        let answers =
            ask(&mesh, vec![symbol("test.echo.v1.Echo"), symbol("test.echo.v1.Payload.data")]).await;
        // The service's file comes with what it imports; asked for again, a file comes alone.
        assert_eq!(files(&answers[0]), ["test/echo/v1/echo.proto", "test/echo/v1/payload.proto"]);
        assert_eq!(files(&answers[1]), ["test/echo/v1/payload.proto"]);
        let answer = mesh.caller().await.call("/test.echo.v1.Echo/Unary", &[], &[10, 1, b'x']).await;
        assert_eq!((answer.code(), &answer.data[5..]), (0, &[10, 1, b'x'][..]), "v1: {v1}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn undescribed_services_are_listed_too() {
    let silent = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&format!(
        "{}\n[gateway.upstream.silent]\nendpoints = ['{}']\nservices = ['acme.Silent']",
        as_session(&[&silent]),
        silent.address
    ))
    .await;
    let expected = [
        "acme.Silent",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "shoal.gateway.v1.GatewayService",
        "shoal.session.v1.SessionService",
    ];
    assert_eq!(services(&mesh).await, expected);
    let answers =
        ask(&mesh, vec![symbol("shoal.session.v1.SessionService.GetSession"), symbol("acme.Silent")]).await;
    assert!(files(&answers[0]).contains(&"google/protobuf/timestamp.proto".to_owned()));
    assert!(
        matches!(&answers[1], MessageResponse::ErrorResponse(e) if e.error_code == Code::NotFound as i32)
    );
    assert_eq!(mesh.caller().await.call("/acme.Silent/Do", &[], b"").await.code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn v1alpha_answers_as_v1_does() {
    let mesh = Mesh::start("").await;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(mesh.channel().await);
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "shoal.gateway.v1.GatewayService".to_owned(),
        )),
    };
    let answers = client.server_reflection_info(tokio_stream::iter([question])).await.expect("open");
    let answer = answers.into_inner().message().await.expect("OK").expect("an answer");
    let alpha = v1::ServerReflectionResponse::decode(&answer.encode_to_vec()[..]).expect("the same wire");
    let same = ask(&mesh, vec![symbol("shoal.gateway.v1.GatewayService")]).await;
    assert_eq!(alpha.message_response.as_ref(), same.first());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_symbols_keep_the_stream() {
    let mesh = Mesh::start("").await;
    let extension = ExtensionRequest { containing_type: "no.Such".to_owned(), extension_number: 1 };
    let answers = ask(
        &mesh,
        vec![
            symbol("no.Such"),
            MessageRequest::FileByFilename("no.proto".to_owned()),
            MessageRequest::FileContainingExtension(extension),
            MessageRequest::AllExtensionNumbersOfType("no.Such".to_owned()),
            MessageRequest::AllExtensionNumbersOfType("shoal.gateway.v1.Endpoint".to_owned()),
            MessageRequest::FileByFilename("google/protobuf/duration.proto".to_owned()),
        ],
    )
    .await;
    for answer in &answers[..4] {
        assert!(matches!(answer, MessageResponse::ErrorResponse(e) if e.error_code == 5), "{answer:?}");
    }
    assert!(
        matches!(&answers[4], MessageResponse::AllExtensionNumbersResponse(e) if e.extension_number.is_empty())
    );
    assert_eq!(files(&answers[5]), ["google/protobuf/duration.proto"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_service_is_described_later() {
    let absent = Upstream::start(|call| call.answer(b"")).await;
    absent.kill().await;
    let mesh = Mesh::start(&format!("[gateway.upstream.late]\nendpoints = ['{}']", absent.address)).await;
    let answer = mesh.caller().await.call("/test.echo.v1.Echo/Unary", &[], b"").await;
    assert_eq!(answer.code(), 14, "it may be behind `late`");
    assert!(answer.grpc().message().contains("`late`"));
    let _echo = Echo::start_at(absent.address, true).await;
    described(&mesh, "test.echo.v1.Echo").await;
    assert_eq!(mesh.caller().await.call("/test.echo.v1.Echo/Unary", &[], b"").await.code(), 0);
    assert_eq!(mesh.caller().await.call("/acme.Nothing/Do", &[], b"").await.code(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn default_upstream_gets_unclaimed_services() {
    let upstream = Upstream::start(|call| call.answer(b"ok")).await;
    let mesh = Mesh::start(&format!(
        "[gateway.upstream.rest]\nendpoints = ['{}']\ndefault = true",
        upstream.address
    ))
    .await;
    assert_eq!(mesh.caller().await.call("/acme.Anything/Do", &[], b"").await.code(), 0);
    assert_eq!(upstream.head(0).uri.path(), "/acme.Anything/Do");
    // A role's services are for its clones alone, also while the gateway knows none.
    let answer = mesh.caller().await.call("/shoal.jobs.v1.JobsService/Enqueue", &[], b"secret").await;
    let status = answer.grpc();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("the role jobs"), "{status:?}");
    assert_eq!(status.get_details_error_info().expect("ErrorInfo").reason, "ROLE_WITHOUT_PEERS");
    // One that its clones do not have is nobody's.
    assert_eq!(mesh.caller().await.call("/shoal.jobs.v1.JobsServices/Enqueue", &[], b"").await.code(), 14);
    assert_eq!(upstream.calls(), 1);
    // The gateway's own services are its own.
    assert!(services(&mesh).await.contains(&"shoal.gateway.v1.GatewayService".to_owned()));
}

async fn listed(mesh: &Mesh, upstream: &str) -> shoal_proto::gateway::v1::Upstream {
    let mut client =
        shoal_proto::gateway::v1::gateway_service_client::GatewayServiceClient::new(mesh.channel().await);
    let list = client.list_upstreams(shoal_proto::gateway::v1::ListUpstreamsRequest {}).await;
    let upstreams = list.expect("answered").into_inner().upstreams;
    upstreams.into_iter().find(|listed| listed.name == upstream).expect("listed")
}

/// Waits until something is to be said of `upstream`.
async fn warned(mesh: &Mesh, upstream: &str) -> shoal_proto::gateway::v1::Upstream {
    within("a warning", async {
        loop {
            let listed = listed(mesh, upstream).await;
            if !listed.warnings.is_empty() {
                return listed;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn first_upstream_keeps_shared_service() {
    let (first, second) = (Echo::start(true).await, Echo::start(true).await);
    let mesh = Mesh::start(&format!(
        "[gateway.upstream.a]\nendpoints = ['{}']\n[gateway.upstream.b]\nendpoints = ['{}']",
        first.address, second.address
    ))
    .await;
    let loser = warned(&mesh, "b").await;
    assert!(loser.services.is_empty(), "{loser:?}");
    let [warning] = &loser.warnings[..] else { panic!("{loser:?}") };
    assert!(warning.contains("test.echo.v1.Echo") && warning.contains("`a`"), "{warning}");
    let winner = listed(&mesh, "a").await;
    assert_eq!((&winner.services[..], winner.warnings.len()), (&["test.echo.v1.Echo".to_owned()][..], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_upstream_takes_no_own_service() {
    const GET: &str = "/shoal.session.v1.SessionService/GetSession";
    let clone = Upstream::start(|call| call.answer(b"ok")).await;
    // Another gateway: its reflection lists what stands behind it.
    let other = Mesh::start(&as_session(&[&clone])).await;
    other.ready("session", 1).await;
    let foreign = format!("[gateway.upstream.other]\nendpoints = ['{}']", other.address);
    let mesh = Mesh::start(&foreign).await;
    let listed = warned(&mesh, "other").await;
    assert!(listed.services.is_empty(), "{listed:?}");
    let said = listed.warnings.join("; ");
    assert!(said.contains("shoal.session.v1.SessionService") && said.contains("role session"), "{said}");
    assert_eq!(mesh.caller().await.call(GET, &[], b"").await.code(), 12);

    // By name it is refused at the start, and taken if that is meant.
    let named = format!("{foreign}\nservices = ['shoal.session.v1.SessionService']");
    let why = Mesh::refused(&named);
    assert!(why.contains("gateway.upstream.other") && why.contains("`replaces = true`"), "{why}");
    let replaced = format!("peer.session = '127.0.0.1:1'\n{named}\nreplaces = true");
    let mesh = Mesh::start(&replaced).await;
    mesh.ready("other", 1).await;
    assert_eq!(mesh.caller().await.call(GET, &[], b"").await.code(), 0);
    let role = warned(&mesh, "session").await;
    assert!(role.warnings[0].contains("`other` replaces"), "{role:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_clones_are_asked_for_reflection() {
    let echo = Echo::start(true).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(Upstream::start(|call| call.answer(b"ok")).await);
    }
    let addresses: Vec<_> = others.iter().map(|other| format!("'{}'", other.address)).collect();
    // More often than not, one of the others is asked first.
    for _ in 0..5 {
        let mesh = Mesh::start(&format!(
            "[gateway.upstream.echo]\nendpoints = ['{}', {}]",
            echo.address,
            addresses.join(", ")
        ))
        .await;
        mesh.ready("echo", 4).await;
        described(&mesh, "test.echo.v1.Echo").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_reflection_delays_briefly() {
    let echo = Echo::start(true).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let hangs = listener.local_addr().expect("bound");
    let accept = async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let mut calls = Vec::new();
                while let Some(Ok(call)) = connection.accept().await {
                    calls.push(call);
                }
            }));
        }
    };
    let _hanging = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(accept));
    for _ in 0..3 {
        let mesh = Mesh::start(&format!(
            "[gateway.upstream.echo]\nendpoints = ['{}', '{hangs}']\nhealth = 'none'",
            echo.address
        ))
        .await;
        mesh.ready("echo", 2).await;
        let begun = std::time::Instant::now();
        described(&mesh, "test.echo.v1.Echo").await;
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}
