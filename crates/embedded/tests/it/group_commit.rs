//! Group commit: many writers share an fsync, and one closure runs at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shoal_embedded::Database;

use crate::text;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_share_fsyncs() {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(dir.path()).unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let writers: Vec<_> = (0..64u32)
        .map(|writer| {
            let (database, keyspace) = (database.clone(), keyspace.clone());
            tokio::spawn(async move {
                for turn in 0..10u32 {
                    let key = format!("{writer}/{turn}");
                    let keyspace = keyspace.clone();
                    database.write(move |tx| tx.put(&keyspace, key.as_bytes(), b"v")).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let stats = database.stats();
    assert_eq!(stats.writes, 640);
    assert!(stats.groups < stats.writes / 4, "640 writes took {} fsyncs", stats.groups);
    assert_eq!(keyspace.prefix("").count(), 640);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_transactions_lose_no_update() {
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let (database, keyspace) = (database.clone(), keyspace.clone());
            tokio::spawn(async move {
                database
                    .write(move |tx| {
                        let count = tx.get(&keyspace, "count").unwrap();
                        let count = count.map_or(0, |v| u64::from_be_bytes(v[..].try_into().unwrap()));
                        tx.put(&keyspace, "count", (count + 1).to_be_bytes());
                    })
                    .await
                    .unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(&*keyspace.get("count").unwrap().unwrap(), 200u64.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_stay_invisible_until_group_commits() {
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = tokio::sync::oneshot::channel();

    // The first closure of the group holds it open until the second one is queued behind it.
    let first = tokio::spawn({
        let (database, keyspace) = (database.clone(), keyspace.clone());
        async move {
            let write = move |tx: &mut shoal_embedded::Tx<'_>| {
                tx.put(&keyspace, "first", "1");
                entered.send(()).unwrap();
                held.recv().unwrap();
            };
            database.write(write).await
        }
    });
    inside.await.unwrap();
    let seen_by_second = Arc::new(AtomicBool::new(false));
    let mut second = Box::pin(database.write({
        let (keyspace, seen) = (keyspace.clone(), Arc::clone(&seen_by_second));
        move |tx| {
            seen.store(tx.get(&keyspace, "first").unwrap().is_some(), Ordering::SeqCst);
            text(&keyspace, "first")
        }
    }));
    // Once polled it is queued.
    assert!(futures_poll(&mut second).await.is_none());
    release.send(()).unwrap();

    let read_past_the_transaction = second.await.unwrap();
    first.await.unwrap().unwrap();
    assert!(seen_by_second.load(Ordering::SeqCst), "a transaction sees the ones before it in its group");
    assert_eq!(read_past_the_transaction, None, "outside reads do not see an uncommitted group");
    assert_eq!(text(&keyspace, "first").as_deref(), Some("1"));
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
