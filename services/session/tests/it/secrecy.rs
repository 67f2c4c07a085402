//! Tests that no token, and nothing a token could be made from, is in logs, spans, errors or metrics.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shoal_proto::session::v1::{
    CreateSessionRequest, RotateSessionRequest, UpdateSessionRequest, WatchSessionsRequest,
};
use shoal_proto::r#type::v1::{Value, value::Kind};
use shoal_testing::RedisServer;
use tonic::Status;
use tracing_subscriber::fmt::format::FmtSpan;

use super::captured::Captured;
use super::mesh::{Clone, create, get, revoke, until};

/// Every call, with good and bad tokens; answers the tokens issued and the errors seen.
async fn use_everything(clone: &Clone) -> (Vec<String>, Vec<Status>) {
    let client = &clone.client;
    let (mut tokens, mut errors) = (Vec::new(), Vec::new());
    let attributes = [("a".to_owned(), Value { kind: Some(Kind::IntValue(1)) })];
    let request = CreateSessionRequest {
        user_id: "u".into(),
        attributes: attributes.clone().into(),
        request_id: "r".into(),
        ..CreateSessionRequest::default()
    };
    let made = client.clone().create_session(request.clone()).await.unwrap().into_inner().token;
    let other = CreateSessionRequest { attributes: Default::default(), ..request };
    errors.extend(client.clone().create_session(other).await.err());
    tokens.push(made.clone());
    let mut stream = client
        .clone()
        .watch_sessions(WatchSessionsRequest { user_id: "u".into(), resume_token: String::new() })
        .await
        .unwrap()
        .into_inner();
    let rotate = RotateSessionRequest { token: made.clone(), ..RotateSessionRequest::default() };
    let successor = client.clone().rotate_session(rotate).await.unwrap().into_inner().token;
    tokens.push(successor.clone());
    let mut update = UpdateSessionRequest {
        token: successor.clone(),
        set: attributes.into(),
        expected_version: Some(9),
        ..UpdateSessionRequest::default()
    };
    errors.extend(client.clone().update_session(update.clone()).await.err());
    update.expected_version = None;
    client.clone().update_session(update).await.unwrap();
    until("the theft", || async { get(client, &made).await.err() }).await;
    for token in [&made, &successor, &successor[1..].to_owned(), &successor[..successor.len() - 1].to_owned()]
    {
        errors.push(get(client, token).await.unwrap_err());
        errors.extend(revoke(client, token).await.err());
    }
    errors.extend(
        client
            .clone()
            .watch_sessions(WatchSessionsRequest { user_id: String::new(), resume_token: successor.clone() })
            .await
            .err(),
    );
    while stream.message().await.unwrap().unwrap().r#type != 5 {}
    (tokens, errors)
}

/// The parts of a token that must not be told, as text and as bytes look in a log.
fn secrets_of(token: &str) -> Vec<String> {
    let body = token.strip_prefix("shoal_").unwrap();
    let secret = &URL_SAFE_NO_PAD.decode(body).unwrap()[17..49];
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        body.to_owned(),
        body[24..66].to_owned(),
        hex,
        format!("{secret:?}"),
        format!("{:?}", &secret[..8])[1..].trim_end_matches(']').to_owned(),
    ]
}

// One thread: the subscriber is the thread's own.
#[tokio::test]
async fn no_output_reveals_a_token() {
    let captured = Captured::default();
    let guard = captured.start(FmtSpan::FULL);
    let metrics = shoal_kit::metric::install().unwrap();

    let grace = "[session]\nrotation_grace = '50ms'";
    let mut clones = vec![Clone::start(grace).await];
    let redis = RedisServer::start_durable().await;
    if let Some(redis) = &redis {
        clones.push(Clone::start(&format!("redis = '{}'\n{grace}", redis.url())).await);
    }
    let (mut tokens, mut errors) = (Vec::new(), Vec::new());
    for clone in &clones {
        until("the engine", || async { create(&clone.client, "other").await.ok() }).await;
        let (issued, seen) = use_everything(clone).await;
        tokens.extend(issued);
        errors.extend(seen);
    }
    let mut secrets: Vec<String> = tokens.iter().flat_map(|token| secrets_of(token)).collect();
    if let Some(mut redis) = redis {
        let keys = redis.ask("GET session:keys");
        secrets.extend(keys.split([':', '"']).filter(|part| part.len() > 40).map(str::to_owned));
        redis.kill();
        errors.push(until("the fault", || async { get(&clones[1].client, &tokens[2]).await.err() }).await);
    }
    for clone in clones {
        clone.stop().await;
    }
    drop(guard);

    assert!(errors.len() > 8);
    let mut told = captured.text();
    assert!(told.contains("CreateSession") && told.contains("session"), "the capture captures");
    told.push_str(&metrics.render());
    for status in &errors {
        told.push_str(&format!("{status:?} {} ", String::from_utf8_lossy(status.details())));
    }
    for secret in secrets {
        assert!(!told.contains(&secret), "told: {secret}");
    }
}
