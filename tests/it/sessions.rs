//! Kills a session clone by SIGKILL in the middle of its work: answered writes are in the store, unanswered ones are there
//! completely or not at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_client::Channel;
use shoal_proto::session::v1 as session;
use shoal_proto::session::v1::session_service_client::SessionServiceClient;
use shoal_proto::r#type::v1::{Value, value::Kind};
use shoal_testing::RedisServer;

use crate::harness::clone::Clone;
use crate::harness::{eventually, seed};

const WRITERS: usize = 8;
const ROUNDS: usize = 5;

fn text(n: u64) -> Value {
    Value { kind: Some(Kind::StringValue(n.to_string())) }
}

/// Returns two attributes that are only ever written together, with the same value.
fn pair(n: u64) -> BTreeMap<String, Value> {
    [("a".to_owned(), text(n)), ("b".to_owned(), text(n))].into()
}

/// The answered writes: the token, and the last number whose update was answered.
type Answered = Arc<Mutex<Vec<(String, u64)>>>;

/// Creates and updates sessions until the clone is gone.
async fn write_until_killed(mut client: SessionServiceClient<Channel>, user: String, answered: Answered) {
    loop {
        let create = session::CreateSessionRequest {
            user_id: user.clone(),
            attributes: pair(0),
            ..Default::default()
        };
        let Ok(created) = client.create_session(create).await else { return };
        let token = created.into_inner().token;
        answered.lock().expect("not poisoned").push((token.clone(), 0));
        let at =
            answered.lock().expect("not poisoned").iter().position(|(t, _)| *t == token).expect("pushed");
        for n in 1..=3 {
            let update =
                session::UpdateSessionRequest { token: token.clone(), set: pair(n), ..Default::default() };
            if client.update_session(update).await.is_err() {
                return;
            }
            answered.lock().expect("not poisoned")[at].1 = n;
        }
    }
}

fn number(session: &session::Session) -> u64 {
    let value = |name: &str| match session.attributes.get(name).and_then(|value| value.kind.clone()) {
        Some(Kind::StringValue(text)) => text.parse::<u64>().expect("a number"),
        other => panic!("`{name}` is {other:?}: torn"),
    };
    assert_eq!(value("a"), value("b"), "torn: {session:?}");
    value("a")
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_clone_keeps_answered_writes() {
    let Some(redis) = RedisServer::start().await else { return };
    let mut random = fastrand::Rng::with_seed(seed("a killed session clone"));
    let flags = ["--redis", &redis.url()];
    let survivor = Clone::start("session", &flags).await;
    let mut reader = shoal_client::session(survivor.channel());
    for round in 0..ROUNDS {
        let mut victim = Clone::start("session", &flags).await;
        let answered: Answered = Arc::default();
        let users: Vec<String> = (0..WRITERS).map(|i| format!("user-{round}-{i}")).collect();
        let writers: Vec<_> = users
            .iter()
            .map(|user| {
                let client = shoal_client::session(victim.channel());
                tokio::spawn(write_until_killed(client, user.clone(), answered.clone()))
            })
            .collect();
        let enough = random.usize(5..60);
        eventually("some sessions", Duration::from_secs(60), async || {
            (answered.lock().expect("not poisoned").len() >= enough).then_some(())
        })
        .await;
        victim.process.kill().await;
        for writer in writers {
            writer.await.expect("a writer");
        }

        let answered = std::mem::take(&mut *answered.lock().expect("not poisoned"));
        for (token, n) in &answered {
            let get = session::GetSessionRequest { token: token.clone(), no_touch: true };
            let found = reader.get_session(get).await.expect("answered, so there").into_inner();
            let seen = number(&found.session.expect("a session"));
            assert!(seen == *n || seen == n + 1, "update {n} was answered, the store has {seen}");
        }
        // Sessions whose creation was not answered are in the index with all that belongs to them, or not at all.
        let mut listed = 0;
        for user in &users {
            let list =
                session::ListSessionsRequest { user_id: user.clone(), page_size: 100, ..Default::default() };
            for found in reader.list_sessions(list).await.expect("a list").into_inner().sessions {
                number(&found);
                listed += 1;
            }
        }
        assert!(listed >= answered.len(), "{listed} listed, {} answered", answered.len());
        assert!(listed <= answered.len() + WRITERS, "{listed} listed, {} answered", answered.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_session_keys_are_reported() {
    let Some(redis) = RedisServer::start().await else { return };
    let soon = Duration::from_secs(20);
    let files = tempfile::tempdir().expect("a folder");
    let start = async |name: &str, check: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        // 32 bytes that are no secret.
        let key = |byte: &str| format!("{}=", byte.repeat(43));
        let path = files.path().join(name);
        let check = check.split(',').map(|id| format!("{id}:{}", key(id))).collect::<Vec<_>>().join(",");
        let text = format!("bucket = '1:{0}'\nderive = '1:{0}'\ncheck = '{check}'\n", key("A"));
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("ours");
        let config = files.path().join(format!("{name}.toml"));
        std::fs::write(&config, format!("[session]\nkeys_file = '{}'\n", path.display())).expect("written");
        Clone::start("session", &["--redis", &redis.url(), "--config", config.to_str().expect("UTF-8")]).await
    };
    let noted = async |key: &str| {
        eventually(&format!("{key} noted"), soon, async || {
            let said = redis.ask("HKEYS session:marks");
            said.lines().any(|line| line.starts_with("check:") && line.ends_with(key)).then_some(())
        })
        .await;
    };
    // The steps of a rotation from A to Q, in their order.
    let mut clones = Vec::new();
    for (at, (check, used)) in [("A", ":A"), ("A,Q", ":A"), ("Q,A", ":Q")].into_iter().enumerate() {
        clones.push(start(&format!("step-{at}"), check).await);
        noted(used).await;
    }
    let mut stranger = start("stranger", "g").await;
    for key in ["A", "Q"] {
        let said =
            format!("session keys differ: sessions in this store were made with a `check` key `{key}`");
        stranger.process.printed(&said, soon).await;
    }
    for clone in &clones {
        assert!(!clone.process.output().contains("session keys differ"), "{}", clone.process.output());
    }
}
