//! The end of a job: completed, failed too often, and forgotten.

use super::*;

pub(super) async fn only_the_last_report_repeats(mesh: Mesh) {
    let q = queue("repeat");
    let (one, two) = (mesh.a.enqueue(&q, "1").await.id, mesh.a.enqueue(&q, "2").await.id);
    let claim = mesh.a.lease(&q, 2, LONG).await;
    let done = mesh.a.store.complete(&one, claim.fence, Bytes::from_static(b"r")).await.unwrap();
    let again = mesh.b.store.complete(&one, claim.fence, Bytes::from_static(b"other")).await.unwrap();
    assert_eq!(done, again);
    let lost = |id: &JobId| Err(Error::LeaseLost { id: id.clone(), fence: claim.fence });
    assert_eq!(mesh.b.store.fail(&one, claim.fence, failure(false)).await, lost(&one));

    let failed = mesh.a.store.fail(&two, claim.fence, failure(false)).await.unwrap();
    let again = mesh.b.store.fail(&two, claim.fence, failure(false)).await.unwrap();
    assert_eq!(failed.progress.errors.len(), 1);
    assert_eq!((again.progress.errors.len(), again.progress.attempt), (1, 1));
    assert_eq!(mesh.b.store.complete(&two, claim.fence, Bytes::new()).await, lost(&two));
}

pub(super) async fn failures_end_after_max_attempts(mesh: Mesh) {
    let q = queue("backoff");
    let mut new = new_job(&q, "k");
    new.spec.max_attempts = 3;
    new.spec.backoff = Duration::from_millis(40);
    let job = mesh.a.store.enqueue(new.clone()).await.unwrap();
    for attempt in 1..=3 {
        let claim = eventually("it is ready", || async {
            Some(mesh.b.lease(&q, 1, LONG).await).filter(|claim| !claim.jobs.is_empty())
        })
        .await;
        assert_eq!(claim.jobs[0].progress.attempt, attempt);
        let failed = mesh.a.store.fail(&job.id, claim.fence, failure(false)).await.unwrap();
        let error = failed.progress.errors.last().unwrap();
        assert_eq!(
            (error.attempt, error.message.as_str(), failed.progress.errors.len()),
            (attempt, "broken", attempt as usize)
        );
        if attempt < 3 {
            let wait = backoff::delay(new.spec.backoff, attempt, backoff::seed(job.id.tail()));
            assert_eq!(
                (failed.progress.state, failed.progress.run_at),
                (State::Retrying, Some(error.time.after(wait)))
            );
        } else {
            assert_eq!((failed.progress.state, failed.progress.finish), (State::Dead, Some(error.time)));
        }
        assert_eq!(mesh.b.get(&job.id).await, Some(failed));
    }
    assert!(mesh.a.lease(&q, 1, LONG).await.jobs.is_empty());
}

pub(super) async fn longest_backoff_is_same_everywhere(mesh: Mesh) {
    let q = queue("longest");
    let mut new = new_job(&q, "k");
    new.spec.backoff = backoff::BACKOFF_MAX;
    let job = mesh.a.store.enqueue(new.clone()).await.unwrap();
    let claim = mesh.a.lease(&q, 1, LONG).await;
    let failed = mesh.a.store.fail(&job.id, claim.fence, failure(false)).await.unwrap();
    let wait = backoff::delay(new.spec.backoff, 1, backoff::seed(job.id.tail()));
    assert_eq!(failed.progress.run_at, Some(failed.progress.errors[0].time.after(wait)));
}

pub(super) async fn permanent_failure_is_the_end(mesh: Mesh) {
    let q = queue("permanent");
    let job = mesh.a.enqueue(&q, "k").await;
    let claim = mesh.a.lease(&q, 1, LONG).await;
    let dead = mesh.b.store.fail(&job.id, claim.fence, failure(true)).await.unwrap();
    assert_eq!((dead.progress.state, dead.progress.run_at), (State::Dead, None));
    assert_eq!(mesh.b.store.fail(&job.id, claim.fence, failure(true)).await, Ok(dead));
}

pub(super) async fn only_ten_errors_are_kept(mesh: Mesh) {
    let q = queue("errors");
    let mut new = new_job(&q, "k");
    new.spec.max_attempts = 100;
    let job = mesh.a.store.enqueue(new).await.unwrap();
    for attempt in 1..=13 {
        let claim = eventually("it is ready", || async {
            // The backoff doubles, but this check is not about when the job comes back.
            mesh.a.store.promote_due(&q).await.unwrap();
            Some(mesh.b.lease(&q, 1, LONG).await).filter(|claim| !claim.jobs.is_empty())
        })
        .await;
        let message = format!("error {attempt} with spaces");
        let failure = Failure { message, permanent: false };
        mesh.a.store.fail(&job.id, claim.fence, failure).await.unwrap();
    }
    let errors = mesh.a.get(&job.id).await.unwrap().progress.errors;
    let attempts: Vec<_> = errors.iter().map(|error| error.attempt).collect();
    assert_eq!(attempts, (4..=13).collect::<Vec<_>>());
    assert_eq!(errors[9].message, "error 13 with spaces");
}

pub(super) async fn finished_job_lives_for_retention(mesh: Mesh) {
    let q = queue("retention");
    let mut new = new_job(&q, "k");
    new.spec.retention = Duration::from_millis(700);
    let job = mesh.a.store.enqueue(new.clone()).await.unwrap();
    let claim = mesh.a.lease(&q, 1, LONG).await;
    let done = mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await.unwrap();
    let end = done.progress.finish.unwrap().after(new.spec.retention);
    assert_eq!(mesh.b.get(&job.id).await, Some(done));
    eventually("it is forgotten", || async { mesh.b.get(&job.id).await.is_none().then_some(()) }).await;
    assert!(crate::job::moment::Moment::of_this_machine() >= end);
    assert_eq!(
        mesh.a.store.complete(&job.id, claim.fence, Bytes::new()).await,
        Err(Error::not_found(&job.id))
    );
}
