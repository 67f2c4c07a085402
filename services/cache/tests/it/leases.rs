//! Callers that load values themselves: one has the lease, the others wait, and nothing old is stored.

use std::time::{Duration, Instant};

use shoal_proto::cache::v1 as pb;
use shoal_testing::RedisServer;
use tonic::Code;

use crate::harness::{Clone, reason};

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn asked(key: &str) -> pb::GetRequest {
    pb::GetRequest { namespace: "n".into(), key: key.into(), want_lease: true, ..Default::default() }
}

fn entry(outcome: pb::GetResponse) -> pb::Entry {
    match outcome.outcome {
        Some(pb::get_response::Outcome::Entry(entry)) => entry,
        other => panic!("{other:?} is no entry"),
    }
}

fn miss(outcome: pb::GetResponse) -> pb::Miss {
    match outcome.outcome {
        Some(pb::get_response::Outcome::Miss(miss)) => miss,
        other => panic!("{other:?} is no miss"),
    }
}

async fn look(clone: &Clone, request: pb::GetRequest) -> pb::GetResponse {
    clone.client.clone().get(request).await.expect("answered").into_inner()
}

async fn fill(clone: &Clone, key: &str, lease: &[u8], tags: &[&str]) -> pb::SetResponse {
    let request = pb::SetRequest {
        namespace: "n".into(),
        key: key.into(),
        value: b"v".to_vec().into(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        lease: lease.to_vec().into(),
        ..Default::default()
    };
    clone.set(request).await.expect("answered")
}

async fn invalidate(clone: &Clone, keys: &[&str], tags: &[&str]) {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let request = pb::InvalidateRequest { namespace: "n".into(), keys: own(keys), tags: own(tags) };
    clone.client.clone().invalidate(request).await.expect("invalidated");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lease_is_given_per_miss() {
    let clone = Clone::start("").await;
    let first = miss(look(&clone, asked("k")).await);
    assert_eq!((first.reason(), first.lease.len()), (pb::MissReason::Absent, 16));
    let second = miss(look(&clone, asked("k")).await);
    assert!(second.lease.is_empty());
    let left = Duration::try_from(second.retry_after.expect("a time")).expect("valid");
    assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(10), "{left:?}");
    assert!(fill(&clone, "k", &first.lease, &["t"]).await.stored);
    assert_eq!(entry(look(&clone, asked("k")).await).value.as_ref(), b"v");
    let again = fill(&clone, "k", &first.lease, &["t"]).await;
    assert_eq!((again.stored, again.refusal()), (false, pb::RefusalReason::LeaseEnded));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_refuse_what_was_loading() {
    let clone = Clone::start("").await;
    for (change, refusal) in [
        ("delete", pb::RefusalReason::LeaseEnded),
        ("key", pb::RefusalReason::LeaseEnded),
        ("tag", pb::RefusalReason::Invalidated),
        ("clear", pb::RefusalReason::Invalidated),
        ("expire", pb::RefusalReason::LeaseEnded),
    ] {
        let lease = miss(look(&clone, asked("k")).await).lease;
        assert!(!lease.is_empty(), "{change}");
        match change {
            "delete" => clone.delete("n", "k").await.expect("deleted"),
            "key" => invalidate(&clone, &["k"], &[]).await,
            "tag" => invalidate(&clone, &[], &["t"]).await,
            "clear" => {
                let request = pb::ClearNamespaceRequest { namespace: "n".into() };
                clone.client.clone().clear_namespace(request).await.expect("cleared");
            }
            _ => {
                let keys = vec!["k".to_owned()];
                let request = pb::ExpireRequest { namespace: "n".into(), keys, tags: Vec::new() };
                clone.client.clone().expire(request).await.expect("expired");
            }
        }
        let answer = fill(&clone, "k", &lease, &["t"]).await;
        assert_eq!((answer.stored, answer.refusal()), (false, refusal), "{change}");
        assert_eq!(clone.get("n", "k").await.expect("answered"), None, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_two_clones_share_a_load() {
    let Some(redis) = RedisServer::start().await else { return };
    let config = format!("redis = '{}'\n[cache.namespace.n]\nload_timeout = '60s'\n", redis.url());
    let clones = [Clone::start(&config).await, Clone::start(&config).await];
    let lease = miss(look(&clones[0], asked("hot")).await).lease;
    let mut calls = tokio::task::JoinSet::new();
    for caller in 0..60 {
        let client = clones[caller % 2].client.clone();
        let request = pb::GetRequest { wait: seconds(50), ..asked("hot") };
        calls.spawn(async move { client.clone().get(request).await.expect("answered").into_inner() });
    }
    assert!(fill(&clones[0], "hot", &lease, &[]).await.stored);
    while let Some(outcome) = calls.join_next().await {
        assert_eq!(entry(outcome.expect("no panic")).value.as_ref(), b"v");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_holder_costs_one_lease_time() {
    let Some(redis) = RedisServer::start().await else { return };
    let config = format!("redis = '{}'\n[cache.namespace.n]\nload_timeout = '400ms'\n", redis.url());
    let (one, two) = (Clone::start(&config).await, Clone::start(&config).await);
    let lost = miss(look(&one, asked("k")).await);
    assert!(!lost.lease.is_empty());
    let began = Instant::now();
    let next = miss(look(&two, pb::GetRequest { wait: seconds(20), ..asked("k") }).await);
    assert!(!next.lease.is_empty(), "the next one who waits is told to load");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(!fill(&one, "k", &lost.lease, &[]).await.stored);
    assert!(fill(&two, "k", &next.lease, &[]).await.stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_is_due_for_one_reader() {
    let clone = Clone::start("[cache.namespace.n]\nttl = '60s'\nsoft_ttl = '1ms'\n").await;
    let lease = miss(look(&clone, asked("k")).await).lease;
    assert!(fill(&clone, "k", &lease, &[]).await.stored);
    let refresh = loop {
        let entry = entry(look(&clone, asked("k")).await);
        assert!(!entry.stale);
        if !entry.lease.is_empty() {
            break entry.lease;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert!(entry(look(&clone, asked("k")).await).lease.is_empty(), "another has it");
    assert!(fill(&clone, "k", &refresh, &[]).await.stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_values_are_for_those_who_accept() {
    let clone = Clone::start("[cache.namespace.n]\nstale_if_error = '1h'\n").await;
    let lease = miss(look(&clone, asked("k")).await).lease;
    assert!(fill(&clone, "k", &lease, &["t"]).await.stored);
    let tags = vec!["t".to_owned()];
    let request = pb::ExpireRequest { namespace: "n".into(), keys: Vec::new(), tags };
    clone.client.clone().expire(request).await.expect("expired");
    let plain = pb::GetRequest { want_lease: false, ..asked("k") };
    assert_eq!(miss(look(&clone, plain.clone()).await).reason(), pb::MissReason::TooOldForCaller);
    let accepts = pb::GetRequest { max_stale: seconds(600), ..plain };
    assert!(entry(look(&clone, accepts.clone()).await).stale);
    let lease = entry(look(&clone, pb::GetRequest { want_lease: true, ..accepts.clone() }).await).lease;
    assert!(!lease.is_empty(), "one of them loads");
    invalidate(&clone, &[], &["t"]).await;
    let hard = miss(look(&clone, accepts).await);
    assert_eq!((hard.reason(), hard.tag.as_str()), (pb::MissReason::Invalidated, "t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_answer_in_order() {
    let clone = Clone::start("").await;
    let entry_of = |key: &str, size: usize| pb::BatchSetEntry {
        key: key.into(),
        value: vec![b'x'; size].into(),
        only_if_absent: key == "a",
        ..Default::default()
    };
    let set = async |entries: Vec<pb::BatchSetEntry>| {
        let request = pb::BatchSetRequest { namespace: "n".into(), entries };
        clone.client.clone().batch_set(request).await.map(|answer| answer.into_inner().results)
    };
    let stored = |results: &[pb::SetResponse]| results.iter().map(|one| one.stored).collect::<Vec<_>>();
    assert_eq!(stored(&set(vec![entry_of("a", 1), entry_of("b", 2)]).await.expect("set")), [true, true]);
    assert_eq!(stored(&set(vec![entry_of("a", 3), entry_of("b", 4)]).await.expect("set")), [false, true]);
    let status = set(vec![entry_of("a", 1), entry_of("", 1)]).await.expect_err("refused");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_KEY"));
    assert!(status.message().contains("entries[1].key"), "{status:?}");

    let get = async |keys: Vec<String>| {
        let request = pb::BatchGetRequest { namespace: "n".into(), keys, max_stale: None };
        clone.client.clone().batch_get(request).await.map(|answer| answer.into_inner().results)
    };
    let own = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    let mut results = get(own(&["b", "missing", "a"])).await.expect("got");
    assert_eq!(entry(results.remove(2)).value.len(), 1);
    assert_eq!(miss(results.remove(1)).reason(), pb::MissReason::Absent);
    assert_eq!(entry(results.remove(0)).value.len(), 4);
    for keys in [Vec::new(), vec!["k".to_owned(); 101]] {
        assert_eq!(reason(&get(keys).await.expect_err("refused")), "INVALID_KEYS");
    }
    set(vec![entry_of("large", 1 << 20)]).await.expect("set");
    let cut = get(vec!["large".to_owned(); 5]).await.expect("got");
    assert_eq!(cut.len(), 2, "what is over 2 MiB is left for the next call");
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_and_touches_are_one_step() {
    let clone = Clone::start("").await;
    let add = async |delta, initial| {
        let (namespace, key) = ("n".to_owned(), "count".to_owned());
        let request = pb::IncrementRequest { namespace, key, delta, initial, ttl: None };
        clone.client.clone().increment(request).await.map(|answer| answer.into_inner().value)
    };
    assert_eq!(add(1, 41).await.expect("added"), 42);
    assert_eq!(add(-2, 7).await.expect("added"), 40);
    assert_eq!(clone.get("n", "count").await.expect("got").expect("there").value.as_ref(), b"40");
    let status = add(i64::MAX, 0).await.expect_err("too large");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "NOT_INCREMENTED"));
    let touch = async |key: &str, ttl| {
        let request = pb::TouchRequest { namespace: "n".into(), key: key.into(), ttl };
        clone.client.clone().touch(request).await.map(|answer| answer.into_inner().touched)
    };
    assert!(touch("count", seconds(60)).await.expect("answered"));
    assert!(!touch("other", seconds(60)).await.expect("answered"));
    assert_eq!(reason(&touch("count", seconds(0)).await.expect_err("refused")), "INVALID_TTL");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lookups_are_refused() {
    let clone = Clone::start("").await;
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    for (request, wanted) in [
        (pb::GetRequest { max_stale: negative, ..asked("k") }, "INVALID_DURATION"),
        (pb::GetRequest { wait: negative, ..asked("k") }, "INVALID_DURATION"),
        (pb::GetRequest { wait: seconds(61), ..asked("k") }, "INVALID_WAIT"),
        (pb::GetRequest { wait: seconds(1), want_lease: false, ..asked("k") }, "INVALID_WAIT"),
    ] {
        assert_eq!(reason(&clone.client.clone().get(request).await.expect_err("refused")), wanted);
    }
    let set = pb::SetRequest { namespace: "n".into(), key: "k".into(), ..Default::default() };
    for request in [
        pb::SetRequest { lease: vec![1].into(), ..set.clone() },
        pb::SetRequest { lease: vec![1; 16].into(), only_if_absent: true, ..set },
    ] {
        assert_eq!(reason(&clone.set(request).await.expect_err("refused")), "INVALID_LEASE");
    }
    let tags = |count: usize| (0..count).map(|tag| tag.to_string()).collect::<Vec<_>>();
    for (tags, wanted) in
        [(Vec::new(), "INVALID_KEYS"), (tags(101), "TOO_MANY_TAGS"), (vec![String::new()], "INVALID_TAG")]
    {
        let request = pb::InvalidateRequest { namespace: "n".into(), keys: Vec::new(), tags };
        let status = clone.client.clone().invalidate(request).await.expect_err("refused");
        assert_eq!(reason(&status), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_count_by_namespace() {
    let clone = Clone::start("").await;
    let lease = miss(look(&clone, asked("k")).await).lease;
    assert!(fill(&clone, "k", &lease, &["t"]).await.stored);
    for _ in 0..2000 {
        entry(look(&clone, asked("k")).await);
    }
    invalidate(&clone, &[], &["t"]).await;
    miss(look(&clone, asked("k")).await);
    let request = pb::GetStatsRequest { namespace: "n".into() };
    let stats = clone.client.clone().get_stats(request).await.expect("answered").into_inner().namespaces;
    let [stats] = &stats[..] else { panic!("{stats:?}") };
    assert_eq!((stats.hits, stats.misses, stats.bytes), (2000, 2, 1));
    let reasons: Vec<_> = stats.miss_reasons.iter().map(|miss| (miss.reason(), miss.count)).collect();
    assert_eq!(reasons, [(pb::MissReason::Absent, 1), (pb::MissReason::Invalidated, 1)]);
    assert_eq!(stats.hot_keys[0].key, "k");
    let all = clone.client.clone().get_stats(pb::GetStatsRequest::default()).await.expect("answered");
    let names: Vec<_> = all.into_inner().namespaces.into_iter().map(|stats| stats.namespace).collect();
    assert_eq!(names, ["n", "other"]);
}
