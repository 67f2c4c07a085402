//! GetObject through a loader in another process, here a plain tonic server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shoal_proto::cache::v1 as pb;
use shoal_proto::cache::v1::object_loader_service_server::{ObjectLoaderService, ObjectLoaderServiceServer};
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::harness::{Clone, Peer, reason, until};

type Answer = Result<Vec<pb::LoadResult>, Status>;

/// Profiles by their id.
#[derive(Clone)]
pub(crate) struct Profiles {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    loads: Arc<AtomicUsize>,
    /// The ids of each call.
    asked: Arc<Mutex<Vec<Vec<String>>>>,
    /// The ids and versions of what the cache had still.
    pub(crate) previous: Arc<Mutex<Vec<(String, String)>>>,
    pub(crate) gate: Arc<Semaphore>,
}

impl Profiles {
    pub(crate) fn new() -> Self {
        Self {
            answers: Arc::default(),
            loads: Arc::default(),
            asked: Arc::default(),
            previous: Arc::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    pub(crate) fn routes(&self) -> Routes {
        Routes::new(ObjectLoaderServiceServer::new(self.clone()))
    }

    pub(crate) fn answer(&self, id: &str, answer: Answer) {
        self.answers.lock().expect("no panic").insert(id.to_owned(), answer);
    }

    pub(crate) fn has(&self, id: &str, value: &str) {
        self.answer(
            id,
            Ok(vec![found(pb::LoadedObject { value: value.to_owned().into(), ..Default::default() })]),
        );
    }

    pub(crate) fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

fn failed(code: Code, message: &str) -> pb::LoadResult {
    let failure = pb::load_result::LoadFailure { code: code.into(), message: message.to_owned() };
    pb::LoadResult { outcome: Some(pb::load_result::Outcome::Failure(failure)) }
}

pub(crate) fn found(object: pb::LoadedObject) -> pb::LoadResult {
    pb::LoadResult { outcome: Some(pb::load_result::Outcome::Object(object)) }
}

#[tonic::async_trait]
impl ObjectLoaderService for Profiles {
    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<pb::LoadResponse>, Status> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let pb::LoadRequest { kind, ids, previous } = request.into_inner();
        assert_eq!(kind, "profile");
        self.asked.lock().expect("no panic").push(ids.clone());
        let previous = previous.into_iter().map(|previous| (previous.id, previous.version));
        self.previous.lock().expect("no panic").extend(previous);
        drop(self.gate.acquire().await.expect("never closed"));
        let answers = self.answers.lock().expect("no panic");
        let missing = pb::load_result::Outcome::NotFound(pb::load_result::NotFound::default());
        let missing = Ok(vec![pb::LoadResult { outcome: Some(missing) }]);
        let mut results = Vec::new();
        for id in &ids {
            results.extend(answers.get(id).unwrap_or(&missing).clone()?);
        }
        Ok(Response::new(pb::LoadResponse { results }))
    }
}

pub(crate) fn config(peer: &Peer, more: &str) -> String {
    format!("[cache.object.profile]\nloader = 'http://{}'\n{more}", peer.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn object_is_loaded_once() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "")).await;
    let first = clone.get_object("profile", "ada").await.expect("loaded");
    assert_eq!((first.value.as_ref(), first.from_cache), (b"Ada".as_slice(), false));
    assert_eq!(first.age, Some(prost_types::Duration::default()));
    for _ in 0..3 {
        let again = clone.get_object("profile", "ada").await.expect("cached");
        assert_eq!((again.value.as_ref(), again.from_cache), (b"Ada".as_slice(), true));
    }
    assert_eq!(profiles.loads(), 1);
    assert!(
        clone.get("object.profile", "ada").await.expect("get").is_some(),
        "under its id in its namespace"
    );

    profiles.has("ada", "Lovelace");
    clone.delete("object.profile", "ada").await.expect("deleted");
    let anew = clone.get_object("profile", "ada").await.expect("loaded");
    assert_eq!((anew.value.as_ref(), anew.from_cache), (b"Lovelace".as_slice(), false));
    clone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_callers_share_one_load() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    let permits = profiles.gate.forget_permits(usize::MAX);
    let peer = Peer::start(profiles.routes()).await;
    let clone = Arc::new(Clone::start(&config(&peer, "")).await);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let clone = clone.clone();
            tokio::spawn(async move { clone.get_object("profile", "ada").await })
        })
        .collect();
    until("the load begins", async || (profiles.loads() > 0).then_some(())).await;
    profiles.gate.add_permits(permits);
    for call in calls {
        assert_eq!(call.await.expect("no panic").expect("loaded").value.as_ref(), b"Ada");
    }
    assert_eq!(profiles.loads(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_objects_are_cached_briefly() {
    let profiles = Profiles::new();
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "")).await;
    for _ in 0..3 {
        let status = clone.get_object("profile", "nobody").await.expect_err("unknown");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "OBJECT_NOT_FOUND"));
    }
    assert_eq!(profiles.loads(), 1);
    assert_eq!(clone.get("object.profile", "nobody").await.expect("get"), None, "Get calls it a miss");
    profiles.has("nobody", "somebody");
    clone.delete("object.profile", "nobody").await.expect("deleted");
    assert_eq!(clone.get_object("profile", "nobody").await.expect("loaded").value.as_ref(), b"somebody");
}

