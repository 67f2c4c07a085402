//! Watching: every event once, in order, from where one left off.

use super::world::Make;
use crate::config::Config;
use crate::event::{Kind, Notice};

async fn user_watch_keeps_event_order<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    world.create("u").await;
    let mut watching = world.watch("u", None).await;
    let made = world.create("u").await;
    world.create("v").await;
    let id = made.session.id.to_string();
    let token = world.rotate(&made.token).await;
    world.revoke(&token).await;
    for kind in [Kind::Created, Kind::Rotated, Kind::Revoked] {
        assert_eq!(watching.event().await, (kind, id.clone()));
    }
    // The watcher listened before it read history: these it heard as well.
    let next = world.create("u").await.session.id.to_string();
    assert_eq!(watching.event().await, (Kind::Created, next), "nothing is told twice");
}

async fn global_watch_covers_every_bucket<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let mut watching = world.watch("", None).await;
    let mut made = Vec::new();
    for n in 0..40 {
        made.push(world.create(&format!("user {n}")).await.session.id.to_string());
    }
    let mut heard = Vec::new();
    for _ in 0..40 {
        let (kind, id) = watching.event().await;
        assert_eq!(kind, Kind::Created);
        heard.push(id);
    }
    made.sort();
    heard.sort();
    assert_eq!(heard, made);
}

async fn watch_resumes_on_any_clone<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    for user in ["u", ""] {
        let mut watching = world.watch(user, None).await;
        let ids: Vec<String> = {
            let mut ids = Vec::new();
            for _ in 0..5 {
                ids.push(world.create("u").await.session.id.to_string());
            }
            ids
        };
        let mut tokens = Vec::new();
        for _ in 0..2 {
            tokens.push(watching.next().await.resume_token);
        }
        drop(watching);
        let last = world.create("u").await.session.id.to_string();
        let mut resumed = world.watch(user, Some(&tokens[1])).await;
        for id in ids[2..].iter().chain([&last]) {
            assert_eq!(resumed.event().await, (Kind::Created, id.clone()));
        }
        let mut narrowed = world.watch("u", Some(&tokens[0])).await;
        assert_eq!(narrowed.event().await, (Kind::Created, ids[1].clone()));
    }
}

async fn late_watcher_receives_gap<M: Make>(make: M) {
    const KEPT: usize = 100;
    let config = Config { events_kept: KEPT, sessions_per_user_max: 1000, ..Config::default() };
    let world = make.world(config).await;
    let mut watching = world.watch("u", None).await;
    world.create("u").await;
    let token = watching.next().await.resume_token;
    drop(watching);
    // Redis trims by nodes of a hundred entries.
    let mut last = String::new();
    for _ in 0..3 * KEPT {
        last = world.create("u").await.session.id.to_string();
    }
    let mut resumed = world.watch("u", Some(&token)).await;
    let gap = resumed.next().await;
    assert!(matches!(gap.notice, Notice::Gap { .. }), "{gap:?}");
    let mut heard = 0;
    loop {
        heard += 1;
        if resumed.event().await.1 == last {
            break;
        }
    }
    assert!((KEPT..3 * KEPT).contains(&heard), "{heard}");
    let mut after_gap = world.watch("u", Some(&gap.resume_token)).await;
    after_gap.event().await;
}

async fn many_watchers_hear_the_same<M: Make>(make: M) {
    let world = make.world(Config::default()).await;
    let mut watchers = Vec::new();
    for n in 0..20 {
        watchers.push(world.watch(if n % 2 == 0 { "u" } else { "" }, None).await);
    }
    let made = world.create("u").await;
    for watching in &mut watchers {
        assert_eq!(watching.event().await, (Kind::Created, made.session.id.to_string()));
    }
}

super::conformance!(
    user_watch_keeps_event_order,
    global_watch_covers_every_bucket,
    watch_resumes_on_any_clone,
    late_watcher_receives_gap,
    many_watchers_hear_the_same,
);
