//! Opening, closing, reopening.

use std::time::{Duration, Instant};

use shoal_embedded::{Database, Error, OpenError};

use crate::text;

#[tokio::test]
async fn reopening_after_drop_finds_everything_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3u8 {
        let database = Database::open(dir.path()).unwrap();
        let keyspace = database.keyspace("k").unwrap();
        for earlier in 0..round {
            assert_eq!(keyspace.get([1 + earlier]).unwrap().as_deref(), Some([earlier].as_slice()));
        }
        assert_eq!(keyspace.get([100]).unwrap(), None, "a delete is kept as well");
        let inner = keyspace.clone();
        database.write(move |tx| tx.put(&inner, [100], "x")).await.unwrap();
        let inner = keyspace.clone();
        let write = move |tx: &mut shoal_embedded::Tx<'_>| {
            tx.put(&inner, [1 + round], [round]);
            tx.delete(&inner, [100]);
        };
        database.write(write).await.unwrap();
        if round == 0 {
            database.close().await;
        }
    }
}

#[tokio::test]
async fn second_opener_learns_who_holds_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _held = Database::open(dir.path()).unwrap();
    let error = Database::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    let message = error.to_string();
    let pid = std::process::id().to_string();
    for part in [pid.as_str(), "--data", "--redis", dir.path().to_str().unwrap()] {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

#[tokio::test]
async fn unusable_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Database::open(&file.join("below")).unwrap_err();
    assert!(error.to_string().contains("below"), "{error}");
}

#[tokio::test]
async fn closing_runs_queue_and_refuses_rest() {
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let other = database.clone();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (one, two) = (keyspace.clone(), keyspace.clone());
    let (first, second, (), ()) = tokio::join!(
        biased;
        other.write(move |tx| {
            held.recv().unwrap();
            tx.put(&one, "first", "1");
        }),
        other.write(move |tx| tx.put(&two, "second", "1")),
        database.close(),
        async { release.send(()).unwrap() },
    );
    first.unwrap();
    second.unwrap();
    let inner = keyspace.clone();
    let late = other.write(move |tx| tx.put(&inner, "late", "1")).await;
    assert!(matches!(late, Err(Error::Closed)), "{late:?}");
    assert_eq!(keyspace.prefix("").count(), 2, "reads still work");
}

#[tokio::test]
async fn transaction_may_hold_last_handle() {
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (done, finished) = tokio::sync::oneshot::channel();
    let (last, inner) = (database.clone(), keyspace.clone());
    let mut write = Box::pin(database.write(move |tx| {
        held.recv().unwrap();
        tx.put(&inner, "a", "1");
        drop(last);
        done.send(()).unwrap();
    }));
    // Polled once, it is queued; then its caller gives up.
    tokio::select! { biased; _ = &mut write => unreachable!("it is held"), () = std::future::ready(()) => {} }
    drop(write);
    let dropper = std::thread::spawn(move || drop(database));
    release.send(()).unwrap();
    finished.await.unwrap();
    dropper.join().unwrap();
    // The handles are gone, so nothing tells when the group was committed.
    let deadline = Instant::now() + Duration::from_secs(10);
    while text(&keyspace, "a").is_none() {
        assert!(Instant::now() < deadline, "a queued write outlives its caller and every handle");
        tokio::task::yield_now().await;
    }
}

#[test]
fn refusals_are_words_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let damaged = dir.path().join("damaged");
    drop(Database::open(&damaged).unwrap());
    std::fs::write(damaged.join("version"), "garbage").unwrap();
    for (path, said) in [(file.join("data"), "Not a directory"), (damaged, "its version file is damaged")] {
        let error = Database::open(&path).unwrap_err();
        assert!(std::error::Error::source(&error).is_none(), "a cause would be said again: {error:?}");
        let text = error.to_string();
        assert_eq!(text.matches(said).count(), 1, "{text}");
        assert!(!text.contains("Fjall"), "{text}");
    }
}
