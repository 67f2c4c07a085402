//! Clone equivalence: every clone of a service gives the same answer, whichever clone wrote.

use std::collections::HashMap;

use shoal_client::Channel;
use shoal_proto::cache::v1 as cache;
use shoal_proto::data::v1 as data;
use shoal_proto::jobs::v1 as jobs;
use shoal_proto::session::v1 as session;
use shoal_proto::r#type::v1::{Value, value};
use tokio_util::sync::CancellationToken;

use crate::harness::engines::need;
use crate::harness::up::Up;

struct Clones {
    channels: Vec<Channel>,
    cancel: CancellationToken,
}

impl Clones {
    fn of(up: &Up, role: &str) -> Self {
        let cancel = CancellationToken::new();
        let addresses = up.clones(role);
        assert_eq!(addresses.len(), 3, "{role}: {addresses:?}");
        let channels = addresses
            .iter()
            .map(|address| shoal_client::connect(address, role, "test", &cancel).expect("an address"))
            .collect();
        Self { channels, cancel }
    }

    /// Asks every clone and asserts that all answers are equal to the byte.
    async fn all_say<M: prost::Message + PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        ask: impl AsyncFn(Channel) -> M,
    ) -> M {
        let mut answers = Vec::new();
        for channel in &self.channels {
            answers.push(ask(channel.clone()).await);
        }
        let first = answers.remove(0);
        for other in answers {
            assert_eq!(other, first, "{what}: clones differ");
            assert_eq!(other.encoded_len(), first.encoded_len(), "{what}: clones differ");
        }
        first
    }
}

