//! Tables: created once, found by every clone, listed by name.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Clones, create, mutate, mutate_at, put, text, unique, value};
use crate::clock::WriteTimestamp;
use crate::data::Data;
use crate::error::Error;
use crate::store::{Consistency, Store};
use crate::table::{SortKeyType, TableChange, Ttl, WriteMode};

pub(super) async fn a_table_is_created_once<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = unique("once");
    let lww = WriteMode::LastWriteWins;
    let ttl = Some(Duration::from_millis(1500));
    let created = here.create_table(&name, SortKeyType::Int64, lww, ttl).await.unwrap();
    let again =
        there.create_table(&name, SortKeyType::Int64, lww, Some(Duration::from_secs(2))).await.unwrap();
    assert_eq!(created, again);
    assert_eq!(*there.table(&name, "name").await.unwrap(), created);
    for (of, mode, expected) in [
        (SortKeyType::String, lww, "sort_key_type INT64"),
        (SortKeyType::Int64, WriteMode::Conditional, "write_mode LAST_WRITE_WINS"),
    ] {
        match there.create_table(&name, of, mode, ttl).await {
            Err(Error::TableExists { difference, .. }) => assert_eq!(difference, expected),
            other => panic!("{other:?}"),
        }
    }
    // A service that creates its tables at each start must not fail because of an UpdateTable since.
    let other_ttl = there.create_table(&name, SortKeyType::Int64, lww, None).await.unwrap();
    assert_eq!(other_ttl, created, "the table comes back as it is");
    let missing = here.table("no_such_table", "name").await;
    assert!(matches!(missing, Err(Error::TableNotFound(_))), "{missing:?}");
}

pub(super) async fn racing_creations_agree<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = unique("race");
    let create = |data: Data<S>| {
        let name = name.clone();
        tokio::spawn(async move {
            data.create_table(&name, SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap()
        })
    };
    let racing: Vec<_> = (0..3).flat_map(|_| [create(here.clone()), create(there.clone())]).collect();
    let mut ids = BTreeSet::new();
    for created in racing {
        ids.insert(created.await.unwrap().id);
    }
    assert_eq!(ids.len(), 1);
    mutate(here, &name, 5, vec![put("a", "1")]).await;
    assert_eq!(value(there, &name, "a").await.as_deref(), Some("1"));
}

pub(super) async fn new_table_works_on_other_clones<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = unique("atonce");
    // Looked for before it is there: that must not be remembered.
    assert!(there.table(&name, "table").await.is_err());
    here.create_table(&name, SortKeyType::String, WriteMode::LastWriteWins, None).await.unwrap();
    mutate(there, &name, 5, vec![put("a", "1")]).await;
    assert_eq!(value(here, &name, "a").await.as_deref(), Some("1"));
}

pub(super) async fn tables_are_listed_by_name<S: Store>(Clones { here, there }: &Clones<S>) {
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.push(create(here, "list", SortKeyType::String).await);
    }
    let (mut found, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (tables, next) = there.tables(2, &token).await.unwrap();
        assert!(tables.len() <= 2);
        found.extend(tables.iter().map(|table| table.definition.name.to_string()));
        pages += 1;
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert!(pages >= 3 && found.is_sorted(), "{pages} pages: {found:?}");
    found.retain(|name| expected.contains(name));
    assert_eq!(found, expected);
}