#[tokio::test(flavor = "multi_thread")]
async fn returned_loader_is_used_again() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    profiles.has("grace", "Grace");
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "")).await;
    clone.get_object("profile", "ada").await.expect("loaded");

    let address = peer.kill();
    let began = Instant::now();
    let status = clone.get_object("profile", "grace").await.expect_err("the loader is gone");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "LOADER_UNAVAILABLE"));
    assert!(status.metadata().contains_key(shoal_kit::FAULT_OF), "{status:?}");
    assert!(status.message().contains(&format!("http://{address}")), "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(clone.get_object("profile", "ada").await.expect("cached").from_cache);

    let _peer = Peer::at(address, profiles.routes()).await;
    let object = until("it is used again", async || clone.get_object("profile", "grace").await.ok()).await;
    assert_eq!(
        (object.value.as_ref(), object.from_cache),
        (b"Grace".as_slice(), false),
        "the error was not cached"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn loader_errors_keep_their_codes() {
    let profiles = Profiles::new();
    profiles.answer("bad", Err(Status::invalid_argument("no such shape")));
    profiles.answer("denied", Err(Status::permission_denied("who are you")));
    profiles.answer("gone", Err(Status::data_loss("burnt")));
    profiles.answer("methodless", Err(Status::unimplemented("no such method")));
    profiles.answer("none", Ok(vec![]));
    profiles.answer("two", Ok(vec![found(pb::LoadedObject::default()); 2]));
    profiles.answer("empty", Ok(vec![pb::LoadResult { outcome: None }]));
    let tags = vec!["t".to_owned(); 17];
    profiles.answer("tags", Ok(vec![found(pb::LoadedObject { tags, ..Default::default() })]));
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "")).await;
    for (id, code, wanted, part) in [
        ("bad", Code::InvalidArgument, "LOADER_REFUSED", "no such shape"),
        ("denied", Code::PermissionDenied, "LOADER_REFUSED", "who are you"),
        ("gone", Code::DataLoss, "LOADER_REFUSED", "burnt"),
        ("methodless", Code::FailedPrecondition, "LOADER_REFUSED", "Unimplemented"),
        ("none", Code::Internal, "LOADER_PROTOCOL", "one result for each id"),
        ("two", Code::Internal, "LOADER_PROTOCOL", "one result for each id"),
        ("empty", Code::Internal, "LOADER_PROTOCOL", "neither object"),
        ("tags", Code::Internal, "LOADER_PROTOCOL", "16"),
    ] {
        let status = clone.get_object("profile", id).await.expect_err(id);
        assert_eq!((status.code(), reason(&status).as_str()), (code, wanted), "{id}: {status:?}");
        assert!(status.message().contains(part) && status.message().contains("http://"), "{id}: {status:?}");
        assert!(status.metadata().contains_key(shoal_kit::FAULT_OF), "{id}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_loader_is_cut_at_timeout() {
    let profiles = Profiles::new();
    profiles.gate.forget_permits(usize::MAX);
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "load_timeout = '100ms'")).await;
    let began = Instant::now();
    let status = clone.get_object("profile", "ada").await.expect_err("hangs");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "LOADER_TIMED_OUT"));
    assert!(status.metadata().contains_key(shoal_kit::FAULT_OF), "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusing_loader_is_named_within_timeout() {
    let profiles = Profiles::new();
    let address = Peer::start(profiles.routes()).await.kill();
    let toml = format!("[cache.object.profile]\nloader = 'http://{address}'\nload_timeout = '1s'");
    let clone = Clone::start(&toml).await;
    let status = clone.get_object("profile", "ada").await.expect_err("nobody listens");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "LOADER_UNAVAILABLE"));
    assert!(status.message().contains("refused"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_load_ejects_no_clone() {
    let profiles = Profiles::new();
    profiles.gate.forget_permits(usize::MAX);
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "load_timeout = '100ms'\nloads_max = 1")).await;
    let calls = ["a", "b", "c"].map(|id| clone.get_object("profile", id));
    let mut reasons: Vec<String> = Vec::new();
    for answer in futures::future::join_all(calls).await {
        let status = answer.expect_err("hangs");
        assert!(status.metadata().contains_key(shoal_kit::FAULT_OF), "{status:?}");
        reasons.push(reason(&status));
    }
    reasons.sort();
    assert_eq!(reasons, ["LOADER_TIMED_OUT", "TOO_MANY_LOADS", "TOO_MANY_LOADS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_object_is_returned_uncached() {
    let profiles = Profiles::new();
    profiles.has("ada", &"x".repeat(2 << 20));
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "")).await;
    for loads in 1..=2 {
        let object = clone.get_object("profile", "ada").await.expect("loaded");
        assert_eq!((object.value.len(), object.from_cache), (2 << 20, false));
        assert_eq!(profiles.loads(), loads);
    }
}

