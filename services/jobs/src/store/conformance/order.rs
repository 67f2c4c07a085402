//! Order: the moment when a job is ready, and its place among others.

use super::*;

pub(super) async fn jobs_are_leased_in_order(mesh: Mesh) {
    let q = queue("fifo");
    for n in 0..10 {
        let clone = if n % 2 == 0 { &mesh.a } else { &mesh.b };
        clone.enqueue(&q, &n.to_string()).await;
    }
    assert_eq!(kinds(&mesh.a.lease(&q, 3, LONG).await), ["0", "1", "2"]);
    let rest = mesh.b.lease(&q, 100, LONG).await;
    assert_eq!(kinds(&rest), ["3", "4", "5", "6", "7", "8", "9"]);
    assert!(!rest.more);
    assert!(mesh.a.lease(&q, 1, LONG).await.jobs.is_empty());
}

pub(super) async fn delayed_jobs_run_in_time_order(mesh: Mesh) {
    let q = queue("delay");
    let delay = Duration::from_millis(300);
    let late = mesh.a.store.enqueue(NewJob { run: Run::After(delay), ..new_job(&q, "late") }).await.unwrap();
    let due = late.progress.run_at.unwrap();
    assert_eq!((late.progress.state, due), (State::Scheduled, late.create.after(delay)));
    let past = NewJob { run: Run::At(crate::job::moment::Moment(1)), ..new_job(&q, "past") };
    assert_eq!(mesh.a.store.enqueue(past).await.unwrap().progress.state, State::Ready);
    assert_eq!(kinds(&mesh.b.lease(&q, 9, LONG).await), ["past"]);

    // No clone maintains the queue, so the next script promotes the job. A job that is enqueued after its moment comes after it.
    eventually("the moment has passed", || async {
        (crate::job::moment::Moment::of_this_machine() > due.after(Duration::from_millis(50))).then_some(())
    })
    .await;
    mesh.b.enqueue(&q, "after").await;
    let claim = mesh.a.lease(&q, 9, LONG).await;
    assert_eq!(kinds(&claim), ["late", "after"]);
    assert!(claim.jobs[0].progress.start.unwrap() >= due);
    assert_eq!((claim.jobs[0].progress.run_at, claim.jobs[0].progress.version), (None, 3));
}

pub(super) async fn due_jobs_promote_in_bounded_steps(mesh: Mesh) {
    let q = queue("due-at-once");
    let count = 3 * PROMOTE_MAX + 7;
    for n in 0..count {
        let run = Run::After(Duration::from_secs(2).saturating_sub(Duration::from_micros(n as u64)));
        mesh.a.store.enqueue(NewJob { run, ..new_job(&q, &n.to_string()) }).await.unwrap();
    }
    let mut steps = 0;
    let mut seen = 0;
    while seen < count {
        let promoted = mesh.b.store.promote_due(&q).await.unwrap();
        let claimed = mesh.b.lease(&q, 100, LONG).await;
        seen += claimed.jobs.len();
        steps += 1;
        assert!(steps < 100_000, "{seen} of {count}");
        if promoted.next != Some(Duration::ZERO) && claimed.jobs.is_empty() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(seen, count);
}
