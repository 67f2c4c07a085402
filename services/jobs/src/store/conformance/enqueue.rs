//! Enqueueing: a job is added whole, once for a request_id, to a queue that has room.

use super::*;

pub(super) async fn a_leased_job_is_whole(mesh: Mesh) {
    let q = queue("a.whole-job_1");
    let mut new = new_job(&q, "kind");
    new.spec.payload = Bytes::from((0..=255).collect::<Vec<u8>>());
    new.spec.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
    let made = mesh.a.store.enqueue(new.clone()).await.unwrap();
    assert_eq!(
        (made.spec.clone(), made.progress.state, made.progress.version),
        (new.spec.clone(), State::Ready, 1)
    );
    assert_eq!(mesh.b.get(&made.id).await, Some(made.clone()));

    let claim = mesh.b.lease(&q, 1, LONG).await;
    let leased = &claim.jobs[0];
    assert_eq!((&leased.id, &leased.spec, leased.create), (&made.id, &new.spec, made.create));
    assert_eq!(
        (leased.progress.state, leased.progress.attempt, leased.progress.version),
        (State::Running, 1, 2)
    );
    assert!(leased.progress.start >= Some(made.create));
    assert_eq!(claim.expire, leased.progress.start.unwrap().after(LONG));
    assert_eq!(mesh.a.get(&made.id).await.as_ref(), Some(leased));

    let done = mesh.a.store.complete(&made.id, claim.fence, Bytes::from_static(b"\0result")).await.unwrap();
    assert_eq!((done.progress.state, &done.progress.result[..]), (State::Succeeded, &b"\0result"[..]));
    assert!(done.progress.finish >= leased.progress.start);
    assert_eq!(mesh.b.get(&made.id).await, Some(done));
}

pub(super) async fn unknown_jobs_are_not_found(mesh: Mesh) {
    let id = JobId::generate(&queue("unknown"));
    assert_eq!(mesh.a.get(&id).await, None);
    assert_eq!(mesh.a.store.complete(&id, 5, Bytes::new()).await, Err(Error::not_found(&id)));
    assert_eq!(mesh.a.store.fail(&id, 5, failure(false)).await, Err(Error::not_found(&id)));
    assert!(matches!(mesh.a.watch(&id, None).await, Err(Error::NotFound { .. })));
    assert!(mesh.a.lease(id.queue(), 1, LONG).await.jobs.is_empty());
}

pub(super) async fn a_request_id_makes_one_job(mesh: Mesh) {
    let q = queue("request");
    let mut new = new_job(&q, "k");
    new.spec.retention = Duration::from_millis(300);
    let new = new.with_request_id("r\0 ü");
    let enqueues: FuturesUnordered<_> = (0..40)
        .map(|n| if n % 2 == 0 { &mesh.a } else { &mesh.b })
        .map(|clone| clone.store.enqueue(new.clone()))
        .collect();
    let ids: BTreeSet<JobId> = enqueues.map(|job| job.unwrap().id).collect().await;
    assert_eq!(ids.len(), 1);
    let claim = mesh.a.lease(&q, 9, LONG).await;
    assert_eq!(claim.jobs.len(), 1);
    assert_eq!(mesh.b.store.enqueue(new.clone()).await.as_ref(), Ok(&claim.jobs[0]), "as it is now");
    let other = NewJob { queue: queue("request2"), ..new.clone() };
    assert_ne!(mesh.b.store.enqueue(other).await.unwrap().id, claim.jobs[0].id, "each queue has its own");

    let id = claim.jobs[0].id.clone();
    mesh.a.store.complete(&id, claim.fence, Bytes::new()).await.unwrap();
    eventually("it is forgotten", || async { mesh.b.get(&id).await.is_none().then_some(()) }).await;
    mesh.a.store.promote_due(&q).await.unwrap();
    assert_eq!(mesh.b.store.enqueue(new).await, Err(Error::Forgotten { id, index: 0 }), "and not made again");
}