impl Drop for Clones {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn every_clone_gives_the_same_answer(engines: &[&str]) {
    let up = Up::start(&[&["--ephemeral", "--clones", "3"], engines].concat()).await;
    sessions(&Clones::of(&up, "session")).await;
    rows(&Clones::of(&up, "data")).await;
    entries(&Clones::of(&up, "cache")).await;
    queue(&Clones::of(&up, "jobs")).await;
}

async fn sessions(clones: &Clones) {
    for writer in &clones.channels {
        let request = session::CreateSessionRequest {
            user_id: "ada".into(),
            attributes: [("n".into(), int(7))].into(),
            ..Default::default()
        };
        let created = shoal_client::session(writer.clone())
            .create_session(request)
            .await
            .expect("created")
            .into_inner();
        let token = created.token;
        let get = async |channel| {
            let request = session::GetSessionRequest { token: token.clone(), no_touch: true };
            shoal_client::session(channel).get_session(request).await.expect("a session").into_inner()
        };
        let seen = clones.all_say("GetSession", get).await;
        assert_eq!(seen.session, created.session, "a session as it was created");
        let target = session::revoke_session_request::Target::Token(token.clone());
        shoal_client::session(writer.clone())
            .revoke_session(session::RevokeSessionRequest { target: Some(target) })
            .await
            .expect("revoked");
        for channel in &clones.channels {
            let request = session::GetSessionRequest { token: token.clone(), no_touch: true };
            let gone =
                shoal_client::session(channel.clone()).get_session(request).await.expect_err("revoked");
            assert_eq!(gone.code(), tonic::Code::NotFound);
        }
    }
}

async fn rows(clones: &Clones) {
    for (i, writer) in clones.channels.iter().enumerate() {
        let table = format!("clones_{}_{i}", fastrand::u32(..));
        let mut client = shoal_client::data(writer.clone());
        let definition = data::Table { name: table.clone(), ..Default::default() };
        client.create_table(data::CreateTableRequest { table: Some(definition) }).await.expect("a table");
        for sort in ["a", "b", "c"] {
            let put = data::mutation::Put {
                sort_key: Some(Value { kind: Some(value::Kind::StringValue(sort.into())) }),
                attributes: HashMap::from([("n".into(), int(i as i64))]),
                ttl: None,
            };
            let mutation = data::Mutation { kind: Some(data::mutation::Kind::Put(put)) };
            let request = data::MutateRequest {
                table: table.clone(),
                partition_key: "p".into(),
                mutations: vec![mutation],
                ..Default::default()
            };
            client.mutate(request).await.expect("written");
        }
        let query = async |channel| {
            let request = data::QueryRequest {
                table: table.clone(),
                partition_key: "p".into(),
                page_size: 2,
                ..Default::default()
            };
            shoal_client::data(channel).query(request).await.expect("rows").into_inner()
        };
        let page = clones.all_say("Query", query).await;
        assert_eq!(page.rows.len(), 2);
        // A page token of one clone is good at any other.
        let next = async |channel| {
            let request = data::QueryRequest {
                table: table.clone(),
                partition_key: "p".into(),
                page_size: 2,
                page_token: page.next_page_token.clone(),
                ..Default::default()
            };
            shoal_client::data(channel).query(request).await.expect("rows").into_inner()
        };
        assert_eq!(clones.all_say("the next page", next).await.rows.len(), 1);
    }
}

async fn entries(clones: &Clones) {
    for (i, writer) in clones.channels.iter().enumerate() {
        let key = format!("k{}", fastrand::u32(..));
        let set = cache::SetRequest {
            namespace: "clones".into(),
            key: key.clone(),
            value: vec![i as u8; 5000].into(),
            tags: vec!["t".into()],
            ..Default::default()
        };
        assert!(shoal_client::cache(writer.clone()).set(set).await.expect("set").into_inner().stored);
        let get = async |channel| {
            let request =
                cache::GetRequest { namespace: "clones".into(), key: key.clone(), ..Default::default() };
            let mut answer = shoal_client::cache(channel).get(request).await.expect("an answer").into_inner();
            // The age is the one field that the moment of asking changes.
            if let Some(cache::get_response::Outcome::Entry(entry)) = &mut answer.outcome {
                entry.age = None;
            }
            answer
        };
        let seen = clones.all_say("Get", get).await;
        assert!(matches!(seen.outcome, Some(cache::get_response::Outcome::Entry(_))), "{seen:?}");
        let delete = cache::DeleteRequest { namespace: "clones".into(), key: key.clone() };
        shoal_client::cache(writer.clone()).delete(delete).await.expect("deleted");
        let seen = clones.all_say("Get after Delete", get).await;
        assert!(matches!(seen.outcome, Some(cache::get_response::Outcome::Miss(_))), "{seen:?}");
    }
}

async fn queue(clones: &Clones) {
    for (i, writer) in clones.channels.iter().enumerate() {
        let queue = format!("clones-{}", fastrand::u32(..));
        let request = jobs::EnqueueRequest { queue: queue.clone(), kind: "k".into(), ..Default::default() };
        let job = shoal_client::jobs(writer.clone()).enqueue(request).await.expect("a job").into_inner().job;
        let id = job.expect("a job").id;
        let get = async |channel| {
            shoal_client::jobs(channel)
                .get_job(jobs::GetJobRequest { id: id.clone() })
                .await
                .expect("a job")
                .into_inner()
        };
        let seen = clones.all_say("GetJob", get).await;
        assert_eq!(seen.job.expect("a job").state(), jobs::JobState::Ready);
        // Leased at one clone, completed at the next.
        let other = &clones.channels[(i + 1) % clones.channels.len()];
        let lease = jobs::LeaseJobsRequest { queue, ..Default::default() };
        let leased =
            shoal_client::worker(other.clone()).lease_jobs(lease).await.expect("leased").into_inner();
        let fence = leased.jobs[0].lease.as_ref().expect("a lease").fencing_token;
        let complete = jobs::CompleteJobRequest { id: id.clone(), fencing_token: fence, result: "r".into() };
        shoal_client::worker(writer.clone()).complete_job(complete).await.expect("completed");
        let seen = clones.all_say("GetJob", get).await;
        assert_eq!(seen.job.expect("a job").state(), jobs::JobState::Succeeded);
    }
}

fn int(n: i64) -> Value {
    Value { kind: Some(value::Kind::IntValue(n)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_are_equal_on_embedded_engines() {
    every_clone_gives_the_same_answer(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_are_equal_on_real_engines() {
    let (redis, cassandra) = (need!("SHOAL_TEST_REDIS"), need!("SHOAL_TEST_CASSANDRA"));
    every_clone_gives_the_same_answer(&["--redis", &redis, "--cassandra", &cassandra]).await;
}
