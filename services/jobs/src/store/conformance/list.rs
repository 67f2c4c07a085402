//! Lists and counts: the jobs of a queue by state.

use super::*;
use crate::store::Counts;

/// Lists all jobs in a state, page by page.
async fn list(clone: &TestClone, q: &QueueName, state: State, max: usize) -> Vec<Job> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = clone.store.list(q, state, max, after).await.unwrap();
        assert!(page.jobs.len() <= max);
        all.extend(page.jobs);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

async fn count(clone: &TestClone, q: &QueueName) -> Counts {
    let counts = clone.store.count(q).await.unwrap().unwrap();
    Counts { now: crate::job::moment::Moment(0), head: None, ..counts }
}

pub(super) async fn jobs_are_listed_by_state(mesh: Mesh) {
    let q = queue("list");
    assert_eq!(mesh.a.store.count(&q).await, Ok(None));
    let first = mesh.a.enqueue(&q, "0").await;
    for n in 1..25 {
        let mut new = new_job(&q, &n.to_string());
        new.spec.backoff = Duration::from_secs(60);
        mesh.a.store.enqueue(new).await.unwrap();
    }
    for n in 25..30 {
        let run = Run::After(Duration::from_secs(600 - n));
        mesh.a.store.enqueue(NewJob { run, ..new_job(&q, &n.to_string()) }).await.unwrap();
    }
    let counts = mesh.b.store.count(&q).await.unwrap().unwrap();
    assert_eq!((counts.ready, counts.scheduled, counts.head), (25, 5, Some(first.create)));
    assert!(counts.now >= first.create);
    let kinds = |jobs: Vec<Job>| jobs.into_iter().map(|job| job.spec.kind).collect::<Vec<_>>();
    let numbers = |range: std::ops::Range<u64>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    for max in [1, 4, 7, 100] {
        assert_eq!(kinds(list(&mesh.b, &q, State::Ready, max).await), numbers(0..25));
        let reversed: Vec<_> = numbers(25..30).into_iter().rev().collect();
        assert_eq!(kinds(list(&mesh.b, &q, State::Scheduled, max).await), reversed, "by their time");
    }

    let one = mesh.a.lease(&q, 10, LONG).await;
    let two = mesh.b.lease(&q, 10, LONG * 2).await;
    mesh.a.store.complete(&one.jobs[0].id, one.fence, Bytes::from_static(b"r")).await.unwrap();
    mesh.a.store.complete(&one.jobs[1].id, one.fence, Bytes::new()).await.unwrap();
    mesh.a.store.fail(&one.jobs[2].id, one.fence, failure(false)).await.unwrap();
    mesh.a.store.fail(&two.jobs[9].id, two.fence, failure(true)).await.unwrap();
    mesh.a.store.cancel(&two.jobs[8].id).await.unwrap();
    let expected = Counts {
        scheduled: 5,
        ready: 5,
        running: 15,
        succeeded: 2,
        retrying: 1,
        dead: 1,
        cancelled: 1,
        ..Counts::default()
    };
    assert_eq!(count(&mesh.b, &q).await, expected);
    for max in [1, 4, 7, 100] {
        assert_eq!(kinds(list(&mesh.a, &q, State::Running, max).await), numbers(3..18));
        assert_eq!(kinds(list(&mesh.a, &q, State::Ready, max).await), numbers(20..25));
        assert_eq!(kinds(list(&mesh.a, &q, State::Retrying, max).await), ["2"]);
        assert_eq!(kinds(list(&mesh.a, &q, State::Dead, max).await), ["19"]);
        assert_eq!(kinds(list(&mesh.a, &q, State::Cancelled, max).await), ["18"]);
        let done = list(&mesh.a, &q, State::Succeeded, max).await;
        assert!(done.iter().all(|job| job.spec.payload.is_empty() && job.progress.result.is_empty()));
        assert!(done.iter().all(|job| job.progress.attempt == 1 && job.progress.finish.is_some()));
        assert_eq!(kinds(done), ["0", "1"]);
    }
    // A page that begins where a leased job was goes on at the head.
    let page = mesh.a.store.list(&q, State::Ready, 2, None).await.unwrap();
    mesh.a.lease(&q, 3, LONG).await;
    let rest = mesh.a.store.list(&q, State::Ready, 9, page.next).await.unwrap();
    assert_eq!(kinds(rest.jobs), numbers(23..25));
}

pub(super) async fn counts_follow_every_change(mesh: Mesh) {
    let q = queue("recount");
    let mut new = new_job(&q, "short");
    new.spec.retention = Duration::from_millis(300);
    let short = mesh.a.store.enqueue(new).await.unwrap();
    for kind in ["lost", "released"] {
        mesh.a.enqueue(&q, kind).await;
    }
    let claim = mesh.a.lease(&q, 1, LONG).await;
    mesh.a.lease(&q, 1, Duration::from_millis(1)).await;
    let released = ticket();
    mesh.a.store.lease(lease_request(&q, 1, LONG), released.clone()).await.unwrap();
    let running = Counts { running: 3, ..Counts::default() };
    assert_eq!(count(&mesh.b, &q).await, running);
    mesh.a.store.release(&q, &released).await.unwrap();
    mesh.a.store.complete(&short.id, claim.fence, Bytes::new()).await.unwrap();
    eventually("all is settled", || async {
        mesh.b.store.promote_due(&q).await.unwrap();
        (count(&mesh.b, &q).await == Counts { ready: 2, ..Counts::default() }).then_some(())
    })
    .await;
    assert!(list(&mesh.b, &q, State::Succeeded, 10).await.is_empty());
}

pub(super) async fn foreign_page_token_is_refused(mesh: Mesh) {
    let q = queue("token");
    mesh.a.enqueue(&q, "k").await;
    for state in [State::Ready, State::Running, State::Scheduled, State::Dead] {
        let page = mesh.a.store.list(&q, state, 1, Some("nonsense!".to_owned())).await;
        assert_eq!(page, Err(crate::request::page_token::invalid().into()));
    }
}
