//! Objects around their expiry: what a caller gets while the loader fails, is slow, or says that nothing has changed.

use std::time::{Duration, Instant};

use shoal_proto::cache::v1 as pb;
use shoal_proto::cache::v1::MissReason;
use shoal_proto::cache::v1::load_result::{DoNotStore, NotModified, Outcome};
use tonic::{Code, Status};

use crate::harness::{Clone, Peer, reason, until};
use crate::loaders::{Profiles, config, found};

async fn start(profiles: &Profiles, toml: &str) -> (Peer, Clone) {
    let peer = Peer::start(profiles.routes()).await;
    let clone = Clone::start(&config(&peer, &format!("jitter = 0.0\n{toml}"))).await;
    (peer, clone)
}

fn text(object: &pb::GetObjectResponse) -> &str {
    std::str::from_utf8(&object.value).expect("text")
}

/// Waits until the entry of an object has expired.
async fn expired(clone: &Clone, id: &str) {
    until("it expires", async || clone.get("object.profile", id).await.expect("get").is_none().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_loader_leaves_the_expired_object() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    let (_peer, clone) = start(&profiles, "ttl = '50ms'\nstale_if_error = '1h'\nstale_throttle = '1h'").await;
    clone.get_object("profile", "ada").await.expect("loaded");
    profiles.answer("ada", Err(Status::internal("broken")));
    expired(&clone, "ada").await;

    let strict = clone.explain_object("profile", "ada", Some(Duration::ZERO)).await.expect_err("fails");
    assert_eq!((strict.code(), reason(&strict).as_str()), (Code::Internal, "LOADER_REFUSED"));
    for _ in 0..3 {
        let object = clone.get_object("profile", "ada").await.expect("stale");
        assert_eq!((text(&object), object.stale, object.from_cache), ("Ada", true, true));
        assert_eq!(object.miss_reason(), MissReason::Expired);
        assert!(object.age.expect("an age").nanos >= 50_000_000, "{object:?}");
    }
    assert_eq!(profiles.loads(), 2, "the throttle leaves the loader alone");

    clone.delete("object.profile", "ada").await.expect("deleted");
    let status = clone.get_object("profile", "ada").await.expect_err("what was deleted is not served");
    assert_eq!(reason(&status), "LOADER_REFUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_object_is_not_served_stale() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    let (_peer, clone) = start(&profiles, "ttl = '50ms'\nstale_if_error = '1h'").await;
    clone.get_object("profile", "ada").await.expect("loaded");
    profiles.answer("ada", Err(Status::permission_denied("no more")));
    expired(&clone, "ada").await;
    let status = clone.get_object("profile", "ada").await.expect_err("the loader works, and says no");
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_loader_is_waited_for_softly() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    let (_peer, clone) = start(
        &profiles,
        "ttl = '100ms'\nstale_if_error = '1h'\nload_soft_timeout = '50ms'\nload_timeout = '20s'",
    )
    .await;
    clone.get_object("profile", "ada").await.expect("loaded");
    expired(&clone, "ada").await;
    profiles.has("ada", "Lovelace");
    let permits = profiles.gate.forget_permits(usize::MAX);
    let began = Instant::now();
    let object = clone.get_object("profile", "ada").await.expect("stale");
    assert_eq!((text(&object), object.stale), ("Ada", true));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    profiles.gate.add_permits(permits);
    until("the load lands", async || {
        let object = clone.get_object("profile", "ada").await.expect("one or the other");
        (text(&object) == "Lovelace").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_refresh_keeps_callers_on_hits() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    let (_peer, clone) = start(&profiles, "ttl = '1h'\nsoft_ttl = '50ms'").await;
    clone.get_object("profile", "ada").await.expect("loaded");
    profiles.has("ada", "Lovelace");
    until("it is loaded anew", async || {
        let object = clone.get_object("profile", "ada").await.expect("there");
        assert!(object.from_cache && !object.stale, "nobody waits: {object:?}");
        (text(&object) == "Lovelace").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_object_is_kept_on() {
    let profiles = Profiles::new();
    let (value, version) = (bytes::Bytes::from_static(b"Ada"), "v7".to_owned());
    profiles.answer("ada", Ok(vec![found(pb::LoadedObject { value, version, ..Default::default() })]));
    let (_peer, clone) = start(&profiles, "ttl = '100ms'\nstale_if_error = '1h'").await;
    clone.get_object("profile", "ada").await.expect("loaded");
    expired(&clone, "ada").await;

    let hour = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let unchanged = pb::LoadResult { outcome: Some(Outcome::NotModified(NotModified { ttl: hour })) };
    profiles.answer("ada", Ok(vec![unchanged]));
    let object = clone.get_object("profile", "ada").await.expect("not modified");
    assert_eq!((text(&object), object.version.as_str(), object.from_cache), ("Ada", "v7", false));
    assert_eq!(*profiles.previous.lock().expect("no panic"), [("ada".to_owned(), "v7".to_owned())]);
    let object = clone.get_object("profile", "ada").await.expect("cached");
    assert_eq!((text(&object), object.version.as_str(), object.from_cache), ("Ada", "v7", true));

    let status = clone.get_object("profile", "grace").await;
    assert_eq!(reason(&status.expect_err("unknown")), "OBJECT_NOT_FOUND");
    profiles.answer(
        "alan",
        Ok(vec![pb::LoadResult { outcome: Some(Outcome::NotModified(NotModified { ttl: hour })) }]),
    );
    let status = clone.get_object("profile", "alan").await.expect_err("the cache has nothing of it");
    assert_eq!(reason(&status), "LOADER_PROTOCOL");
}

#[tokio::test(flavor = "multi_thread")]
async fn unstorable_object_replaces_what_was_there() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    let (_peer, clone) = start(&profiles, "ttl = '1h'\nsoft_ttl = '50ms'").await;
    clone.get_object("profile", "ada").await.expect("loaded");
    let value = bytes::Bytes::from_static(b"secret");
    profiles
        .answer("ada", Ok(vec![pb::LoadResult { outcome: Some(Outcome::DoNotStore(DoNotStore { value })) }]));
    until("the refresh removes it", async || {
        let object = clone.get_object("profile", "ada").await.expect("there or loaded");
        (text(&object) == "secret").then_some(())
    })
    .await;
    let loads = profiles.loads();
    for _ in 0..2 {
        let object = clone.get_object("profile", "ada").await.expect("loaded");
        assert_eq!((text(&object), object.from_cache), ("secret", false));
    }
    assert_eq!(profiles.loads(), loads + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn misses_are_explained() {
    let profiles = Profiles::new();
    profiles.has("ada", "Ada");
    let (_peer, clone) = start(&profiles, "ttl = '50ms'\nstale_if_error = '1h'").await;
    let explained = async |max_stale| {
        let object = clone.explain_object("profile", "ada", max_stale).await.expect("loaded");
        object.miss_reason()
    };
    assert_eq!(explained(None).await, MissReason::Absent);
    assert_eq!(explained(None).await, MissReason::Unspecified, "a hit");
    expired(&clone, "ada").await;
    assert_eq!(explained(None).await, MissReason::Expired);
    expired(&clone, "ada").await;
    assert_eq!(explained(Some(Duration::ZERO)).await, MissReason::TooOldForCaller);
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let request = pb::GetObjectRequest {
        kind: "profile".into(),
        id: "ada".into(),
        max_stale: Some(negative),
        ..Default::default()
    };
    let status = clone.client.clone().get_object(request).await.expect_err("negative");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_TTL"));
}
