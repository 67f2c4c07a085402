//! Cancelling: a cancelled job runs no more, wherever it was.

use super::*;

pub(super) async fn unfinished_job_can_be_cancelled(mesh: Mesh) {
    let q = queue("cancel");
    let ready = mesh.a.enqueue(&q, "ready").await;
    let delayed = NewJob { run: Run::After(Duration::from_millis(200)), ..new_job(&q, "scheduled") };
    let scheduled = mesh.a.store.enqueue(delayed).await.unwrap();
    let held = {
        let q = queue("cancel-held");
        let job = mesh.a.enqueue(&q, "running").await;
        (job, mesh.a.lease(&q, 1, LONG).await)
    };
    for id in [&ready.id, &scheduled.id, &held.0.id] {
        let before = mesh.a.get(id).await.unwrap();
        let cancelled = mesh.b.store.cancel(id).await.unwrap();
        assert_eq!(cancelled.progress.state, State::Cancelled);
        assert_eq!(cancelled.progress.version, before.progress.version + 1);
        assert!(cancelled.progress.finish.is_some() && cancelled.progress.run_at.is_none());
        assert_eq!(mesh.a.store.cancel(id).await.as_ref(), Ok(&cancelled), "a repeat succeeds");
        assert_eq!(mesh.a.get(id).await, Some(cancelled));
    }
    let (id, fence) = (&held.0.id, held.1.fence);
    let lost = Error::LeaseLost { id: id.clone(), fence };
    assert_eq!(mesh.a.store.complete(id, fence, Bytes::new()).await, Err(lost));
    mesh.a.enqueue(&q, "next").await;
    eventually("the moment has passed", || async {
        let due = scheduled.progress.run_at.unwrap();
        (crate::job::moment::Moment::of_this_machine() > due.after(Duration::from_millis(20))).then_some(())
    })
    .await;
    mesh.b.store.promote_due(&q).await.unwrap();
    assert_eq!(kinds(&mesh.b.lease(&q, 9, LONG).await), ["next"]);
    assert!(mesh.b.lease(id.queue(), 9, LONG).await.jobs.is_empty());
}

pub(super) async fn finished_job_cannot_be_cancelled(mesh: Mesh) {
    let q = queue("cancel-late");
    let (done, dead) = (mesh.a.enqueue(&q, "1").await.id, mesh.a.enqueue(&q, "2").await.id);
    let claim = mesh.a.lease(&q, 2, LONG).await;
    mesh.a.store.complete(&done, claim.fence, Bytes::new()).await.unwrap();
    mesh.a.store.fail(&dead, claim.fence, failure(true)).await.unwrap();
    let finished = |id: &JobId, state| Err(Error::Finished { id: id.clone(), state });
    assert_eq!(mesh.b.store.cancel(&done).await, finished(&done, State::Succeeded));
    assert_eq!(mesh.b.store.cancel(&dead).await, finished(&dead, State::Dead));
    let unknown = JobId::generate(&q);
    assert_eq!(mesh.b.store.cancel(&unknown).await, Err(Error::not_found(&unknown)));
}

pub(super) async fn worker_passes_many_cancelled_jobs(mesh: Mesh) {
    let q = queue("cancel-many");
    for n in 0..3 * PROMOTE_MAX {
        let id = mesh.a.enqueue(&q, &n.to_string()).await.id;
        mesh.a.store.cancel(&id).await.unwrap();
    }
    assert_eq!(mesh.b.store.count(&q).await.unwrap().unwrap().ready, 0);
    mesh.a.enqueue(&q, "the one").await;
    let counts = mesh.b.store.count(&q).await.unwrap().unwrap();
    assert_eq!((counts.ready, counts.cancelled), (1, 3 * PROMOTE_MAX as u64));
    let claim = mesh.b.leaser.lease(&lease_request(&q, 1, LONG), Duration::ZERO).await.unwrap().taken();
    assert_eq!(kinds(&claim), ["the one"]);
}

pub(super) async fn watcher_sees_the_cancellation(mesh: Mesh) {
    let q = queue("cancel-watch");
    let job = mesh.a.enqueue(&q, "k").await;
    let mut watch = mesh.b.watch(&job.id, None).await.unwrap();
    watch.next().await.unwrap().unwrap();
    let cancelled = mesh.a.store.cancel(&job.id).await.unwrap();
    let told = timeout(Duration::from_secs(5), watch.next()).await.expect("pushed");
    assert_eq!(told, Some(Ok(cancelled)));
    assert_eq!(watch.next().await, None);
}

/// Cancels jobs while no worker leases: cancelled jobs must not fill the queue, in whatever order they are cancelled.
pub(super) async fn cancelling_keeps_queue_order(mesh: Mesh) {
    const JOBS: usize = 1500;
    let q = queue("cancel-order");
    let jobs = (0..JOBS).map(|n| new_job(&q, &n.to_string())).collect::<Vec<_>>();
    let mut ids = Vec::new();
    for batch in jobs.chunks(100) {
        ids.extend(
            mesh.a.store.enqueue_all(batch.to_vec()).await.unwrap().into_iter().map(|made| made.job.id),
        );
    }
    let keeps = |n: usize| n % 7 == 3;
    // From the middle outwards, so that no end of the queue is near.
    let mut order: Vec<usize> = (0..JOBS).filter(|n| !keeps(*n)).collect();
    order.sort_by_key(|n| n.abs_diff(JOBS / 2));
    for n in order {
        mesh.a.store.cancel(&ids[n]).await.unwrap();
    }
    let mut page = mesh.a.store.list(&q, State::Ready, 100, None).await.unwrap();
    let mut listed: Vec<String> = page.jobs.iter().map(|job| job.spec.kind.clone()).collect();
    while let Some(token) = page.next {
        page = mesh.b.store.list(&q, State::Ready, 100, Some(token)).await.unwrap();
        listed.extend(page.jobs.iter().map(|job| job.spec.kind.clone()));
    }
    let wanted: Vec<String> = (0..JOBS).filter(|n| keeps(*n)).map(|n| n.to_string()).collect();
    assert_eq!(listed, wanted);
    mesh.a.enqueue(&q, "last").await;
    assert_eq!(mesh.b.store.count(&q).await.unwrap().unwrap().ready, wanted.len() as u64 + 1);
    let mut leased = Vec::new();
    while leased.len() <= wanted.len() {
        let claim = mesh.b.lease(&q, 50, LONG).await;
        assert!(!claim.jobs.is_empty(), "a lease that passes over nothing but cancelled jobs");
        leased.extend(kinds(&claim).into_iter().map(str::to_owned));
    }
    assert_eq!(leased, [wanted, vec!["last".to_owned()]].concat());
    assert_eq!(mesh.a.store.count(&q).await.unwrap().unwrap().ready, 0);
}