pub(super) async fn number_of_queues_is_limited(mesh: Mesh) {
    for n in 0..QUEUES_MAX {
        mesh.a.enqueue(&queue(&format!("q{n}")), "k").await;
    }
    let refused = mesh.b.store.enqueue(new_job(&queue("one-more"), "k")).await;
    assert_eq!(refused, Err(Error::TooManyQueues { max: QUEUES_MAX }));
    mesh.b.enqueue(&queue("q0"), "k").await;
    assert_eq!(mesh.b.store.queues().await.unwrap().len(), QUEUES_MAX);
}

pub(super) async fn batch_is_added_in_order(mesh: Mesh) {
    let q = queue("batch");
    let named = |kind: &str, request: &str| new_job(&q, kind).with_request_id(request);
    let known = mesh.a.store.enqueue(named("known", "r0")).await.unwrap();
    let late = NewJob { run: Run::After(LONG), ..new_job(&q, "late") };
    let batch = vec![
        new_job(&q, "1"),
        named("2", "r2"),
        named("known", "r0"),
        late,
        named("2", "r2"),
        new_job(&q, "3"),
    ];
    let enqueued = mesh.b.store.enqueue_all(batch).await.unwrap();
    let repeats: Vec<_> = enqueued.iter().map(|enqueued| enqueued.deduplicated).collect();
    assert_eq!(repeats, [false, false, true, false, true, false]);
    let jobs: Vec<_> = enqueued.into_iter().map(|enqueued| enqueued.job).collect();
    let made: Vec<_> = jobs.iter().map(|job| job.spec.kind.as_str()).collect();
    assert_eq!(made, ["1", "2", "known", "late", "2", "3"]);
    assert_eq!((&jobs[2], &jobs[4]), (&known, &jobs[1]));
    assert_eq!(jobs[3].progress.state, State::Scheduled);
    assert_eq!(kinds(&mesh.a.lease(&q, 9, LONG).await), ["known", "1", "2", "3"]);
}

pub(super) async fn batch_with_forgotten_job_fails(mesh: Mesh) {
    let q = queue("batch-forgotten");
    let mut named = new_job(&q, "k");
    named.spec.retention = Duration::from_millis(50);
    let named = named.with_request_id("r");
    let id = mesh.a.store.enqueue(named.clone()).await.unwrap().id;
    let claim = mesh.a.lease(&q, 1, LONG).await;
    mesh.a.store.complete(&id, claim.fence, Bytes::new()).await.unwrap();
    eventually("it is forgotten", || async { mesh.b.get(&id).await.is_none().then_some(()) }).await;
    let batch = vec![new_job(&q, "1"), named, new_job(&q, "2")];
    assert_eq!(mesh.b.store.enqueue_all(batch).await, Err(Error::Forgotten { id, index: 1 }));
    assert!(mesh.b.lease(&q, 9, LONG).await.jobs.is_empty());
}

pub(super) async fn reused_request_id_is_refused(mesh: Mesh) {
    let q = queue("reused");
    let first = mesh.a.store.enqueue(new_job(&q, "1").with_request_id("r")).await.unwrap();
    let other = || new_job(&q, "2").with_request_id("r");
    assert_eq!(mesh.b.store.enqueue(other()).await, Err(Error::RequestDiffers { index: 0 }));
    let fresh = |kind: &str| new_job(&q, kind).with_request_id("fresh");
    for batch in [vec![new_job(&q, "3"), other()], vec![fresh("3"), fresh("4")]] {
        assert_eq!(mesh.b.store.enqueue_all(batch).await, Err(Error::RequestDiffers { index: 1 }));
    }
    let again =
        mesh.b.store.enqueue_all(vec![new_job(&q, "1").with_request_id("r"), fresh("5")]).await.unwrap();
    assert_eq!((&again[0].job, again[0].deduplicated, again[1].deduplicated), (&first, true, false));
    assert_eq!(kinds(&mesh.a.lease(&q, 9, LONG).await), ["1", "5"], "what was refused added nothing");
}
