//! Waiting: workers that wait are woken by whichever clone adds a job, and no call polls.

use super::*;

pub(super) async fn enqueue_wakes_other_clones_worker(mesh: Mesh) {
    // No clone maintains the queues, so only the announcement can wake the worker.
    let q = queue("wake");
    for round in 0..5 {
        let ordered = lease_request(&q, 1, LONG);
        let mut waiting = Box::pin(mesh.b.leaser.lease(&ordered, PATIENCE));
        assert!(timeout(Duration::from_millis(50), waiting.as_mut()).await.is_err());
        let made = mesh.a.enqueue(&q, &round.to_string()).await;
        let got = timeout(Duration::from_secs(2), waiting).await.expect("woken").unwrap().taken();
        assert_eq!(got.jobs[0].id, made.id);
    }
}

pub(super) async fn many_jobs_wake_all_workers(mesh: Mesh) {
    let q = queue("wake-all");
    let one = lease_request(&q, 1, LONG);
    let mut waiting: FuturesUnordered<_> = (0..20)
        .map(|n| if n % 2 == 0 { &mesh.a } else { &mesh.b })
        .map(|clone| clone.leaser.lease(&one, PATIENCE))
        .collect();
    assert!(timeout(Duration::from_millis(100), waiting.next()).await.is_err());
    let mut made = BTreeSet::new();
    for n in 0..20 {
        made.insert(mesh.a.enqueue(&q, &n.to_string()).await.id);
    }
    let mut got = BTreeSet::new();
    while let Some(leased) = timeout(Duration::from_secs(5), waiting.next()).await.expect("woken") {
        got.insert(leased.unwrap().taken().jobs[0].id.clone());
    }
    assert_eq!(got, made);
}

pub(super) async fn due_job_wakes_waiting_worker(mesh: Mesh) {
    let q = queue("wake-due");
    mesh.a.maintain();
    mesh.b.maintain();
    let ordered = lease_request(&q, 1, LONG);
    let mut waiting = Box::pin(mesh.b.leaser.lease(&ordered, PATIENCE));
    assert!(timeout(Duration::from_millis(100), waiting.as_mut()).await.is_err());
    let run = Run::After(Duration::from_millis(250));
    let made = mesh.a.store.enqueue(NewJob { run, ..new_job(&q, "k") }).await.unwrap();
    let got = waiting.await.unwrap().taken();
    let late = made.progress.run_at.unwrap().until(got.jobs[0].progress.start.unwrap());
    assert!(got.jobs[0].progress.start >= made.progress.run_at);
    assert!(late < Duration::from_millis(200), "{late:?} late");
}

pub(super) async fn empty_wait_ends_in_time(mesh: Mesh) {
    let q = queue("empty");
    let started = Instant::now();
    let wait = Duration::from_millis(200);
    assert!(mesh.a.leaser.lease(&lease_request(&q, 1, LONG), wait).await.unwrap().taken().jobs.is_empty());
    assert!(started.elapsed() >= wait && started.elapsed() < wait * 5);
    let ordered = lease_request(&q, 1, LONG);
    let waiting = mesh.a.leaser.lease(&ordered, PATIENCE);
    let drain = async { mesh.a.draining.cancel() };
    let (got, ()) = tokio::join!(timeout(Duration::from_secs(2), waiting), drain);
    assert!(got.expect("ends at the drain").unwrap().taken().jobs.is_empty());
}
