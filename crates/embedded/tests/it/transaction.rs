//! Transactions: the data that a closure sees, and the state after it gives up.

use shoal_embedded::{Database, Error};

use crate::{pairs, text};

#[tokio::test]
async fn panic_leaves_nothing_and_spares_others() {
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let inner = keyspace.clone();
    database.write(move |tx| tx.put(&inner, "kept", "old")).await.unwrap();

    let inner = keyspace.clone();
    let outcome: Result<(), Error> = database
        .write(move |tx| {
            tx.put(&inner, "kept", "new");
            tx.put(&inner, "lost", "x");
            panic!("on purpose");
        })
        .await;

    assert!(matches!(outcome, Err(Error::Panicked(text)) if text == "on purpose"));
    assert_eq!(pairs(keyspace.prefix("")), [("kept".into(), "old".into())]);
    let inner = keyspace.clone();
    database.write(move |tx| tx.put(&inner, "after", "1")).await.unwrap();
    assert_eq!(text(&keyspace, "after").as_deref(), Some("1"));
}

#[tokio::test]
async fn abort_leaves_only_its_answer() {
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let inner = keyspace.clone();
    let answer = database
        .write(move |tx| {
            tx.put(&inner, "a", "1");
            tx.abort();
            tx.put(&inner, "b", "1");
            "refused"
        })
        .await;
    assert_eq!(answer.unwrap(), "refused");
    assert_eq!(keyspace.prefix("").count(), 0);
}

#[tokio::test]
async fn rollback_restores_earlier_writes_of_group() {
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (one, two, three) = (keyspace.clone(), keyspace.clone(), keyspace.clone());
    // All three are in one group: the first waits until the others are queued.
    let (first, second, third, ()) = tokio::join!(
        biased;
        database.write(move |tx| {
            held.recv().unwrap();
            tx.put(&one, "a", "1");
            tx.put(&one, "b", "1");
        }),
        database.write(move |tx| {
            tx.put(&two, "a", "2");
            tx.put(&two, "a", "3");
            tx.delete(&two, "b");
            tx.put(&two, "c", "3");
            tx.abort();
        }),
        database.write(move |tx| pairs(tx.prefix(&three, ""))),
        async { release.send(()).unwrap() },
    );
    first.unwrap();
    second.unwrap();
    let expected = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "1".to_owned())];
    assert_eq!(third.unwrap(), expected);
    assert_eq!(pairs(keyspace.prefix("")), expected);
}

#[tokio::test]
async fn ranges_in_transaction_show_own_writes() {
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let inner = keyspace.clone();
    database
        .write(move |tx| {
            for key in ["a1", "a3", "a5", "b1"] {
                tx.put(&inner, key, "stored");
            }
        })
        .await
        .unwrap();

    let inner = keyspace.clone();
    database
        .write(move |tx| {
            tx.delete(&inner, "a3");
            tx.put(&inner, "a4", "written");
            tx.put(&inner, "a5", "written");
            tx.put(&inner, "a9", "written");
            tx.delete(&inner, "a9");
            let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());

            assert_eq!(tx.get(&inner, "a3").unwrap(), None);
            assert_eq!(&*tx.get(&inner, "a4").unwrap().unwrap(), b"written");
            let expected = [pair("a1", "stored"), pair("a4", "written"), pair("a5", "written")];
            assert_eq!(pairs(tx.prefix(&inner, "a")), expected);
            assert_eq!(pairs(tx.range(&inner, b"a2".to_vec()..b"a5".to_vec())), [pair("a4", "written")]);
            let mut reversed: Vec<_> =
                tx.prefix(&inner, "a").rev().map(|pair| pair.unwrap().0.to_vec()).collect();
            reversed.reverse();
            assert_eq!(reversed, [b"a1", b"a4", b"a5"]);
            assert_eq!(tx.range(&inner, b"b".to_vec()..b"a".to_vec()).count(), 0, "no such range");
        })
        .await
        .unwrap();
    assert_eq!(keyspace.prefix("a").count(), 3);
}

#[tokio::test]
async fn transaction_beyond_limit_leaves_nothing() {
    let database = Database::ephemeral().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    for bad in [Vec::new(), vec![b'k'; 65_536]] {
        let inner = keyspace.clone();
        let outcome = database
            .write(move |tx| {
                tx.put(&inner, "before", "1");
                tx.put(&inner, bad.clone(), "1");
                tx.put(&inner, "after", "1");
            })
            .await;
        assert!(matches!(outcome, Err(Error::Limit(_))), "{outcome:?}");
    }
    let inner = keyspace.clone();
    let outcome = database
        .write(move |tx| {
            for n in 0..65u8 {
                tx.put(&inner, [n], vec![0; 1024 * 1024]);
            }
        })
        .await;
    assert!(matches!(outcome, Err(Error::Limit(_))), "{outcome:?}");
    assert_eq!(keyspace.prefix("").count(), 0);
    assert!(matches!(database.keyspace(""), Err(Error::Limit(_))));
}

#[tokio::test]
async fn another_databases_keyspace_fails_the_transaction() {
    let (one, other) = (Database::ephemeral().unwrap(), Database::ephemeral().unwrap());
    let (here, there) = (one.keyspace("k").unwrap(), other.keyspace("k").unwrap());
    let (inner, foreign) = (here.clone(), there.clone());
    let outcome = one
        .write(move |tx| {
            tx.put(&inner, "a", "1");
            tx.put(&foreign, "b", "1");
        })
        .await;
    assert!(matches!(outcome, Err(Error::Panicked(_))), "{outcome:?}");
    assert_eq!(here.prefix("").count() + there.prefix("").count(), 0);
}
