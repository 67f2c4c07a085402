//! Visibility: a write is seen whole, and as soon as it was answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Clones, create, delete_range, mutate, put, request, value, value_of};
use crate::read::QueryRequest;
use crate::store::{Consistency, Store};
use crate::table::SortKeyType;

pub(super) async fn a_write_is_seen_whole<S: Store>(clones: &Clones<S>) {
    let table = Arc::new(create(&clones.here, "whole", SortKeyType::String).await);
    let writing = {
        let (data, table) = (clones.here.clone(), table.clone());
        tokio::spawn(async move {
            for turn in 0..60 {
                let value = turn.to_string();
                let write = vec![delete_range("", ""), put("a", &value), put("m", &value), put("z", &value)];
                data.mutate(&table, "p".to_owned(), write, "").await.unwrap();
            }
        })
    };
    let mut seen = BTreeSet::new();
    while !writing.is_finished() {
        let (rows, _) = clones.there.query(request(&table), Consistency::Quorum).await.unwrap();
        let values: Vec<String> = rows.iter().map(value_of).collect();
        assert!(values.is_empty() && seen.is_empty() || values.len() == 3, "{values:?}");
        assert!(values.iter().all(|value| *value == values[0]), "torn: {values:?}");
        seen.extend(values);
    }
    writing.await.unwrap();
    assert!(seen.len() > 1, "the reader saw only {seen:?}");
}

/// More rows than a first fetch of unknown rows has, all of one write.
pub(super) async fn a_page_shows_one_write<S: Store>(clones: &Clones<S>) {
    let table = Arc::new(create(&clones.here, "torn", SortKeyType::String).await);
    let puts = |turn: usize| (0..100).map(|i| put(&format!("{i:03}"), &turn.to_string())).collect::<Vec<_>>();
    mutate(&clones.here, &table, 1, puts(0)).await;
    let writing = {
        let (data, table) = (clones.here.clone(), table.clone());
        tokio::spawn(async move {
            for turn in 1..60 {
                data.mutate(&table, "p".to_owned(), puts(turn), "").await.unwrap();
            }
        })
    };
    while !writing.is_finished() {
        for page_size in [0, 40] {
            let request = QueryRequest { page_size, ..request(&table) };
            let (rows, _) = clones.there.query(request, Consistency::Quorum).await.unwrap();
            let values: BTreeSet<String> = rows.iter().map(value_of).collect();
            assert_eq!(values.len(), 1, "{} rows of the writes {values:?}", rows.len());
            assert_eq!(rows.len(), if page_size == 0 { 100 } else { 40 });
        }
    }
    writing.await.unwrap();
}

pub(super) async fn reads_show_every_answered_write<S: Store>(clones: &Clones<S>) {
    let table = Arc::new(create(&clones.here, "fresh", SortKeyType::String).await);
    let done = Arc::new(AtomicU64::new(0));
    mutate(&clones.here, &table, 1, vec![put("a", "0")]).await;
    let writing = {
        let (data, table, done) = (clones.here.clone(), table.clone(), done.clone());
        tokio::spawn(async move {
            for turn in 1..=100 {
                data.mutate(&table, "p".to_owned(), vec![put("a", &format!("{turn}"))], "").await.unwrap();
                done.store(turn, Ordering::SeqCst);
            }
        })
    };
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (data, table, done) = (clones.there.clone(), table.clone(), done.clone());
            tokio::spawn(async move {
                let mut reads = 0;
                while done.load(Ordering::SeqCst) < 100 {
                    let known = done.load(Ordering::SeqCst);
                    let found: u64 = value(&data, &table, "a").await.unwrap().parse().unwrap();
                    assert!(found >= known, "read {found}, but {known} was done");
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    writing.await.unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}