pub(super) async fn updates_reach_every_clone<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = create(here, "update", SortKeyType::String).await;
    let table = there.table(&name, "name").await.unwrap();
    let ttl = |seconds| Ttl::of_seconds(seconds).unwrap();
    let change = TableChange { default_ttl: Some(Some(ttl(5_000))), ..TableChange::default() };
    here.update_table(&name, change).await.unwrap();
    let described = TableChange { description: Some("of people".to_owned()), ..TableChange::default() };
    let changed = there.update_table(&name, described).await.unwrap();
    assert_eq!((changed.id, changed.create_time), (table.id, table.create_time));
    assert_eq!(changed.definition.default_ttl, Some(ttl(5_000)), "one change does not undo another");
    assert_eq!(changed.definition.description, "of people");
    let until = Instant::now() + Duration::from_secs(20);
    while *here.table(&name, "name").await.unwrap() != changed {
        assert!(Instant::now() < until, "the other clone does not learn of it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let at = WriteTimestamp::now().0;
    mutate_at(here, &name, at, vec![put("a", "1")]).await;
    let row = there.get(&name, "p".to_owned(), text("a"), Consistency::Quorum).await.unwrap();
    assert_eq!(row.expire_time, Some(WriteTimestamp(at + 5_000_000_000)));
    let cleared =
        TableChange { default_ttl: Some(None), description: Some(String::new()), ..TableChange::default() };
    let changed = here.update_table(&name, cleared).await.unwrap();
    assert_eq!((changed.definition.default_ttl, changed.definition.description.as_str()), (None, ""));
    let missing = here.update_table("no_such_table", TableChange::default()).await;
    assert!(matches!(missing, Err(Error::TableNotFound(_))), "{missing:?}");
    let long = TableChange { description: Some("x".repeat(1025)), ..TableChange::default() };
    assert!(matches!(here.update_table(&name, long).await, Err(Error::Invalid(_))));
}

pub(super) async fn updates_at_once_all_stay<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = create(here, "atonce", SortKeyType::String).await;
    for turn in 1..=8 {
        let ttl = Ttl::of_seconds(turn * 1_000);
        let first = TableChange { default_ttl: Some(ttl), ..TableChange::default() };
        let second = TableChange { description: Some(turn.to_string()), ..TableChange::default() };
        let (first, second) =
            tokio::join!(here.update_table(&name, first), there.update_table(&name, second));
        let (first, second) = (first.unwrap(), second.unwrap());
        let both = [&first, &second].into_iter().any(|table| {
            table.definition.default_ttl == ttl && table.definition.description == turn.to_string()
        });
        assert!(both, "turn {turn}: neither answer has both changes: {first:?} {second:?}");
        let last = here.update_table(&name, TableChange::default()).await.unwrap().definition;
        assert_eq!((last.default_ttl, last.description), (ttl, turn.to_string()), "turn {turn}");
    }
}

pub(super) async fn a_dropped_table_leaves_nothing<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = create(here, "drop", SortKeyType::String).await;
    mutate(there, &name, 5, vec![put("a", "1")]).await;
    let table = there.table(&name, "name").await.unwrap();
    let other = WriteTimestamp(table.create_time.0 - 1);
    let refused = here.drop_table(&name, Some(other)).await;
    assert!(matches!(refused, Err(Error::TableChanged(_))), "{refused:?}");
    assert_eq!(value(here, &name, "a").await.as_deref(), Some("1"));

    here.drop_table(&name, Some(table.create_time)).await.unwrap();
    for clone in [here, there] {
        let found = clone.table(&name, "name").await;
        assert!(matches!(found, Err(Error::TableNotFound(_))), "{found:?}");
        let write = clone.mutate(&name, "p".to_owned(), vec![put("a", "2")], "").await;
        assert!(matches!(write, Err(Error::TableNotFound(_))), "{write:?}");
        let again = clone.drop_table(&name, None).await;
        assert!(matches!(again, Err(Error::TableNotFound(_))), "{again:?}");
    }
    // The name is free for a table of another shape, without the old rows.
    let created = there.create_table(&name, SortKeyType::String, WriteMode::Conditional, None).await.unwrap();
    assert_ne!(created.id, table.id);
    assert!(value(here, &name, "a").await.is_none());
    let put = vec![put("a", "3")];
    here.check_and_mutate(&name, "p".to_owned(), vec![], put, "").await.unwrap();
    assert_eq!(value(there, &name, "a").await.as_deref(), Some("3"));
}
