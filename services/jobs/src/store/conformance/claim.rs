//! Leases: a job has one holder, and comes back when its holder is lost or leaves.

use super::*;

pub(super) async fn expired_lease_frees_the_job(mesh: Mesh) {
    let q = queue("expiry");
    mesh.a.maintain();
    mesh.b.maintain();
    let job = mesh.a.enqueue(&q, "k").await;
    let first = mesh.a.lease(&q, 1, Duration::from_secs(1)).await;
    let second = mesh.b.leaser.lease(&lease_request(&q, 1, LONG), PATIENCE).await.unwrap().taken();
    let again = &second.jobs[0];
    assert_eq!((&again.id, again.progress.attempt, again.progress.lost_count), (&job.id, 1, 1));
    assert!(second.fence > first.fence);
    let late = first.expire.until(again.progress.start.unwrap());
    assert!(again.progress.start.unwrap() >= first.expire, "given away before its time");
    assert!(late <= Duration::from_secs(1), "given away {late:?} after its time");

    // Every report of the first worker is refused, and the second worker is not disturbed.
    let lost = |fence| Error::LeaseLost { id: job.id.clone(), fence };
    assert_eq!(mesh.a.store.complete(&job.id, first.fence, Bytes::new()).await, Err(lost(first.fence)));
    assert_eq!(mesh.a.store.fail(&job.id, first.fence, failure(true)).await, Err(lost(first.fence)));
    assert_eq!(mesh.a.store.complete(&job.id, 1, Bytes::new()).await, Err(lost(1)));
    let done = mesh.b.store.complete(&job.id, second.fence, Bytes::new()).await.unwrap();
    assert_eq!(done.progress.state, State::Succeeded);
}

pub(super) async fn late_report_holds_until_given_back(mesh: Mesh) {
    let q = queue("late-answer");
    let job = mesh.a.enqueue(&q, "k").await;
    let claim = mesh.a.lease(&q, 1, Duration::from_millis(1)).await;
    eventually("it ran out", || async {
        (crate::job::moment::Moment::of_this_machine() > claim.expire.after(Duration::from_millis(20)))
            .then_some(())
    })
    .await;
    assert!(mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.is_ok());
    // After that there is nothing to give back.
    mesh.b.store.promote_due(&q).await.unwrap();
    let job = mesh.b.get(&job.id).await.unwrap();
    assert_eq!((job.progress.state, job.progress.lost_count), (State::Succeeded, 0));
}

pub(super) async fn thrice_lost_job_is_dead(mesh: Mesh) {
    let q = queue("poison");
    let job = mesh.a.enqueue(&q, "k").await;
    for lost in 1..=LOST_MAX {
        let claim = mesh.a.lease(&q, 1, Duration::from_millis(1)).await;
        assert_eq!(claim.jobs.len(), 1);
        let now = eventually("the sweep finds it", || async {
            mesh.b.store.promote_due(&q).await.unwrap();
            mesh.a.get(&job.id).await.filter(|job| job.progress.lost_count == lost)
        })
        .await;
        assert_eq!(now.progress.attempt, 0, "a loss is no attempt");
        assert_eq!(now.progress.state, if lost < LOST_MAX { State::Ready } else { State::Dead });
    }
    assert!(mesh.a.lease(&q, 1, LONG).await.jobs.is_empty());
    let dead = mesh.a.get(&job.id).await.unwrap();
    assert!(dead.progress.finish.is_some() && dead.progress.errors.len() == 1);
}

pub(super) async fn expiry_takes_only_held_jobs(mesh: Mesh) {
    let q = queue("sweep");
    for kind in ["done", "failed", "lost"] {
        mesh.a.enqueue(&q, kind).await;
    }
    let claim = mesh.a.lease(&q, 3, Duration::from_millis(50)).await;
    let [done, failed, lost] = [0, 1, 2].map(|n: usize| claim.jobs[n].id.clone());
    mesh.a.store.complete(&done, claim.fence, Bytes::new()).await.unwrap();
    mesh.a.store.fail(&failed, claim.fence, failure(false)).await.unwrap();
    // The failed job is soon another worker's, whose lease is long.
    let other = eventually("its backoff is over", || async {
        Some(mesh.b.lease(&q, 1, LONG).await).filter(|claim| !claim.jobs.is_empty())
    })
    .await;
    assert_eq!(other.jobs[0].id, failed);
    eventually("the sweep", || async {
        mesh.b.store.promote_due(&q).await.unwrap();
        mesh.a.get(&lost).await.filter(|job| job.progress.lost_count == 1)
    })
    .await;
    assert_eq!(mesh.a.get(&done).await.unwrap().progress.state, State::Succeeded);
    let failed = mesh.a.get(&failed).await.unwrap();
    assert_eq!(
        (failed.progress.state, failed.progress.lost_count, failed.progress.attempt),
        (State::Running, 0, 2)
    );
    mesh.b.store.complete(&failed.id, other.fence, Bytes::new()).await.unwrap();
}

