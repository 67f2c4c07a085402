//! Tables: created once, found by every clone, listed by name.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Clones, create, mutate, put, unique, value};
use crate::data::Data;
use crate::error::Error;
use crate::store::Store;
use crate::table::{SortKeyType, WriteMode};

pub(super) async fn a_table_is_created_once<S: Store>(Clones { here, there }: &Clones<S>) {
    let name = unique("once");
    let lww = WriteMode::LastWriteWins;
    let ttl = Some(Duration::from_millis(1500));
    let created = here.create_table(&name, SortKeyType::Int64, lww, ttl).await.unwrap();
    let again =
        there.create_table(&name, SortKeyType::Int64, lww, Some(Duration::from_secs(2))).await.unwrap();
    assert_eq!(created, again);
    assert_eq!(*there.table(&name, "name").await.unwrap(), created);
    for (of, ttl, expected) in
        [(SortKeyType::String, ttl, "sort_key_type INT64"), (SortKeyType::Int64, None, "default_ttl 2 s")]
    {
        match there.create_table(&name, of, lww, ttl).await {
            Err(Error::TableExists { difference, .. }) => assert_eq!(difference, expected),
            other => panic!("{other:?}"),
        }
    }
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