/// Returns the values of a batch, and the reason where there is none.
async fn outcomes(clone: &Clone, ids: &[&str]) -> Vec<String> {
    let results = clone.get_objects("profile", ids).await.expect("valid ids");
    let outcome = |result: Result<pb::GetObjectResponse, pb::ObjectError>| match result {
        Ok(object) => String::from_utf8(object.value.to_vec()).expect("text"),
        Err(error) => error.reason,
    };
    results.into_iter().map(outcome).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_loads_misses_in_one_call() {
    let profiles = Profiles::new();
    for (id, value) in [("ada", "Ada"), ("grace", "Grace"), ("alan", "Alan")] {
        profiles.has(id, value);
    }
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "")).await;
    clone.get_object("profile", "grace").await.expect("loaded");
    let ids = ["grace", "nobody", "alan", "ada", "alan"];
    let wanted = ["Grace", "OBJECT_NOT_FOUND", "Alan", "Ada", "Alan"];
    for _ in 0..2 {
        assert_eq!(outcomes(&clone, &ids).await, wanted);
    }
    let asked = profiles.asked.lock().expect("no panic").clone();
    assert_eq!(asked, [vec!["grace"], vec!["ada", "alan", "nobody"]], "each once, in one call");
    let error = clone.get_objects("profile", &["nobody"]).await.expect("valid").remove(0).expect_err("none");
    assert_eq!((error.code, error.metadata["kind"].as_str()), (Code::NotFound.into(), "profile"));
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_is_cut_at_batch_max() {
    let profiles = Profiles::new();
    let ids: Vec<String> = (0..7).map(|id| id.to_string()).collect();
    ids.iter().for_each(|id| profiles.has(id, id));
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "batch_max = 3")).await;
    let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(outcomes(&clone, &asked).await, ids);
    let mut sizes: Vec<usize> = profiles.asked.lock().expect("no panic").iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 3, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_object_spares_its_batch() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    profiles.answer("bad", Ok(vec![failed(Code::DataLoss, "burnt")]));
    profiles.answer("fine", Ok(vec![failed(Code::Ok, "")]));
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "")).await;
    assert_eq!(outcomes(&clone, &["ada", "bad", "fine"]).await, ["Ada", "LOADER_REFUSED", "LOADER_PROTOCOL"]);
    let status = clone.get_object("profile", "bad").await.expect_err("burnt");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DataLoss, "LOADER_REFUSED"));
    assert!(clone.get_object("profile", "ada").await.expect("cached").from_cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_end_early() {
    let profiles = Profiles::new();
    let ids = ["a", "b", "c", "d"];
    ids.iter().for_each(|id| profiles.has(id, &id.repeat(900 << 10)));
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "")).await;
    let first = clone.get_objects("profile", &ids).await.expect("valid");
    assert_eq!(first.len(), 2, "of 3.5 MiB as many as are below 2 MiB");
    let rest = clone.get_objects("profile", &ids[first.len()..]).await.expect("valid");
    assert!(rest.iter().all(|object| object.as_ref().expect("found").from_cache));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_batches_name_their_field() {
    let profiles = Profiles::new();
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "")).await;
    for (ids, wanted, part) in [
        (vec![], "INVALID_KEYS", "ids: "),
        (vec!["a"; 101], "INVALID_KEYS", "has 101"),
        (vec!["a", ""], "INVALID_KEY", "ids[1]: "),
    ] {
        let status = clone.get_objects("profile", &ids).await.expect_err(part);
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, wanted), "{status:?}");
        assert!(status.message().contains(part), "{status:?}");
    }
    assert_eq!(profiles.loads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_loader_is_left_alone() {
    let profiles = Profiles::new();
    profiles.has("kept", "kept");
    for index in 0..20 {
        profiles.answer(&index.to_string(), Err(Status::internal("broken")));
    }
    profiles.answer("denied", Err(Status::permission_denied("not you")));
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, "breaker_failures = 3\nbreaker_pause = '400ms'")).await;
    clone.get_object("profile", "kept").await.expect("loaded");
    for _ in 0..5 {
        let status = clone.get_object("profile", "denied").await.expect_err("denied");
        assert_eq!(reason(&status), "LOADER_REFUSED", "a loader that says no works");
    }
    let before = profiles.loads();
    let mut reasons = Vec::new();
    for index in 0..6 {
        let status = clone.get_object("profile", &index.to_string()).await.expect_err("broken");
        assert!(status.metadata().contains_key(shoal_kit::FAULT_OF), "{status:?}");
        reasons.push(reason(&status));
        if reasons.last().expect("one") == "LOADER_PAUSED" {
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.message().contains("broken"), "it says why: {status:?}");
            let delay = status.get_details_retry_info().expect("RetryInfo").retry_delay.expect("a delay");
            assert!(delay <= Duration::from_millis(500), "{delay:?}");
        }
    }
    assert_eq!(reasons[..3], ["LOADER_REFUSED"; 3]);
    assert_eq!(reasons[3..], ["LOADER_PAUSED"; 3]);
    assert_eq!(profiles.loads() - before, 3, "it is asked no more");
    assert!(clone.get_object("profile", "kept").await.expect("cached").from_cache);

    profiles.has("0", "mended");
    let object = until("it is asked again", async || clone.get_object("profile", "0").await.ok()).await;
    assert_eq!(object.value.as_ref(), b"mended");
}