pub(super) async fn fences_of_a_queue_grow(mesh: Mesh) {
    let q = queue("fences");
    let mut last = 0;
    for n in 0..50 {
        mesh.a.enqueue(&q, "k").await;
        let clone = if n % 2 == 0 { &mesh.a } else { &mesh.b };
        let fence = clone.lease(&q, 1, LONG).await.fence;
        assert!(fence > last, "{fence} after {last}");
        last = fence;
    }
}

pub(super) async fn a_claim_fits_one_message(mesh: Mesh) {
    let q = queue("bytes");
    let mut new = new_job(&q, "k");
    new.spec.payload = vec![7; 256 << 10].into();
    for _ in 0..20 {
        mesh.a.store.enqueue(new.clone()).await.unwrap();
    }
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 20 {
        let claim = mesh.b.lease(&q, 100, LONG).await;
        let bytes: usize = claim.jobs.iter().map(|job| job.spec.payload.len()).sum();
        assert!(bytes <= CLAIM_BYTES_MAX && !claim.jobs.is_empty());
        sizes.push(claim.jobs.len());
        assert_eq!(claim.more, sizes.iter().sum::<usize>() < 20);
    }
    assert_eq!(sizes, [11, 9]);
}

pub(super) async fn released_jobs_are_uncharged_and_first(mesh: Mesh) {
    let q = queue("release");
    for kind in ["1", "2", "3", "4"] {
        mesh.a.enqueue(&q, kind).await;
    }
    let ticket = ticket();
    let claim = mesh.a.store.lease(lease_request(&q, 3, LONG), ticket.clone()).await.unwrap();
    mesh.a.store.complete(&claim.jobs[1].id, claim.fence, Bytes::new()).await.unwrap();
    mesh.b.store.release(&q, &ticket).await.unwrap();
    mesh.b.store.release(&q, &ticket).await.unwrap();
    let again = mesh.b.lease(&q, 9, LONG).await;
    assert_eq!(kinds(&again), ["1", "3", "4"]);
    assert!(again.jobs.iter().all(|job| (job.progress.attempt, job.progress.lost_count) == (1, 0)));
    assert!(again.fence > claim.fence);
    let id = &claim.jobs[0].id;
    let lost = Error::LeaseLost { id: id.clone(), fence: claim.fence };
    assert_eq!(mesh.a.store.complete(id, claim.fence, Bytes::new()).await, Err(lost));
}

pub(super) async fn claim_after_its_release_is_empty(mesh: Mesh) {
    let q = queue("early-release");
    mesh.a.enqueue(&q, "k").await;
    let ticket = ticket();
    mesh.a.store.release(&q, &ticket).await.unwrap();
    assert!(mesh.b.store.lease(lease_request(&q, 1, LONG), ticket).await.unwrap().jobs.is_empty());
    assert_eq!(mesh.b.lease(&q, 1, LONG).await.jobs.len(), 1);
}

pub(super) async fn held_jobs_are_leased_once(mesh: Mesh) {
    const JOBS: usize = 600;
    let q = queue("once");
    mesh.a.maintain();
    mesh.b.maintain();
    let done = Arc::new(std::sync::Mutex::new(BTreeMap::<JobId, u32>::new()));
    let workers: FuturesUnordered<_> = (0..50)
        .map(|n| {
            let clone = if n % 2 == 0 { &mesh.a } else { &mesh.b };
            let (done, q) = (done.clone(), &q);
            async move {
                while done.lock().unwrap().len() < JOBS {
                    let wait = Duration::from_millis(300);
                    let claim =
                        clone.leaser.lease(&lease_request(q, 1 + n % 4, LONG), wait).await.unwrap().taken();
                    for job in &claim.jobs {
                        *done.lock().unwrap().entry(job.id.clone()).or_default() += 1;
                        clone.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
                    }
                }
            }
        })
        .collect();
    let enqueue = async {
        for n in 0..JOBS {
            let clone = if n % 2 == 0 { &mesh.b } else { &mesh.a };
            clone.enqueue(&q, &n.to_string()).await;
        }
    };
    let all = async { tokio::join!(workers.collect::<Vec<()>>(), enqueue) };
    timeout(PATIENCE * 2, all).await.expect("all jobs are done");
    let done = done.lock().unwrap().clone();
    assert!(done.values().all(|times| *times == 1), "{done:?}");
    for id in done.keys() {
        let job = mesh.a.get(id).await.unwrap();
        assert_eq!((job.progress.state, job.progress.attempt), (State::Succeeded, 1));
    }
}

