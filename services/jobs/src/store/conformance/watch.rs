//! Watches: watchers see the states of a job by push, to the final one.

use super::*;

pub(super) async fn watcher_sees_states_by_push(mesh: Mesh) {
    let q = queue("watch");
    let job = mesh.a.enqueue(&q, "k").await;
    let mut watch = mesh.b.watch(&job.id, None).await.unwrap();
    let mut next = async || {
        let next = timeout(Duration::from_secs(5), watch.next()).await.expect("pushed");
        next.map(|job| job.unwrap().progress.state)
    };
    assert_eq!(next().await, Some(State::Ready));
    let claim = mesh.a.lease(&q, 1, LONG).await;
    assert_eq!(next().await, Some(State::Running));
    mesh.a.store.fail(&job.id, claim.fence, failure(false)).await.unwrap();
    assert_eq!(next().await, Some(State::Retrying));
    let claim = eventually("its backoff is over", || async {
        Some(mesh.a.lease(&q, 1, LONG).await).filter(|claim| !claim.jobs.is_empty())
    })
    .await;
    // Ready may be skipped for running.
    let mut state = next().await;
    if state == Some(State::Ready) {
        state = next().await;
    }
    assert_eq!(state, Some(State::Running));
    mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
    assert_eq!(next().await, Some(State::Succeeded));
    assert_eq!(next().await, None);
}

pub(super) async fn watch_of_final_job_ends(mesh: Mesh) {
    let q = queue("watch-final");
    let job = mesh.a.enqueue(&q, "k").await;
    let claim = mesh.a.lease(&q, 1, LONG).await;
    let done = mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
    let mut watch = mesh.b.watch(&job.id, None).await.unwrap();
    assert_eq!(watch.next().await, Some(Ok(done)));
    assert_eq!(watch.next().await, None);
}

pub(super) async fn watch_resumes_at_another_clone(mesh: Mesh) {
    let q = queue("watch-resume");
    let job = mesh.a.enqueue(&q, "k").await;
    let mut watch = mesh.a.watch(&job.id, None).await.unwrap();
    let first = watch.next().await.unwrap().unwrap();
    mesh.a.draining.cancel();
    assert_eq!(watch.next().await, Some(Err(Error::Draining)));
    assert_eq!(watch.next().await, None);

    let mut resumed = mesh.b.watch(&job.id, Some(Seen::of(&first))).await.unwrap();
    assert!(timeout(Duration::from_millis(100), resumed.next()).await.is_err(), "nothing is new");
    let claim = mesh.b.lease(&q, 1, LONG).await;
    let running = resumed.next().await.unwrap().unwrap();
    assert_eq!(running.progress.state, State::Running);
    drop(resumed);
    let done = mesh.b.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
    let mut resumed = mesh.b.watch(&job.id, Some(Seen::of(&running))).await.unwrap();
    assert_eq!(resumed.next().await, Some(Ok(done.clone())));
    let mut nothing_left = mesh.b.watch(&job.id, Some(Seen::of(&done))).await.unwrap();
    assert_eq!(nothing_left.next().await, None);
}

pub(super) async fn watcher_always_sees_final_state(mesh: Mesh) {
    let q = queue("watch-races");
    let (seed, mut random) = seeded("watcher_always_sees_final_state");
    for round in 0..40 {
        let job = mesh.a.enqueue(&q, "k").await;
        let (opens, acts) = (random(3000), random(3000));
        let watching = async {
            tokio::time::sleep(Duration::from_micros(opens)).await;
            let mut watch = mesh.b.watch(&job.id, None).await.unwrap();
            let mut last = 0;
            let mut state = State::Ready;
            while let Some(job) = watch.next().await {
                let job = job.unwrap();
                assert!(job.progress.version > last, "seed {seed}");
                (last, state) = (job.progress.version, job.progress.state);
            }
            state
        };
        let acting = async {
            tokio::time::sleep(Duration::from_micros(acts)).await;
            let claim = mesh.a.lease(&q, 1, LONG).await;
            if round % 2 == 0 {
                mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap().progress.state
            } else {
                mesh.a.store.fail(&job.id, claim.fence, failure(true)).await.unwrap().progress.state
            }
        };
        let both = async { tokio::join!(watching, acting) };
        let (seen, is) = timeout(Duration::from_secs(5), both)
            .await
            .unwrap_or_else(|_| panic!("round {round}, seed {seed}"));
        assert_eq!(seen, is, "seed {seed}");
    }
}