pub(super) async fn leaving_worker_takes_no_job(mesh: Mesh) {
    const JOBS: usize = 60;
    let q = queue("leavers");
    let (seed, mut random) = seeded("leaving_worker_takes_no_job");
    mesh.a.maintain();
    mesh.b.maintain();
    // Workers that wait a moment and leave at any point: before the answer, during it, or after it arrived.
    let end = CancellationToken::new();
    let mut leavers = Vec::new();
    for n in 0..20 {
        let clone = if n % 2 == 0 { &mesh.a } else { &mesh.b };
        let (leaser, q, stays, takes) = (clone.leaser.clone(), q.clone(), random(8000), random(3) + 1);
        let end = end.clone();
        leavers.push(tokio::spawn(async move {
            let wanted = lease_request(&q, takes as usize, LONG);
            while !end.is_cancelled() {
                // The answer is dropped as it arrives.
                let _ = timeout(Duration::from_micros(stays), leaser.lease(&wanted, PATIENCE)).await;
                tokio::task::yield_now().await;
            }
        }));
    }
    let mut made = BTreeSet::new();
    for n in 0..JOBS {
        let clone = if random(2) == 0 { &mesh.a } else { &mesh.b };
        made.insert(clone.enqueue(&q, &n.to_string()).await.id);
    }
    end.cancel();
    for leaver in leavers {
        leaver.await.unwrap();
    }
    let mut got = BTreeSet::new();
    while got.len() < JOBS {
        let claim = mesh.a.leaser.lease(&lease_request(&q, 7, LONG), PATIENCE / 2).await.unwrap().taken();
        assert!(!claim.jobs.is_empty(), "{} of {JOBS} jobs came, seed {seed}", got.len());
        for job in claim.jobs {
            let charged = (job.progress.attempt, job.progress.lost_count);
            assert_eq!(charged, (1, 0), "seed {seed}");
            assert!(got.insert(job.id), "seed {seed}");
        }
    }
    assert_eq!(got, made, "seed {seed}");
}

pub(super) async fn held_lease_can_be_extended(mesh: Mesh) {
    let q = queue("extend");
    mesh.a.maintain();
    mesh.b.maintain();
    let (one, two) = (mesh.a.enqueue(&q, "1").await.id, mesh.a.enqueue(&q, "2").await.id);
    let claim = mesh.a.lease(&q, 2, Duration::from_millis(300)).await;
    let before = crate::job::moment::Moment::of_this_machine();
    let expire = mesh.b.store.extend(&one, claim.fence, LONG).await.unwrap();
    assert!(expire >= before.after(LONG - Duration::from_millis(100)));
    // Long after the first end both jobs are still this worker's.
    let waited =
        mesh.b.leaser.lease(&lease_request(&q, 1, LONG), Duration::from_millis(1800)).await.unwrap().taken();
    assert!(waited.jobs.is_empty());
    assert!(mesh.a.store.complete(&two, claim.fence, Bytes::new()).await.is_ok());

    // A lease can be shortened as well, and then runs out.
    mesh.a.store.extend(&one, claim.fence, Duration::from_millis(1)).await.unwrap();
    let other = mesh.b.leaser.lease(&lease_request(&q, 1, LONG), PATIENCE).await.unwrap().taken();
    assert_eq!((&other.jobs[0].id, other.jobs[0].progress.lost_count), (&one, 1));
    let lost = Error::LeaseLost { id: one.clone(), fence: claim.fence };
    assert_eq!(mesh.a.store.extend(&one, claim.fence, LONG).await, Err(lost));
    let lost = Error::LeaseLost { id: two.clone(), fence: claim.fence };
    assert_eq!(mesh.a.store.extend(&two, claim.fence, LONG).await, Err(lost));
    let unknown = JobId::generate(&q);
    assert_eq!(mesh.a.store.extend(&unknown, 1, LONG).await, Err(Error::not_found(&unknown)));
}
